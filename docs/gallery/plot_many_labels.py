"""
Many labels, and where the time of a step goes
==============================================

Tagging has samples with many labels out of thousands. Multi-label margin asks that each label of a
sample scores 1 above each class that is not: pairs by the million, which torch goes through one by
one. nbloss puts the labels in order instead, and gives the same numbers.

Here a linear network gives documents, made up of random words, some hundreds of 5000 tags. What a
step of training spends its time on is measured with either loss.
"""

# %%
# Documents and tags
# ------------------

import time
from functools import partial

import torch
from matplotlib import pyplot as plt

import nbloss.nn

torch.manual_seed(0)
SAMPLES, WORDS, TAGS, LABELS = 64, 200, 5000, 300
about = torch.randn(TAGS, WORDS)  # how much each word speaks for each tag
documents = torch.randn(SAMPLES, WORDS)
targets = torch.full((SAMPLES, TAGS), -1)
targets[:, :LABELS] = (documents @ about.T).topk(LABELS).indices

# %%
# A step, in parts
# ----------------


def step(criterion, seconds):
    """Take a step from the same start, and note what its parts take."""
    torch.manual_seed(1)
    network = torch.nn.Linear(WORDS, TAGS)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scores = parts(seconds, "network, forward", partial(network, documents))
    scores_leaf = scores.detach().requires_grad_()
    loss = parts(seconds, "loss, forward", partial(criterion, scores_leaf, targets))
    parts(seconds, "loss, backward", loss.backward)
    parts(seconds, "network, backward", partial(scores.backward, scores_leaf.grad))
    parts(seconds, "optimizer", optimizer.step)
    return loss.item()


def parts(seconds, name, call):
    start = time.perf_counter()
    result = call()
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    return result


measured, losses = {}, {}
for library, nn in {"torch.nn": torch.nn, "nbloss.nn": nbloss.nn}.items():
    criterion = nn.MultiLabelMarginLoss()
    step(criterion, {})  # what is compiled is compiled here
    measured[library] = {}
    for _ in range(3):
        losses[library] = step(criterion, measured[library])

middle = {
    library: {name: sorted(found)[1] for name, found in of.items()}
    for library, of in measured.items()
}
for library, of in middle.items():
    in_loss = sum(seconds for name, seconds in of.items() if name.startswith("loss"))
    print(
        f"{library:9} loss {losses[library]:.4f}, step {1e3 * sum(of.values()):7.1f} ms, "
        f"of which the loss {in_loss / sum(of.values()):.0%}"
    )
assert abs(losses["torch.nn"] - losses["nbloss.nn"]) < 1e-4 * abs(losses["torch.nn"])

# %%
# The profile of both
# -------------------

figure, axis = plt.subplots(figsize=(8, 3))
names = list(middle["torch.nn"])
colors = dict(zip(names, plt.get_cmap("tab10").colors, strict=False))
for row, of in enumerate(middle.values()):
    left = 0.0
    for name in names:
        axis.barh(row, of[name], left=left, color=colors[name], label=name if not row else None)
        left += of[name]
    axis.text(left, row, f"  {1e3 * left:.0f} ms", va="center", fontsize=9)
axis.set_yticks(range(len(middle)), list(middle))
axis.invert_yaxis()
axis.set_xlabel("seconds of a step")
axis.margins(x=0.12)
axis.spines[["top", "right"]].set_visible(False)
axis.legend(frameon=False, fontsize=8, loc="lower right")
figure.tight_layout()

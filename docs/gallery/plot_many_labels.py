"""
Many labels, and where the time of a step goes
==============================================

What words will a page of documentation use, judging by its first paragraph? Each page has dozens of
them, out of thousands: as many labels. Multi-label margin asks that every word of a page scores 1
above every word that is not in it, pairs by the hundred thousand for each page, and torch goes
through them one by one. nbloss puts the labels in order instead, and gives the same numbers.

The pages are the docstrings of NumPy, SciPy and torch that are installed here.
"""

# %%
# Pages and their words
# ---------------------

import inspect
import re
import time
from collections import Counter
from functools import partial

import numpy as np
import scipy.linalg
import scipy.ndimage
import scipy.optimize
import scipy.signal
import scipy.sparse
import scipy.special
import scipy.stats
import torch
from matplotlib import pyplot as plt

import nbloss.nn

sources = (
    *(np, np.linalg, np.fft, np.ndarray),
    *(scipy.linalg, scipy.ndimage, scipy.optimize, scipy.signal),
    *(scipy.sparse, scipy.special, scipy.stats),
    *(torch, torch.Tensor, torch.nn, torch.nn.functional),
)
found = {
    inspect.getdoc(getattr(source, name, None)) or ""
    for source in sources
    for name in dir(source)
    if not name.startswith("_")
}
pages = sorted(page for page in found if "\n\n" in page)


def words_of(text):
    return set(re.findall("[a-z]{3,}", text.lower()))


counts = Counter(word for page in pages for word in words_of(page))
labels = [word for word, count in sorted(counts.items()) if 5 <= count <= len(pages) // 5]
number = {word: i for i, word in enumerate(labels)}
present = torch.zeros(len(pages), len(labels))
first = torch.zeros(len(pages), len(labels))
for i, page in enumerate(pages):
    for table, text in ((present, page), (first, page.split("\n\n")[0])):
        table[i, [number[word] for word in words_of(text) if word in number]] = 1.0
print(f"{len(pages)} pages, {len(labels)} words, of which a page has {present.sum(1).mean():.0f}")

# A row of labels ends at the first -1.
targets = torch.full(present.shape, -1)
for row, has in zip(targets, present, strict=True):
    row[: int(has.sum())] = has.nonzero().flatten()

# %%
# Training
# --------
# A third of the pages is kept back. What counts is how many of the ten words that score highest are
# in the page.

torch.manual_seed(0)
test, train = torch.randperm(len(pages)).tensor_split([len(pages) // 3])


def hits(scores):
    return float(present[test].gather(1, scores.topk(10).indices).mean())


def new_network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(len(labels), 64), torch.nn.Linear(64, len(labels)))


network, criterion = new_network(), nbloss.nn.MultiLabelMarginLoss()
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
common = present[train].sum(0).expand(len(test), -1)
start = time.perf_counter()
for _ in range(12):
    for batch in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        criterion(network(first[batch]), targets[batch]).backward()
        optimizer.step()
took = time.perf_counter() - start
with torch.no_grad():
    learned = hits(network(first[test]))
print(f"the commonest words: {hits(common):.0%} right; trained for {took:.0f} s: {learned:.0%}")

# %%
# A step, in parts
# ----------------


def step(criterion, seconds):
    """Take a step from the same start, and note what its parts take."""
    network = new_network()
    optimizer = torch.optim.Adam(network.parameters())
    batch = train[:64]
    scores = part(seconds, "network, forward", partial(network, first[batch]))
    leaf = scores.detach().requires_grad_()
    loss = part(seconds, "loss, forward", partial(criterion, leaf, targets[batch]))
    part(seconds, "loss, backward", loss.backward)
    part(seconds, "network, backward", partial(scores.backward, leaf.grad))
    part(seconds, "optimizer", optimizer.step)
    return loss.item()


def part(seconds, name, call):
    start = time.perf_counter()
    result = call()
    seconds.setdefault(name, []).append(time.perf_counter() - start)
    return result


measured, losses = {}, {}
for library, nn in {"torch.nn": torch.nn, "nbloss.nn": nbloss.nn}.items():
    criterion = nn.MultiLabelMarginLoss()
    step(criterion, {})  # what is compiled is compiled here
    measured[library] = {}
    for _ in range(5):
        losses[library] = step(criterion, measured[library])

middle = {
    library: {name: sorted(found)[2] for name, found in of.items()}
    for library, of in measured.items()
}
for library, of in middle.items():
    in_loss = sum(seconds for name, seconds in of.items() if name.startswith("loss"))
    print(
        f"{library:9} loss {losses[library]:.4f}, step {1e3 * sum(of.values()):6.1f} ms, "
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
        label = None if row else name
        axis.barh(row, 1e3 * of[name], left=left, color=colors[name], label=label)
        left += 1e3 * of[name]
    axis.text(left, row, f"  {left:.0f} ms", va="center", fontsize=9)
axis.set_yticks(range(len(middle)), list(middle))
axis.invert_yaxis()
axis.set_xlabel("milliseconds of a step")
axis.margins(x=0.12)
axis.spines[["top", "right"]].set_visible(False)
axis.legend(frameon=False, fontsize=8, loc="lower right")
figure.tight_layout()

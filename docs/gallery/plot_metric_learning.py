"""
Digits that keep together
=========================

A network that has learned by triplets puts images of the same digit near each other, so that an
image can be told by its neighbours. Here it maps the 64 pixels of scikit-learn's digits to two
numbers, which can be drawn, and is judged by how many test images their nearest neighbours in the
training set name rightly.
"""

# %%
# Data and network
# ----------------

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

import nbloss.nn

torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
parts = train_test_split(images / 16.0, digits, test_size=0.3, random_state=0)
train, test, train_digits, test_digits = (torch.as_tensor(part) for part in parts)
train, test = train.float(), test.float()

network = torch.nn.Sequential(
    torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(),
    torch.nn.Linear(32, 2),
)  # fmt: skip
criterion = nbloss.nn.TripletMarginLoss(margin=1.0, swap=True)
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

# %%
# Triplets
# --------
#
# An anchor, another image of the same digit, and an image of another digit.

by_digit = [torch.nonzero(train_digits == digit).flatten() for digit in range(10)]


def triplets(count: int) -> tuple[torch.Tensor, ...]:
    anchors = torch.randint(len(train), (count,))
    alike = torch.stack(
        [by_digit[d][torch.randint(len(by_digit[d]), ())] for d in train_digits[anchors].tolist()]
    )
    others = torch.randint(len(train), (count,))
    differ = train_digits[others] != train_digits[anchors]
    return anchors[differ], alike[differ], others[differ]


def embed(images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(images)


def accuracy() -> float:
    neighbours = KNeighborsClassifier(10).fit(embed(train), train_digits)
    return float(neighbours.score(embed(test), test_digits))


# %%
# Training
# --------

before, accuracy_before = embed(test), accuracy()
losses = []
for _ in range(600):
    embedded = [network(train[chosen]) for chosen in triplets(256)]
    loss = criterion(*embedded)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
after, accuracy_after = embed(test), accuracy()
print(
    f"named rightly by their neighbours: {accuracy_before:.0%} before, {accuracy_after:.0%} after"
)

# %%
# Before and after
# ----------------

figure, axes = plt.subplots(1, 2, figsize=(9, 4.2))
for axis, points, title in zip(
    axes,
    (before, after),
    (f"before: {accuracy_before:.0%}", f"after: {accuracy_after:.0%}"),
    strict=True,
):
    shown = axis.scatter(*points.T, c=test_digits, cmap="tab10", s=8)
    axis.set_title(f"{title} named rightly", fontsize=10)
    axis.set_xticks([])
    axis.set_yticks([])
figure.colorbar(shown, ax=axes, ticks=range(10), label="digit")

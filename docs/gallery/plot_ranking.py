"""
Whose disease progresses further?
=================================

To decide who is seen first it takes an order of patients, not a number for each. Margin ranking
learns one from pairs: of two patients, the one whose diabetes progressed further should have the
higher score. It is judged by the share of pairs of test patients that are in the right order.
"""

# %%
# Patients, and pairs of them
# ---------------------------

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import nbloss.nn

torch.manual_seed(0)
measurements, progression = load_diabetes(return_X_y=True)
parts = train_test_split(
    20.0 * measurements, progression, test_size=0.33, random_state=0
)  # the columns of the data set are scaled to lengths of 1
train, test, train_goal, test_goal = (torch.as_tensor(x, dtype=torch.float32) for x in parts)


def in_order(scores: torch.Tensor, goal: torch.Tensor) -> float:
    """Share of the pairs that the scores put in the right order."""
    pairs = torch.combinations(torch.arange(len(goal)))
    right = torch.sign(goal[pairs[:, 0]] - goal[pairs[:, 1]])
    given = torch.sign(scores[pairs[:, 0]] - scores[pairs[:, 1]])
    counts = right != 0
    return float((right == given)[counts].float().mean())


# %%
# Training
# --------

scorer = torch.nn.Linear(10, 1)
criterion = nbloss.nn.MarginRankingLoss(margin=1.0)
optimizer = torch.optim.Adam(scorer.parameters(), lr=0.02)
steps, curve = range(400), []
for _ in steps:
    first, second = torch.randint(len(train), (2, 256))
    target = torch.sign(train_goal[first] - train_goal[second])
    scores = scorer(train).squeeze(1)
    loss = criterion(scores[first], scores[second], target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        curve.append(in_order(scorer(test).squeeze(1), test_goal))
print(f"pairs in the right order: {curve[0]:.0%} at first, {curve[-1]:.0%} at last")

# %%
# The order
# ---------
#
# Each test patient by the place that the score gives, and by how far the disease has progressed.

with torch.no_grad():
    place = torch.argsort(torch.argsort(scorer(test).squeeze(1))).numpy()
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
left.plot(steps, curve)
left.set(xlabel="step", ylabel="pairs in the right order", ylim=(0.45, 0.85))
right.scatter(place, test_goal, s=10, color="0.6")
ordered = test_goal.numpy()[np.argsort(place)]
window = 25
right.plot(
    np.arange(len(ordered) - window + 1) + window / 2,
    np.convolve(ordered, np.ones(window) / window, mode="valid"),
    label=f"mean of {window}",
)
right.set(xlabel="place by the score", ylabel="progression")
right.legend(frameon=False)
for axis in (left, right):
    axis.spines[["top", "right"]].set_visible(False)
figure.tight_layout()

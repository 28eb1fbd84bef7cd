"""
Several things at once about a digit
====================================

A digit can be even, prime, at least 5 and have a hole in its drawing, in any combination. A network
that is asked all of this at once has an answer for each question, and a probability: multi-label
soft margin takes each as a question of its own.
"""

# %%
# The questions
# -------------

import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import train_test_split

import nbloss.nn

QUESTIONS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "at least 5": {5, 6, 7, 8, 9},
    "with a hole": {0, 6, 8, 9},
}
torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
answers = np.array([[digit in yes for yes in QUESTIONS.values()] for digit in digits.tolist()])
parts = train_test_split(images / 16.0, answers, test_size=0.4, random_state=0)
train, test, train_answers, test_answers = (
    torch.as_tensor(part, dtype=torch.float32) for part in parts
)

# %%
# Training
# --------

network = torch.nn.Sequential(
    torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, len(QUESTIONS))
)
criterion = nbloss.nn.MultiLabelSoftMarginLoss()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
for _ in range(150):
    chosen = torch.randint(len(train), (256,))
    loss = criterion(network(train[chosen]), train_answers[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    probabilities = torch.sigmoid(network(test)).numpy()
truth = test_answers.numpy()
right = (probabilities > 0.5) == truth
for name, share in zip(QUESTIONS, right.mean(axis=0), strict=True):
    print(f"{name:12} {share:.1%} right")
print(f"all four     {right.all(axis=1).mean():.1%} right")

# %%
# How sure to be
# --------------
#
# Whoever asks for more certainty gets fewer answers, and more of them right.

figure, axis = plt.subplots(figsize=(6, 4))
for name, found, true in zip(QUESTIONS, probabilities.T, truth.T, strict=True):
    precision, recall, _ = precision_recall_curve(true, found)
    axis.plot(recall, precision, label=name)
axis.set(xlabel="share of the yes that are found", ylabel="share of what is found that is right")
axis.set(xlim=(0.6, 1.01), ylim=(0.6, 1.01))
axis.legend(frameon=False, loc="lower left")
axis.spines[["top", "right"]].set_visible(False)
figure.tight_layout()

r"""
A straight line through wrong measurements
==========================================

The body mass index of 442 patients says something about how far their diabetes has progressed a
year later. What do a few patients do to the line if their progression was written down with a digit
too few? Squares let them: a residual of 200 pulls a hundred times as hard as one of 2. Huber's loss
pulls with the same force beyond :math:`\delta`, however far away a point is.

The gradient comes from :func:`nbloss.value_and_grad`, on arrays, and goes to an optimizer of SciPy.
"""

# %%
# The data, and the slips
# -----------------------

import numpy as np
from matplotlib import pyplot as plt
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes

import nbloss

data = load_diabetes(scaled=False)
index = data.data[:, data.feature_names.index("bmi")]
progression = data.target.astype(float)
points = np.column_stack([np.ones_like(index), index - index.mean()])

rng = np.random.default_rng(0)
slips = rng.choice(np.flatnonzero(index > 28), 20, replace=False)
written = progression.copy()
written[slips] /= 10.0  # one digit too few, of patients whose index is high

# %%
# Two fits
# --------
#
# Squares have their formula. Huber's loss has its gradient by the prediction, and the chain rule
# adds a product with the points.

huber = nbloss.value_and_grad(nbloss.huber_loss)


def objective(coefficients, values, delta):
    value, gradient = huber(points @ coefficients, values, delta=delta)
    return value, points.T @ gradient


def squares(values):
    return np.linalg.lstsq(points, values, rcond=None)[0]


def robust(values, delta=20.0):
    return minimize(objective, squares(values), args=(values, delta), jac=True).x


truth = squares(progression)
guard = {"squares": squares(written), "Huber": robust(written)}
for name, fit in guard.items():
    print(f"{name:8} slope {fit[1]:5.2f}, without the slips {truth[1]:.2f}")

# %%
# The lines
# ---------

figure, axis = plt.subplots(figsize=(7, 4.5))
right = np.setdiff1d(np.arange(len(index)), slips)
axis.scatter(index[right], written[right], s=10, color="0.7", label="patients")
axis.scatter(index[slips], written[slips], s=18, color="tab:red", label="slips")
span = np.array([index.min(), index.max()])
line = np.column_stack([np.ones(2), span - index.mean()])
axis.plot(span, line @ truth, color="black", linestyle=":", label="squares, without the slips")
for (name, fit), color in zip(guard.items(), ("tab:orange", "tab:blue"), strict=True):
    axis.plot(span, line @ fit, color=color, label=name)
axis.set(xlabel="body mass index", ylabel="progression after a year")
axis.spines[["top", "right"]].set_visible(False)
axis.legend(frameon=False, fontsize=9, loc="upper left")
figure.tight_layout()

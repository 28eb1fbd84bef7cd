"""Losses of samples that have several labels at once."""

from nbloss.engine.primitives import absolute, exp, log1p, maximum, where
from nbloss.engine.registry import pairwise, pointwise


@pointwise(
    differentiable=("input", "target"),
    module="MultiLabelSoftMarginLoss",
    mean_over_classes=True,
)
def multilabel_soft_margin_loss(input, target):
    """Give what a class costs whose probability is the sigmoid of the input."""
    # The exponential of -|input| can't overflow, and gives both logarithms and both derivatives:
    # -log(sigmoid(x)) is log(1 + exp(-|x|)), and -x on top where x is negative.
    small = exp(-absolute(input))
    tail = log1p(small)
    above = where(input > 0.0, input, 0.0)
    below = where(input > 0.0, 0.0, -input)
    likelier = 1.0 / (1.0 + small)
    present = where(input > 0.0, likelier, small * likelier)
    absent = where(input > 0.0, small * likelier, likelier)
    value = target * below + (1.0 - target) * above + tail
    return value, (1.0 - target) * present - target * absent, -input


def below_margin(labelled):
    """How far a label's score lies below 1."""
    return 1.0 - labelled


@pairwise(module="MultiLabelMarginLoss", hinge=below_margin)
def multilabel_margin_loss(labelled, other):
    """Give what is missing for a label's score to lie 1 above the score of another class."""
    violation = below_margin(labelled) + other
    slope = where(violation > 0.0, 1.0, 0.0)
    return maximum(violation, 0.0), -slope, slope

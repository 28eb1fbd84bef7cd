"""Losses of samples that have several labels at once."""

from nbloss.engine.primitives import absolute, exp, log1p, maximum, minimum, where
from nbloss.engine.registry import pairwise, pointwise


@pointwise(
    differentiable=("input", "target"),
    module="MultiLabelSoftMarginLoss",
    mean_over_classes=True,
)
def multilabel_soft_margin_loss(input, target):
    """Give what a class costs whose probability is the sigmoid of the input."""
    # The exponential of -|input| can't overflow, and gives both logarithms and both derivatives.
    small = exp(-absolute(input))
    tail = log1p(small)
    log_present = minimum(input, 0.0) - tail
    log_absent = minimum(-input, 0.0) - tail
    likelier = 1.0 / (1.0 + small)
    present = where(input > 0.0, likelier, small * likelier)
    absent = where(input > 0.0, small * likelier, likelier)
    value = -(target * log_present + (1.0 - target) * log_absent)
    return value, (1.0 - target) * present - target * absent, log_absent - log_present


def below_margin(labelled):
    """How far a label's score lies below 1."""
    return 1.0 - labelled


@pairwise(module="MultiLabelMarginLoss", hinge=below_margin)
def multilabel_margin_loss(labelled, other):
    """Give what is missing for a label's score to lie 1 above the score of another class."""
    violation = below_margin(labelled) + other
    slope = where(violation > 0.0, 1.0, 0.0)
    return maximum(violation, 0.0), -slope, slope

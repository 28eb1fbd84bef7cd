"""Losses of samples that have several labels at once."""

from nbloss.formula.primitives import hinge, softplus
from nbloss.formula.registry import pairwise, pointwise


def by_target(input, target, weight):
    """The derivative with respect to the target; the difference of the logarithms loses digits."""
    return -weight * input


@pointwise(
    module="MultiLabelSoftMarginLoss",
    derivatives={"target": by_target},
    optional=("weight",),
    check=False,  # a test does
    mean_over_classes=True,
    targets=(0.0, 1.0),
    autocast=(),
)
def multilabel_soft_margin_loss(input, target, weight):
    """Give what a class costs whose probability is the sigmoid of the input."""
    # With p = sigmoid(x), -log(p) is softplus(-x), and -log(1 - p) is softplus(x).
    return weight * (target * softplus(-input) + (1.0 - target) * softplus(input))


def below_margin(labelled):
    """How far a label's score lies below 1."""
    return 1.0 - labelled


@pairwise(
    module="MultiLabelMarginLoss",
    hinge=below_margin,
    is_compiled_wrongly=True,  # torch 2.13: pytorch/pytorch#141017, #185464
)
def multilabel_margin_loss(labelled, other):
    """Give what is missing for a label's score to lie 1 above the score of another class."""
    return hinge(below_margin(labelled) + other, at=0.0)

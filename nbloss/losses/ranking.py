"""Losses of the order of two scores."""

from nbloss.formula.primitives import hinge
from nbloss.formula.registry import pointwise
from nbloss.losses.kink import AT_KINK


@pointwise(
    module="MarginRankingLoss",
    saves_operands=False,
    targets=(-1.0, 1.0),
)
def margin_ranking_loss(input1, input2, target, margin=0.0):
    """Give what is missing for two scores to be in order; ``target`` is 1 or -1, and says which."""
    return hinge(margin - target * (input1 - input2), at=AT_KINK)

"""Losses of the order of two scores."""

from nbloss.engine.primitives import maximum
from nbloss.engine.registry import pointwise
from nbloss.losses.hinge import pulled


@pointwise(
    differentiable=("input1", "input2", "target"),
    module="MarginRankingLoss",
    saves_operands=False,
)
def margin_ranking_loss(input1, input2, target, margin=0.0, at_kink=0.0):
    """Give what is missing for two scores to be in order; ``target`` is 1 or -1, and says which."""
    difference = input1 - input2
    violation = margin - target * difference
    slope = pulled(violation, 1.0, at_kink)
    return maximum(violation, 0.0), -target * slope, target * slope, -difference * slope

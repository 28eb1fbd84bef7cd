"""Losses of a prediction that is a number."""

from nbloss.formula.primitives import absolute, where
from nbloss.formula.registry import pointwise


@pointwise(module="HuberLoss", optional=("weight",))
def huber_loss(input, target, weight, delta=1.0):
    """A parabola within ``delta`` of the target, and the tangents at its ends beyond."""
    error = input - target
    distance = absolute(error)
    beyond = distance >= delta  # false for a NaN, which then goes on through the parabola
    return weight * where(beyond, delta * (distance - 0.5 * delta), 0.5 * error * error)

"""Losses of a prediction that is a number."""

from nbloss.engine.primitives import absolute, where
from nbloss.engine.registry import pointwise


@pointwise(differentiable=("input", "target"), module="HuberLoss")
def huber_loss(input, target, delta=1.0):
    """A parabola within ``delta`` of the target, and the tangents at its ends beyond."""
    error = input - target
    distance = absolute(error)
    beyond = distance >= delta  # false for a NaN, which then goes on through the parabola
    value = where(beyond, delta * (distance - 0.5 * delta), 0.5 * error * error)
    slope = where(beyond, where(error > 0.0, delta, -delta), error)
    return value, slope, -slope

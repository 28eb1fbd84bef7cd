"""Losses of a prediction that is a number."""

from nbloss.engine.primitives import absolute, where
from nbloss.engine.registry import pointwise


@pointwise(differentiable=("input", "target"), module="HuberLoss")
def huber_loss(input, target, delta=1.0):
    error = input - target
    distance = absolute(error)
    inside = distance <= delta
    value = where(inside, 0.5 * error * error, delta * (distance - 0.5 * delta))
    slope = where(inside, error, where(error > 0.0, delta, -delta))
    return value, slope, -slope

"""What a type checker knows of nbloss in its users' code. `make types` checks it; it never runs."""

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
import torch

import nbloss
import nbloss.nn
from nbloss import distances, nn
from nbloss.primitives import absolute, log_softmax
from nbloss.primitives import sum as total

x, y = torch.zeros(3), torch.ones(3)

# Modules are torch's classes.
criterion: torch.nn.HuberLoss = nn.HuberLoss(reduction="sum", delta=0.5)
nbloss.nn.CrossEntropyLoss(label_smoothing=0.1)(x, y)
nn.HuberLoss(sigma=0.5)  # type: ignore[call-arg]

# Functions have torch's parameters.
nbloss.huber_loss(input=x, target=y, reduction="none", delta=1.0)
nbloss.functional.cross_entropy(x, y, ignore_index=-1, label_smoothing=0.1)
nbloss.huber_loss(x, y, delta="wide")  # type: ignore[arg-type]
nbloss.huber_loss(x)  # type: ignore[call-arg]

# So they have on arrays.
value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(np.zeros(3), np.ones(3))


@nbloss.distance
def weighted_manhattan(x: Any, y: Any, scale: float = 2.0) -> Any:
    return scale * total(absolute(x - y))


assert_type(weighted_manhattan, nbloss.Distance)
assert_type(nbloss.distance(), Callable[[Callable[..., Any]], nbloss.Distance])
nbloss.distance(reduce="max")  # type: ignore[call-overload]
assert_type(distances.minkowski.with_parameters(p=4), nbloss.Distance)
nn.TripletMarginWithDistanceLoss(distance_function=distances.cosine, margin=0.5)


# Losses of one's own are functions that take what they please, and `reduction`.
@nbloss.pointwise
def quartic_loss(input: Any, target: Any, scale: float = 1.0) -> Any:
    return ((input - target) / scale) ** 4


@nbloss.rowwise(module="Focal", derivatives={})
def focal_loss(scores: Any, label: nbloss.Index, gamma: float = 2.0) -> Any:
    log_prob = log_softmax(scores)[label]
    return -((1.0 - log_prob) ** gamma) * log_prob


assert_type(quartic_loss, Callable[..., Any])
assert_type(focal_loss, Callable[..., Any])
assert_type(nbloss.pointwise(check=False), Callable[[Callable[..., Any]], Callable[..., Any]])
assert_type(nbloss.rowwise(check=False), Callable[[Callable[..., Any]], Callable[..., Any]])
quartic_loss(x, y, reduction="sum", scale=0.5)
focal_loss(np.zeros((2, 3)), np.zeros(2, int))
nbloss.pointwise(differentiable=("input",))  # type: ignore[call-overload]
nbloss.rowwise(finish=None)  # type: ignore[call-overload]

with nbloss.patch_torch():
    pass

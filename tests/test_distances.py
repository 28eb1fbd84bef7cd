"""Distances of one's own: the four ways to bring one, and what happens when it is wrong."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import nbloss
from nbloss import distances
from nbloss.primitives import absolute, exp, maximum, sign, sqrt, where

SWAP = pytest.mark.parametrize("swap", [False, True])


@nbloss.distance
def weighted_manhattan(x, y, scale=2.0):
    z = x - y
    return scale * absolute(z), scale * sign(z), -scale * sign(z)


def root(total, floor):
    size = sqrt(total + floor)
    return size, 0.5 / size


@nbloss.distance(finish=root)
def softened(x, y, floor=0.01):
    z = x - y
    return z * z, 2.0 * z, -2.0 * z


@nbloss.distance(reduce="max")
def steepest(x, y):
    z = x - y
    return z * z, 2.0 * z, -2.0 * z


def correlation_of_sums(product, first, second):
    return second - product * first, -first, -product, 1.0 + 0.0 * second


@nbloss.distance(finish=correlation_of_sums)
def three_sums(x, y):
    return (x * y, y, x), (x, 1.0 + 0.0 * x, 0.0 * y), (y * y, 0.0 * x, 2.0 * y)


# The same distances, for torch to differentiate.
IN_TORCH: dict[str, tuple[Any, Callable]] = {
    "parameters": (weighted_manhattan, lambda x, y: 2 * (x - y).abs().sum(-1)),
    "other-parameters": (
        weighted_manhattan.with_parameters(scale=0.5),
        lambda x, y: 0.5 * (x - y).abs().sum(-1),
    ),
    "finish": (softened, lambda x, y: ((x - y).square().sum(-1) + 0.01).sqrt()),
    "max": (steepest, lambda x, y: (x - y).square().amax(-1)),
    "three-sums": (
        three_sums,
        lambda x, y: y.square().sum(-1) - (x * y).sum(-1) * x.sum(-1),
    ),
    "none": (None, lambda x, y: torch.nn.functional.pairwise_distance(x, y)),
    "shipped": (distances.lp(1.5), lambda x, y: torch.linalg.vector_norm(x - y, 1.5, dim=-1)),
}


def triple(seed: int = 0) -> list[torch.Tensor]:
    x = torch.randn((3, 6, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [row.clone().requires_grad_() for row in x]


@pytest.mark.parametrize("kind", IN_TORCH)
@SWAP
def test_a_distance_of_ones_own(kind: str, swap: bool) -> None:
    """Fused, on tensors and on arrays, it gives what torch finds by itself."""
    own, same = IN_TORCH[kind]
    function = torch.nn.functional.triplet_margin_with_distance_loss
    mine, theirs = triple(), triple()
    loss = nbloss.triplet_margin_with_distance_loss
    value = loss(*mine, distance_function=own, swap=swap)
    truth = function(*theirs, distance_function=same, swap=swap)
    value.backward()
    truth.backward()
    torch.testing.assert_close(value, truth)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    arrays = [x.detach().numpy() for x in mine]
    value, gradients = nbloss.value_and_grad(loss, (0, 1, 2))(
        *arrays, distance_function=own, swap=swap
    )
    np.testing.assert_allclose(value, truth.item())
    for gradient, y in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(gradient, y.grad)


@pytest.mark.parametrize("kind", IN_TORCH)
@SWAP
def test_a_function_of_tensors(kind: str, swap: bool) -> None:
    """Torch differentiates the distance, and the hinge is ours."""
    _, distance = IN_TORCH[kind]
    mine, theirs = triple(), triple()
    value = nbloss.triplet_margin_with_distance_loss(*mine, distance_function=distance, swap=swap)
    assert "LossFunction" in value.grad_fn.name()
    truth = torch.nn.functional.triplet_margin_with_distance_loss(
        *theirs, distance_function=distance, swap=swap
    )
    value.backward()
    truth.backward()
    torch.testing.assert_close(value, truth)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_a_function_of_arrays_has_no_gradient() -> None:
    arrays = [x.detach().numpy() for x in triple()]
    with pytest.raises(TypeError, match="distance_function must be one of"):
        nbloss.triplet_margin_with_distance_loss(
            *arrays, distance_function=lambda x, y: np.abs(x - y).sum(-1)
        )


@pytest.mark.parametrize("distance", [distances.cosine, distances.lp(3.0, 0.1), softened], ids=repr)
def test_distances_travel(distance: Any) -> None:
    """By pickle and deepcopy, as modules that hold them do."""
    for copied in (pickle.loads(pickle.dumps(distance)), copy.deepcopy(distance)):
        assert copied.formula is distance.formula
        assert dict(copied.parameters) == dict(distance.parameters)
    module = nbloss.nn.TripletMarginWithDistanceLoss(distance_function=distance)
    value = module(*triple())
    assert pickle.loads(pickle.dumps(module))(*triple()) == value


# --- what is refused when it is registered ------------------------------------------------------


def wrong_slope(x, y):
    return (x - y) * (x - y), 2.0 * (x - y), 2.0 * (x - y)


def no_slopes(x, y):
    return (x - y) * (x - y)


def one_coordinate(x):
    return x, 1.0, 0.0


def square(x, y):
    return (x - y) * (x - y), 2.0 * (x - y), -2.0 * (x - y)


def two_sums(x, y):
    return (x, 1.0, 0.0), (y, 0.0, 1.0)


def wrong_finish(total):
    return sqrt(total), 1.0 / sqrt(total)


def short_finish(total):
    return (sqrt(total),)


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        (
            wrong_slope,
            {},
            "distance wrong_slope: .* with respect to y at x=.* is stated as .* give",
        ),
        (no_slopes, {}, "distance no_slopes must return"),
        (one_coordinate, {}, "distance one_coordinate must take two coordinates"),
        (square, {"reduce": "mean"}, "reduce must be one of"),
        (two_sums, {}, "distance two_sums has 2 sums"),
        (square, {"finish": wrong_finish}, "the derivative with respect to sum 0 in finish"),
        (square, {"finish": short_finish}, "finish of distance square must return"),
    ],
)
def test_a_wrong_distance(formula: Callable, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nbloss.distance(formula, **options)


def test_an_unknown_parameter() -> None:
    with pytest.raises(TypeError, match=r"no parameter \['p'\]; it takes \['eps'\]"):
        distances.euclidean.with_parameters(p=3)


def test_no_maximum_of_no_coordinates() -> None:
    nothing = [np.zeros((2, 0))] * 3
    with pytest.raises(RuntimeError, match="no max of no coordinates"):
        nbloss.triplet_margin_loss(*nothing, p=float("inf"))


def test_words_for_kernels_work_on_arrays() -> None:
    """The words a distance is written in are NumPy's functions when they are called directly."""
    x = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(where(x > 0, x, 0.0), maximum(x, 0.0))
    np.testing.assert_array_equal(exp(0.0 * x), np.ones(3))

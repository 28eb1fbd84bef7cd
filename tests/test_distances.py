"""Distances of one's own: the four ways to bring one, and what happens when it is wrong."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import nbloss
from nbloss import distances
from nbloss import primitives as nb
from nbloss.primitives import absolute, exp, maximum, softmax, sqrt, where

SWAP = pytest.mark.parametrize("swap", [False, True])


@nbloss.distance
def weighted_manhattan(x, y, scale=2.0):
    return scale * nb.sum(absolute(x - y))


@nbloss.distance
def softened(x, y, floor=0.01):
    return sqrt(nb.sum((x - y) ** 2) + floor)


@nbloss.distance
def steepest(x, y):
    return nb.max((x - y) ** 2)


@nbloss.distance
def three_sums(x, y):
    return nb.sum(y * y) - nb.sum(x * y) * nb.sum(x)


@nbloss.distance()
def shares_in_numpy(x, y, power=3):
    """Compare distributions, in two walks along a row."""
    return (np.absolute(softmax(x) - softmax(y)) ** power).sum()


# The same distances, for torch to differentiate.
IN_TORCH: dict[str, tuple[Any, Callable]] = {
    "parameters": (weighted_manhattan, lambda x, y: 2 * (x - y).abs().sum(-1)),
    "other-parameters": (
        weighted_manhattan.with_parameters(scale=0.5),
        lambda x, y: 0.5 * (x - y).abs().sum(-1),
    ),
    "of-a-sum": (softened, lambda x, y: ((x - y).square().sum(-1) + 0.01).sqrt()),
    "max": (steepest, lambda x, y: (x - y).square().amax(-1)),
    "two-walks": (
        shares_in_numpy,
        lambda x, y: (x.softmax(-1) - y.softmax(-1)).abs().pow(3).sum(-1),
    ),
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


# --- what is refused when it is defined -----------------------------------------------------------


def with_slopes(x, y):
    return (x - y) * (x - y), 2.0 * (x - y), -2.0 * (x - y)


def of_coordinates(x, y):
    return (x - y) * (x - y)


def one_row(x):
    return nb.sum(x * x)


def three_rows(x, y, z):
    return nb.sum((x - y) * z)


def branching(x, y):
    return nb.sum(x - y if x > y else y - x)


def in_math(x, y):
    return math.sqrt(nb.sum((x - y) ** 2))


def square(x, y):
    return nb.sum((x - y) ** 2)


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        (with_slopes, {}, "with_slopes returns 3 values, but a formula states the value alone"),
        (of_coordinates, {}, "of_coordinates gives a number for each column, but must give one"),
        (one_row, {}, r"distance one_row must take two rows, .* it takes \(x\)"),
        (three_rows, {}, r"distance three_rows must take two rows, .* it takes \(x, y, z\)"),
        (branching, {}, r"use where\(condition, x, y\)"),
        (in_math, {}, "instead of those of math"),
        (square, {"reduce": "max"}, r"got reduce: .* as in sqrt\(sum\("),
        (square, {"finish": square}, r"got finish: .* or max\("),
    ],
)
def test_a_wrong_distance(formula: Callable, options: dict[str, Any], message: str) -> None:
    with pytest.raises(nbloss.FormulaError, match=message):
        nbloss.distance(formula, **options)


def test_a_wrong_distance_names_its_line() -> None:
    line = branching.__code__.co_firstlineno + 1
    with pytest.raises(nbloss.FormulaError, match=rf'in ".*test_distances\.py", line {line}\)'):
        nbloss.distance(branching)


def test_an_unknown_parameter() -> None:
    with pytest.raises(TypeError, match=r"no parameter \['p'\]; it takes \['eps'\]"):
        distances.euclidean.with_parameters(p=3)


def test_no_maximum_of_no_coordinates() -> None:
    nothing = [np.zeros((2, 0))] * 3
    with pytest.raises(RuntimeError, match="no max of no coordinates"):
        nbloss.triplet_margin_loss(*nothing, p=float("inf"))


@pytest.mark.parametrize("kind", IN_TORCH)
def test_rows_are_measured(kind: str) -> None:
    """By the distance alone, on arrays and on tensors, which torch differentiates."""
    own, same = IN_TORCH[kind]
    if own is None:
        return
    mine, theirs = triple(), triple()
    rows = [x.detach().numpy() for x in mine]
    expected = same(theirs[0][:, None], theirs[1])
    np.testing.assert_allclose(own(rows[0][:, None], rows[1]), expected.detach().numpy())
    found = own(mine[0][:, None], mine[1])
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for x, y in zip(mine[:2], theirs[:2], strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_primitives_work_on_arrays() -> None:
    """What a distance is written in also takes arrays, whose last axis is the row."""
    x = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(where(x > 0, x, 0.0), maximum(x, 0.0))
    np.testing.assert_array_equal(exp(0.0 * x), np.ones(3))
    np.testing.assert_array_equal(nb.sum(np.stack([x, 2.0 * x])), [[1.0], [2.0]])
    np.testing.assert_array_equal(nb.max(absolute(x)), [2.0])

"""What holds for any shape and any numbers, tried by hypothesis."""

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as shapes

import nbloss
from cases import Case, split
from nbloss import distances
from test_losses import FIRST

CASE = pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
SEEDS = st.integers(0, 2**32 - 1)
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


def call(case: Case, made: dict[str, Any], **more: Any) -> Any:
    operands, weight = split(made)
    return getattr(nbloss, case.loss)(*operands, **weight, **case.options(distances), **more)


@CASE
@given(size=SIZES, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_any_size_agrees_with_the_oracle(case: Case, size: tuple[int, int], seed: int) -> None:
    made = case.make(seed, size)
    for reduction in ("none", "sum", "mean"):
        value = call(case, made, reduction=reduction)
        np.testing.assert_allclose(value, case.value(made, reduction), rtol=1e-9, atol=1e-12)


@CASE
@given(size=SIZES, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_the_reduced_loss_is_the_reduction(case: Case, size: tuple[int, int], seed: int) -> None:
    made = case.make(seed, size)
    each = call(case, made, reduction="none")
    np.testing.assert_allclose(call(case, made, reduction="sum"), each.sum(), rtol=1e-12)
    np.testing.assert_allclose(call(case, made), each.mean(), rtol=1e-12)


@CASE
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_gradients_are_finite_differences(case: Case, seed: int) -> None:
    """Along a random direction, where the oracle's gradient says that there is no kink near."""
    rng = np.random.default_rng(seed)
    made = case.make(rng, (4, 5))
    name = case.differentiable[0]
    place = list(made).index(name)
    operands, weight = split(made)
    function = nbloss.value_and_grad(getattr(nbloss, case.loss), place)
    options = {**weight, **case.options(distances), "reduction": "sum"}
    _, gradient = function(*operands, **options)
    direction = rng.normal(size=made[name].shape)
    step = 1e-6
    slopes = []
    for side in (step, -step):
        moved = {**made, name: made[name] + side * direction}
        slopes.append(call(case, moved, reduction="sum"))
    measured = (slopes[0] - slopes[1]) / (2 * step)
    before, after = (
        case.gradients({**made, name: made[name] + side * direction}, "sum")[name]
        for side in (step, -step)
    )
    if np.allclose(before, after, atol=1e-3):
        np.testing.assert_allclose((gradient * direction).sum(), measured, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["huber_loss", "margin_ranking_loss"])
@given(data=st.data(), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_broadcasting(name: str, data: st.DataObject, seed: int) -> None:
    """Any shapes that NumPy broadcasts give what the broadcast operands give, and its gradient."""
    count = 2 if name == "huber_loss" else 3
    drawn = data.draw(
        shapes.mutually_broadcastable_shapes(num_shapes=count, min_dims=2, max_dims=2, max_side=5)
    )
    rng = np.random.default_rng(seed)
    operands = [rng.normal(size=shape) for shape in drawn.input_shapes]
    expanded = [np.broadcast_to(x, drawn.result_shape) for x in operands]
    function = nbloss.value_and_grad(getattr(nbloss, name), tuple(range(count)))
    value, gradients = function(*operands, reduction="sum")
    whole, whole_gradients = function(*expanded, reduction="sum")
    np.testing.assert_allclose(value, whole)
    for x, gradient, full in zip(operands, gradients, whole_gradients, strict=True):
        assert gradient.shape == x.shape
        repeated = tuple(k for k in range(2) if x.shape[k] != drawn.result_shape[k])
        np.testing.assert_allclose(gradient, full.sum(repeated, keepdims=True), atol=1e-12)


# --- value_and_grad -----------------------------------------------------------------------------


def test_argnums_and_partial() -> None:
    x, y = np.array([0.5, 3.0]), np.array([0.0, 0.0])
    value, (by_x, by_y) = nbloss.value_and_grad(nbloss.huber_loss, (0, 1))(x, y)
    assert value == 1.3125
    np.testing.assert_array_equal(by_x, [0.25, 0.5])
    np.testing.assert_array_equal(by_y, -by_x)
    _, by_y = nbloss.value_and_grad(nbloss.huber_loss, -5)(x, y)
    np.testing.assert_array_equal(by_y, by_x)
    bound = functools.partial(nbloss.huber_loss, x, delta=2.0)
    _, gradient = nbloss.value_and_grad(bound)(y)
    np.testing.assert_array_equal(gradient, [-0.25, -1.0])
    each, gradient = nbloss.value_and_grad(nbloss.huber_loss)(x, y, reduction="none")
    np.testing.assert_array_equal(each, [0.125, 2.5])
    np.testing.assert_array_equal(gradient, [0.5, 1.0])


def test_types_of_gradients() -> None:
    x, y = np.float32([0.5, 3.0]), np.float64([0.0, 0.0])
    value, (by_x, by_y) = nbloss.value_and_grad(nbloss.huber_loss, (0, 1))(x, y)
    assert (value.dtype, by_x.dtype, by_y.dtype) == (np.float64, np.float32, np.float64)
    _, by_y = nbloss.value_and_grad(nbloss.huber_loss, 1)(x, np.array([0, 0]))
    assert by_y.dtype == np.float32


@pytest.mark.parametrize(
    ("function", "argnums", "error", "message"),
    [
        (np.sum, 0, TypeError, "fn must be a loss of nbloss"),
        (nbloss.nll_loss, 1, ValueError, "no gradient by target here, only by .'input'"),
        (nbloss.nll_loss, 20, ValueError, "argnums has 20"),
    ],
)
def test_what_has_no_gradient(
    function: Any, argnums: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nbloss.value_and_grad(function, argnums)(np.zeros((2, 3)), np.array([0, 1]))

"""What holds for any shape and any numbers, tried by hypothesis."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
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
        (
            nbloss.nll_loss,
            1,
            ValueError,
            "no gradient with respect to target here, only with respect to .'input'",
        ),
        (nbloss.nll_loss, 20, ValueError, "argnums has 20"),
        (nbloss.nll_loss, 0.0, TypeError, "argnums must be an int or a sequence of int, got 0.0"),
        (nbloss.nll_loss, "input", TypeError, "argnums must be .* got 'input'"),
        (
            nbloss.value_and_grad(nbloss.nll_loss),
            0,
            TypeError,
            "fn is what value_and_grad returned.*torch.func.hessian",
        ),
    ],
)
def test_what_has_no_gradient(
    function: Any, argnums: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nbloss.value_and_grad(function, argnums)(np.zeros((2, 3)), np.array([0, 1]))


def test_tensors_have_autograd() -> None:
    x = torch.zeros(3)
    with pytest.raises(TypeError, match=r"takes arrays, but input is a Tensor of torch.*backward"):
        nbloss.value_and_grad(nbloss.huber_loss)(target=x, input=x)


def test_numbers_of_arguments_are_of_any_integer_type() -> None:
    x, y = np.array([0.5, 3.0]), np.array([0.0, 0.0])
    _, gradient = nbloss.value_and_grad(nbloss.huber_loss, np.int64(1))(x, y)
    _, (again,) = nbloss.value_and_grad(nbloss.huber_loss, [np.int32(1)])(x, y)
    assert gradient.tolist() == again.tolist() == [-0.25, -0.5]


def test_flags_are_pythons_or_numpys() -> None:
    rows = [np.array([[0.0, 0.0]]), np.array([[2.0, 0.0]]), np.array([[1.0, 0.0]])]
    value = nbloss.triplet_margin_loss(*rows, swap=True, eps=0.0)
    assert nbloss.triplet_margin_loss(*rows, swap=np.True_, eps=0.0) == value
    assert nbloss.triplet_margin_loss(*map(torch.tensor, rows), swap=np.True_, eps=0.0) == value
    with pytest.raises(TypeError, match="swap must be a bool, got int"):
        nbloss.triplet_margin_loss(*rows, swap=1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1)])
def test_gradients_of_broadcast_operands_are_sums_of_all(dtype: str, shape: tuple) -> None:
    """Ten thousand ones, or tenths, are more than a sum in float16 can hold."""
    x, y = np.zeros((10000, 4), dtype), np.ones(shape, dtype)
    with pytest.warns(UserWarning, match="target size"):
        _, gradient = nbloss.value_and_grad(nbloss.huber_loss, 1)(x, y, reduction="sum")
    assert (gradient.dtype, gradient.shape) == (np.dtype(dtype), shape)
    expected = 10000 * (4 if shape == (1, 1) else 1)
    np.testing.assert_array_equal(gradient, np.full(shape, expected, dtype))
    tenth = (y * 0.1).astype(dtype)
    with pytest.warns(UserWarning, match="target size"):
        _, gradient = nbloss.value_and_grad(nbloss.huber_loss, 1)(x, tenth, reduction="sum")
    exact = expected * tenth.astype(np.float64)
    np.testing.assert_allclose(gradient, exact, rtol=max(np.finfo(dtype).eps, 1e-12))


def test_operands_that_are_repeated_beyond_reason() -> None:
    """Without memory of that size the call would go on for minutes, and not be interrupted."""
    x = np.broadcast_to(np.float32(0.0), (2**20, 2**20))
    with pytest.raises(MemoryError, match=r"huber_loss\(\): operands of shape .* broadcast"):
        nbloss.huber_loss(x, x)
    y = torch.zeros(1).expand(2**40)
    with pytest.raises(MemoryError, match="broadcast operands may have at most"):
        nbloss.huber_loss(y, y)
    # Large, and done at once: there is nothing to do for most of its classes.
    scores = torch.zeros(1, 1).expand(2, 2**40)
    assert nbloss.nll_loss(scores, torch.tensor([0, 2**39])).item() == 0.0

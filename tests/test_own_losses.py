"""Losses that a user defines: what is checked, what they have, and what they do not touch."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nbloss
from nbloss.engine.registry import LOSSES, ON_REPLACEMENT, pointwise
from nbloss.primitives import absolute, exp, log, where


@pytest.fixture(autouse=True)
def only_the_losses_of_nbloss_are_left() -> Iterator[None]:
    known = dict(LOSSES)
    yield
    for name in set(LOSSES) - set(known):
        definition = LOSSES.pop(name)
        for forget in ON_REPLACEMENT:
            forget(definition)


def one_sided(**options: Any) -> Callable[..., Any]:
    """A loss whose target has no derivative, though the value depends on it."""

    @pointwise(differentiable=("input",), **options)
    def one_sided_loss(input, target):
        """Square the error."""
        error = input - target
        return error * error, 2.0 * error

    return nbloss.functional.one_sided_loss


REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


# --- operands without a derivative ----------------------------------------------------------------


@REDUCTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_operand_without_a_derivative_gets_no_gradient(
    reduction: str, dtype: torch.dtype
) -> None:
    loss = one_sided()
    x = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    y = torch.tensor([3.0, 0.5], dtype=dtype, requires_grad=True)
    loss(x, y, reduction=reduction).sum().backward()
    count = 2 if reduction == "mean" else 1
    assert x.grad.tolist() == [-4.0 / count, 3.0 / count]
    assert y.grad is None


@REDUCTIONS
def test_a_value_has_no_graph_if_no_gradient_can_come_of_it(reduction: str) -> None:
    y = torch.tensor([3.0, 0.5], requires_grad=True)
    assert not one_sided()(torch.ones(2), y, reduction=reduction).requires_grad


def test_an_operand_without_a_derivative_in_transforms_and_graphs() -> None:
    loss = one_sided()
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])
    first, second = torch.func.grad(loss, argnums=(0, 1))(x, y)
    assert first.tolist() == [-2.0, 1.5]
    assert second.tolist() == [0.0, 0.0]
    x.requires_grad_()
    y.requires_grad_()
    (again,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
    again.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [t.detach().clone().requires_grad_() for t in (x, y)]
    compiled(*leaves).backward()
    assert leaves[0].grad.tolist() == [-2.0, 1.5]
    assert leaves[1].grad is None or leaves[1].grad.tolist() == [0.0, 0.0]


def test_arrays_say_which_operand_has_no_derivative() -> None:
    x, y = np.array([1.0, 2.0]), np.array([3.0, 0.5])
    loss = one_sided()
    assert nbloss.value_and_grad(loss)(x, y)[1].tolist() == [-2.0, 1.5]
    for argnums in (1, (0, 1)):
        with pytest.raises(ValueError, match="no gradient with respect to target"):
            nbloss.value_and_grad(loss, argnums)(x, y)


# --- definitions are checked ----------------------------------------------------------------------


def wrong_slope(input, target):
    error = input - target
    return error * error, error, -2.0 * error


def swapped(input, target):
    error = input - target
    return 2.0 * error, error * error, -error * error


def wrong_beyond_one(input, target):
    """Right near the target, as an example on paper is."""
    error = input - target
    far = absolute(error) > 1.0
    value = where(far, absolute(error) - 0.5, 0.5 * error * error)
    return value, error, -error


def too_few(input, target):
    return (input - target) ** 2, 2.0 * (input - target)


def value_alone(input, target):
    return (input - target) ** 2


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (wrong_slope, "with respect to input at input=.*, target=.* is stated as .* give"),
        (swapped, "with respect to input .* finite differences"),
        (wrong_beyond_one, "with respect to input"),
        (too_few, "must return the value and then the derivatives .* 3 numbers, not 2"),
        (value_alone, "3 numbers, not 1"),
    ],
)
def test_a_wrong_definition_is_refused(formula: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"loss {formula.__name__}.*{message}"):
        pointwise(differentiable=("input", "target"))(formula)
    assert formula.__name__ not in LOSSES


def test_what_is_not_finite_is_not_compared() -> None:
    """Logarithms of targets that are probabilities, kinks at the targets that occur."""

    @pointwise(differentiable=("input",))
    def log_score_loss(input, target):
        """Score a log-probability, of targets that are 0 or 1."""
        hit = where(target > 0.0, 1.0, 0.0)
        return hit * log(input), hit / input

    value = nbloss.functional.log_score_loss(np.array([0.5, 0.25]), np.array([1.0, 0.0]))
    assert np.isclose(value, np.log(0.5) / 2)


def test_a_single_name_is_a_name() -> None:
    @pointwise(differentiable="input")
    def exponential_loss(input, target):
        """Grow with the error."""
        value = exp(input - target)
        return value, value

    assert exponential_loss.differentiable == ("input",)


# --- defined again --------------------------------------------------------------------------------


def scaled(factor: float, **more: float) -> None:
    if more:

        @pointwise(differentiable=("input",))
        def again_loss(input, target, scale=3.0):
            """Scale the error by a parameter."""
            return scale * (input - target), scale + 0.0 * input

    else:

        @pointwise(differentiable=("input",))
        def again_loss(input, target):
            """Scale the error by a constant."""
            return factor * (input - target), factor + 0.0 * input


def test_a_loss_can_be_defined_again() -> None:
    x = torch.ones(2, requires_grad=True)
    for factor in (2.0, 5.0):
        scaled(factor)
        loss = nbloss.functional.again_loss
        assert loss(np.ones(2), np.zeros(2)) == factor
        assert loss(x, torch.zeros(2)).item() == factor
        assert nbloss.nn.AgainLoss()(x, torch.zeros(2)).item() == factor
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        assert compiled(x, torch.zeros(2)).item() == factor
        (gradient,) = torch.autograd.grad(compiled(x, torch.zeros(2), reduction="sum"), x)
        assert gradient.tolist() == [factor, factor]
        torch._dynamo.reset()


def test_a_loss_can_be_defined_again_with_other_arguments() -> None:
    x = torch.ones(2, requires_grad=True)
    scaled(2.0)
    before = nbloss.functional.again_loss
    compiled = torch.compile(before, fullgraph=True, backend="aot_eager")
    assert compiled(x, torch.zeros(2)).item() == 2.0
    scaled(2.0, parameter=3.0)
    after = nbloss.functional.again_loss
    compiled = torch.compile(
        lambda x, y: after(x, y, scale=7.0), fullgraph=True, backend="aot_eager"
    )
    assert compiled(x, torch.zeros(2)).item() == 7.0
    assert nbloss.nn.AgainLoss(scale=4.0)(x, torch.zeros(2)).item() == 4.0
    assert before(x, torch.zeros(2)).item() == 2.0  # the function that is there goes on as it was


def test_a_loss_of_nbloss_cannot_be_defined_again() -> None:
    def huber_loss(input, target):
        return input - target, 1.0 + 0.0 * input

    with pytest.raises(ValueError, match=r"huber_loss is a loss of nbloss.* needs another name"):
        pointwise(differentiable=("input",))(huber_loss)


# --- names that are torch's -----------------------------------------------------------------------


def named_like_torchs() -> None:
    @pointwise(differentiable=("input", "target"))
    def l1_loss(input, target, scale=1.0):
        """Scale the absolute error."""
        slope = scale * where(input > target, 1.0, where(input < target, -1.0, 0.0))
        return scale * absolute(input - target), slope, -slope


def test_only_losses_with_torchs_contract_are_patched() -> None:
    named_like_torchs()
    theirs = F.l1_loss
    with nbloss.patch_torch():
        assert F.huber_loss is nbloss.huber_loss
        assert F.l1_loss is theirs
        assert torch.nn.L1Loss()(torch.ones(2), torch.zeros(2)).item() == 1.0


def test_a_loss_with_a_name_of_torchs_is_ones_own() -> None:
    """It has no fallback to torch's function, and its module is not torch's."""
    named_like_torchs()
    x, y = torch.tensor([1.0, -3.0]), torch.zeros(2)
    assert nbloss.functional.l1_loss(x, y, scale=2.0).item() == 4.0
    assert nbloss.nn.L1Loss(scale=2.0)(x, y).item() == 4.0
    with pytest.raises(NotImplementedError, match=r"l1_loss\(\): no kernel for torch.complex64"):
        nbloss.functional.l1_loss(x + 0j, y + 0j)

    class Tagged(torch.Tensor):
        pass

    with pytest.raises(TypeError, match=r"l1_loss\(\): input must be a tensor"):
        nbloss.functional.l1_loss(x.as_subclass(Tagged), y, scale=2.0)

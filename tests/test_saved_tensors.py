"""What autograd keeps between the forward and the backward pass, and what may change there."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import nbloss
from cases import Case
from conftest import forget
from nbloss.torch import autograd
from test_tensors import CASE, leaves_of, loss, tensors_of

REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
# Of these torch's own functions save no operand, but what they make of it. (Targets they save.)
CHANGED_IN_PLACE = {
    "cross_entropy": ("input",),
    "margin_ranking_loss": ("input1", "input2", "target"),
    "triplet_margin_loss": ("anchor", "positive", "negative"),
    "triplet_margin_with_distance_loss": ("anchor", "positive", "negative"),
}


def gradients_of(case: Case, reduction: str, factor: Any = 1.0, **size: Any) -> list[Tensor]:
    leaves = leaves_of(case, **size)
    value = loss(case, leaves, reduction=reduction)
    (value * factor).sum().backward()
    return [leaves[name].grad for name in case.differentiable]


# --- operands that change between the passes ------------------------------------------------------


@CASE
@REDUCTIONS
def test_an_operand_changed_in_place(case: Case, reduction: str) -> None:
    """The gradient is the one of before, wherever torch has one; it never is another."""
    expected = gradients_of(case, reduction, 2.0)
    for name, operand in tensors_of(case).items():
        leaves = leaves_of(case)
        operands = {k: x * 1 if x.requires_grad else x for k, x in leaves.items()}
        value = loss(case, operands, reduction=reduction)
        with torch.no_grad():
            operands[name].add_(1)
        try:
            (2.0 * value).sum().backward()
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
            assert reduction == "none"
            assert name not in CHANGED_IN_PLACE.get(case.loss, ())
        else:
            found = [leaves[name].grad for name in case.differentiable]
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
        assert operand.shape == leaves[name].shape


def test_an_operand_that_is_needed_again_is_noticed() -> None:
    x = torch.zeros(3, requires_grad=True)
    y = x * 1
    value = nbloss.huber_loss(y, torch.ones(3))
    y.add_(1)
    value.backward(retain_graph=True)
    assert x.grad is not None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@CASE
@REDUCTIONS
def test_inference_tensors_are_constants(case: Case, reduction: str) -> None:
    first = case.differentiable[0]
    with torch.inference_mode():
        constants = tensors_of(case)
    leaves = leaves_of(case, [first])
    loss(case, leaves, reduction=reduction).sum().backward()
    found = {**constants, first: leaves[first].detach().clone().requires_grad_()}
    for _ in range(2):  # the second call may take a shorter way
        found[first].grad = None
        value = loss(case, found, reduction=reduction).sum()
        value.backward(retain_graph=True)
        value.backward()
    torch.testing.assert_close(found[first].grad, 2 * leaves[first].grad)


# --- grad_output ----------------------------------------------------------------------------------


@CASE
def test_one_gradient_for_each_value(case: Case) -> None:
    """What is made in the forward pass is multiplied by the row's own number, and no other."""
    leaves = leaves_of(case)
    value = loss(case, leaves, reduction="none")
    factor = torch.linspace(-1.0, 2.0, value.numel()).view(value.shape)
    value.backward(factor)
    other = leaves_of(case)
    twice = loss(case, other, reduction="none")
    found = torch.autograd.grad(  # composed of torch's operations
        twice, [other[n] for n in case.differentiable], factor, create_graph=True
    )
    for name, expected in zip(case.differentiable, found, strict=True):
        torch.testing.assert_close(leaves[name].grad, expected.detach(), rtol=1e-5, atol=1e-6)


# --- memory between the passes --------------------------------------------------------------------


@pytest.fixture
def every_gradient_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have gradients of a few bytes count as those of megabytes do."""
    monkeypatch.setattr(autograd, "SMALL", 0)
    monkeypatch.setattr(autograd, "SPARSE", 0)
    monkeypatch.setattr(autograd, "MOST_KEPT", 0)
    assert not autograd._waiting
    forget()
    yield
    forget()
    assert not autograd._waiting


def kept(value: Tensor) -> bool:
    """Whether a loss has its gradients already."""
    return value.grad_fn.gradients is not None


@CASE
@REDUCTIONS
def test_a_checkpoint_keeps_no_gradients(case: Case, reduction: str) -> None:
    expected = gradients_of(case, reduction, 3.0)
    leaves = leaves_of(case)
    inside = []

    def step(*operands: Tensor) -> Tensor:
        value = loss(case, dict(zip(leaves, operands, strict=True)), reduction=reduction)
        inside.append(kept(value))
        return value

    for _ in range(2):  # the second call may take a shorter way
        for x in leaves.values():
            x.grad = None
        (checkpoint(step, *leaves.values(), use_reentrant=False) * 3.0).sum().backward()
        found = [leaves[name].grad for name in case.differentiable]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not any(inside)


@CASE
def test_saved_tensors_can_be_moved_away(case: Case) -> None:
    expected = gradients_of(case, "mean")
    leaves = leaves_of(case)
    with torch.autograd.graph.save_on_cpu():
        value = loss(case, leaves)
    value.backward()
    for name, gradient in zip(case.differentiable, expected, strict=True):
        torch.testing.assert_close(leaves[name].grad, gradient, rtol=0, atol=0)


@CASE
def test_several_losses_keep_no_more_than_torch_does(
    case: Case, every_gradient_counts: None
) -> None:
    """Only the first of those that torch would make in the backward pass is kept."""
    leaves = leaves_of(case)
    values = [loss(case, leaves) for _ in range(3)]
    if case.loss in CHANGED_IN_PLACE:
        assert [kept(value) for value in values] == [True, True, True]
    elif case.loss == "nll_loss":
        assert [kept(value) for value in values] == [False, False, False]
    else:
        assert [kept(value) for value in values] == [True, False, False]
    found = []
    for value in values:
        gradients = torch.autograd.grad(3.0 * value, [leaves[n] for n in case.differentiable])
        found.append(gradients)
    for gradients in found[1:]:
        for one, other in zip(found[0], gradients, strict=True):
            assert torch.equal(one, other)  # to the bit, whenever they were made
    if case.loss != "nll_loss":
        assert kept(loss(case, leaves))  # none waits any more


def test_a_loss_that_is_dropped_waits_no_longer(every_gradient_counts: None) -> None:
    x = torch.zeros(3, requires_grad=True)
    for _ in range(3):
        value = nbloss.huber_loss(x, torch.ones(3))
        assert kept(value)
        del value

"""The kernels as steps of torch's autograd graph.

A kernel makes value and gradient in one walk over memory, so most gradients are made in the forward
pass (`in_forward`), and the backward pass multiplies them by ``grad_output``. They are made in the
backward pass where keeping them would cost the user more than it saves: see :func:`is_kept`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nbloss.backends import torch as backend
from nbloss.engine.evaluate import AnyPlan, backward, fitted, rescale, run
from nbloss.engine.problem import Problem, present
from nbloss.torch import composite

_grad_enabled = torch.is_grad_enabled
_transforms = torch._C._functorch.maybe_current_level
_is_batch = torch._C._functorch.is_legacy_batchedtensor
_saved_tensor_hooks = torch._C._autograd._top_saved_tensors_default_hooks
is_plain = backend.is_plain


class CallPlan(NamedTuple):
    """What calls that are alike have in common: everything but the tensors.

    Attributes
    ----------
    problem : Problem
    operands : int
        How many of the tensors are operands; the rest are the constants that there are.
    needs_grad : tuple of bool
        The operands that need a gradient; empty if none does.
    in_forward : tuple of bool
        The operands whose gradients are made together with the value.
    plan : Plan or None
        What gives the value; None if the tensors may not lie as it takes them.
    guard : function or None
        Tells whether tensors are of this kind.
    keeps : bool
        Whether any gradient is made together with the value, and kept for the backward pass.
    size : int
        Bytes of these gradients.
    on_device : bool
        Whether the tensors lie on a CUDA device.
    constants : tuple of bool
        Which constants there are.
    nothing : tuple of None
        The gradients of these constants.
    saved : tuple of (dtype, device, shape)
        What the tensors are.
    copied : bool
        Whether there are inference tensors among them, which autograd does not save.
    in_backward : list of Plan
        What makes the gradients of a reduced loss in the backward pass, once it has been needed.
    """

    problem: Problem
    operands: int
    needs_grad: tuple[bool, ...]
    in_forward: tuple[bool, ...]
    plan: AnyPlan | None = None
    guard: Any = None
    keeps: bool = False
    size: int = 0
    on_device: bool = False
    constants: tuple[bool, ...] = ()
    nothing: tuple[None, ...] = ()
    saved: tuple[tuple[torch.dtype, torch.device, tuple[int, ...]], ...] = ()
    copied: bool = False
    in_backward: list[AnyPlan] = []  # noqa: RUF012 (`bare` gives each its own)

    def bare(
        self, plan: AnyPlan | None = None, guard: Callable[..., bool] | None = None
    ) -> "CallPlan":
        """Let go of the arrays."""
        operands, constants = self.problem.operands, self.problem.constants
        tensors = (*operands, *present(constants))
        return self._replace(
            problem=replace(self.problem, operands=(), constants=()),
            plan=plan,
            guard=guard,
            keeps=any(self.in_forward),
            size=sum(
                x.numel() * x.element_size()
                for x, in_forward in zip(operands, self.in_forward, strict=True)
                if in_forward
            ),
            on_device=backend.device(operands[0]) is not None,
            constants=tuple(x is not None for x in constants),
            nothing=(None,) * len(present(constants)),
            saved=tuple((x.dtype, x.device, tuple(x.shape)) for x in tensors),
            copied=any(x.is_inference() for x in tensors),
            in_backward=[],
        )

    def filled(self, tensors: tuple) -> Problem:
        """Give the problem that has these tensors."""
        count = self.operands
        # Not strict, which the compilers of older torch don't know.
        arrays = [as_saved(x, *saved) for x, saved in zip(tensors, self.saved)]  # noqa: B905
        constants = iter(x.contiguous() for x in arrays[count:])
        return replace(
            self.problem,
            operands=tuple(arrays[:count]),
            constants=tuple(next(constants) if there else None for there in self.constants),
        )


def as_saved(x: Tensor, dtype: torch.dtype, device: torch.device, shape: tuple[int, ...]) -> Tensor:
    """Bring back a tensor that was saved: hooks may have put another in its place."""
    if tuple(x.shape) != shape:
        raise RuntimeError(
            f"a tensor that was saved with shape {list(shape)} came back with {list(x.shape)}"
        )
    if x.dtype != dtype or x.device != device or not is_plain(x):
        x = x.to(device, dtype).resolve_neg()
        x = torch.zeros_like(x) if x._is_zerotensor() else x
    return x


# --- gradients that wait for the backward pass ---------------------------------------------------

SMALL = 1 << 20  # bytes of gradients that are not worth counting
SPARSE = 1 << 23  # bytes from which it costs next to nothing to make sparse gradients later
MOST_KEPT = 1 << 26  # bytes of gradients that several losses keep at a time
_waiting: dict[int, int] = {}  # bytes, for each `Counted` there is


class Counted:
    """Counts the gradients of one loss for as long as they wait."""

    def __init__(self, size: int) -> None:
        # An item of a dictionary, since that takes no lock: the garbage collector may run `__del__`
        # at any moment and in any thread.
        _waiting[id(self)] = size

    def __del__(self, pop: Callable = _waiting.pop) -> None:  # bound, for when Python shuts down
        pop(id(self), None)


def in_forward(problem: Problem, needs_grad: tuple[bool, ...]) -> tuple[bool, ...]:
    """Say which gradients a call should make together with its value.

    Parameters
    ----------
    problem : Problem
    needs_grad : tuple of bool
        The operands that need a gradient; empty if none does.

    Returns
    -------
    tuple of bool
        One for each operand.
    """
    first, definition = problem.operands[0], problem.definition
    none = (False,) * len(problem.operands)
    if not needs_grad or first.dtype in backend.HALF:
        return none  # a half type rounds its gradient once: when `grad_output` is known
    if problem.reduction == "none":
        # Where torch keeps no operand for its backward pass, neither does nbloss: the caller may
        # change it in place. Elsewhere one walk with `grad_output` costs less than two.
        on_device = backend.device(first) is not None
        return none if definition.saves_operands or on_device else needs_grad
    if definition.sparse_gradient and first.numel() * first.element_size() >= SPARSE:
        return none  # the value takes a fraction of the time of the gradient: nothing is saved
    return needs_grad


def is_kept(kind: CallPlan) -> bool:
    """Whether gradients are made now and kept, or else made in the backward pass.

    Under hooks for saved tensors (a checkpoint frees them, others move them to another device)
    memory is dearer than time. Otherwise a single loss keeps what it will, and several together
    what fits into ``MOST_KEPT``; unless torch's own function would keep as much.
    """
    if _saved_tensor_hooks(True) is not None:
        return False
    if kind.size < SMALL or not kind.problem.definition.saves_operands:
        return True
    waiting = sum(list(_waiting.values()))
    return not waiting or waiting + kind.size <= MOST_KEPT


def first_pass(
    kind: CallPlan, tensors: tuple, gradients: bool, plan: AnyPlan | None
) -> tuple[Tensor, list]:
    """Give the value and, if asked for, the early gradients, whose `grad_output` is 1."""
    arrays = tensors
    if plan is None or (kind.keeps and not gradients):
        problem = kind.filled(tensors)
        in_forward = kind.in_forward if gradients else (False,) * kind.operands
        value = "each" if problem.reduction == "none" else "sum"
        plan, operands, _ = fitted(backend, problem, in_forward, value)
        arrays = (*operands, *present(problem.constants))
    return run(backend, plan, arrays)


def scale(kind: CallPlan, gradients: list, grad_output: Tensor) -> list:
    """Multiply early gradients by `grad_output`, in place."""
    problem = kind.problem
    if problem.reduction == "none":
        grad_output = beside(grad_output, kind)
    rescale(backend, problem.definition, gradients, grad_output)
    return gradients


def beside(grad_output: Tensor, kind: CallPlan) -> Tensor:
    """View `grad_output`, one number a value, so that it broadcasts to the operands."""
    rank = len(kind.saved[0][2])
    if grad_output.dim() == rank:
        return grad_output
    axis = min(1, rank - 1) if kind.problem.definition.pattern == "classes" else -1
    return grad_output.unsqueeze(axis)


def came_back(kind: CallPlan, tensors: tuple) -> bool:
    """Whether saved tensors are as they were; hooks may have put others in their place."""
    return kind.guard is not None and kind.guard(*tensors)


def gradients_in_backward(kind: CallPlan, tensors: tuple, grad_output: Tensor) -> list:
    """Make the gradients in the backward pass."""
    reduced = kind.problem.reduction != "none" and not kind.on_device
    if reduced and came_back(kind, tensors):
        if not kind.in_backward:
            kind.in_backward.append(fitted(backend, kind.filled(tensors), kind.needs_grad, "")[0])
        return run(backend, kind.in_backward[0], tensors, grad_output.item())[1]
    return backward(backend, kind.filled(tensors), grad_output, kind.needs_grad)


class LossFunction(torch.autograd.Function):
    """A kernel as a step of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, kind: CallPlan, *tensors: Tensor) -> Tensor:
        keeps = kind.keeps and is_kept(kind)
        value, gradients = first_pass(kind, tensors, keeps, kind.plan)
        ctx.kind = kind
        ctx.gradients = gradients if keeps else None
        if keeps and kind.size >= SMALL:
            ctx.counted = Counted(kind.size)
        if kind.copied:
            tensors = tuple(x.clone() if x.is_inference() else x for x in tensors)
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        kind = ctx.kind
        # With create_graph=True the gradient has to have a graph, too; it may be differentiated
        # forward, or for a batch, which is what `is_grads_batched=True` gives. And `grad_output`
        # may be no plain numbers.
        if (
            _grad_enabled()
            or _transforms() is not None
            or forward_ad._current_level >= 0
            or _is_batch(grad_output)
            or ((kind.on_device or kind.problem.reduction == "none") and not is_plain(grad_output))
        ):
            problem = kind.filled(ctx.saved_tensors)
            return (
                None,
                *composite.gradients(problem, grad_output, kind.needs_grad),
                *kind.nothing,
            )
        # What the forward pass made is given away once. It needs no operand, so that an operand may
        # have been changed in place; `saved_tensors` would raise.
        gradients, ctx.gradients = ctx.gradients, None
        ctx.counted = None
        if gradients is None:
            tensors = ctx.saved_tensors
            if not kind.keeps:
                return (None, *gradients_in_backward(kind, tensors, grad_output), *kind.nothing)
            # The same arithmetic as if they had been kept, for the same bits.
            plan = kind.plan if came_back(kind, tensors) else None
            _, gradients = first_pass(kind, tensors, True, plan)
        return (None, *scale(kind, gradients, grad_output), *kind.nothing)


# What compiles a whole backward leaves this step as it is: engine and kernels are no graph.
LossFunction.backward._torchdynamo_disable = True  # type: ignore[attr-defined]

# torch's `Function.apply` looks for transforms once more, and for leftovers of them.
# `nbloss.torch.dispatch` has excluded both.
apply: Any = super(torch.autograd.Function, LossFunction).apply

"""The kernels as steps of torch's autograd graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nbloss.bridge import composite
from nbloss.bridge import torch as tensors_bridge
from nbloss.engine.evaluate import AnyLaunch, backward, first_pass, fitted, rescale, run
from nbloss.engine.problem import Problem, present

_grad_enabled = torch.is_grad_enabled
_transforms = torch._C._functorch.maybe_current_level
_is_batch = torch._C._functorch.is_legacy_batchedtensor
is_plain = tensors_bridge.is_plain


class Kind(NamedTuple):
    """What calls that are alike have in common: everything but the tensors.

    Attributes
    ----------
    problem : Problem
    operands : int
        How many of the tensors are operands; the rest are the constants that there are.
    wanted : tuple of bool
        The operands whose gradients are wanted; empty if none is.
    early : tuple of bool
        The operands whose gradients are made together with the value.
    launch : Launch or None
        What gives the value; None if the tensors may not lie as it takes them.
    fits : function or None
        Tells whether tensors are of this kind.
    keeps : bool
        Whether any is, and is to be kept for the way back.
    on_device : bool
        Whether the tensors lie on a CUDA device.
    constants : tuple of bool
        Which constants there are.
    nothing : tuple of None
        The gradients of these constants.
    saved : tuple of (dtype, device, shape)
        What the tensors are.
    """

    problem: Problem
    operands: int
    wanted: tuple[bool, ...]
    early: tuple[bool, ...]
    launch: AnyLaunch | None = None
    fits: Any = None
    keeps: bool = False
    on_device: bool = False
    constants: tuple[bool, ...] = ()
    nothing: tuple[None, ...] = ()
    saved: tuple[tuple[torch.dtype, torch.device, tuple[int, ...]], ...] = ()

    def bare(
        self, launch: AnyLaunch | None = None, fits: Callable[..., bool] | None = None
    ) -> "Kind":
        """Let go of the arrays."""
        constants = self.problem.constants
        return self._replace(
            problem=replace(self.problem, operands=(), constants=()),
            launch=launch,
            fits=fits,
            keeps=any(self.early) and self.problem.reduction != "none",
            on_device=tensors_bridge.device(self.problem.operands[0]) is not None,
            constants=tuple(x is not None for x in constants),
            nothing=(None,) * len(present(constants)),
            saved=tuple(
                (x.dtype, x.device, tuple(x.shape))
                for x in (*self.problem.operands, *present(constants))
            ),
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


class LossFunction(torch.autograd.Function):
    """A kernel as a step of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, kind: Kind, *tensors: Tensor) -> Tensor:
        launch, arrays = kind.launch, tensors
        if launch is None:
            problem = kind.filled(tensors)
            launch, operands, _ = fitted(tensors_bridge, problem, *first_pass(problem, kind.early))
            arrays = (*operands, *tensors[kind.operands :])
        value, gradients = run(tensors_bridge, launch, arrays)
        ctx.kind = kind
        ctx.gradients = gradients if kind.keeps else None
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        tensors = ctx.saved_tensors  # also says whether an operand was changed in between
        kind = ctx.kind
        # With create_graph=True the gradient has to have a graph, too; it may be differentiated
        # forward, or for a batch, which is what `is_grads_batched=True` hands over. What comes from
        # above may also be no plain numbers.
        if (
            _grad_enabled()
            or _transforms() is not None
            or forward_ad._current_level >= 0
            or _is_batch(upstream)
            or ((kind.on_device or kind.problem.reduction == "none") and not is_plain(upstream))
        ):
            again = composite.gradients(kind.filled(tensors), upstream, kind.wanted)
            return (None, *again, *kind.nothing)
        # What forward made is handed over once. Whoever comes again gets it computed again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            gradients = backward(tensors_bridge, kind.filled(tensors), upstream, kind.wanted)
        else:
            rescale(tensors_bridge, gradients, upstream)
        return (None, *gradients, *kind.nothing)


# What compiles a whole backward leaves this step as it is: engine and kernels are no graph.
LossFunction.backward._torchdynamo_disable = True  # type: ignore[attr-defined]

# torch's `Function.apply` looks for transforms once more, and for leftovers of them.
# `nbloss.bridge.routes` has excluded both.
apply: Any = super(torch.autograd.Function, LossFunction).apply

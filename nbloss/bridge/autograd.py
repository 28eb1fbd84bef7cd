"""The kernels as steps of torch's autograd graph."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nbloss.bridge import composite
from nbloss.bridge import torch as tensors_bridge
from nbloss.engine.evaluate import backward, forward, run
from nbloss.engine.launch import Launch
from nbloss.engine.problem import Problem


class Kind(NamedTuple):
    """What calls that are alike have in common: everything but the tensors.

    Attributes
    ----------
    problem : Problem
        Without its arrays.
    operands : int
        How many of the tensors are operands; the rest are the constants.
    wanted : tuple of bool
        The operands whose gradients are wanted.
    early : tuple of bool
        The operands whose gradients are made together with the value.
    launch : Launch or None
        What gives the value, if the tensors can be read as they lie.
    """

    problem: Problem
    operands: int
    wanted: tuple[bool, ...]
    early: tuple[bool, ...]
    launch: Launch | None

    def filled(self, tensors: tuple) -> Problem:
        """Give the problem that has these tensors."""
        count = self.operands
        return replace(self.problem, operands=tensors[:count], constants=tensors[count:])


class LossFunction(torch.autograd.Function):
    """A kernel as a step of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, kind: Kind, *tensors: Tensor) -> Tensor:
        if kind.launch is None:
            value, gradients = forward(tensors_bridge, kind.filled(tensors), kind.early)
        else:
            count = kind.operands
            value, gradients = run(tensors_bridge, kind.launch, tensors[:count], tensors[count:])
        ctx.kind = kind
        ctx.gradients = gradients if kind.problem.reduction != "none" and any(kind.early) else None
        ctx.save_for_backward(*tensors)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        tensors = ctx.saved_tensors  # also says whether an operand was changed in between
        kind = ctx.kind
        # With create_graph=True the gradient has to have a graph, too; under vmap it is a batch.
        if torch.is_grad_enabled() or composite.transforming(upstream):
            gradients = composite.gradients(kind.filled(tensors), upstream, kind.wanted)
            return (None, *gradients, *kind.problem.constants)
        # What forward made is handed over once. Whoever comes again gets it computed again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            problem = kind.filled(tensors)
            scale = upstream if problem.reduction == "none" else upstream.item()
            gradients = backward(tensors_bridge, problem, scale, kind.wanted)
        else:
            scale = upstream.item()
            if scale != 1.0:
                for gradient in gradients:
                    if gradient is not None:
                        gradient.mul_(scale)
        return (None, *gradients, *kind.problem.constants)


# torch's `Function.apply` looks for transforms once more, and for leftovers of them.
# `nbloss.bridge.routes` has excluded both.
apply = super(torch.autograd.Function, LossFunction).apply

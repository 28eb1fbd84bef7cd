"""The kernels as steps of torch's autograd graph."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from nbloss.bridge import composite
from nbloss.engine.evaluate import backward, forward
from nbloss.engine.problem import Problem

HALF = (torch.float16, torch.bfloat16)


class LossFunction(torch.autograd.Function):
    """A kernel as a step of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any, xp: ModuleType, problem: Problem, wanted: tuple[bool, ...], *operands: Tensor
    ) -> Tensor:
        # A half type rounds its gradient once: when what comes from above is known.
        early = (False,) * len(wanted) if operands[0].dtype in HALF else wanted
        value, gradients = forward(xp, problem, early)
        ctx.gradients = gradients if any(g is not None for g in gradients) else None
        ctx.xp, ctx.wanted, ctx.count = xp, wanted, len(operands)
        ctx.save_for_backward(*operands, *problem.constants)
        ctx.problem = replace(problem, operands=(), constants=())
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        saved = ctx.saved_tensors  # also says whether an operand was changed in between
        problem = ctx.problem
        # With create_graph=True the gradient has to have a graph, too; under vmap it is a batch.
        if torch.is_grad_enabled() or composite.transforming(upstream):
            problem = replace(problem, operands=saved[: ctx.count], constants=saved[ctx.count :])
            return (None, None, None, *composite.gradients(problem, upstream, ctx.wanted))
        # What forward made is handed over once. Whoever comes again gets it computed again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            problem = replace(problem, operands=saved[: ctx.count], constants=saved[ctx.count :])
            scale = upstream if problem.reduction == "none" else upstream.item()
            gradients = backward(ctx.xp, problem, scale, ctx.wanted)
        else:
            scale = upstream.item()
            if scale != 1.0:
                for gradient in gradients:
                    if gradient is not None:
                        gradient.mul_(scale)
        return (None, None, None, *gradients)

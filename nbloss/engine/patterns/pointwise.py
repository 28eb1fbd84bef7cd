"""Losses of single elements: one formula over operands of one shape."""

import functools
import math
from dataclasses import replace
from typing import Any

from nbloss.codegen import chunks
from nbloss.codegen.spec import GRAD_OUTPUT, Spec, gradient, identifier
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import Work
from nbloss.engine.plan import GRAD_OUTPUT_AT, OUT, At, Request
from nbloss.engine.problem import Problem
from nbloss.formula import primitives
from nbloss.formula.trace import Formula


def work(request: Request) -> Work | None:
    """Say what there is to do; None if it takes contiguous operands."""
    definition, shape = request.definition, request.shape
    names = (*definition.operands, *definition.optional)[: len(request.strides)]
    strides = list(request.strides)
    if request.grad_output is not None:
        names, strides = (*names, GRAD_OUTPUT), [*strides, request.grad_output]
    # Where a sample's value is the mean over its classes, it is that of a row.
    by_row = definition.mean_over_classes and request.value == "each"
    laid = layout(shape, strides, by_row)
    if laid is None:
        return None
    rows, columns, outer, inner = laid
    absent = tuple((name, 1.0) for name in definition.optional if name not in names)
    known = zip(names, common.known_steps(inner), strict=True)
    spec = Spec(
        mean_over_row(definition.symbolic) if by_row else definition.symbolic,
        (*absent, *(() if request.options is None else request.options.chosen)),
        tuple(n for n, needs_grad in zip(names, request.needs_grad, strict=False) if needs_grad),
        request.value,
        request.dtype,
        tuple((name, step) for name, step in known if step != 1),
        request.grad_output is not None,
        order=request.order,
    )
    values = {"rows": rows, "columns": columns, "values": OUT if request.value else 0}
    for k, name in enumerate(names):
        field = identifier(name)
        values |= {
            field: GRAD_OUTPUT_AT if name == GRAD_OUTPUT else At("operand", k),
            f"{field}_row_step": outer[k],
            f"{field}_step": inner[k],
            gradient(name): At("gradient", k),
        }
    per_row = 1 if by_row else chunks.count(columns, chunks.SEGMENT)
    return Work(
        spec,
        values,
        (*_scales(request), *request.parameters),
        items=rows * per_row,
        item=columns if by_row else min(columns, chunks.SEGMENT),
        size=rows * columns,
        partials=rows * per_row,
    )


def layout(shape: tuple[int, ...], strides: list[tuple[int, ...]], by_row: bool) -> tuple | None:
    """Give rows, columns, and the operands' steps; None if their strides do not fit."""
    size = math.prod(shape)
    if by_row:
        rows = math.prod(shape[:-1])
        steps = chunks.rows(shape, tuple(strides), rows, shape[-1])
        return None if steps is None else (rows, shape[-1], *steps)
    if all(chunks.is_contiguous(shape, steps) for steps in strides):
        return 1, size, (size,) * len(strides), (1,) * len(strides)
    return chunks.layout(shape, strides)


@functools.cache
def mean_over_row(formula: Formula) -> Formula:
    """Give the formula of a row whose value is the mean of the elements' values."""

    @functools.wraps(formula.function)
    def mean(**arguments: Any) -> Any:
        return primitives.mean(formula.function(**arguments))

    return replace(formula, function=mean, rowwise=True)


def spread(xp: ArrayBackend, grad_output: Any, problem: Problem) -> Any:
    """Bring `grad_output` to the shape of the operands."""
    shape = tuple(problem.operands[0].shape)
    if problem.definition.mean_over_classes:
        grad_output = grad_output.reshape((*shape[:-1], 1))
    return xp.broadcast_to(grad_output, shape)


def value_shape(request: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    shape = request.shape
    return shape[:-1] if request.definition.mean_over_classes else shape


def _scales(request: Request) -> tuple[float, float]:
    """Factors of the sum of the elements' values and of their derivatives."""
    divisor = 1
    if request.reduction == "sum" and 0 in request.shape[:-1]:
        divisor = 1  # the sum of no samples is 0, however many classes they would have
    elif request.reduction == "mean":
        divisor = math.prod(request.shape)
    elif request.definition.mean_over_classes:
        divisor = request.shape[-1]
    scale = 1.0 / divisor if divisor else math.nan
    return scale, scale

"""Losses of single elements: one formula over operands of one shape."""

import functools
import itertools
import math
from typing import Any

import numpy as np

from nbloss.engine import chunks
from nbloss.engine.driver import PARTIALS
from nbloss.engine.memory import array_at, span
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import (
    FIRST_FLOAT,
    FIRST_INTEGER,
    GRADIENT_SCALE,
    OUT,
    address_of,
)
from nbloss.engine.problem import Problem
from nbloss.engine.registry import Definition

# The block of integers, after the common ones. Behind them lie address, outer and inner stride of
# each operand, and then the addresses of the gradients.
ROWS, COLUMNS, LENGTH, PER_CHUNK, FIRST_OPERAND = range(FIRST_INTEGER, FIRST_INTEGER + 5)
# The block of floats, after the common ones.
FIRST_PARAMETER = FIRST_FLOAT


def template(integers, floats, chunk):
    """Do a number of segments: runs of at most LENGTH elements of one row."""
    rows, columns, length = integers[ROWS], integers[COLUMNS], integers[LENGTH]
    per_row = (columns + length - 1) // length
    first = chunk * integers[PER_CHUNK]
    last = min(first + integers[PER_CHUNK], rows * per_row)

    outer = tuple(integers[FIRST_OPERAND + 3 * k + 1] for k in ARRAYS)
    inner = tuple(integers[FIRST_OPERAND + 3 * k + 2] for k in ARRAYS)
    arrays = tuple(
        array_at(
            integers[FIRST_OPERAND + 3 * k],
            span(rows, outer[k], columns, inner[k]),
            STORAGE,
        )
        for k in ARRAYS
    )
    gradients = tuple(
        array_at(integers[FIRST_GRADIENT + k], rows * columns if WANTED[k] else 0, STORAGE)
        for k in DERIVATIVES
    )
    values = array_at(integers[OUT], rows * columns if EACH else 0, STORAGE)
    sums = array_at(integers[PARTIALS], rows * per_row if SUMMED else 0, np.float64)
    parameters = tuple(COMPUTED(floats[FIRST_PARAMETER + k]) for k in PARAMETERS)
    scale = COMPUTED(floats[GRADIENT_SCALE])

    for segment in range(first, last):
        row = segment // per_row
        start = (segment - row * per_row) * length
        count = min(length, columns - start)
        begin = row * columns + start
        bases = tuple(row * outer[k] + start * inner[k] for k in ARRAYS)
        total = COMPUTED(0.0)
        for i in range(count):
            if DENSE:
                numbers = tuple(widen(arrays[k][begin + i]) for k in ARRAYS)
            else:
                numbers = tuple(widen(arrays[k][bases[k] + i * inner[k]]) for k in ARRAYS)
            outputs = loss(*numbers[:OPERANDS], *parameters)
            value = outputs[0]
            factor = scale
            if UPSTREAM:
                factor = scale * numbers[OPERANDS + WEIGHTED]
            if WEIGHTED:
                value = numbers[OPERANDS] * outputs[0]
                if WANTED[LAST]:
                    gradients[LAST][begin + i] = narrow(factor * outputs[0])
                factor = factor * numbers[OPERANDS]
            if EACH:
                values[begin + i] = narrow(value)
            if SUMMED:
                total += value
            for k in FORMULAS:
                if WANTED[k]:
                    gradients[k][begin + i] = narrow(factor * outputs[1 + k])
        if SUMMED:
            sums[segment] = total


@functools.cache
def kernel(
    definition: Definition,
    dtype: str,
    wanted: tuple[bool, ...],
    value: str,
    has_weight: bool,
    upstream: bool,
    dense: bool,
) -> Any:
    """Compile the template for one way of using it; see also :func:`~.common.specialize`.

    Parameters
    ----------
    definition : Definition
    dtype : str
        Type of the operands and results.
    wanted : tuple of bool
        Which derivatives of the formula are stored.
    has_weight : bool
        Whether the last operand is a weight to multiply with.
    """
    operands = len(definition.operands)
    arrays = operands + has_weight + upstream
    return common.specialize(
        template,
        {"loss": definition.formula},
        dtype,
        value=value,
        upstream=upstream,
        dense=dense,
        OPERANDS=operands,
        ARRAYS=tuple(range(arrays)),
        FIRST_GRADIENT=FIRST_OPERAND + 3 * arrays,
        DERIVATIVES=tuple(range(len(wanted))),
        FORMULAS=tuple(range(len(definition.differentiable))),
        LAST=len(wanted) - 1,
        WANTED=wanted,
        PARAMETERS=tuple(range(len(definition.parameters))),
        WEIGHTED=has_weight,
    )


def launch(
    xp: Any,
    problem: Problem,
    wanted: tuple[bool, ...],
    value: str,
    out: Any,
    factors: tuple[float, float],
    upstream: Any = None,
) -> tuple:
    """Lay the memory out and run the kernel; see :mod:`nbloss.engine.evaluate`."""
    definition, operands = problem.definition, problem.operands
    dtype = xp.dtype(operands[0])
    shape = tuple(operands[0].shape)
    has_weight = len(operands) > len(definition.operands)
    groups = 1
    if definition.mean_over_classes:
        if value == "each":
            # A sample's value is a sum, of as many segments as its row has.
            value, groups = "sum", math.prod(shape[:-1])
        if upstream is not None:
            upstream = upstream.reshape((*shape[:-1], 1))
    if upstream is not None:
        operands = (*operands, xp.broadcast_to(upstream, shape))

    size = math.prod(shape)
    width = size // max(groups, 1)
    dense = all(xp.is_contiguous(x) for x in operands)
    laid = None
    if not dense:
        laid = chunks.layout(shape, [xp.strides(x) for x in operands])
        if laid is None or (groups != 1 and laid[:2] != (groups, width)):
            operands = tuple(xp.contiguous(x) for x in operands)
            dense, laid = True, None
    rows, columns, outer, inner = laid or (
        groups,
        width,
        (width,) * len(operands),
        (1,) * len(operands),
    )

    per_row = chunks.count(columns, chunks.SEGMENT)
    per_chunk = max(1, chunks.CHUNK // min(max(columns, 1), chunks.SEGMENT))
    order = _gradient_order(definition, has_weight)
    gradients = tuple(xp.empty(shape, operands[0]) if wanted[k] else None for k in order)
    common.run(
        xp,
        kernel(
            definition,
            dtype,
            tuple(wanted[k] for k in order),
            value,
            has_weight,
            upstream is not None,
            dense,
        ),
        chunks.count(rows * per_row, per_chunk),
        out,
        (
            rows,
            columns,
            chunks.SEGMENT,
            per_chunk,
            *itertools.chain.from_iterable(
                zip(map(xp.address, operands), outer, inner, strict=True)
            ),
            *(address_of(xp, g) for g in gradients),
        ),
        (*factors, *problem.parameters),
        dtype=dtype,
        summed=value == "sum",
        work=rows * columns,
        groups=groups,
        partials=rows * per_row,
    )
    by_operand: list[Any] = [None] * len(problem.operands)
    for k, gradient in zip(order, gradients, strict=True):
        by_operand[k] = gradient
    return tuple(by_operand)


def _gradient_order(definition: Definition, has_weight: bool) -> tuple[int, ...]:
    """Which operand each derivative belongs to, in the order of the formula's returns."""
    order = tuple(definition.operands.index(name) for name in definition.differentiable)
    return (*order, len(definition.operands)) if has_weight else order


def value_shape(problem: Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    shape = tuple(problem.operands[0].shape)
    return shape[:-1] if problem.definition.mean_over_classes else shape


def scales(problem: Problem) -> tuple[float, float]:
    """Factors of the sum of the elements' values and of their derivatives."""
    shape = tuple(problem.operands[0].shape)
    divisor = 1
    if problem.reduction == "mean":
        divisor = math.prod(shape)
    elif problem.definition.mean_over_classes:
        divisor = shape[-1]
    scale = 1.0 / divisor if divisor else math.nan
    return scale, scale

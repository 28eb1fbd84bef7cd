"""Losses of single elements: one formula over operands of one shape."""

import itertools
import math
from typing import Any

import numpy as np

from nbloss.engine import chunks
from nbloss.engine.launch import (
    FIRST_PARAMETER,
    GRADIENT_SCALE,
    OUT,
    PARTIALS,
    UPSTREAM,
    At,
    Launch,
    Request,
    ready,
)
from nbloss.engine.memory import array_at, fetch, span
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import FIRST_INTEGER, VALUE, Blocks, times
from nbloss.engine.problem import Problem
from nbloss.engine.registry import Definition
from nbloss.engine.vectors import wide_vectors

# The block of integers, after the common ones. Behind them lie address, outer and inner stride of
# each operand, and then the addresses of the gradients.
ROWS, COLUMNS, LENGTH, PER_CHUNK, FIRST_OPERAND = range(FIRST_INTEGER, FIRST_INTEGER + 5)


def evaluate(numbers, parameters, scale):
    """Give the value of an element, and its derivatives times all that they are multiplied by."""
    outputs = loss(*numbers[:OPERANDS], *parameters)
    factor = scale
    if FROM_ABOVE:
        factor = scale * numbers[OPERANDS + WEIGHTED]
    if WEIGHTED:
        weight = numbers[OPERANDS]
        slopes = tuple(times(factor * weight, outputs[1 + k]) for k in FORMULAS)
        return weight * outputs[0], *slopes, factor * outputs[0]
    else:
        return outputs[0], *(tuple(times(factor, outputs[1 + k]) for k in FORMULAS))


def template(integers, floats, chunk):
    """Do a number of segments: runs of at most LENGTH elements of one row."""
    wide_vectors()
    rows, columns, length = integers[ROWS], integers[COLUMNS], integers[LENGTH]
    per_row = (columns + length - 1) // length
    first = chunk * integers[PER_CHUNK]
    last = min(first + integers[PER_CHUNK], rows * per_row)

    outer = tuple(integers[FIRST_OPERAND + 3 * k + 1] for k in ARRAYS)
    inner = tuple(
        STEPS[k] if STEPS[k] >= 0 else integers[FIRST_OPERAND + 3 * k + 2] for k in ARRAYS
    )
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
    values = array_at(integers[VALUE], rows * columns if EACH else 0, STORAGE)
    sums = array_at(integers[PARTIALS], rows * per_row if SUMMED else 0, np.float64)
    parameters = tuple(COMPUTED(floats[FIRST_PARAMETER + k]) for k in PARAMETERS)
    scale = COMPUTED(floats[GRADIENT_SCALE])

    for segment in range(first, last):
        row = segment // per_row
        start = (segment - row * per_row) * length
        count = min(length, columns - start)
        begin = row * columns + start
        end = begin + count
        # Views that start at the segment: an index that may be negative, for all that the compiler
        # knows, would be tested for it at every element, and the loop would not be vectorised.
        parts = tuple(arrays[k][row * outer[k] + start * inner[k] :] for k in ARRAYS)
        slopes = tuple(gradients[k][begin:end] for k in DERIVATIVES)
        results = values[begin:end]
        if DENSE:
            for k in ARRAYS:  # of the next segment
                fetch(integers[FIRST_OPERAND + 3 * k] + end * arrays[k].itemsize)
        total = COMPUTED(0.0)
        for i in range(count):
            numbers = tuple(widen(parts[k][i * inner[k]]) for k in ARRAYS)
            outputs = evaluate(numbers, parameters, scale)
            if EACH:
                results[i] = narrow(outputs[0])
            if SUMMED:
                total += outputs[0]
            for k in DERIVATIVES:
                if WANTED[k]:
                    slopes[k][i] = narrow(outputs[1 + k])
        if SUMMED:
            sums[segment] = total


def blocks(request: Request) -> Blocks | None:
    """Lay the memory out; None if it takes contiguous operands."""
    definition, shape = request.definition, request.shape
    operands, count = len(definition.operands), len(request.strides)
    has_weight = count > operands
    value, groups = request.value, 1
    if definition.mean_over_classes and value == "each":
        # A sample's value is a sum, of as many segments as its row has.
        value, groups = "sum", math.prod(shape[:-1])
    strides = request.strides
    arrays: tuple[At, ...] = tuple(At("operand", k) for k in range(count))
    if request.upstream is not None:
        strides, arrays = (*strides, request.upstream), (*arrays, UPSTREAM)

    size = math.prod(shape)
    width = size // max(groups, 1)
    dense = all(chunks.is_contiguous(shape, steps) for steps in strides)
    if dense:
        rows, columns, outer, inner = groups, width, (width,) * len(arrays), (1,) * len(arrays)
    else:
        laid = chunks.layout(shape, list(strides))
        if laid is None or (groups != 1 and laid[:2] != (groups, width)):
            return None
        rows, columns, outer, inner = laid

    per_row = chunks.count(columns, chunks.SEGMENT)
    per_chunk = max(1, chunks.CHUNK // min(max(columns, 1), chunks.SEGMENT))
    order = _gradient_order(definition, has_weight)
    places = common.gradient_places(request)
    return Blocks(
        (
            OUT if request.value else 0,
            groups,
            rows * per_row // max(groups, 1),
            rows,
            columns,
            chunks.SEGMENT,
            per_chunk,
            *itertools.chain.from_iterable(zip(arrays, outer, inner, strict=True)),
            *(places[k] for k in order),
        ),
        (*_scales(request), *request.parameters),
        rows,
        columns,
        {
            "OPERANDS": operands,
            "ARRAYS": tuple(range(len(arrays))),
            "FIRST_GRADIENT": FIRST_OPERAND + 3 * len(arrays),
            "DERIVATIVES": tuple(range(len(order))),
            "FORMULAS": tuple(range(len(definition.differentiable))),
            "WANTED": tuple(request.wanted[k] for k in order),
            "PARAMETERS": tuple(range(len(definition.parameters))),
            "WEIGHTED": has_weight,
            "STEPS": common.known_steps(inner),
        },
        dense,
        value,
        groups,
    )


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    laid = blocks(request)
    if laid is None:
        return None
    formulas = {"loss": request.definition.formula}
    worker = common.specialize(template, formulas, request, laid, helpers=(times, evaluate))
    segments = laid.rows * chunks.count(laid.columns, chunks.SEGMENT)
    pieces = chunks.count(segments, laid.integers[PER_CHUNK])
    stage = common.stage(
        worker, pieces, request, laid.groups if laid.value == "sum" else 0, segments
    )
    work = laid.rows * laid.columns
    return ready(request, value_shape(request), stage, laid.integers, laid.floats, work)


def spread(xp: Any, upstream: Any, problem: Problem) -> Any:
    """Bring the gradient from above to the shape of the operands."""
    shape = tuple(problem.operands[0].shape)
    if problem.definition.mean_over_classes:
        upstream = upstream.reshape((*shape[:-1], 1))
    return xp.broadcast_to(upstream, shape)


def _gradient_order(definition: Definition, has_weight: bool) -> tuple[int, ...]:
    """Which operand each derivative belongs to, in the order of the formula's returns."""
    order = tuple(definition.operands.index(name) for name in definition.differentiable)
    return (*order, len(definition.operands)) if has_weight else order


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

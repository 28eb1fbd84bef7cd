"""Losses of single elements: one formula over operands of one shape."""

import itertools
import math
from typing import Any

from nbloss.codegen import emit_cpu
from nbloss.codegen.compile import kernel
from nbloss.codegen.spec import GRAD_OUTPUT, Spec, gradient
from nbloss.engine import chunks
from nbloss.engine.launch import (
    OUT,
    UPSTREAM,
    At,
    Launch,
    Request,
    ready,
)
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import FIRST_INTEGER, Blocks, times
from nbloss.engine.problem import Problem
from nbloss.engine.registry import Definition

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


def options_of(request: Request) -> tuple[tuple[str, Any], ...]:
    """Give the options of the formula."""
    return () if request.options is None else request.options.chosen


def specify(request: Request, laid: Blocks) -> Spec:
    """Say which kernel a request takes."""
    definition = request.definition
    formula = definition.symbolic
    names = (*definition.operands, *definition.optional)[: len(request.strides)]
    absent = tuple((name, 1.0) for name in definition.optional if name not in names)
    arrays = (*names, *((GRAD_OUTPUT,) if request.upstream is not None else ()))
    steps = zip(arrays, laid.flags["STEPS"], strict=True)
    needs_grad = zip(names, request.wanted, strict=True)
    return Spec(
        formula,
        (*absent, *options_of(request)),
        tuple(name for name, needed in needs_grad if needed),
        laid.value,
        request.dtype,
        tuple((name, step) for name, step in steps if step != 1),
        request.upstream is not None,
        order=request.order,
    )


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    laid = blocks(request)
    if laid is None:
        return None
    spec = specify(request, laid)
    per_row = chunks.count(laid.columns, chunks.SEGMENT)
    per_chunk = max(1, chunks.CHUNK // min(max(laid.columns, 1), chunks.SEGMENT))
    segments = laid.rows * per_row
    values = {
        "rows": laid.rows,
        "columns": laid.columns,
        "rows_per_chunk": per_chunk,
        "values": OUT if request.value else 0,
    }
    operands = enumerate(name for name in spec.arrays if name != "grad_output")
    addresses = {**{name: At("operand", k) for k, name in operands}, "grad_output": UPSTREAM}
    integers = laid.integers[FIRST_OPERAND:]
    for k, name in enumerate(spec.arrays):
        _, outer, inner = integers[3 * k : 3 * k + 3]
        values |= {name: addresses[name], f"{name}_row_step": outer, f"{name}_step": inner}
    for k, name in enumerate((*request.definition.operands, *request.definition.optional)):
        values[gradient(name)] = At("gradient", k)
    groups = laid.groups if laid.value == "sum" else 0
    return ready(
        request,
        value_shape(request),
        common.stage(kernel(spec), chunks.count(segments, per_chunk), request, groups, segments),
        spec.block(groups, segments // max(groups, 1), values),
        laid.floats,
        laid.rows * laid.columns,
    )


def source(request: Request) -> str:
    """Give the source of a request's kernel."""
    laid = blocks(request)
    assert laid is not None, "the operands are contiguous"
    return emit_cpu.source(specify(request, laid))


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

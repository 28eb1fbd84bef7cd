"""Losses over all pairs of a target class and another class of the same row."""

import inspect
import math
from typing import Any

import numpy as np

from nbloss.codegen import chunks
from nbloss.codegen.blocks import GRADIENT_SCALE, PARTIALS
from nbloss.codegen.elementary import KEEP
from nbloss.codegen.emit_scalar import stated
from nbloss.codegen.memory import COMPUTED as COMPUTING
from nbloss.codegen.memory import allocate, array_at, label_at, release, span
from nbloss.codegen.vectors import wide_vectors
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import FIRST_INTEGER, PARTIAL_COUNT, VALUE, Blocks
from nbloss.engine.patterns.labels import LABEL_BYTES, validate
from nbloss.engine.patterns.ordering import LANES, by_order, count_below, in_order
from nbloss.engine.plan import FIRST_BAD, GRAD_OUTPUT_AT, NO_MEMORY, OUT, At, Plan, Request, planned
from nbloss.engine.problem import Problem

# The problem's only constant are the labels, of the input's shape: a row's end at the first -1. The
# validation has refused labels out of range; one that changes afterwards spoils its row alone.
#
# The block of integers, after the common ones.
(
    ROWS,
    CLASSES,
    ROW_STEP,
    CLASS_STEP,
    INPUT,
    TARGET,
    GRADIENT,
    GRAD_OUTPUT_PLACE,
    PER_CHUNK,
    LENGTH,
    PER_SEARCH,
    PER_BOUND,
    GRAD_OUTPUT_STEP,
) = range(FIRST_INTEGER, FIRST_INTEGER + 13)

# What it costs to have the labels in order, measured in pairs: for each class and each bit of the
# number of labels, and for each number that is sorted.
SEARCHING = 6
SORTING = 200

# Elements, of any size, that fill whole cache lines.
LINE = 16


def by_pairs(score, is_other, pull, labels, count, classes, length):
    """Go through all pairs of a row; give the value and add the derivatives to ``pull``."""
    wide_vectors()
    zero = COMPUTED(0.0)
    for t in range(count):
        is_other[labels[t]] = MASK(0)
    value = 0.0
    for start in range(0, classes, length):
        others, is_one, pulls = score[start:], is_other[start:], pull[start:]
        for t in range(count):
            own = score[labels[t]]
            cost = zero
            slopes = zero
            for c in range(min(length, classes - start)):
                outputs = loss(own, others[c])
                cost += keep(outputs[0], is_one[c])
                if NEEDS_GRAD:
                    slopes += keep(outputs[1], is_one[c])
                    pulls[c] += keep(outputs[2], is_one[c])
            value += cost
            if NEEDS_GRAD:
                pull[labels[t]] += slopes
    return value


def template(integers, floats, chunk):
    """Do a number of rows."""
    wide_vectors()
    rows, classes, length = integers[ROWS], integers[CLASSES], integers[LENGTH]
    row_step = integers[ROW_STEP]
    step = 1 if DENSE else integers[CLASS_STEP]
    scores = array_at(integers[INPUT], span(rows, row_step, classes, step), STORAGE)
    gradient = array_at(integers[GRADIENT], rows * classes if NEEDS_GRAD else 0, STORAGE)
    values = array_at(integers[VALUE], rows if EACH else 0, STORAGE)
    grad_output = array_at(integers[GRAD_OUTPUT_PLACE], rows if HAS_GRAD_OUTPUT else 0, STORAGE)
    sums = array_at(integers[PARTIALS], integers[PARTIAL_COUNT] if SUMMED else 0, np.float64)
    scale = COMPUTED(floats[GRADIENT_SCALE])
    zero = COMPUTED(0.0)

    # Memory to work in, in pieces of one number for each class, and one more. An odd number of
    # lines: pieces whole pages apart would meet in the same places of the cache.
    room = (classes // LINE + 1 | 1) * LINE
    memory = allocate(room * (20 + WIDTH * 8 + 4 * LANES))
    if memory == 0:
        integers[FIRST_BAD] = NO_MEMORY
        return
    place = memory
    own_labels = array_at(place, room, np.int64)
    place += 8 * room
    score = array_at(place, room, COMPUTED)
    place += WIDTH * room
    is_other = array_at(place, room, MASK)  # all bits of a class not among the row's labels
    place += WIDTH * room
    pull = array_at(place, room, COMPUTED)
    place += WIDTH * room
    own_bounds = array_at(place, room, COMPUTED)
    place += WIDTH * room
    bounds = array_at(place, 2 * room, COMPUTED)
    place += WIDTH * 2 * room
    spare = array_at(place, 2 * room, COMPUTED)
    place += WIDTH * 2 * room
    bound_sums = array_at(place, room, np.float64)
    place += 8 * room
    below = array_at(place, room, np.uint32)
    place += 4 * room
    met = array_at(place, LANES * room, np.uint32)

    total = 0.0
    for row in range(chunk * integers[PER_CHUNK], min(rows, (chunk + 1) * integers[PER_CHUNK])):
        # Views that start at the row or the run, so that no index can be taken for a negative one,
        # which would be tested for at every class.
        begin = row * classes
        row_scores = scores[row * row_step :]
        unbounded = 0
        for c in range(classes):
            score[c] = widen(row_scores[c * step])
            is_other[c] = MASK(ALL_BITS)
            pull[c] = zero
            unbounded += not score[c] < COMPUTED(np.inf)
        # Each label is read once. What is looked at again is a copy, which stays as it is.
        count = 0
        label = label_at(integers[TARGET] + LABEL_BYTES * begin)
        while 0 <= label < classes:
            own_labels[count] = label
            if not score[label] > -COMPUTED(np.inf):
                unbounded += 1
            count += 1
            label = (
                label_at(integers[TARGET] + LABEL_BYTES * (begin + count))
                if count < classes
                else -1
            )
        half, levels = 1, 1
        while 2 * half <= count:
            half *= 2
            levels += 1
        cost = integers[PER_SEARCH] * classes * levels + integers[PER_BOUND] * 2 * half
        # Infinities and NaN have no order that would do.
        if unbounded == 0 and count * classes > cost:
            value = by_order(
                score,
                pull,
                own_labels,
                count,
                half,
                classes,
                length,
                own_bounds,
                bounds,
                spare,
                bound_sums,
                below,
                met,
            )
        else:
            value = by_pairs(score, is_other, pull, own_labels, count, classes, length)
        value = value / classes
        if label != -1:
            value = np.nan
            for c in range(classes):
                pull[c] = COMPUTED(np.nan)
        if EACH:
            values[row] = narrow(COMPUTED(value))
        total += value
        if NEEDS_GRAD:
            factor = scale
            if HAS_GRAD_OUTPUT:
                factor = scale * widen(grad_output[row])
            row_gradient = gradient[begin : begin + classes]
            for c in range(classes):
                row_gradient[c] = narrow(factor * pull[c])
    release(memory)
    if SUMMED:
        sums[chunk] = total


def blocks(request: Request) -> Blocks | None:
    """Lay the memory out; None if it takes contiguous operands."""
    rows, classes = dimensions(request.shape)
    laid = chunks.rows(request.shape, request.strides, rows, classes)
    if laid is None:
        return None
    (row_step,), (class_step,) = laid
    per_chunk = max(1, chunks.CHUNK // max(1, classes))
    scale = 1.0
    if request.reduction == "mean":
        scale = 1.0 / rows if rows else math.nan
    return Blocks(
        (
            OUT if request.value else 0,
            chunks.count(rows, per_chunk),
            rows,
            classes,
            row_step,
            class_step,
            At("operand", 0),
            At("constant", 0),
            *common.gradient_places(request),
            GRAD_OUTPUT_AT if request.grad_output is not None else 0,
            per_chunk,
            chunks.SEGMENT,
            SEARCHING,
            SORTING,
            common.step_of_grad_output(request),
        ),
        (scale, scale / max(classes, 1)),
        rows,
        classes,
        {"NEEDS_GRAD": request.needs_grad[0]},
        class_step == 1,
        request.value,
    )


def scalars(request: Request) -> dict[str, Any]:
    """Give the formulas that the templates call."""
    definition = request.definition
    return {"loss": stated(definition), "hinge": definition.hinge}


def make_plan(request: Request) -> Plan | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    laid = blocks(request)
    if laid is None:
        return None
    keep, mask = KEEP[COMPUTING[request.dtype]]
    worker = common.specialize(
        template,
        scalars(request),
        request,
        laid,
        helpers=(by_pairs, in_order, count_below, by_order),
        keep=keep,
        LANES=LANES,
        MASK=mask,
        WIDTH=np.dtype(mask).itemsize,
        ALL_BITS=int(np.iinfo(mask).max),
    )
    pieces = chunks.count(laid.rows, laid.integers[PER_CHUNK])
    work = laid.rows * laid.columns
    return planned(
        request,
        value_shape(request),
        common.stage(worker, pieces, request, pieces),
        laid.integers,
        laid.floats,
        work,
        **validate(request, work, -1, laid.columns),
    )


def dimensions(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and classes of an input's shape: (), (C) or (N, C)."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def source(request: Request) -> str:
    """Give the source of a request's kernel, which is written by hand."""
    return "\n\n".join(
        inspect.getsource(function) for function in (by_pairs, in_order, by_order, template)
    )


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    return problem.shape[:-1]


def out_of_range(label: int) -> Exception:
    """Say that a label names no class, in torch's words."""
    return RuntimeError("argument #2 'target' is out of range")

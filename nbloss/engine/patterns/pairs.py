"""Losses over all pairs of a target class and another class of the same row."""

import functools
import math
from typing import Any

import numpy as np

from nbloss.engine import chunks
from nbloss.engine.driver import PARTIALS
from nbloss.engine.memory import array_at, span
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import (
    FIRST_INTEGER,
    GRADIENT_SCALE,
    OUT,
    PER_GROUP,
    address_of,
)
from nbloss.engine.problem import Problem
from nbloss.engine.registry import Definition

# The problem's only constant are the labels, of the input's shape: a row's end at the first -1. The
# survey has refused labels out of range; one that has changed since spoils its row, but no more.
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
    UPSTREAM_AT,
    PER_CHUNK,
    LENGTH,
) = range(FIRST_INTEGER, FIRST_INTEGER + 10)


def template(integers, floats, chunk):
    """Do a number of rows."""
    rows, classes, length = integers[ROWS], integers[CLASSES], integers[LENGTH]
    row_step = integers[ROW_STEP]
    step = 1 if DENSE else integers[CLASS_STEP]
    scores = array_at(integers[INPUT], span(rows, row_step, classes, step), STORAGE)
    labels = array_at(integers[TARGET], rows * classes, np.int64)
    gradient = array_at(integers[GRADIENT], rows * classes if WANTED else 0, STORAGE)
    values = array_at(integers[OUT], rows if EACH else 0, STORAGE)
    upstream = array_at(integers[UPSTREAM_AT], rows if UPSTREAM else 0, STORAGE)
    sums = array_at(integers[PARTIALS], integers[PER_GROUP] if SUMMED else 0, np.float64)
    scale = COMPUTED(floats[GRADIENT_SCALE])
    zero, one = COMPUTED(0.0), COMPUTED(1.0)

    score = np.empty(classes, COMPUTED)
    is_other = np.empty(classes, COMPUTED)  # 1 for a class that is not among the row's labels
    pull = np.empty(classes, COMPUTED)
    own_labels = np.empty(classes, np.int64)

    total = 0.0
    for row in range(chunk * integers[PER_CHUNK], min(rows, (chunk + 1) * integers[PER_CHUNK])):
        for c in range(classes):
            score[c] = widen(scores[row * row_step + c * step])
            is_other[c] = one
            pull[c] = zero
        begin = row * classes
        count = 0
        while count < classes and 0 <= labels[begin + count] < classes:
            own_labels[count] = labels[begin + count]
            is_other[own_labels[count]] = zero
            count += 1
        value = 0.0
        for t in range(count):
            own = score[own_labels[t]]
            own_pull = 0.0
            for start in range(0, classes, length):
                cost = zero
                slopes = zero
                for c in range(start, min(start + length, classes)):
                    outputs = loss(own, score[c])
                    counts = is_other[c] > zero
                    cost += outputs[0] if counts else zero
                    if WANTED:
                        slopes += outputs[1] if counts else zero
                        pull[c] += outputs[2] if counts else zero
                value += cost
                own_pull += slopes
            if WANTED:
                pull[own_labels[t]] += COMPUTED(own_pull)
        value = value / classes
        if count < classes and labels[begin + count] != -1:
            value = np.nan
            for c in range(classes):
                pull[c] = COMPUTED(np.nan)
        if EACH:
            values[row] = narrow(COMPUTED(value))
        total += value
        if WANTED:
            factor = scale
            if UPSTREAM:
                factor = scale * widen(upstream[row])
            for c in range(classes):
                gradient[begin + c] = narrow(factor * pull[c])
    if SUMMED:
        sums[chunk] = total


@functools.cache
def kernel(
    definition: Definition, dtype: str, wanted: bool, value: str, upstream: bool, dense: bool
) -> Any:
    """Compile the template for one way of using it; see :func:`~.common.specialize`."""
    return common.specialize(
        template,
        {"loss": definition.formula},
        dtype,
        value=value,
        upstream=upstream,
        dense=dense,
        WANTED=wanted,
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
    (labels,) = problem.constants
    (scores,) = problem.operands
    shape = tuple(scores.shape)
    rows, classes = dimensions(shape)
    (scores,), (row_step,), (class_step,) = chunks.rows(xp, (scores,), rows, classes)
    gradient = xp.empty(shape, scores) if wanted[0] else None
    if upstream is not None:
        upstream = xp.contiguous(upstream)
    per_chunk = max(1, chunks.CHUNK // max(1, classes))
    pieces = chunks.count(rows, per_chunk)
    dtype = xp.dtype(scores)
    common.run(
        xp,
        kernel(problem.definition, dtype, wanted[0], value, upstream is not None, class_step == 1),
        pieces,
        out,
        (
            rows,
            classes,
            row_step,
            class_step,
            xp.address(scores),
            xp.address(labels),
            address_of(xp, gradient),
            address_of(xp, upstream),
            per_chunk,
            chunks.SEGMENT,
        ),
        factors,
        dtype=dtype,
        summed=value == "sum",
        work=rows * classes,
    )
    return (gradient,)


def dimensions(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and classes of an input's shape: (), (C) or (N, C)."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def value_shape(problem: Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    return tuple(problem.operands[0].shape)[:-1]


def scales(problem: Problem) -> tuple[float, float]:
    """Factors of the sum of the rows' values, and of the derivatives of one row's pairs."""
    rows, classes = dimensions(tuple(problem.operands[0].shape))
    scale = 1.0
    if problem.reduction == "mean":
        scale = 1.0 / rows if rows else math.nan
    return scale, scale / max(classes, 1)

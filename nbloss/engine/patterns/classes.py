"""Losses of a row of class scores and a target: one class, or a share for each class.

Rows may lie across the memory: an input of shape (N, C, d1, ...) has a row for each sample and each
place of the further dimensions, and steps over the places from one class to the next.
"""

import functools
import math
from typing import Any

import numpy as np

from nbloss.engine import chunks
from nbloss.engine import scalars as scalar_math
from nbloss.engine.driver import PARTIALS
from nbloss.engine.memory import array_at
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import (
    FIRST_FLOAT,
    FIRST_INTEGER,
    GRADIENT_SCALE,
    OUT,
    PER_GROUP,
    address_of,
)
from nbloss.engine.problem import ClassOptions, Problem
from nbloss.engine.problem import class_dimensions as dimensions
from nbloss.engine.registry import Definition

# The block of integers, after the common ones.
(
    SAMPLES,
    CLASSES,
    PLACES,
    SAMPLE_STEP,
    CLASS_STEP,
    INPUT,
    TARGET,
    WEIGHT,
    IGNORED,
    GRADIENT,
    SHARE_GRADIENT,
    UPSTREAM_AT,
    PER_CHUNK,
    LENGTH,
) = range(FIRST_INTEGER, FIRST_INTEGER + 14)
SMOOTHING = FIRST_FLOAT


def log_sum_exp(scores, base, step, classes, length):
    """The largest score, and the logarithm of the sum of exponentials relative to it."""
    top = widen(scores[base])
    for c in range(1, classes):
        x = widen(scores[base + c * step])
        top = x if x > top else top
    total = 0.0
    for start in range(0, classes, length):
        partial = COMPUTED(0.0)
        for c in range(start, min(start + length, classes)):
            partial += exp(widen(scores[base + c * step]) - top)
        total += partial
    return top, log(COMPUTED(total))


def template(integers, floats, chunk):
    """Do a number of rows."""
    samples, classes, places = integers[SAMPLES], integers[CLASSES], integers[PLACES]
    sample_step, length = integers[SAMPLE_STEP], integers[LENGTH]
    step = 1 if DENSE else integers[CLASS_STEP]
    rows = samples * places
    extent = (
        (samples - 1) * sample_step + (classes - 1) * step + places if rows * classes > 0 else 0
    )
    scores = array_at(integers[INPUT], extent, STORAGE)
    size = samples * classes * places
    gradient = array_at(integers[GRADIENT], size if WANTED[0] else 0, STORAGE)
    share_gradient = array_at(integers[SHARE_GRADIENT], size if WANTED[1] else 0, STORAGE)
    labels = array_at(integers[TARGET], rows if LABELS else 0, np.int64)
    shares = array_at(integers[TARGET], 0 if LABELS else size, STORAGE)
    weights = array_at(integers[WEIGHT], classes if WEIGHTED else 0, STORAGE)
    values = array_at(integers[OUT], rows if EACH else 0, STORAGE)
    upstream = array_at(integers[UPSTREAM_AT], rows if UPSTREAM else 0, STORAGE)
    sums = array_at(integers[PARTIALS], integers[PER_GROUP] if SUMMED else 0, np.float64)
    scale = COMPUTED(floats[GRADIENT_SCALE])
    smoothing = COMPUTED(floats[SMOOTHING])
    kept = COMPUTED(1.0) - smoothing
    spread = COMPUTED(floats[SMOOTHING] / max(classes, 1))
    zero, one = COMPUTED(0.0), COMPUTED(1.0)

    whole = zero
    if SMOOTHED and LABELS:
        # Each class's part of the smoothing, and all of them together.
        weighed = 0.0
        for c in range(classes):
            weighed += widen(weights[c]) if WEIGHTED else one
        whole = COMPUTED(weighed) * spread

    total = 0.0
    for row in range(chunk * integers[PER_CHUNK], min(rows, (chunk + 1) * integers[PER_CHUNK])):
        sample = row // places
        place = row - sample * places
        base = sample * sample_step + place
        out = sample * classes * places + place
        factor = scale * widen(upstream[row]) if UPSTREAM else scale
        label = labels[row] if LABELS else 0
        ignored = classes == 0 or (LABELS and label == integers[IGNORED])
        if ignored or label < 0 or label >= classes:
            # The survey has refused labels out of range. If one has changed since, it spoils its
            # row, and nothing else.
            nothing = zero if ignored else COMPUTED(np.nan)
            if EACH:
                values[row] = narrow(nothing)
            if WANTED[0]:
                for c in range(classes):
                    gradient[out + c * places] = narrow(nothing)
            total += nothing
            continue
        weight = one
        if LABELS and WEIGHTED:
            weight = widen(weights[label])

        if PICKED:
            outputs = loss(widen(scores[base + label * step]), weight)
            value = 1.0 * outputs[0]
            if WANTED[0]:
                gradient[out + label * places] = narrow(factor * outputs[1])
        else:
            top, normalizer = log_sum_exp(scores, base, step, classes, length)
            value = 0.0
            if LABELS:
                own = kept * weight if SMOOTHED else weight
                all_shares = own + whole
                if SMOOTHED:
                    own = own + spread * weight
                picked = loss(widen(scores[base + label * step]) - top, normalizer, own, all_shares)
                value += picked[0]
                if SMOOTHED or WANTED[0]:
                    for c in range(classes):
                        share = zero
                        if SMOOTHED:
                            share = spread * widen(weights[c]) if WEIGHTED else spread
                        outputs = loss(
                            widen(scores[base + c * step]) - top, normalizer, share, all_shares
                        )
                        if SMOOTHED:
                            value += zero if c == label else outputs[0]
                        if WANTED[0]:
                            gradient[out + c * places] = narrow(factor * outputs[1])
                    if WANTED[0]:
                        gradient[out + label * places] = narrow(factor * picked[1])
            else:
                mass = 0.0
                for c in range(classes):
                    share = widen(shares[out + c * places])
                    if SMOOTHED:
                        share = kept * share + spread
                    mass += widen(weights[c]) * share if WEIGHTED else share
                all_shares = COMPUTED(mass)
                for c in range(classes):
                    share = widen(shares[out + c * places])
                    portion = one
                    if SMOOTHED:
                        share = kept * share + spread
                        portion = kept
                    if WEIGHTED:
                        weight = widen(weights[c])
                        share = weight * share
                        portion = weight * portion
                    outputs = loss(
                        widen(scores[base + c * step]) - top, normalizer, share, all_shares
                    )
                    value += outputs[0]
                    if WANTED[0]:
                        gradient[out + c * places] = narrow(factor * outputs[1])
                    if WANTED[1]:
                        share_gradient[out + c * places] = narrow(factor * portion * outputs[2])
        if EACH:
            values[row] = narrow(COMPUTED(value))
        total += value
    if SUMMED:
        sums[chunk] = total


@functools.cache
def kernel(
    definition: Definition,
    dtype: str,
    wanted: tuple[bool, ...],
    value: str,
    labels: bool,
    has_weight: bool,
    smoothed: bool,
    upstream: bool,
    dense: bool,
) -> Any:
    """Compile the template for one way of using it; see :func:`~.common.specialize`."""
    return common.specialize(
        template,
        {"loss": definition.formula, "exp": scalar_math.exp, "log": scalar_math.log},
        dtype,
        value=value,
        upstream=upstream,
        dense=dense,
        helpers=(log_sum_exp,),
        PICKED=len(definition.operands) == 2,
        LABELS=labels,
        WEIGHTED=has_weight,
        SMOOTHED=smoothed,
        WANTED=(*wanted, False)[:2],
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
    options: ClassOptions = problem.options
    label_array, weight = problem.constants
    scores = problem.operands[0]
    shape = tuple(scores.shape)
    samples, classes, places = dimensions(shape)
    steps = xp.strides(scores)
    if len(shape) > 2 or min(steps, default=1) < 0:
        scores = xp.contiguous(scores)
        steps = xp.strides(scores)
    if len(shape) == 1:
        sample_step, class_step = 0, steps[0]
    elif len(shape) == 2:
        sample_step, class_step = steps
    else:
        sample_step, class_step = classes * places, places
    labels = label_array is not None
    target = label_array if labels else xp.contiguous(problem.operands[1])
    picked = len(problem.definition.operands) == 2
    # Where only one class of a row gets a gradient, the rest is zero from the start.
    make = xp.zeros if picked else xp.empty
    gradients = tuple(
        make(shape, x) if w else None for x, w in zip(problem.operands, wanted, strict=True)
    )
    if upstream is not None:
        upstream = xp.contiguous(upstream)
    rows = samples * places
    per_row = 1 if picked else max(classes, 1)
    per_chunk = max(1, chunks.CHUNK // per_row)
    pieces = chunks.count(rows, per_chunk)
    dtype = xp.dtype(scores)
    common.run(
        xp,
        kernel(
            problem.definition,
            dtype,
            wanted,
            value,
            labels,
            weight is not None,
            options.smoothing > 0.0,
            upstream is not None,
            class_step == 1,
        ),
        pieces,
        out,
        (
            samples,
            classes,
            places,
            sample_step,
            class_step,
            xp.address(scores),
            xp.address(target),
            address_of(xp, weight),
            options.ignore_index,
            *(address_of(xp, g) for g in (*gradients, None)[:2]),
            address_of(xp, upstream),
            per_chunk,
            chunks.SEGMENT,
        ),
        (*factors, options.smoothing),
        dtype=dtype,
        summed=value == "sum",
        work=rows * per_row,
    )
    return gradients


def value_shape(problem: Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    shape = tuple(problem.operands[0].shape)
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def scales(problem: Problem) -> tuple[float, float]:
    """Factors of the sum of the rows' values and of their derivatives."""
    scale = 1.0
    if problem.reduction == "mean":
        total = problem.options.total_weight
        scale = 1.0 / total if total else math.nan
    return scale, scale

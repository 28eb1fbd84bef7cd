"""Losses of a row of class scores and a target: one class, or a share for each class.

Rows may lie across the memory: an input of shape (N, C, d1, ...) has a row for each sample and each
place of the further dimensions, and steps over the places from one class to the next.
"""

import math
from typing import Any

import numpy as np

from nbloss.engine import chunks, primitives
from nbloss.engine.elementary import RANK
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
from nbloss.engine.memory import COMPUTED as COMPUTING
from nbloss.engine.memory import array_at, label_at
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import FIRST_INTEGER, PER_GROUP, VALUE, Blocks
from nbloss.engine.patterns.survey import LABEL_BYTES, NAN_OF_NO_WEIGHT, PLAIN, survey
from nbloss.engine.problem import ClassOptions, Problem
from nbloss.engine.problem import class_dimensions as dimensions
from nbloss.engine.vectors import wide_vectors

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
SMOOTHING = FIRST_PARAMETER
# Of a row with but one class picked, so many gradients are cleared in the time that others take to
# compute one.
CLEARED = 4
# Two exponentials for each class.
NORMALIZED = 2


def log_sum_exp(scores, step, classes, length):
    """The largest score, and the logarithm of the sum of exponentials relative to it."""
    wide_vectors()
    best = rank(widen(scores[0]))
    for c in range(1, classes):
        other = rank(widen(scores[c * step]))
        best = other if other > best else best
    top = ranked(best)
    total = 0.0
    for start in range(0, classes, length):
        partial = COMPUTED(0.0)
        part = scores[start * step :]
        for c in range(min(length, classes - start)):
            partial += exp(widen(part[c * step]) - top)
        total += partial
    return top, log(COMPUTED(total))


def weighed(share, weights, c, kept, spread):
    """Smooth and weigh a class's share of the target; give with it the derivative by the share."""
    portion = COMPUTED(1.0)
    if SMOOTHED:
        share = kept * share + spread
        portion = kept
    if WEIGHTED:
        weight = widen(weights[c])
        share = weight * share
        portion = weight * portion
    return share, portion


def clear(gradient, first, last, classes, places):
    """Fill the gradients of rows with zeros, along the memory."""
    if places == 1:
        part = gradient[first * classes : last * classes]
        for i in range(part.size):
            part[i] = 0
    else:
        row = first
        while row < last:
            sample = row // places
            place = row - sample * places
            whole = (last - row) // places
            if place == 0 and whole > 0:
                part = gradient[row * classes : (row + whole * places) * classes]
                for i in range(part.size):
                    part[i] = 0
                row += whole * places
            else:
                run = min(places - place, last - row)
                for c in range(classes):
                    begin = (sample * classes + c) * places + place
                    part = gradient[begin : begin + run]
                    for i in range(run):
                        part[i] = 0
                row += run


def template(integers, floats, chunk):
    """Do a number of rows."""
    wide_vectors()
    samples, classes, places = integers[SAMPLES], integers[CLASSES], integers[PLACES]
    sample_step, length = integers[SAMPLE_STEP], integers[LENGTH]
    step = 1 if DENSE else integers[CLASS_STEP]
    gap = 1 if DENSE else places
    rows = samples * places
    extent = (
        (samples - 1) * sample_step + (classes - 1) * step + places if rows * classes > 0 else 0
    )
    scores = array_at(integers[INPUT], extent, STORAGE)
    size = samples * classes * places
    gradient = array_at(integers[GRADIENT], size if WANTED[0] else 0, STORAGE)
    share_gradient = array_at(integers[SHARE_GRADIENT], size if WANTED[1] else 0, STORAGE)
    shares = array_at(integers[TARGET], 0 if LABELS else size, STORAGE)
    weights = array_at(integers[WEIGHT], classes if WEIGHTED else 0, STORAGE)
    values = array_at(integers[VALUE], rows if EACH else 0, STORAGE)
    upstream = array_at(integers[UPSTREAM_AT], rows if FROM_ABOVE else 0, STORAGE)
    sums = array_at(integers[PARTIALS], integers[PER_GROUP] if SUMMED else 0, np.float64)
    scale = COMPUTED(floats[GRADIENT_SCALE])
    smoothing = COMPUTED(floats[SMOOTHING])
    kept = COMPUTED(1.0) - smoothing
    spread = COMPUTED(floats[SMOOTHING] / max(classes, 1))
    zero, one = COMPUTED(0.0), COMPUTED(1.0)

    whole = zero
    if SMOOTHED and LABELS:
        # Each class's part of the smoothing, and all of them together.
        weight_sum = 0.0
        for c in range(classes):
            weight_sum += widen(weights[c]) if WEIGHTED else one
        whole = COMPUTED(weight_sum) * spread

    first = chunk * integers[PER_CHUNK]
    last = min(rows, first + integers[PER_CHUNK])
    if PICKED and WANTED[0]:
        # Only one class of a row has a gradient.
        clear(gradient, first, last, classes, places)
    total = 0.0
    for row in range(first, last):
        sample = row // places
        place = row - sample * places
        base = sample * sample_step + place
        out = sample * classes * places + place
        # Views that start at the row, so that no index can be taken for a negative one, which
        # would be tested for at every class.
        row_scores = scores[base : base + classes] if DENSE else scores[base:]
        row_shares = shares[out : out + classes] if DENSE else shares[out:]
        slopes = gradient[out : out + classes] if DENSE else gradient[out:]
        share_slopes = share_gradient[out : out + classes] if DENSE else share_gradient[out:]
        factor = scale * widen(upstream[row]) if FROM_ABOVE else scale
        label = label_at(integers[TARGET] + LABEL_BYTES * row) if LABELS else 0
        ignored = classes == 0 or (LABELS and label == integers[IGNORED])
        if ignored or label < 0 or label >= classes:
            # The survey has refused labels out of range. If another thread has changed one since,
            # it spoils its row, and nothing else.
            nothing = zero if ignored else COMPUTED(np.nan)
            if SMOOTHED and LABELS and classes == 0:
                nothing = COMPUTED(np.nan)  # an equal share of no classes is not a number
            if EACH:
                values[row] = narrow(nothing)
            if WANTED[0]:
                for c in range(classes):
                    slopes[c * gap] = narrow(nothing)
            total += nothing
            continue
        weight = one
        if LABELS and WEIGHTED:
            weight = widen(weights[label])

        if PICKED:
            outputs = loss(widen(row_scores[label * step]), weight)
            value = 1.0 * outputs[0]
            if WANTED[0]:
                slopes[label * gap] = narrow(factor * outputs[1])
        else:
            top, normalizer = log_sum_exp(row_scores, step, classes, length)
            value = 0.0
            if LABELS:
                own = kept * weight if SMOOTHED else weight
                all_shares = own + whole
                if SMOOTHED:
                    own = own + spread * weight
                picked = loss(widen(row_scores[label * step]) - top, normalizer, own, all_shares)
                value += picked[0]
                if SMOOTHED or WANTED[0]:
                    for c in range(classes):
                        share = zero
                        if SMOOTHED:
                            share = spread * widen(weights[c]) if WEIGHTED else spread
                        outputs = loss(
                            widen(row_scores[c * step]) - top, normalizer, share, all_shares
                        )
                        if SMOOTHED:
                            value += zero if c == label else outputs[0]
                        if WANTED[0]:
                            slopes[c * gap] = narrow(factor * outputs[1])
                    if WANTED[0]:
                        slopes[label * gap] = narrow(factor * picked[1])
            else:
                mass = 0.0
                for c in range(classes):
                    mass += weighed(widen(row_shares[c * gap]), weights, c, kept, spread)[0]
                all_shares = COMPUTED(mass)
                for c in range(classes):
                    share, portion = weighed(widen(row_shares[c * gap]), weights, c, kept, spread)
                    outputs = loss(widen(row_scores[c * step]) - top, normalizer, share, all_shares)
                    value += outputs[0]
                    if WANTED[0]:
                        slopes[c * gap] = narrow(factor * outputs[1])
                    if WANTED[1]:
                        share_slopes[c * gap] = narrow(factor * portion * outputs[2])
        if EACH:
            values[row] = narrow(COMPUTED(value))
        total += value
    if SUMMED:
        sums[chunk] = total


def blocks(request: Request) -> Blocks | None:
    """Lay the memory out; None if it takes contiguous operands."""
    options: ClassOptions = request.options
    labels, has_weight = request.constants
    shape = request.shape
    steps = chunks.canonical(shape, request.strides[0])
    samples, classes, places = dimensions(shape)
    if min(steps) < 0 or not all(
        chunks.is_contiguous(shape, s) for s in request.strides[len(shape) < 3 :]
    ):
        return None
    if len(shape) == 1:
        sample_step, class_step = 0, steps[0]
    elif len(shape) == 2:
        sample_step, class_step = steps
    else:
        sample_step, class_step = classes * places, places
    rows = samples * places
    per_chunk = max(1, int(chunks.CHUNK / (work_of_row(request) * max(cost(request), 1))))
    if 0 < places < per_chunk:
        per_chunk -= per_chunk % places  # whole samples, whose memory is in one piece
    scale = 1.0
    if request.reduction == "mean" and not labels:
        scale = 1.0 / rows if rows * classes else math.nan
    return Blocks(
        (
            OUT if request.value else 0,
            1,
            chunks.count(rows, per_chunk),
            samples,
            classes,
            places,
            sample_step,
            class_step,
            At("operand", 0),
            At("constant", 0) if labels else At("operand", 1),
            At("constant", 1) if has_weight else 0,
            options.ignore_index,
            *(*common.gradient_places(request), 0)[:2],
            UPSTREAM if request.upstream is not None else 0,
            per_chunk,
            chunks.SEGMENT,
        ),
        (scale, scale, options.smoothing),
        rows,
        classes,
        {
            "PICKED": is_picked(request),
            "LABELS": labels,
            "WEIGHTED": has_weight,
            "SMOOTHED": options.smoothing > 0.0,
            "WANTED": (*request.wanted, False)[:2],
        },
        class_step == 1 and places == 1,
        request.value,
    )


def is_picked(request: Request) -> bool:
    """Whether the formula is one of the single class that the target names."""
    return len(request.definition.operands) == 2


def scalars(request: Request) -> dict[str, Any]:
    """Give the formulas that the templates call."""
    return {
        "loss": request.definition.formula,
        "exp": primitives.exp,
        "log": primitives.log,
    }


def work_of_row(request: Request) -> int:
    """How many classes of a row there is something to do for."""
    single = is_picked(request) and not any(request.wanted)
    return 1 if single else max(dimensions(request.shape)[1], 1)


def cost(request: Request) -> float:
    """How much there is to do for a class, in elements of a loss of middling cost."""
    return 1 / CLEARED if is_picked(request) else NORMALIZED


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    laid = blocks(request)
    if laid is None:
        return None
    rank, ranked = RANK[COMPUTING[request.dtype]]
    worker = common.specialize(
        template,
        scalars(request),
        request,
        laid,
        helpers=(log_sum_exp, clear, weighed),
        rank=rank,
        ranked=ranked,
    )
    walk: dict[str, Any] = {}
    labels, has_weight = request.constants
    if labels:
        ignored, smoothed = request.options.ignore_index, laid.flags["SMOOTHED"]
        mean = (NAN_OF_NO_WEIGHT if smoothed else PLAIN) if request.reduction == "mean" else 0
        walk = survey(request, laid.rows, 0, laid.columns, ignored, has_weight, mean)
    pieces = chunks.count(laid.rows, laid.integers[PER_CHUNK])
    return ready(
        request,
        value_shape(request),
        common.stage(worker, pieces, request, int(request.value == "sum")),
        laid.integers,
        laid.floats,
        int(laid.rows * work_of_row(request) * cost(request)),
        **walk,
    )


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    shape = problem.shape
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def out_of_range(label: int) -> Exception:
    """Say that a target names no class, in torch's words."""
    return IndexError(f"Target {label} is out of bounds.")

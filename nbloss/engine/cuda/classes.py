"""Losses of a row of class scores and a target on a device: a group of lanes takes a row.

The sum of exponentials is kept relative to the largest score so far, so that a row is read once for
it, and once more for the gradients; a short row stays in the registers in between. Where rows lie
across the memory, neighbouring threads take neighbouring rows.
"""

import math
from typing import Any

import numpy as np

from nbloss.engine import chunks, primitives
from nbloss.engine.cuda import grid
from nbloss.engine.cuda.launch import (
    ERRORS,
    LABEL_WEIGHTS,
    LEFT,
    SEEN,
    SURVEYORS,
    Launch,
    Stage,
    item_size,
    ready,
    specialize,
    upstream_step,
)
from nbloss.engine.cuda.launch import LABELS as LABELS_AT
from nbloss.engine.launch import (
    FIRST_PARAMETER,
    GRADIENT_SCALE,
    OUT,
    UPSTREAM,
    VALUE_SCALE,
    At,
    Request,
)
from nbloss.engine.patterns import common
from nbloss.engine.patterns.classes import is_picked, value_shape
from nbloss.engine.patterns.common import FIRST_INTEGER, VALUE, Blocks
from nbloss.engine.patterns.survey import LABEL_BYTES
from nbloss.engine.problem import ClassOptions
from nbloss.engine.problem import class_dimensions as dimensions

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
) = range(FIRST_INTEGER, FIRST_INTEGER + 12)
SMOOTHING = FIRST_PARAMETER


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


def survey(integers, floats):
    """Leave what the targets weigh that count, which a mean divides by."""
    rows, classes = integers[SAMPLES] * integers[PLACES], integers[CLASSES]
    weights = array_at(integers[LABEL_WEIGHTS], classes if WEIGHTED else 0, STORAGE)
    total = COMPUTED(0.0)
    row = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
    while row < rows:
        label = label_at(integers[LABELS_AT] + LABEL_BYTES * row)
        if label != integers[IGNORED] and label >= 0 and label < classes:
            total += widen(weights[label]) if WEIGHTED else COMPUTED(1.0)
        row += np.int64(cuda.gridDim.x) * THREADS
    total = block_fold(add, total, cuda.shared.array(WARPS, COMPUTED))
    if cuda.threadIdx.x == 0:
        array_at(integers[LEFT], integers[SURVEYORS], COMPUTED)[cuda.blockIdx.x] = total


def weight_of_all(integers, memory):
    """Add up what the survey left."""
    count = integers[SURVEYORS]
    left = array_at(integers[LEFT], count, COMPUTED)
    total = COMPUTED(0.0)
    for i in range(cuda.threadIdx.x, count, THREADS):
        total += left[i]
    return block_fold(add, total, memory)


def strip_at(numbers, start, step, classes, beyond):
    """Load several classes of a row; what lies beyond its end is given."""
    return tuple(
        widen(numbers[(start + u * LANES) * step]) if start + u * LANES < classes else beyond
        for u in STRIP
    )


def finite(x):
    """What to measure scores from: the largest, unless it is the least that there is."""
    return x if x != -COMPUTED(np.inf) else COMPUTED(0.0)


def log_sum_exp(scores, step, lane, classes, kept, memory):
    """The largest score, and the logarithm of the sum of exponentials relative to it."""
    top = -COMPUTED(np.inf)
    total = COMPUTED(0.0)
    for start in range(lane, lane + 1 if KEPT else classes, LANES * WIDTH):
        numbers = kept if KEPT else strip_at(scores, start, step, classes, -COMPUTED(np.inf))
        before = top
        for u in STRIP:
            top = larger(top, numbers[u])
        origin = finite(top)
        total = total * exp(before - origin) if not KEPT else total
        for u in STRIP:
            total += exp(numbers[u] - origin)
    best = group_fold(larger, top, memory)
    total = group_fold(add, total * exp(top - finite(best)), memory)
    return best, log(total)


def template(integers, floats):
    """Do a number of rows."""
    samples, classes = integers[SAMPLES], integers[CLASSES]
    places = 1 if DENSE else integers[PLACES]
    sample_step = integers[SAMPLE_STEP]
    step = 1 if DENSE else integers[CLASS_STEP]
    gap = 1 if DENSE else places
    rows = samples * places
    size = rows * classes
    extent = (samples - 1) * sample_step + (classes - 1) * step + places if size > 0 else 0
    scores = array_at(integers[INPUT], extent, STORAGE)
    gradient = array_at(integers[GRADIENT], size if WANTED[0] else 0, STORAGE)
    share_gradient = array_at(integers[SHARE_GRADIENT], size if WANTED[1] else 0, STORAGE)
    weights = array_at(integers[WEIGHT], classes if WEIGHTED else 0, STORAGE)
    values = array_at(integers[VALUE], rows if EACH else 0, STORAGE)
    upstream = array_at(integers[UPSTREAM_AT], rows if FROM_ABOVE else 0, STORAGE)
    memory = cuda.shared.array(SLOTS, COMPUTED)
    zero, one = COMPUTED(0.0), COMPUTED(1.0)
    scale = floats[GRADIENT_SCALE]
    value_scale = floats[VALUE_SCALE]
    if SURVEYED:
        weight_sum = weight_of_all(integers, memory)
        divisor = one / weight_sum
        if SMOOTHED and weight_sum == zero:
            divisor = COMPUTED(np.nan)
        scale = scale * divisor
        value_scale = value_scale * divisor
    smoothing = floats[SMOOTHING]
    keeping = one - smoothing
    spread = smoothing / COMPUTED(max(classes, 1))

    whole = zero
    if SMOOTHED and LABELS:
        # Each class's part of the smoothing, and all of them together.
        for c in range(cuda.threadIdx.x, classes, THREADS):
            whole += widen(weights[c]) if WEIGHTED else one
        whole = spread * block_fold(add, whole, memory)

    lane, row_of_block = lane_and_row()
    total = zero
    base = np.int64(cuda.blockIdx.x) * ROWS_OF_BLOCK
    while base < rows:
        row = base + row_of_block
        there = row < rows
        row = min(row, rows - 1)
        sample = row if DENSE else row // places
        place = row - sample * places
        at = sample * sample_step + place
        out = sample * classes * places + place
        label = label_at(integers[TARGET] + LABEL_BYTES * row) if LABELS else 0
        ignored = label == integers[IGNORED] if LABELS else classes == 0
        usable = there and not ignored and label >= 0 and label < classes
        # A label out of range touches nothing, and makes its row NaN.
        nothing = zero if ignored else COMPUTED(np.nan)
        if SMOOTHED and LABELS and classes == 0:
            nothing = COMPUTED(np.nan)
        if LABELS and there and not ignored and not usable and lane == 0:
            report(
                array_at(integers[ERRORS], 2, np.int64),
                array_at(integers[SEEN], 1, np.int64),
                label,
            )
        # Lanes without a row go along to where all lanes meet, and load nothing.
        count = classes if usable else 0
        factor = scale * widen(upstream[row * UPSTREAM_STEP]) if FROM_ABOVE else scale
        chosen = label if usable and LABELS else 0
        weight = one
        if LABELS and WEIGHTED and usable:
            weight = widen(weights[chosen])
        own_score = widen(scores[at + chosen * step]) if usable else zero
        value = zero
        row_scores = array_at(integers[INPUT] + at * ITEM, max(extent - at, 0), STORAGE)
        row_shares = array_at(
            integers[TARGET] + (0 if LABELS else out * ITEM), max(size - out, 0), STORAGE
        )

        if PICKED:
            outputs = loss(own_score, weight)
            value = outputs[0]
            if WANTED[0] and there:
                slope = factor * outputs[1] if usable else nothing
                rest = zero if usable else nothing
                for c in range(lane, classes, LANES):
                    gradient[out + c * gap] = narrow(slope if c == chosen else rest)
        else:
            kept = tuple(zero for u in STRIP)
            if KEPT:
                kept = strip_at(row_scores, lane, step, count, -COMPUTED(np.inf))
            top, normalizer = log_sum_exp(row_scores, step, lane, count, kept, memory)
            last = lane + 1 if KEPT and lane < count else count
            if LABELS:
                own = keeping * weight if SMOOTHED else weight
                all_shares = own + whole
                if SMOOTHED:
                    own = own + spread * weight
                picked = loss(own_score - top, normalizer, own, all_shares)
                if SMOOTHED or WANTED[0]:
                    for start in range(lane, last, LANES * WIDTH):
                        numbers = kept if KEPT else strip_at(row_scores, start, step, count, zero)
                        for u in STRIP:
                            c = start + u * LANES
                            if c < count:
                                share = zero
                                if SMOOTHED:
                                    share = spread * widen(weights[c]) if WEIGHTED else spread
                                outputs = loss(numbers[u] - top, normalizer, share, all_shares)
                                if SMOOTHED:
                                    value += zero if c == chosen else outputs[0]
                                if WANTED[0]:
                                    slope = picked[1] if c == chosen else outputs[1]
                                    gradient[out + c * gap] = narrow(factor * slope)
                if SMOOTHED:
                    value = group_fold(add, value, memory)
                value += picked[0]
            else:
                mass = zero
                for c in range(lane, count, LANES):
                    mass += weighed(widen(row_shares[c * gap]), weights, c, keeping, spread)[0]
                all_shares = group_fold(add, mass, memory)
                for start in range(lane, last, LANES * WIDTH):
                    numbers = kept if KEPT else strip_at(row_scores, start, step, count, zero)
                    for u in STRIP:
                        c = start + u * LANES
                        if c < count:
                            share, portion = weighed(
                                widen(row_shares[c * gap]), weights, c, keeping, spread
                            )
                            outputs = loss(numbers[u] - top, normalizer, share, all_shares)
                            value += outputs[0]
                            if WANTED[0]:
                                gradient[out + c * gap] = narrow(factor * outputs[1])
                            if WANTED[1]:
                                share_gradient[out + c * gap] = narrow(
                                    factor * portion * outputs[2]
                                )
                value = group_fold(add, value, memory)
            if WANTED[0] and there and not usable:
                for c in range(lane, classes, LANES):
                    gradient[out + c * gap] = narrow(nothing)
        if there and lane == 0:
            result = value if usable else nothing
            if EACH:
                values[row] = narrow(result)
            total += result
        base += np.int64(cuda.gridDim.x) * ROWS_OF_BLOCK
    if SUMMED:
        leave(total, integers, value_scale, memory)


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
    scale = 1.0
    if request.reduction == "mean" and not labels:
        scale = 1.0 / rows if rows * classes else math.nan
    return Blocks(
        (
            OUT if request.value else 0,
            1,
            0,
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


def scalars(request: Request) -> dict[str, Any]:
    """Give the formulas that the templates call."""
    return {
        "loss": request.definition.formula,
        "exp": primitives.exp,
        "log": primitives.log,
    }


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and share the work; see :mod:`nbloss.engine.evaluate`."""
    laid = blocks(request)
    if laid is None:
        return None
    labels, has_weight = request.constants
    share = grid.share(laid.columns)
    if laid.integers[PLACES] > 1 or laid.integers[CLASS_STEP] > laid.integers[SAMPLE_STEP]:
        share = grid.share_across(laid.rows, laid.columns)
    if laid.flags["PICKED"] and not any(request.wanted):
        share = grid.share(1)
    surveyed = labels and request.reduction == "mean"
    kernel = specialize(
        template,
        scalars(request),
        request,
        laid,
        share,
        helpers=(weight_of_all, strip_at, finite, log_sum_exp, weighed),
        SURVEYED=surveyed,
        UPSTREAM_STEP=upstream_step(request),
        ITEM=item_size(request),
    )
    main = Stage(kernel, grid.blocks(laid.rows * share.lanes, share.threads))
    first = None
    if surveyed:
        surveyors = min(grid.SURVEYORS, grid.blocks(laid.rows, grid.THREADS))
        alone = grid.Share(grid.THREADS, 1, 1, False)
        first = Stage(specialize(survey, {}, request, laid, alone), surveyors)
    places_of_labels = (At("constant", 0), At("constant", 1) if has_weight else 0)
    return ready(
        request,
        value_shape(request),
        laid,
        main,
        first,
        places_of_labels if surveyed else (0, 0),
    )

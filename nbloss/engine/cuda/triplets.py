"""Losses of two distances per row on a device: a group of lanes takes a row.

A row's distances are measured in one walk over its coordinates, and a second walk gives the
gradients; of short rows the coordinates stay in the registers in between.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nbloss.codegen import emit_scalar
from nbloss.engine import chunks
from nbloss.engine.cuda import grid
from nbloss.engine.cuda.launch import (
    Launch,
    Stage,
    item_size,
    ready,
    specialize,
    upstream_step,
)
from nbloss.engine.distance import terms
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
from nbloss.engine.patterns.common import FIRST_INTEGER, VALUE, Blocks, times
from nbloss.engine.patterns.rows import value_shape
from nbloss.engine.problem import TripletOptions
from nbloss.formula import derive, expression

# The block of integers, after the common ones. Behind them lie address, row stride and column
# stride of the anchor, the positive and the negative rows, and then the addresses of the gradients.
(
    ROWS,
    COLUMNS,
    LENGTH,
    PER_CHUNK,
    UPSTREAM_AT,
    NEAR_COLUMNS,
    FAR_COLUMNS,
    SWAP_COLUMNS,
    FIRST_OPERAND,
) = range(FIRST_INTEGER, FIRST_INTEGER + 9)
FIRST_GRADIENT = FIRST_OPERAND + 9
# The block of floats has the loss's parameters after the common ones, and then the distance's.


def terms_of(x, y, parameters):
    """What a coordinate adds to each sum, with the derivatives by both coordinates."""
    if SINGLE:
        return (term(x, y, *parameters),)
    else:
        return term(x, y, *parameters)


def load(row, start, step, columns):
    """Load several coordinates of a row; beyond its end there are zeros, for nobody to use."""
    return tuple(
        widen(row[(start + u * LANES) * step]) if start + u * LANES < columns else COMPUTED(0.0)
        for u in STRIP
    )


def measure(x_row, x_kept, x_step, y_row, y_kept, y_step, lane, columns, parameters, memory):
    """Walk over a row: its distance, the derivative by each sum, and the first sum itself."""
    sums = tuple(COMPUTED(START) for k in SUMS)
    for start in range(lane, lane + 1 if KEPT else columns, LANES * WIDTH):
        xs = x_kept if KEPT else load(x_row, start, x_step, columns)
        ys = y_kept if KEPT else load(y_row, start, y_step, columns)
        for u in STRIP:
            if start + u * LANES < columns:
                terms = terms_of(xs[u], ys[u], parameters)
                if REDUCE == "sum":
                    sums = tuple(sums[k] + terms[k][0] for k in SUMS)
                if REDUCE == "max":
                    sums = (larger(sums[0], terms[0][0]),)
                if REDUCE == "min":
                    sums = (smaller(sums[0], terms[0][0]),)
    if REDUCE == "sum":
        sums = tuple(group_fold(add, sums[k], memory) for k in SUMS)
        shared = COMPUTED(1.0)
    else:
        if REDUCE == "max":
            sums = (group_fold(larger, sums[0], memory),)
        else:
            sums = (group_fold(smaller, sums[0], memory),)
        ties = COMPUTED(0.0)
        for start in range(lane, lane + 1 if KEPT else columns, LANES * WIDTH):
            xs = x_kept if KEPT else load(x_row, start, x_step, columns)
            ys = y_kept if KEPT else load(y_row, start, y_step, columns)
            for u in STRIP:
                size = terms_of(xs[u], ys[u], parameters)[0][0]
                if start + u * LANES < columns and size == sums[0]:
                    ties += COMPUTED(1.0)
        ties = group_fold(add, ties, memory)
        shared = COMPUTED(1.0) / (ties if ties > COMPUTED(1.0) else COMPUTED(1.0))
    if FINISHED:
        finished = finish(*sums, *parameters)
        return finished[0], tuple(shared * finished[1 + k] for k in SUMS), sums[0]
    else:
        return sums[0], (shared,), sums[0]


def pull(terms, slopes, extreme):
    """The distance's derivatives by the two coordinates, from those by the sums."""
    by_x = terms[0][1] * slopes[0]
    by_y = terms[0][2] * slopes[0]
    for k in LATER_SUMS:
        by_x = by_x + terms[k][1] * slopes[k]
        by_y = by_y + terms[k][2] * slopes[k]
    if REDUCE != "sum":
        by_x = by_x if terms[0][0] == extreme else COMPUTED(0.0)
        by_y = by_y if terms[0][0] == extreme else COMPUTED(0.0)
    return by_x, by_y


def within(inside, pulls):
    """Leave out columns that a broadcast has only repeated."""
    zero = COMPUTED(0.0)
    return (pulls[0] if inside else zero), (pulls[1] if inside else zero)


def judge(near, far, swapped, numbers):
    """Give the value of a row, its slopes by the distances, and whether there is nothing to pull.

    A row that costs nothing pulls at nothing; but a NaN or infinity shows, as in torch. (Arithmetic
    cannot ask for them here: where sums may be reordered, x - x is 0 for the compiler.)
    """
    zero, infinity = COMPUTED(0.0), COMPUTED(np.inf)
    if SWAP:
        closest, far_part, swap_part = nearer(far, swapped)
        value, near_slope, far_slope = loss(near, closest, *numbers)
        measured = near + far + swapped
        idle = near_slope == zero and far_slope == zero and -infinity < measured < infinity
        return value, (near_slope, far_slope * far_part, far_slope * swap_part), idle
    else:
        value, near_slope, far_slope = loss(near, far, *numbers)
        measured = near + far
        idle = near_slope == zero and far_slope == zero and -infinity < measured < infinity
        return value, (near_slope, far_slope), idle


def pulls(terms, slopes, extremes, inside):
    """Give what the distances pull at a coordinate of anchor, positive and negative.

    Each argument has a part for the distance to the positive, the one to the negative, and with a
    swap the one between these.
    """
    near = pull(terms[0], slopes[0], extremes[0])
    far = pull(terms[1], slopes[1], extremes[1])
    if RAGGED:
        near = within(inside[0], near)
        far = within(inside[1], far)
    if SWAP:
        swapped = pull(terms[2], slopes[2], extremes[2])
        if RAGGED:
            swapped = within(inside[2], swapped)
        return near[0] + far[0], near[1] + swapped[0], far[1] + swapped[1]
    else:
        return near[0] + far[0], near[1], far[1]


def template(integers, floats):
    """Do a number of rows."""
    rows, columns = integers[ROWS], integers[COLUMNS]
    outer = tuple(integers[FIRST_OPERAND + 3 * k + 1] for k in THREE)
    inner = tuple(STEPS[k] if STEPS[k] >= 0 else integers[FIRST_OPERAND + 3 * k + 2] for k in THREE)
    gradients = tuple(
        array_at(integers[FIRST_GRADIENT + k], rows * columns if WANTED[k] else 0, STORAGE)
        for k in THREE
    )
    values = array_at(integers[VALUE], rows if EACH else 0, STORAGE)
    upstream = array_at(integers[UPSTREAM_AT], rows if FROM_ABOVE else 0, STORAGE)
    near_columns = integers[NEAR_COLUMNS] if RAGGED else columns
    far_columns = integers[FAR_COLUMNS] if RAGGED else columns
    swap_columns = integers[SWAP_COLUMNS] if RAGGED else columns
    numbers = tuple(floats[k] for k in OF_LOSS)
    parameters = tuple(floats[k] for k in OF_DISTANCE)
    memory = cuda.shared.array(WARPS, COMPUTED)
    zero = COMPUTED(0.0)

    lane, row_of_block = lane_and_row()
    total = zero
    base = np.int64(cuda.blockIdx.x) * ROWS_OF_BLOCK
    while base < rows:
        row = base + row_of_block
        there = row < rows
        row = min(row, rows - 1)
        anchor, positive, negative = tuple(
            array_at(
                integers[FIRST_OPERAND + 3 * k] + row * outer[k] * ITEM,
                span(1, 0, columns, inner[k]),
                STORAGE,
            )
            for k in THREE
        )
        anchors = positives = negatives = tuple(zero for u in STRIP)
        if KEPT:
            anchors = load(anchor, lane, inner[0], columns)
            positives = load(positive, lane, inner[1], columns)
            negatives = load(negative, lane, inner[2], columns)
        near, by_near, near_extreme = measure(
            anchor,
            anchors,
            inner[0],
            positive,
            positives,
            inner[1],
            lane,
            near_columns,
            parameters,
            memory,
        )
        far, by_far, far_extreme = measure(
            anchor,
            anchors,
            inner[0],
            negative,
            negatives,
            inner[2],
            lane,
            far_columns,
            parameters,
            memory,
        )
        swapped = far
        if SWAP:
            swapped, by_swapped, swap_extreme = measure(
                positive,
                positives,
                inner[1],
                negative,
                negatives,
                inner[2],
                lane,
                swap_columns,
                parameters,
                memory,
            )
        value, by_distance, idle = judge(near, far, swapped, numbers)
        if there and lane == 0:
            if EACH:
                values[row] = narrow(value)
            total += value
        if ANY_WANTED and there:
            factor = floats[GRADIENT_SCALE]
            if FROM_ABOVE:
                factor = factor * widen(upstream[row * UPSTREAM_STEP])
            begin = row * columns
            if idle:
                for column in range(lane, columns, LANES):
                    for k in THREE:
                        if WANTED[k]:
                            gradients[k][begin + column] = narrow(zero)
            else:
                by_sums = (by_near, by_far, by_swapped) if SWAP else (by_near, by_far)
                extremes = (
                    (near_extreme, far_extreme, swap_extreme)
                    if SWAP
                    else (near_extreme, far_extreme)
                )
                slopes = tuple(
                    tuple(times(factor, by_distance[j]) * by_sums[j][k] for k in SUMS)
                    for j in DISTANCES
                )
                for start in range(lane, lane + 1 if KEPT else columns, LANES * WIDTH):
                    if not KEPT:
                        anchors = load(anchor, start, inner[0], columns)
                        positives = load(positive, start, inner[1], columns)
                        negatives = load(negative, start, inner[2], columns)
                    for u in STRIP:
                        column = start + u * LANES
                        if column < columns:
                            near_terms = terms_of(anchors[u], positives[u], parameters)
                            far_terms = terms_of(anchors[u], negatives[u], parameters)
                            swap_terms = (
                                terms_of(positives[u], negatives[u], parameters)
                                if SWAP
                                else far_terms
                            )
                            terms = (near_terms, far_terms, swap_terms)
                            inside = (
                                column < near_columns,
                                column < far_columns,
                                column < swap_columns,
                            )
                            pulled = pulls(terms, slopes, extremes, inside)
                            for k in THREE:
                                if WANTED[k]:
                                    gradients[k][begin + column] = narrow(pulled[k])
        base += np.int64(cuda.gridDim.x) * ROWS_OF_BLOCK
    if SUMMED:
        leave(total, integers, floats[VALUE_SCALE], memory)


def blocks(request: Request) -> Blocks | None:
    """Lay the memory out; None if it takes contiguous operands."""
    options: TripletOptions = request.options
    distance, shape = options.distance, request.shape
    rows, columns = math.prod(shape[:-1]), shape[-1]
    laid = chunks.rows(shape, request.strides, rows, columns)
    if laid is None:
        return None
    outer, inner = laid
    scale = 1.0
    if request.reduction == "mean":
        scale = 1.0 / rows if rows else math.nan
    operands = (At("operand", k) for k in range(3))
    reduce, _, finish, sums = terms(distance.formula)
    end = FIRST_PARAMETER + len(request.parameters)
    of_distance = end - len(distance.parameters)
    return Blocks(
        (
            OUT if request.value else 0,
            1,
            0,
            rows,
            columns,
            0,
            0,
            UPSTREAM if request.upstream is not None else 0,
            *options.columns,
            *itertools.chain.from_iterable(zip(operands, outer, inner, strict=True)),
            *common.gradient_places(request),
        ),
        (scale, scale, *request.parameters),
        rows,
        columns,
        {
            "THREE": (0, 1, 2),
            "DISTANCES": (0, 1, 2) if options.swap else (0, 1),
            "STEPS": common.known_steps(inner),
            "SUMS": tuple(range(sums)),
            "LATER_SUMS": tuple(range(1, sums)),
            "SINGLE": sums == 1,
            "REDUCE": reduce,
            "FINISHED": finish is not None,
            "OF_LOSS": tuple(range(FIRST_PARAMETER, of_distance)),
            "OF_DISTANCE": tuple(range(of_distance, end)),
            "SWAP": options.swap,
            "RAGGED": any(count != columns for count in options.columns),
            "WANTED": request.wanted,
            "ANY_WANTED": any(request.wanted),
        },
        all(step == 1 for step in inner),
        request.value,
    )


def scalars(request: Request) -> dict[str, Any]:
    """Give the formulas that the template calls."""
    _, term, finish, _ = terms(request.options.distance.formula)
    return {
        "loss": request.definition.of_distances.stated(),
        "nearer": smaller_distance(),
        "term": term,
        **({} if finish is None else {"finish": finish}),
    }


@functools.cache
def smaller_distance() -> Callable:
    """The smaller of two distances, and its derivatives."""
    first, second = (expression.operand(name) for name in ("first", "second"))
    smaller = expression.apply("minimum", first, second)
    slopes = derive.gradients(smaller, [first, second], derive.ONE)
    names = {first: "first", second: "second"}
    return emit_scalar.function("nearer", names, [smaller, *slopes])


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and share the work; see :mod:`nbloss.engine.evaluate`."""
    if request.definition.of_distances is None:
        raise NotImplementedError(
            f"{request.definition.name}(): no CUDA kernel yet for a formula of rows of one's own"
        )
    laid = blocks(request)
    if laid is None:
        return None
    share = grid.share(laid.columns, operands=2)
    kernel = specialize(
        template,
        scalars(request),
        request,
        laid,
        share,
        helpers=(times, terms_of, load, measure, pull, within, judge, pulls),
        START={"sum": 0.0, "max": -np.inf, "min": np.inf}[laid.flags["REDUCE"]],
        UPSTREAM_STEP=upstream_step(request),
        ITEM=item_size(request),
    )
    main = Stage(kernel, grid.blocks(laid.rows * share.lanes, share.threads))
    return ready(request, value_shape(request), laid, main)

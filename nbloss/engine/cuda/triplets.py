"""Losses of two distances per row on a device: a group of lanes takes a row.

A row's distances are measured in one walk over its coordinates, and a second walk gives the
gradients; of short rows the coordinates stay in the registers in between.
"""

import numpy as np

from nbloss.engine.cuda import grid
from nbloss.engine.cuda.launch import (
    Launch,
    Stage,
    item_size,
    ready,
    specialize,
    upstream_step,
)
from nbloss.engine.launch import GRADIENT_SCALE, VALUE_SCALE, Request
from nbloss.engine.patterns import triplets
from nbloss.engine.patterns.common import VALUE, times
from nbloss.engine.patterns.triplets import (
    COLUMNS,
    FAR_COLUMNS,
    FIRST_GRADIENT,
    FIRST_OPERAND,
    NEAR_COLUMNS,
    ROWS,
    SWAP_COLUMNS,
    UPSTREAM_AT,
    judge,
    pull,
    pulls,
    within,
)


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


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and share the work; see :mod:`nbloss.engine.evaluate`."""
    laid = triplets.blocks(request)
    if laid is None:
        return None
    share = grid.share(laid.columns, operands=2)
    kernel = specialize(
        template,
        triplets.scalars(request),
        request,
        laid,
        share,
        helpers=(times, terms_of, load, measure, pull, within, judge, pulls),
        START={"sum": 0.0, "max": -np.inf, "min": np.inf}[laid.flags["REDUCE"]],
        UPSTREAM_STEP=upstream_step(request),
        ITEM=item_size(request),
    )
    main = Stage(kernel, grid.blocks(laid.rows * share.lanes, share.threads))
    return ready(request, triplets.value_shape(request), laid, main)

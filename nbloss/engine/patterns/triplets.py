"""Losses of two distances per row, with the distances fused in.

A row's distances are measured in one walk over its coordinates. A second walk, over a row that is
still in the cache, gives the gradients: the loss's slope times the distance's derivative.
"""

import itertools
import math
from typing import Any

import numpy as np

from nbloss.engine import chunks
from nbloss.engine import scalars as scalar_math
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
from nbloss.engine.memory import array_at, span
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import FIRST_INTEGER, PER_GROUP, VALUE, Blocks, times
from nbloss.engine.problem import Problem, TripletOptions
from nbloss.engine.vectors import wide_vectors

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


def terms_at(x, x_at, y, y_at, parameters):
    """What a coordinate adds to each sum, with the derivatives by both coordinates."""
    if SINGLE:
        return (term(widen(x[x_at]), widen(y[y_at]), *parameters),)
    else:
        return term(widen(x[x_at]), widen(y[y_at]), *parameters)


def measure(x, x_step, y, y_step, columns, length, parameters):
    """Walk over a row: its distance, the derivative by each sum, and the first sum itself."""
    wide_vectors()
    if REDUCE == "sum":
        totals = tuple(0.0 for k in SUMS)
        for start in range(0, columns, length):
            partial = tuple(COMPUTED(0.0) for k in SUMS)
            x_part, y_part = x[start * x_step :], y[start * y_step :]
            for i in range(min(length, columns - start)):
                terms = terms_at(x_part, i * x_step, y_part, i * y_step, parameters)
                partial = tuple(partial[k] + terms[k][0] for k in SUMS)
            totals = tuple(totals[k] + partial[k] for k in SUMS)
        sums = tuple(COMPUTED(totals[k]) for k in SUMS)
        shared = COMPUTED(1.0)
    else:
        extreme = terms_at(x, 0, y, 0, parameters)[0][0]
        for i in range(1, columns):
            size = terms_at(x, i * x_step, y, i * y_step, parameters)[0][0]
            extreme = larger(extreme, size) if REDUCE == "max" else smaller(extreme, size)
        ties = 0
        for i in range(columns):
            size = terms_at(x, i * x_step, y, i * y_step, parameters)[0][0]
            if size == extreme:
                ties += 1
        sums = (extreme,)
        shared = COMPUTED(1.0) / COMPUTED(max(ties, 1))
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


def template(integers, floats, chunk):
    """Do a number of rows."""
    wide_vectors()
    rows, columns, length = integers[ROWS], integers[COLUMNS], integers[LENGTH]
    first = chunk * integers[PER_CHUNK]
    last = min(first + integers[PER_CHUNK], rows)
    outer = tuple(integers[FIRST_OPERAND + 3 * k + 1] for k in THREE)
    inner = tuple(STEPS[k] if STEPS[k] >= 0 else integers[FIRST_OPERAND + 3 * k + 2] for k in THREE)
    arrays = tuple(
        array_at(integers[FIRST_OPERAND + 3 * k], span(rows, outer[k], columns, inner[k]), STORAGE)
        for k in THREE
    )
    gradients = tuple(
        array_at(integers[FIRST_GRADIENT + k], rows * columns if WANTED[k] else 0, STORAGE)
        for k in THREE
    )
    values = array_at(integers[VALUE], rows if EACH else 0, STORAGE)
    sums = array_at(integers[PARTIALS], integers[PER_GROUP] if SUMMED else 0, np.float64)
    upstream = array_at(integers[UPSTREAM_AT], rows if FROM_ABOVE else 0, STORAGE)
    near_columns = integers[NEAR_COLUMNS] if RAGGED else columns
    far_columns = integers[FAR_COLUMNS] if RAGGED else columns
    swap_columns = integers[SWAP_COLUMNS] if RAGGED else columns
    numbers = tuple(COMPUTED(floats[k]) for k in OF_LOSS)
    parameters = tuple(COMPUTED(floats[k]) for k in OF_DISTANCE)
    scale = COMPUTED(floats[GRADIENT_SCALE])

    total = 0.0
    for row in range(first, last):
        # Views that start at the row, so that no index can be taken for a negative one, which would
        # be tested for at every column.
        anchor, positive, negative = tuple(arrays[k][row * outer[k] :] for k in THREE)
        near, by_near, near_extreme = measure(
            anchor, inner[0], positive, inner[1], near_columns, length, parameters
        )
        far, by_far, far_extreme = measure(
            anchor, inner[0], negative, inner[2], far_columns, length, parameters
        )
        swapped = far
        if SWAP:
            swapped, by_swapped, swap_extreme = measure(
                positive, inner[1], negative, inner[2], swap_columns, length, parameters
            )
        value, by_distance, idle = judge(near, far, swapped, numbers)
        if EACH:
            values[row] = narrow(value)
        total += value
        if ANY_WANTED:
            factor = scale
            if FROM_ABOVE:
                factor = scale * widen(upstream[row])
            begin = row * columns
            goals = tuple(gradients[k][begin : begin + columns] for k in THREE)
            if idle:
                for i in range(columns):
                    for k in THREE:
                        if WANTED[k]:
                            goals[k][i] = narrow(COMPUTED(0.0))
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
                for i in range(columns):
                    at_a, at_p, at_n = i * inner[0], i * inner[1], i * inner[2]
                    near_terms = terms_at(anchor, at_a, positive, at_p, parameters)
                    far_terms = terms_at(anchor, at_a, negative, at_n, parameters)
                    swap_terms = (
                        terms_at(positive, at_p, negative, at_n, parameters) if SWAP else far_terms
                    )
                    terms = (near_terms, far_terms, swap_terms)
                    inside = (i < near_columns, i < far_columns, i < swap_columns)
                    pulled = pulls(terms, slopes, extremes, inside)
                    for k in THREE:
                        if WANTED[k]:
                            goals[k][i] = narrow(pulled[k])
    if SUMMED:
        sums[chunk] = total


def blocks(request: Request) -> Blocks | None:
    """Lay the memory out; None if it takes contiguous operands."""
    options: TripletOptions = request.options
    distance, shape = options.distance, request.shape
    rows, columns = math.prod(shape[:-1]), shape[-1]
    laid = chunks.rows(shape, request.strides, rows, columns)
    if laid is None:
        return None
    outer, inner = laid
    per_chunk = max(1, chunks.CHUNK // max(1, columns))
    scale = 1.0
    if request.reduction == "mean":
        scale = 1.0 / rows if rows else math.nan
    operands = (At("operand", k) for k in range(3))
    of_distance = FIRST_PARAMETER + len(request.parameters)
    return Blocks(
        (
            OUT if request.value else 0,
            1,
            chunks.count(rows, per_chunk),
            rows,
            columns,
            chunks.SEGMENT,
            per_chunk,
            UPSTREAM if request.upstream is not None else 0,
            *options.columns,
            *itertools.chain.from_iterable(zip(operands, outer, inner, strict=True)),
            *common.gradient_places(request),
        ),
        (scale, scale, *request.parameters, *distance.parameters.values()),
        rows,
        columns,
        {
            "THREE": (0, 1, 2),
            "DISTANCES": (0, 1, 2) if options.swap else (0, 1),
            "STEPS": common.known_steps(inner),
            "SUMS": tuple(range(distance.sums)),
            "LATER_SUMS": tuple(range(1, distance.sums)),
            "SINGLE": distance.sums == 1,
            "REDUCE": distance.reduce,
            "FINISHED": distance.finish is not None,
            "OF_LOSS": tuple(range(FIRST_PARAMETER, of_distance)),
            "OF_DISTANCE": tuple(range(of_distance, of_distance + len(distance.parameters))),
            "SWAP": options.swap,
            "RAGGED": any(count != columns for count in options.columns),
            "WANTED": request.wanted,
            "ANY_WANTED": any(request.wanted),
        },
        all(step == 1 for step in inner),
        request.value,
    )


def scalars(request: Request) -> dict[str, Any]:
    """Give the formulas that the templates call."""
    options: TripletOptions = request.options
    finish = options.distance.finish
    return {
        "loss": request.definition.formula,
        "nearer": options.nearer,
        "term": options.distance.formula,
        **({} if finish is None else {"finish": finish}),
    }


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    laid = blocks(request)
    if laid is None:
        return None
    worker = common.specialize(
        template,
        scalars(request),
        request,
        laid,
        helpers=(times, terms_at, measure, pull, within, judge, pulls),
        larger=scalar_math.maximum,
        smaller=scalar_math.minimum,
    )
    pieces = chunks.count(laid.rows, laid.integers[PER_CHUNK])
    return ready(
        request,
        value_shape(request),
        common.stage(worker, pieces, request, int(request.value == "sum")),
        laid.integers,
        laid.floats,
        3 * laid.rows * laid.columns,
    )


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    return problem.shape[:-1]

"""Losses of single elements on a device: threads stride over all elements of the grid."""

import numpy as np

from nbloss.engine.cuda import grid
from nbloss.engine.cuda.launch import Launch, Stage, item_size, ready, specialize
from nbloss.engine.launch import FIRST_PARAMETER, GRADIENT_SCALE, VALUE_SCALE, Request
from nbloss.engine.patterns import pointwise
from nbloss.engine.patterns.common import VALUE, times
from nbloss.engine.patterns.pointwise import (
    COLUMNS,
    FIRST_OPERAND,
    ROWS,
    evaluate,
    options_of,
)

MOST_32 = 1 << 31  # elements whose numbers are divided in 32 bits, which is much quicker


def operands_of(integers, rows, columns):
    """Give the arrays, and their steps from row to row and from column to column."""
    outer = tuple(integers[FIRST_OPERAND + 3 * k + 1] for k in ARRAYS)
    inner = tuple(
        STEPS[k] if STEPS[k] >= 0 else integers[FIRST_OPERAND + 3 * k + 2] for k in ARRAYS
    )
    arrays = tuple(
        array_at(integers[FIRST_OPERAND + 3 * k], span(rows, outer[k], columns, inner[k]), STORAGE)
        for k in ARRAYS
    )
    return arrays, outer, inner


def numbers_at(arrays, outer, inner, columns, place):
    """Load what there is of an element."""
    if DENSE:
        return tuple(widen(arrays[k][place]) for k in ARRAYS)
    else:
        row = np.int64(UNSIGNED(place) // UNSIGNED(columns))
        column = place - row * columns
        return tuple(widen(arrays[k][row * outer[k] + column * inner[k]]) for k in ARRAYS)


def elements(integers, floats):
    """Do all elements, several of a thread's at once."""
    rows, columns = integers[ROWS], integers[COLUMNS]
    size = rows * columns
    arrays, outer, inner = operands_of(integers, rows, columns)
    gradients = tuple(
        array_at(integers[FIRST_GRADIENT + k], size if WANTED[k] else 0, STORAGE)
        for k in DERIVATIVES
    )
    values = array_at(integers[VALUE], size if EACH else 0, STORAGE)
    parameters = tuple(floats[FIRST_PARAMETER + k] for k in PARAMETERS)
    scale = floats[GRADIENT_SCALE]

    total = COMPUTED(0.0)
    # `range` would count the turns of the loop first, by a division.
    start = np.int64(cuda.blockIdx.x) * (THREADS * WIDTH) + cuda.threadIdx.x
    while start < size:
        places = tuple(start + u * THREADS for u in STRIP)
        # All are loaded before any is stored: for all that the compiler knows, a store may change
        # what is loaded after it. Beyond the end the last element is loaded once more.
        numbers = tuple(
            numbers_at(arrays, outer, inner, columns, min(places[u], size - 1)) for u in STRIP
        )
        for u in STRIP:
            if places[u] < size:
                outputs = evaluate(numbers[u], parameters, scale)
                if EACH:
                    values[places[u]] = narrow(outputs[0])
                if SUMMED:
                    total += outputs[0]
                for k in DERIVATIVES:
                    if WANTED[k]:
                        gradients[k][places[u]] = narrow(outputs[1 + k])
        start += np.int64(cuda.gridDim.x) * (THREADS * WIDTH)
    if SUMMED:
        leave(total, integers, floats[VALUE_SCALE], cuda.shared.array(WARPS, COMPUTED))


def means(integers, floats):
    """Sum the values of each row: a group of lanes takes one."""
    rows, columns = integers[ROWS], integers[COLUMNS]
    arrays, outer, inner = operands_of(integers, rows, columns)
    values = array_at(integers[VALUE], rows, STORAGE)
    parameters = tuple(floats[FIRST_PARAMETER + k] for k in PARAMETERS)
    memory = cuda.shared.array(WARPS, COMPUTED)
    lane, row_of_block = lane_and_row()
    base = np.int64(cuda.blockIdx.x) * ROWS_OF_BLOCK
    while base < rows:
        row = base + row_of_block
        total = COMPUTED(0.0)
        if row < rows:
            for column in range(lane, columns, LANES):
                numbers = tuple(
                    widen(arrays[k][row * outer[k] + column * inner[k]]) for k in ARRAYS
                )
                total += evaluate(numbers, parameters, COMPUTED(1.0))[0]
        total = group_fold(add, total, memory)
        if row < rows and lane == 0:
            values[row] = narrow(floats[VALUE_SCALE] * total)
        base += np.int64(cuda.gridDim.x) * ROWS_OF_BLOCK


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and share the work; see :mod:`nbloss.engine.evaluate`."""
    laid = pointwise.blocks(request)
    if laid is None:
        return None
    formulas = {"loss": request.definition.stated(options_of(request))}
    size = laid.rows * laid.columns
    if request.definition.mean_over_classes and request.value == "each":
        assert not any(request.wanted), "without a reduction gradients are made on the way back"
        laid = laid._replace(value="each")
        share = grid.share(laid.columns)
        template, work = means, laid.rows * share.lanes
    else:
        strip = grid.STRIP * (2 if item_size(request) < 4 else 1)
        share = grid.Share(grid.THREADS, 1, strip, False)
        template, work = elements, -(-size // strip)
    kernel = specialize(
        template,
        formulas,
        request,
        laid,
        share,
        helpers=(operands_of, numbers_at, times, evaluate),
        UNSIGNED=np.uint32 if size < MOST_32 else np.uint64,
    )
    main = Stage(kernel, grid.blocks(work, share.threads))
    return ready(request, pointwise.value_shape(request), laid, main)

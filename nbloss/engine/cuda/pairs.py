"""Losses over all pairs of a target class and another class, on a device: a block takes a row.

As on the processor there are two ways: to go through the pairs, and for a hinge to put the labels'
bounds in order (see :mod:`nbloss.engine.patterns.ordering`). What a row needs in between lies in
shared memory if it fits. Counts are integers, so that the order of their atomic additions does not
matter; where numbers are summed, the order is that of the threads.
"""

import inspect

import numpy as np

from nbloss.codegen.blocks import GRADIENT_SCALE, VALUE_SCALE
from nbloss.codegen.memory import COMPUTED as COMPUTING
from nbloss.codegen.memory import STORED
from nbloss.engine.cuda import grid
from nbloss.engine.cuda.plan import (
    ERRORS,
    MEMORY,
    SEEN,
    Plan,
    Stage,
    planned,
    specialize,
)
from nbloss.engine.patterns import pairs
from nbloss.engine.patterns.common import VALUE, step_of_grad_output
from nbloss.engine.patterns.labels import LABEL_BYTES
from nbloss.engine.patterns.pairs import (
    CLASS_STEP,
    CLASSES,
    GRAD_OUTPUT_PLACE,
    GRADIENT,
    INPUT,
    ROW_STEP,
    ROWS,
    TARGET,
)
from nbloss.engine.plan import Request

MOST_THREADS = grid.THREADS
# What it costs to have the labels in order, in pairs: for each class and each bit of the number of
# labels; for each pair of bounds and each step of the sort, which takes as long as some of them.
SEARCHING = 2
SORTING = 1
WAITING = 4 * MOST_THREADS
SHARED = 42 << 10  # bytes of shared memory, of the 48 kB that every device has, for a row
MOST_MEMORY = 1 << 28  # bytes of other memory, for all blocks


def store_partial(total, integers, scale, memory):
    """Store the sum of all threads, or leave what a block has of it to be added up."""
    total = scale * block_fold(add, total, memory)
    if cuda.threadIdx.x == 0:
        if cuda.gridDim.x == 1:
            array_at(integers[VALUE], 1, STORAGE)[0] = narrow(total)
        else:
            before = integers[WEIGHT_BLOCKS]
            left = array_at(integers[PARTIALS_AT], before + integers[COUNT], COMPUTED)
            left[before + cuda.blockIdx.x] = total


def count_up(counts, place):
    """Add 1 to a count, which other threads may do at the same time."""
    if IN_SHARED:
        cuda.atomic.add(counts, place, 1)
    else:
        add_one(counts, place)


def copied(begin, labels, classes, memory):
    """Copy a row's labels; give how many there are: the place of the first that names no class.

    Each label is read once, and its copy stays as it is. What names no class becomes -1 if it is
    the end that it should be, and otherwise -2.
    """
    for base in range(0, classes, THREADS):
        place = np.int64(base + cuda.threadIdx.x)
        found = np.int64(classes)
        if place < classes:
            label = label_at(begin + LABEL_BYTES * place)
            if label < 0 or label >= classes:
                found = place
                label = np.int64(-1 if label == -1 else -2)
            labels[place] = np.int32(label)
        found = block_fold(smaller, found, memory)
        if found < classes:
            return found
    return np.int64(classes)


def sort(numbers, count):
    """Put 2, 4, 8, ... numbers in order: K. E. Batcher's bitonic sort (1968)."""
    width = 2
    while width <= count:
        distance = width // 2
        while distance > 0:
            cuda.syncthreads()
            for i in range(cuda.threadIdx.x, count, THREADS):
                other = i ^ distance
                if other > i:
                    x, y = numbers[i], numbers[other]
                    if (x > y) == ((i & width) == 0):
                        numbers[i] = y
                        numbers[other] = x
            distance //= 2
        width *= 2
    cuda.syncthreads()


def sum_up(numbers, count, run, memory, nothing):
    """Replace each number by the sum of it and those before; a thread has a run of them.

    There is a number of shared memory for each thread.
    """
    thread = cuda.threadIdx.x
    first = min(thread * run, count)
    last = min(first + run, count)
    total = nothing
    for i in range(first, last):
        total += numbers[i]
    memory[thread] = total
    distance = 1
    while distance < THREADS:
        cuda.syncthreads()
        before = memory[thread - distance] if thread >= distance else nothing
        cuda.syncthreads()
        memory[thread] += before
        distance *= 2
    cuda.syncthreads()
    total = memory[thread - 1] if thread > 0 else nothing
    for i in range(first, last):
        total += numbers[i]
        numbers[i] = total
    cuda.syncthreads()


def below(bounds, half, number):
    """How many bounds lie below a number: they are in order, and ``2 * half - 1`` of them."""
    found = 0
    step = half
    while step > 0:
        if bounds[found + step - 1] < number:
            found += step
        step //= 2
    return found


def by_pairs(score, step, labels, begin, count, classes, bounds, times, gradient, factor):
    """Go through all pairs of a row; give a thread's part of the value and store the gradients."""
    zero = COMPUTED(0.0)
    thread = cuda.threadIdx.x
    for t in range(thread, count, THREADS):
        bounds[t] = widen(score[labels[t] * step])
    cuda.syncthreads()
    value = zero
    for c in range(thread, classes, THREADS):
        pull = zero
        if times[c] == 0:
            other = widen(score[c * step])
            for t in range(count):
                outputs = loss(bounds[t], other)
                value += outputs[0]
                pull += outputs[2]
            if NEEDS_GRAD:
                gradient[begin + c] = narrow(factor * pull)
    if NEEDS_GRAD:
        # A warp takes a label. One that stands several times has the same slope each time.
        for base in range(0, count, WARPS):
            t = base + thread // WARP
            slope = zero
            if t < count:
                own = bounds[t]
                for c in range(thread % WARP, classes, WARP):
                    if times[c] == 0:
                        slope += loss(own, widen(score[c * step]))[1]
            for distance in WITHIN_WARP:
                slope = slope + shuffle(slope, distance)
            if t < count and thread % WARP == 0:
                label = labels[t]
                gradient[begin + label] = narrow(factor * slope * COMPUTED(times[label]))
    return value


def by_order(
    score,
    step,
    labels,
    begin,
    count,
    half,
    classes,
    bounds,
    sums,
    met,
    times,
    memory,
    places,
    gradient,
    factor,
):
    """Do the same with the bounds in order."""
    zero = COMPUTED(0.0)
    thread = cuda.threadIdx.x
    for t in range(thread, 2 * half, THREADS):
        bound = COMPUTED(np.inf)
        if t < count:
            bound = -hinge(widen(score[labels[t] * step]))
        bounds[t] = bound
    sort(bounds, 2 * half)
    # Numbers count from the middle, so that there is little to lose in their differences. What one
    # label far off the others costs is as large as the number itself.
    origin = bounds[count // 2]
    for t in range(thread, count + 1, THREADS):
        # The sum of the bounds before each.
        sums[t] = bounds[t - 1] - origin if t > 0 else zero
        met[t] = 0
    cuda.syncthreads()
    run = (count + THREADS) // THREADS
    sum_up(sums, count + 1, run, memory, zero)
    value = zero
    for c in range(thread, classes, THREADS):
        if times[c] == 0:
            number = widen(score[c * step])
            exceeded = below(bounds, half, number)
            if exceeded > 0:  # or the number may be infinite
                value += COMPUTED(exceeded) * (number - origin) - sums[exceeded]
            if NEEDS_GRAD:
                count_up(met, exceeded)
                gradient[begin + c] = narrow(factor * COMPUTED(exceeded))
    if NEEDS_GRAD:
        cuda.syncthreads()
        sum_up(met, count + 1, run, places, np.int64(0))
        others = met[count]
        for t in range(thread, count, THREADS):
            label = labels[t]
            rank = below(bounds, half, -hinge(widen(score[label * step])))
            pull = COMPUTED(others - met[rank]) * COMPUTED(times[label])
            gradient[begin + label] = narrow(-factor * pull)
    return value


def template(integers, floats):
    """Do a number of rows."""
    rows, classes = integers[ROWS], integers[CLASSES]
    row_step = integers[ROW_STEP]
    step = 1 if DENSE else integers[CLASS_STEP]
    extent = span(rows, row_step, classes, step)
    gradient = array_at(integers[GRADIENT], rows * classes if NEEDS_GRAD else 0, STORAGE)
    values = array_at(integers[VALUE], rows if EACH else 0, STORAGE)
    grad_output = array_at(integers[GRAD_OUTPUT_PLACE], rows if HAS_GRAD_OUTPUT else 0, STORAGE)
    thread = cuda.threadIdx.x
    memory = cuda.shared.array(THREADS, COMPUTED)
    places = cuda.shared.array(THREADS, np.int64)
    if IN_SHARED:
        bounds = cuda.shared.array(SIZE, COMPUTED)
        sums = cuda.shared.array(AND_ONE, COMPUTED)
        met = cuda.shared.array(AND_ONE, np.int32)
        times = cuda.shared.array(SIZE, np.int32)
        labels = cuda.shared.array(SIZE, np.int32)
    else:
        own = integers[MEMORY] + np.int64(cuda.blockIdx.x) * MEMORY_OF_BLOCK
        bounds = array_at(own, SIZE, COMPUTED)
        sums = array_at(own + 8 * SIZE, SIZE + 1, COMPUTED)
        met = array_at(own + 8 * (2 * SIZE + 1), SIZE + 1, np.int32)
        times = array_at(own + 8 * (3 * SIZE + 2), SIZE, np.int32)
        labels = array_at(own + 8 * (3 * SIZE + 2) + 4 * SIZE, SIZE, np.int32)

    total = COMPUTED(0.0)
    for row in range(np.int64(cuda.blockIdx.x), rows, np.int64(cuda.gridDim.x)):
        begin = row * classes
        score = array_at(integers[INPUT] + row * row_step * ITEM, extent - row * row_step, STORAGE)
        factor = floats[GRADIENT_SCALE]
        if HAS_GRAD_OUTPUT:
            factor = factor * widen(grad_output[row * GRAD_OUTPUT_STEP])
        count = copied(integers[TARGET] + LABEL_BYTES * begin, labels, classes, places)
        # How often each class is among the labels.
        for c in range(thread, classes, THREADS):
            times[c] = 0
        cuda.syncthreads()
        for t in range(thread, count, THREADS):
            count_up(times, labels[t])
        cuda.syncthreads()
        unbounded = np.int64(0)
        for c in range(thread, classes, THREADS):
            x = widen(score[c * step])
            if not x < COMPUTED(np.inf) or (times[c] > 0 and not x > -COMPUTED(np.inf)):
                unbounded = np.int64(1)
        unbounded = block_fold(larger, unbounded, places)
        half, levels = 1, 1
        while 2 * half <= count:
            half *= 2
            levels += 1
        sorting = SORTING * levels * levels * (half + WAITING)
        # Infinities and NaN have no order that would do.
        ordered = unbounded == 0 and count * classes > SEARCHING * classes * levels + sorting
        if ordered:
            value = by_order(
                score,
                step,
                labels,
                begin,
                count,
                half,
                classes,
                bounds,
                sums,
                met,
                times,
                memory,
                places,
                gradient,
                factor,
            )
        else:
            value = by_pairs(
                score, step, labels, begin, count, classes, bounds, times, gradient, factor
            )
        value = block_fold(add, value, memory) / COMPUTED(classes)
        if count < classes and labels[count] != -1:
            value = COMPUTED(np.nan)
            if thread == 0:
                report(
                    array_at(integers[ERRORS], 2, np.int64),
                    array_at(integers[SEEN], 1, np.int64),
                    label_at(integers[TARGET] + LABEL_BYTES * (begin + count)),
                )
            if NEEDS_GRAD:
                cuda.syncthreads()
                for c in range(thread, classes, THREADS):
                    gradient[begin + c] = narrow(COMPUTED(np.nan))
        if thread == 0:
            if EACH:
                values[row] = narrow(value)
            total += value
        cuda.syncthreads()  # the next row takes the same memory
    if SUMMED:
        store_partial(total, integers, floats[VALUE_SCALE], memory)


def make_plan(request: Request) -> Plan | None:
    """Choose a kernel and share the work; see :mod:`nbloss.engine.evaluate`."""
    laid = pairs.blocks(request)
    if laid is None:
        return None
    size = 2
    while size <= laid.columns:
        size *= 2
    itemsize = np.dtype(COMPUTING[request.dtype]).itemsize
    local = (2 * size + 1) * (itemsize + 4) + 4 * size <= SHARED
    memory = 0 if local else 8 * (4 * size + 2)
    threads = grid.WARP
    while threads < min(laid.columns, MOST_THREADS):
        threads *= 2
    kernel = specialize(
        template,
        pairs.scalars(request),
        request,
        laid,
        threads,
        helpers=(
            store_partial,
            count_up,
            copied,
            sort,
            sum_up,
            below,
            by_pairs,
            by_order,
        ),
        IN_SHARED=local,
        SIZE=size,
        AND_ONE=size + 1,
        MEMORY_OF_BLOCK=memory,
        GRAD_OUTPUT_STEP=step_of_grad_output(request),
        ITEM=np.dtype(STORED[request.dtype]).itemsize,
    )
    blocks = grid.blocks(laid.rows, 1)
    if memory:
        blocks = max(1, min(blocks, MOST_MEMORY // memory))
    main = Stage(kernel, blocks)
    return planned(
        request,
        pairs.value_shape(request),
        laid.integers,
        laid.floats,
        main,
        memory=memory * blocks,
    )


def source() -> str:
    """Give the source of the kernel, which is written by hand."""
    written = (copied, sort, sum_up, below, by_pairs, by_order, template)
    return "\n\n".join(inspect.getsource(function) for function in written)

"""Losses over all pairs of a target class and another class, on a device: a block takes a row.

As on the processor there are two ways: to go through the pairs, and for a hinge to put the labels'
bounds in order (see :mod:`nbloss.engine.patterns.ordering`). What a row needs in between lies in
shared memory if it fits. Counts are integers, so that the order of their atomic additions does not
matter; where numbers are summed, the order is that of the threads.
"""

import functools
from collections.abc import Callable
from inspect import getsource
from typing import cast

import numpy as np

from nbloss.codegen.blocks import GRADIENT_SCALE, VALUE_SCALE
from nbloss.codegen.emit_cuda import Share
from nbloss.codegen.emit_scalar import stated
from nbloss.codegen.memory import COMPUTED
from nbloss.engine import binding
from nbloss.engine.cuda import grid, runtime
from nbloss.engine.cuda.compiler import Kernel, device, digest, kernel_of, of_type
from nbloss.engine.cuda.plan import FIELDS as COMMON_FIELDS
from nbloss.engine.cuda.plan import MEMORY, Plan, Stage, planned
from nbloss.engine.patterns import pairs
from nbloss.engine.patterns.common import VALUE
from nbloss.engine.plan import Request
from nbloss.formula.registry import Definition

MOST_THREADS = grid.THREADS
# What it costs to have the labels in order, in pairs: for each class and each bit of the number of
# labels; for each pair of bounds and each step of the sort, which takes as long as some of them.
SEARCHING = 2
SORTING = 1
WAITING = 4 * MOST_THREADS
SHARED = 42 << 10  # bytes of shared memory, of the 48 kB that every device has, for a row
MOST_MEMORY = 1 << 28  # bytes of other memory, for all blocks


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
        place = int64(base + cuda.threadIdx.x)
        found = int64(classes)
        if place < classes:
            label = read_once(begin + 8 * place)
            if label < 0 or label >= classes:
                found = place
                label = int64(-1 if label == -1 else -2)
            labels[place] = int32(label)
        found = min_over_block(found, memory)
        if found < classes:
            return found
    return int64(classes)


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
            slope = sum_over_warp(slope)
            if t < count and thread % WARP == 0:
                label = labels[t]
                gradient[begin + label] = narrow(factor * slope * real(times[label]))
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
    thread = cuda.threadIdx.x
    for t in range(thread, 2 * half, THREADS):
        bound = inf
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
                value += real(exceeded) * (number - origin) - sums[exceeded]
            if NEEDS_GRAD:
                count_up(met, exceeded)
                gradient[begin + c] = narrow(factor * real(exceeded))
    if NEEDS_GRAD:
        cuda.syncthreads()
        sum_up(met, count + 1, run, places, int64(0))
        others = met[count]
        for t in range(thread, count, THREADS):
            label = labels[t]
            rank = below(bounds, half, -hinge(widen(score[label * step])))
            pull = real(others - met[rank]) * real(times[label])
            gradient[begin + label] = narrow(-factor * pull)
    return value


def multilabel_margin_loss(call, numbers):
    """Do a number of rows, each by a block."""
    rows, classes, step = call.rows, call.columns, call.input_step
    all_scores = pointer(call.input, stored)
    gradient = pointer(call.grad_input, stored)
    values = pointer(call.values, stored)
    grad_output = pointer(call.grad_output, stored)
    thread = cuda.threadIdx.x
    memory = cuda.shared.array(THREADS, real)
    places = cuda.shared.array(THREADS, int64)
    if IN_SHARED:
        bounds = cuda.shared.array(SIZE, real)
        sums = cuda.shared.array(AND_ONE, real)
        met = cuda.shared.array(AND_ONE, int32)
        times = cuda.shared.array(SIZE, int32)
        labels = cuda.shared.array(SIZE, int32)
    else:
        own = call.memory + int64(cuda.blockIdx.x) * MEMORY_OF_BLOCK
        bounds = pointer(own, real)
        sums = pointer(own + 8 * SIZE, real)
        met = pointer(own + 8 * (2 * SIZE + 1), int32)
        times = pointer(own + 8 * (3 * SIZE + 2), int32)
        labels = pointer(own + 8 * (3 * SIZE + 2) + 4 * SIZE, int32)

    total = zero
    for row in range(int64(cuda.blockIdx.x), rows, int64(cuda.gridDim.x)):
        begin = row * classes
        score = offset(all_scores, row * call.input_row_step)
        factor = numbers.gradient_factor
        if HAS_GRAD_OUTPUT:
            factor = factor * widen(grad_output[row * call.grad_output_row_step])
        count = copied(call.target + 8 * begin, labels, classes, places)
        # How often each class is among the labels.
        for c in range(thread, classes, THREADS):
            times[c] = 0
        cuda.syncthreads()
        for t in range(thread, count, THREADS):
            count_up(times, labels[t])
        cuda.syncthreads()
        unbounded = int64(0)
        for c in range(thread, classes, THREADS):
            x = widen(score[c * step])
            if not x < inf or (times[c] > 0 and not x > -inf):
                unbounded = int64(1)
        unbounded = max_over_block(unbounded, places)
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
        value = sum_over_block(value, memory) / real(classes)
        if count < classes and labels[count] != -1:
            value = nan
            if thread == 0:
                report(call.errors, call.seen, read_once(call.target + 8 * (begin + count)))
            if NEEDS_GRAD:
                cuda.syncthreads()
                for c in range(thread, classes, THREADS):
                    gradient[begin + c] = narrow(nan)
        if thread == 0:
            if EACH:
                values[row] = narrow(value)
            total += value
        cuda.syncthreads()  # the next row takes the same memory
    if SUMMED:
        total = numbers.value_factor * sum_over_block(total, memory)
        store_sum(total, call.values, call.partials, call.weight_blocks)


def make_plan(request: Request) -> Plan | None:
    """Choose a kernel and share the work; see :mod:`nbloss.engine.evaluate`."""
    laid = pairs.blocks(request)
    if laid is None:
        return None
    size = 2
    while size <= laid.columns:
        size *= 2
    itemsize = np.dtype(COMPUTED[request.dtype]).itemsize
    in_shared = (2 * size + 1) * (itemsize + 4) + 4 * size <= SHARED
    memory = 0 if in_shared else 8 * (4 * size + 2)
    threads = grid.WARP
    while threads < min(laid.columns, MOST_THREADS):
        threads *= 2
    constants = {
        "IN_SHARED": in_shared,
        "SIZE": size,
        "AND_ONE": size + 1,
        "MEMORY_OF_BLOCK": memory,
        "NEEDS_GRAD": request.needs_grad[0],
        "HAS_GRAD_OUTPUT": request.grad_output is not None,
        "EACH": request.value == "each",
        "SUMMED": request.value == "sum",
        "SEARCHING": SEARCHING,
        "SORTING": SORTING,
        "WAITING": WAITING,
    }
    kernel = kernel_for(request.definition, request.dtype, threads, tuple(constants.items()))
    blocks = grid.blocks(laid.rows, 1)
    if memory:
        blocks = max(1, min(blocks, MOST_MEMORY // memory))
    return planned(
        request,
        pairs.value_shape(request),
        laid.integers,
        laid.floats,
        Stage(kernel, blocks),
        memory=memory * blocks,
    )


@functools.lru_cache(maxsize=1024)
def kernel_for(definition: Definition, dtype: str, threads: int, constants: tuple) -> Kernel:
    """Give the kernel of a loss for one way of using it."""
    share = Share(threads, threads, 1, False, warp=grid.WARP)
    suffix = digest(WRITTEN, stated(definition), definition.hinge, dtype, share, constants)
    build = functools.partial(_build, definition, dtype, share, constants)
    name = f"{definition.name}_{suffix}"
    return kernel_of(name, dtype, threads, build, {**FIELDS, **COMMON_FIELDS}, NUMBERS)


def _build(definition: Definition, dtype: str, share: Share, constants: tuple) -> Callable:
    """Give the names in the functions above their meanings, one after the other."""
    real = COMPUTED[dtype]
    made = {
        **runtime.names(dtype, share),
        **dict(constants),
        "loss": of_type(stated(definition), real),
        "hinge": of_type(cast(Callable, definition.hinge), real),
    }
    for function in WRITTEN:
        made[function.__name__] = device(binding.rebind(function, made))
    return binding.rebind(multilabel_margin_loss, made)


WRITTEN = (count_up, copied, sort, sum_up, below, by_pairs, by_order)
# The places of the integers, by their names.
FIELDS = {
    "values": VALUE,
    "rows": pairs.ROWS,
    "columns": pairs.CLASSES,
    "input": pairs.INPUT,
    "input_row_step": pairs.ROW_STEP,
    "input_step": pairs.CLASS_STEP,
    "target": pairs.TARGET,
    "grad_input": pairs.GRADIENT,
    "grad_output": pairs.GRAD_OUTPUT_PLACE,
    "grad_output_row_step": pairs.GRAD_OUTPUT_STEP,
    "memory": MEMORY,
}
NUMBERS = {"value_factor": VALUE_SCALE, "gradient_factor": GRADIENT_SCALE}


def source() -> str:
    """Give the source of the kernel, which is written by hand."""
    written = (*WRITTEN, multilabel_margin_loss)
    return "\n\n".join(getsource(function) for function in written)

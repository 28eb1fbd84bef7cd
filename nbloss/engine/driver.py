"""Runs a worker over its chunks, one after the other or on all cores.

How the work is cut into chunks depends on its shape alone, and each chunk writes only what is its
own: results are the same to the bit for any number of threads.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

from nbloss.engine import binding, cache, compiler, threads
from nbloss.engine.memory import call_worker

INTEGERS = 64  # length of a worker's block of integers
PARTIALS = INTEGERS - 1  # where the driver puts the address of the partial sums
FLOATS = 8  # length of its block of floats

# Entering a parallel region costs 2 to 4 microseconds, and waking the threads more.
PARALLEL_FROM = 1 << 15


def _blocks(integers, floats, partials):
    block = np.zeros(INTEGERS, np.int64)
    for i in range(len(integers)):
        block[i] = integers[i]
    parameters = np.zeros(FLOATS, np.float64)
    for i in range(len(floats)):
        parameters[i] = floats[i]
    sums = np.empty(partials, np.float64)
    block[PARTIALS] = sums.ctypes.data
    return block, parameters, sums


def _serial(worker, chunks, combiner, combinations, partials, integers, floats):
    block, parameters, sums = blocks(integers, floats, partials)
    for chunk in range(chunks):
        call_worker(worker, block.ctypes.data, parameters.ctypes.data, chunk)
    for chunk in range(combinations):
        call_worker(combiner, block.ctypes.data, parameters.ctypes.data, chunk)
    return sums.size  # keeps the sums alive until here


def _parallel(worker, chunks, combiner, combinations, partials, integers, floats):
    block, parameters, sums = blocks(integers, floats, partials)
    for chunk in numba.prange(chunks):
        call_worker(worker, block.ctypes.data, parameters.ctypes.data, chunk)
    for chunk in range(combinations):
        call_worker(combiner, block.ctypes.data, parameters.ctypes.data, chunk)
    return sums.size


def _interpreted(worker, chunks, combiner, combinations, partials, integers, floats):
    """Do the same without Numba, for workers that are plain Python."""
    block, parameters, sums = _blocks(integers, floats, partials)
    with np.errstate(all="ignore"):
        for chunk in range(chunks):
            worker(block, parameters, chunk)
        for chunk in range(combinations):
            combiner(block, parameters, chunk)
    return sums.size


@functools.cache
def _compiled(function: Callable, arity: int, parallel: bool) -> Callable:
    """Compile a driver for a number of integers; the floats always come to the full count."""
    if numba.config.DISABLE_JIT:
        return _interpreted
    suffix = f"_{arity}_{binding.digest(function, _blocks, compiler.BOUNDSCHECK)}"
    bound = binding.rebind(function, {"blocks": numba.njit(_blocks)}, suffix)
    dispatcher = numba.njit(nogil=True, parallel=parallel)(bound)
    dispatcher._cache = cache.kernel_cache(bound)
    word = types.int64
    dispatcher.compile(
        (*(word,) * 5, types.UniTuple(word, arity), types.UniTuple(types.float64, FLOATS))
    )
    dispatcher.disable_compile()
    return dispatcher


def run(
    worker: Any,
    chunks: int,
    integers: tuple[int, ...],
    floats: tuple[float, ...],
    combiner: Any = 0,
    combinations: int = 0,
    partials: int = 0,
    work: int = 0,
    most_threads: int = 1 << 30,
) -> None:
    """Run a worker over its chunks, then the combiner over its own.

    Parameters
    ----------
    worker, combiner : int or function
        What :func:`nbloss.engine.compiler.worker` gave.
    chunks, combinations : int
        How many chunks each has.
    integers, floats : tuple
        The blocks that every call of the worker and the combiner sees.
    partials : int
        How many float64 the workers share; their address comes last in the integers.
    work : int
        How many elements there are, to tell whether threads pay.
    most_threads : int
        Use no more than so many.
    """
    if len(integers) > PARTIALS or len(floats) > FLOATS:
        raise ValueError(
            f"a kernel takes at most {PARTIALS} integers and {FLOATS} floats, "
            f"got {len(integers)} and {len(floats)}: the loss has too many operands or parameters"
        )
    floats = floats + (0.0,) * (FLOATS - len(floats))
    count = 1
    if work >= PARALLEL_FROM and chunks > 1:
        count = min(threads.available(), most_threads)
    if count > 1:
        integers = integers + (0,) * (PARTIALS - len(integers))
        with threads.launch(count):
            drive = _compiled(_parallel, PARTIALS, True)
            drive(worker, chunks, combiner, combinations, partials, integers, floats)
    else:
        # A few lengths for all, so that few drivers are compiled.
        integers = integers + (0,) * (-len(integers) % 8)
        drive = _compiled(_serial, len(integers), False)
        drive(worker, chunks, combiner, combinations, partials, integers, floats)

"""Runs a launch: its stages over their chunks, one after the other or on all cores.

How the work is cut into chunks depends on its shape alone, and each chunk writes only what is its
own: results are the same to the bit for any number of threads.
"""

import functools
from collections.abc import Callable

import numba
import numpy as np
from numba import types

from nbloss.engine import binding, cache, compiler, launch, threads
from nbloss.engine.launch import Launch
from nbloss.engine.memory import array_at, call_worker


def _blocks(record, scale, addresses):
    """Copy a record's blocks for one call, with the addresses in their places."""
    plan = array_at(record, launch.RECORD, np.int64)
    block = np.empty(launch.INTEGERS, np.int64)
    for i in range(launch.INTEGERS):
        block[i] = plan[launch.FIRST_INTEGER + i]
    for i in range(plan[launch.SLOTS]):
        place = plan[launch.FIRST_SLOT + 2 * i]
        block[place] = addresses[plan[launch.FIRST_SLOT + 2 * i + 1]]
    stored = array_at(record + 8 * launch.FIRST_FLOAT, launch.FLOATS, np.float64)
    floats = np.empty(launch.FLOATS, np.float64)
    for i in range(launch.FLOATS):
        floats[i] = stored[i]
    floats[launch.GRADIENT_SCALE] *= scale
    sums = np.empty(plan[launch.SUMS], np.float64)
    block[launch.PARTIALS] = sums.ctypes.data
    return plan, block, floats, sums


def _serial(record, scale, addresses):
    plan, block, floats, sums = blocks(record, scale, addresses)
    integers, numbers = block.ctypes.data, floats.ctypes.data
    if plan[launch.WALKS] > 0:
        for chunk in range(plan[launch.WALKS]):
            call_worker(plan[launch.WALK], integers, numbers, chunk)
        call_worker(plan[launch.GATHER], integers, numbers, 0)
    bad = block[launch.FIRST_BAD]
    if bad < 0:
        for chunk in range(plan[launch.WORKS]):
            call_worker(plan[launch.WORKER], integers, numbers, chunk)
        for chunk in range(plan[launch.COMBINATIONS]):
            call_worker(plan[launch.COMBINER], integers, numbers, chunk)
    return bad + 0 * (block.size + floats.size + sums.size)  # keeps them alive until here


def _parallel(record, scale, addresses):
    plan, block, floats, sums = blocks(record, scale, addresses)
    integers, numbers = block.ctypes.data, floats.ctypes.data
    walk, worker = plan[launch.WALK], plan[launch.WORKER]
    if plan[launch.WALKS] > 0:
        for chunk in numba.prange(plan[launch.WALKS]):
            call_worker(walk, integers, numbers, chunk)
        call_worker(plan[launch.GATHER], integers, numbers, 0)
    bad = block[launch.FIRST_BAD]
    if bad < 0:
        for chunk in numba.prange(plan[launch.WORKS]):
            call_worker(worker, integers, numbers, chunk)
        for chunk in range(plan[launch.COMBINATIONS]):
            call_worker(plan[launch.COMBINER], integers, numbers, chunk)
    return bad + 0 * (block.size + floats.size + sums.size)


def _interpreted(ready: Launch, scale: float, addresses: tuple[int, ...]) -> int:
    """Do the same without Numba, for workers that are plain Python."""
    _, block, floats, sums = _blocks(ready.address, scale, addresses)
    with np.errstate(all="ignore"):
        for stage in (ready.survey, ready.main):
            for chunk in range(stage.pieces):
                stage.worker(block, floats, chunk)
            for chunk in range(stage.combinations):
                stage.combiner(block, floats, chunk)
            if block[launch.FIRST_BAD] >= 0:
                break
    return int(block[launch.FIRST_BAD]) + 0 * sums.size


@functools.cache
def _compiled(function: Callable, arity: int, parallel: bool) -> Callable:
    """Compile a driver for a number of addresses."""
    suffix = f"_{arity}_{binding.digest(function, _blocks, compiler.BOUNDSCHECK)}"
    bound = binding.rebind(function, {"blocks": numba.njit(_blocks)}, suffix)
    dispatcher = numba.njit(nogil=True, parallel=parallel)(bound)
    dispatcher._cache = cache.kernel_cache(bound)
    dispatcher.compile((types.int64, types.float64, types.UniTuple(types.int64, arity)))
    dispatcher.disable_compile()
    return dispatcher


def run(ready: Launch, scale: float, addresses: tuple[int, ...], most_threads: int) -> int:
    """Run a launch on memory.

    Parameters
    ----------
    ready : Launch
    scale : float
        A further factor of all gradients.
    addresses : tuple of int
        Where the value, the gradient from above, the operands, the constants and the gradients lie;
        0 for what there is not.
    most_threads : int
        Use no more than so many.

    Returns
    -------
    int
        The place of the first label that is out of range, which has kept the kernel from running;
        -1 if there is none.
    """
    addresses = addresses + ready.padding
    if numba.config.DISABLE_JIT:
        return _interpreted(ready, scale, addresses)
    if ready.parallel:
        count = min(threads.available(), most_threads)
        if count > 1:
            with threads.launch(count):
                return _compiled(_parallel, len(addresses), True)(ready.address, scale, addresses)
    return _compiled(_serial, len(addresses), False)(ready.address, scale, addresses)

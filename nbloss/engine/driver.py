"""Runs a launch: its stages over their chunks, one after the other or on all cores.

How the work is cut into chunks depends on its shape alone, and each chunk writes only what is its
own: results are the same to the bit for any number of threads.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

from nbloss.engine import binding, cache, compiler, launch, threads
from nbloss.engine.launch import Launch
from nbloss.engine.memory import array_at, call_worker

# Chunks of labels that take longer to survey alone than it takes to wake the threads.
MANY_WALKS = 4


def _blocks(record, scale, addresses):
    """Copy a record's blocks for one call, with the addresses in their places.

    They lie in one piece of memory together with the partial sums, and live as long as any of them.
    """
    plan = array_at(record, launch.RECORD, np.int64)
    memory = np.empty(launch.INTEGERS + launch.FLOATS + plan[launch.SUMS], np.int64)
    block = memory[: launch.INTEGERS]
    for i in range(launch.INTEGERS):
        block[i] = plan[launch.FIRST_INTEGER + i]
    for i in range(plan[launch.SLOTS]):
        place = plan[launch.FIRST_SLOT + 2 * i]
        block[place] = addresses[plan[launch.FIRST_SLOT + 2 * i + 1]]
    stored = array_at(record + 8 * launch.FIRST_FLOAT, launch.FLOATS, np.float64)
    floats = memory[launch.INTEGERS : launch.INTEGERS + launch.FLOATS].view(np.float64)
    for i in range(launch.FLOATS):
        floats[i] = stored[i]
    floats[launch.GRADIENT_SCALE] *= scale
    sums = memory[launch.INTEGERS + launch.FLOATS :]
    block[launch.PARTIALS] = sums.ctypes.data
    return plan, block, floats


def _serial(record, scale, addresses):
    plan, block, floats = blocks(record, scale, addresses)
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
    return block[launch.FIRST_BAD] + 0 * floats.size  # keeps them alive until here


def _parallel(record, scale, addresses):
    plan, block, floats = blocks(record, scale, addresses)
    integers, numbers = block.ctypes.data, floats.ctypes.data
    walk, worker = plan[launch.WALK], plan[launch.WORKER]
    walks = plan[launch.WALKS]
    if walks > 0:
        if walks < MANY_WALKS:
            for chunk in range(walks):
                call_worker(walk, integers, numbers, chunk)
        else:
            for chunk in numba.prange(walks):
                call_worker(walk, integers, numbers, chunk)
        call_worker(plan[launch.GATHER], integers, numbers, 0)
    bad = block[launch.FIRST_BAD]
    if bad < 0:
        for chunk in numba.prange(plan[launch.WORKS]):
            call_worker(worker, integers, numbers, chunk)
        for chunk in range(plan[launch.COMBINATIONS]):
            call_worker(plan[launch.COMBINER], integers, numbers, chunk)
    return block[launch.FIRST_BAD] + 0 * floats.size


def _interpreted(ready: Launch, scale: float, addresses: tuple[int, ...]) -> int:
    """Do the same without Numba, for workers that are plain Python."""
    _, block, floats = _blocks(ready.address, scale, addresses)
    with np.errstate(all="ignore"):
        for stage in (ready.survey, ready.main):
            for chunk in range(stage.pieces):
                stage.worker(block, floats, chunk)
            for chunk in range(stage.combinations):
                stage.combiner(block, floats, chunk)
            if block[launch.FIRST_BAD] >= 0:
                break
    return int(block[launch.FIRST_BAD])


# The machine code lives as long as the object that holds it.
_keep_alive: list[Any] = []


@functools.cache
def _compiled(function: Callable, arity: int, parallel: bool) -> Callable:
    """Compile a driver for a number of addresses."""
    if parallel:
        threads.start()  # or Numba would, without the care
    suffix = f"_{arity}_{binding.digest(function, _blocks, compiler.BOUNDSCHECK)}"
    bound = binding.rebind(function, {"blocks": numba.njit(_blocks)}, suffix)
    dispatcher = numba.njit(nogil=True, parallel=parallel)(bound)
    dispatcher._cache = cache.kernel_cache(bound)
    with compiler.alone():
        dispatcher.compile((types.int64, types.float64, types.UniTuple(types.int64, arity)))
    # The machine code itself: the dispatcher would look at the types of the arguments each time.
    (compiled,) = dispatcher.overloads.values()
    _keep_alive.append(dispatcher)
    return compiled.entry_point


def run(
    ready: Launch, scale: float, addresses: tuple[int, ...], most_threads: Callable[[], int]
) -> int:
    """Run a launch on memory.

    Parameters
    ----------
    ready : Launch
    scale : float
        A further factor of all gradients.
    addresses : tuple of int
        Where the arrays lie, in the order of :func:`nbloss.engine.launch.order`.
    most_threads : function
        Tells how many threads to use at most.

    Returns
    -------
    int
        The place of the first label that is out of range, which has kept the kernel from running.
        If there is none, ``launch.NO_MEMORY`` if a worker found no memory, or else
        ``launch.NOTHING_BAD``.
    """
    if numba.config.DISABLE_JIT:
        return _interpreted(ready, scale, addresses)
    if ready.parallel:
        available = threads.available()
        count = min(available, most_threads())
        if count > 1:
            parallel = _compiled(_parallel, len(addresses), True)
            if count == available and threads.arranged():
                return parallel(ready.address, scale, addresses)
            with threads.launch(count):
                return parallel(ready.address, scale, addresses)
    serial = _compiled(_serial, len(addresses), False)
    if not ready.parallel:
        ready.quick = serial
    return serial(ready.address, scale, addresses)

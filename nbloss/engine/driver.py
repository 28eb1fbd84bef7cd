"""Runs a plan: its stages over their chunks, one after the other or on all cores.

How the work is cut into chunks depends on its shape alone, and each chunk writes only what is its
own: results are the same to the bit for any number of threads.

The driver is compiled in the first call of a process, and waited for: it is written in few and
simple words. Numba's ``prange`` would take a second to compile; what it comes down to, a call of
the threading layer, is made here.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbloss.codegen import memory
from nbloss.codegen.blocks import FLOATS, GRADIENT_SCALE, INTEGERS, PARTIALS
from nbloss.codegen.memory import allocate, pointer, release
from nbloss.engine import binding, cache, compiler, threads
from nbloss.engine.plan import (
    COMBINATIONS,
    COMBINER,
    FIRST_BAD,
    FIRST_FLOAT,
    FIRST_INTEGER,
    FIRST_SLOT,
    GATHERER,
    NO_MEMORY,
    POOL,
    SLOTS,
    SUMS,
    VALIDATIONS,
    VALIDATOR,
    WORKER,
    WORKS,
    Plan,
)

# Chunks of labels that take longer to validate alone than it takes to wake the threads.
MANY_VALIDATIONS = 4
WORD = ir.IntType(64)
PLACE = WORD.as_pointer()
BYTES = ir.IntType(8).as_pointer()


def _part(module: ir.Module) -> ir.Function:
    """Write the function that a thread runs: a worker over its part of the chunks.

    It is called as the layers call the kernels of ``guvectorize``: with addresses that have been
    moved on by so many steps as there are parts before, and with the number of parts to do.
    """
    name = "nbloss_part"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(ir.VoidType(), [PLACE, PLACE, PLACE, PLACE])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    addresses, counts, _, work = function.args
    worker, integers, floats, chunks, parts = (
        builder.load(cgutils.gep(builder, work, k)) for k in range(5)
    )
    first = builder.sub(builder.load(addresses), integers)
    ends = first, builder.add(first, builder.load(counts))
    start, stop = (builder.sdiv(builder.mul(end, chunks), parts) for end in ends)
    worker = builder.inttoptr(worker, ir.FunctionType(ir.VoidType(), [WORD] * 3).as_pointer())
    with cgutils.for_range_slice(builder, start, stop, WORD(1)) as (chunk, _):
        builder.call(worker, [integers, floats, chunk])
    builder.ret_void()
    return function


@intrinsic
def run_chunks(typingctx, pool, worker, integers, floats, chunks):
    """Run a compiled worker over its chunks: alone, or on the threads of the layer at `pool`.

    At `pool` lie the addresses of the layer's function that runs parts on threads, and of the one
    that says how many threads there are.
    """

    def codegen(context, builder, signature, arguments):
        pool, worker, integers, floats, chunks = arguments
        part = _part(builder.module)
        block = [cgutils.alloca_once(builder, WORD, size=size) for size in (5, 1, 1, 1)]
        work, addresses, counts, steps = block
        for k, value in enumerate((worker, integers, floats, chunks)):
            builder.store(value, cgutils.gep(builder, work, k))
        parts = cgutils.gep(builder, work, 4)
        builder.store(integers, addresses)
        builder.store(WORD(1), steps)
        alone = builder.icmp_signed("==", pool, WORD(0))
        with builder.if_else(alone) as (then, otherwise):
            with then:
                builder.store(WORD(1), parts)
                builder.store(WORD(1), counts)
                builder.call(part, [addresses, counts, steps, work])
            with otherwise:
                functions = builder.inttoptr(pool, PLACE)
                run, ask = (builder.load(cgutils.gep(builder, functions, k)) for k in range(2))
                kind = ir.FunctionType(ir.IntType(32), []).as_pointer()
                count = builder.sext(builder.call(builder.inttoptr(ask, kind), []), WORD)
                builder.store(count, parts)
                builder.store(count, counts)
                kind = ir.FunctionType(ir.VoidType(), [BYTES] * 5 + [WORD] * 3).as_pointer()
                given = [builder.bitcast(x, BYTES) for x in (part, addresses, counts, steps, work)]
                builder.call(builder.inttoptr(run, kind), [*given, WORD(0), WORD(1), count])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


def _drive(record, scale, addresses):
    """Copy a record's blocks for one call, with the addresses in their places, and run its stages.

    The blocks lie in one piece of memory together with the partial sums.
    """
    stages = pointer(record, np.int64)
    place = allocate(8 * (INTEGERS + FLOATS + stages[SUMS]))
    if place == 0:
        return NO_MEMORY
    numbers = place + 8 * INTEGERS
    block, floats = pointer(place, np.int64), pointer(numbers, np.float64)
    for i in range(INTEGERS):
        block[i] = stages[FIRST_INTEGER + i]
    for i in range(FIRST_SLOT, FIRST_SLOT + 2 * stages[SLOTS], 2):
        block[stages[i]] = addresses[stages[i + 1]]
    block[PARTIALS] = numbers + 8 * FLOATS
    stored = pointer(record + 8 * FIRST_FLOAT, np.float64)
    for i in range(FLOATS):
        floats[i] = stored[i]
    floats[GRADIENT_SCALE] *= scale
    pool = stages[POOL]
    if stages[VALIDATIONS] > 0:
        shared = pool if stages[VALIDATIONS] >= MANY_VALIDATIONS else 0
        run_chunks(shared, stages[VALIDATOR], place, numbers, stages[VALIDATIONS])
        run_chunks(0, stages[GATHERER], place, numbers, 1)
    if block[FIRST_BAD] < 0:
        run_chunks(pool, stages[WORKER], place, numbers, stages[WORKS])
        run_chunks(0, stages[COMBINER], place, numbers, stages[COMBINATIONS])
    bad = block[FIRST_BAD]
    release(place)
    return bad


def _interpreted(plan: Plan, scale: float, addresses: tuple[int, ...]) -> int:
    """Do the same without Numba, for workers that are plain Python."""
    stages = plan.record
    block = stages[FIRST_INTEGER:FIRST_FLOAT].copy()
    slots = stages[FIRST_SLOT : FIRST_SLOT + 2 * stages[SLOTS]]
    block[slots[::2]] = np.take(addresses, slots[1::2])
    floats = stages[FIRST_FLOAT:].view(np.float64).copy()
    floats[GRADIENT_SCALE] *= scale
    sums = np.empty(stages[SUMS])
    block[PARTIALS] = sums.ctypes.data
    with np.errstate(all="ignore"):
        for stage in (plan.validation, plan.main):
            for chunk in range(stage.pieces):
                stage.worker(block, floats, chunk)
            for chunk in range(stage.combinations):
                stage.combiner(block, floats, chunk)
            if block[FIRST_BAD] >= 0:
                break
    return int(block[FIRST_BAD])


# The machine code lives as long as the object that holds it.
_keep_alive: list[Any] = []


@functools.cache
def _compiled(arity: int) -> Callable:
    """Compile the driver for a number of addresses."""
    suffix = f"_{arity}_{binding.digest(_drive, compiler.BOUNDSCHECK)}"
    bound = binding.rebind(_drive, memory.INSTRUCTIONS, suffix)
    dispatcher = numba.njit(nogil=True)(bound)
    dispatcher._cache = cache.kernel_cache(bound)
    with compiler.alone():
        dispatcher.compile((types.int64, types.float64, types.UniTuple(types.int64, arity)))
    # The machine code itself: the dispatcher would look at the types of the arguments each time.
    (compiled,) = dispatcher.overloads.values()
    _keep_alive.append(dispatcher)
    return compiled.entry_point


def run(
    plan: Plan, scale: float, addresses: tuple[int, ...], most_threads: Callable[[], int]
) -> int:
    """Run a plan on memory.

    Parameters
    ----------
    plan : Plan
    scale : float
        A further factor of all gradients.
    addresses : tuple of int
        Where the arrays lie, in the order of :func:`nbloss.engine.plan.order`.
    most_threads : function
        Tells how many threads to use at most.

    Returns
    -------
    int
        The place of the first label that is out of range, which has kept the kernel from running.
        If there is none, ``NO_MEMORY`` if a worker found no memory, or else
        ``NOTHING_BAD``.
    """
    if numba.config.DISABLE_JIT:
        return _interpreted(plan, scale, addresses)
    drive = _compiled(len(addresses))
    if plan.parallel:
        available = threads.available()
        count = min(available, most_threads())
        if count > 1:
            shared = plan.shared
            if shared is None:
                shared = plan.record.copy()
                shared[POOL] = threads.pool()
                plan.shared = shared
            if count == available and threads.arranged():
                return drive(shared.ctypes.data, scale, addresses)
            with threads.launch(count):
                return drive(shared.ctypes.data, scale, addresses)
    else:
        plan.quick = drive
    return drive(plan.address, scale, addresses)

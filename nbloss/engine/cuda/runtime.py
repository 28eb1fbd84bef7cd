"""What the sources of kernels call on a device: numbers, memory, and what threads do together.

Every result is the same to the bit in each run: what is added to what depends on the numbers of the
threads alone. All threads of a block call the folds together.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nbloss.codegen import runtime
from nbloss.codegen.emit_cuda import Share
from nbloss.codegen.memory import COMPUTED, STORED, label_at
from nbloss.engine import binding, scalars
from nbloss.engine.cuda import compiler
from nbloss.engine.cuda.compiler import SIMULATED, device

MOST_32 = 1 << 31  # what is divided in 32 bits, which is much quicker


# --- what threads do together: global names are bound in `names` ----------------------------------


def fold_of_warp(x):
    """Fold what each WIDTH threads of a warp hold; each of them gets the result."""
    distance = 1
    while distance < WIDTH:
        x = merge(x, shuffle(x, distance))
        distance *= 2
    return x


def fold_of_few(x, shared):
    return fold_of_warp(x)


def fold_of_block(x, shared):
    """Fold what the threads of a block hold; each of them gets the result."""
    x = fold_of_warp(x)
    thread = cuda.threadIdx.x
    cuda.syncthreads()  # the last result may still be read
    if thread % WIDTH == 0:
        shared[thread // WIDTH] = x
    cuda.syncthreads()
    x = shared[0]
    for warp in range(1, WARPS):
        x = merge(x, shared[warp])
    return x


def fold_across(x, shared):
    """Fold what the threads of a row hold that are as far apart as a block has rows."""
    thread = cuda.threadIdx.x
    row = thread % ROWS_PER_BLOCK
    cuda.syncthreads()  # the last result may still be read
    shared[thread] = x
    cuda.syncthreads()
    x = shared[row]
    for lane in range(1, THREADS_PER_ROW):
        x = merge(x, shared[lane * ROWS_PER_BLOCK + row])
    return x


def store_weights(total, partials):
    """Leave the sum of a block."""
    if cuda.threadIdx.x == 0:
        pointer(partials, real)[cuda.blockIdx.x] = total


def sum_of_weights(partials, weight_blocks, shared):
    """Add up the blocks' sums of weights, in the order of their numbers."""
    total = zero
    place = int64(cuda.threadIdx.x)
    while place < weight_blocks:
        total += pointer(partials, real)[place]
        place += THREADS
    return sum_over_block(total, shared)


def store_sum(total, values, partials, weight_blocks):
    """Store the sum of all threads, or leave what a block has of it for :func:`add_up`."""
    if cuda.threadIdx.x == 0:
        if cuda.gridDim.x == 1:
            pointer(values, stored)[0] = narrow(total)
        else:
            pointer(partials, real)[weight_blocks + cuda.blockIdx.x] = total


def add_up(call, numbers):
    """Add up what the blocks have left, in the order of their numbers: one block does."""
    shared = cuda.shared.array(WARPS, real)
    total = zero
    place = int64(cuda.threadIdx.x)
    while place < call.partial_count:
        total += pointer(call.partials, real)[call.weight_blocks + place]
        place += THREADS
    total = sum_over_block(total, shared)
    if cuda.threadIdx.x == 0:
        pointer(call.values, stored)[0] = narrow(total)


def report(errors, seen, label):
    """Leave word of a label that is out of range, for the next call to find."""
    pointer(errors, int64)[1] = label
    cuda.threadfence_system()  # a reader that sees the first of these sees the label, too
    pointer(errors, int64)[0] = 1
    cuda.threadfence_system()
    pointer(seen, int64)[0] = 1


# --- numbers --------------------------------------------------------------------------------------


def add(x, y):
    return x + y


def larger(x, y):
    return x if x > y else y


def masked(condition, x):
    return x if condition else 0.0


def direction(x):
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)


def floor_divide_32(x, y):
    return int64(uint32(x) // uint32(y))


def floor_divide_64(x, y):
    return int64(uint64(x) // uint64(y))


MERGES = {"sum": add, "max": scalars.maximum, "min": scalars.minimum}
OF_NUMBERS = {**binding.SCALARS, "larger": larger, "masked": masked, "direction": direction}
SHARED = (store_weights, sum_of_weights, store_sum, report)


@functools.cache
def of_numbers(dtype: str) -> dict[str, Any]:
    """Give the functions of numbers, and what reads and writes them, for kernels of a type."""
    real = COMPUTED[dtype]
    made = {
        "cuda": compiler.part(),
        "float32": np.float32,
        "float64": np.float64,
        "int64": np.int64,
        "uint32": np.uint32,
        "uint64": np.uint64,
        "int32": np.int32,
        "real": real,
        "zero": real(0.0),
        "inf": real(np.inf),
        "nan": real(np.nan),
        "stored": STORED[dtype],
        "widen": compiler.widen(dtype),
        "narrow": compiler.narrow(dtype),
        "shuffle": compiler.shuffle(),
        "add_one": compiler.add_one(),
        **{name: compiler.of_type(function, real) for name, function in OF_NUMBERS.items()},
    }
    if SIMULATED:
        same = runtime.INTERPRETED
        made |= {name: same[name] for name in ("offset", "pointer")}
        made["read_once"] = label_at
        return made
    own = compiler.instructions()
    return {
        **made,
        "offset": own["offset"],
        "pointer": own["pointer"],
        "read_once": own["load_once"],
    }


@functools.cache
def names(dtype: str, share: Share, in_32_bits: bool = True) -> dict[str, Any]:
    """Give what the names in a source mean, for kernels of a type and a way to share the work."""
    made = dict(of_numbers(dtype))
    warps, few = share.threads // share.warp, share.threads_per_row
    made |= {
        "THREADS": share.threads,
        "WARP": share.warp,
        "WARPS": warps,
        "ROWS_PER_BLOCK": share.rows_per_block,
        "THREADS_PER_ROW": few,
    }

    def bound(function: Callable, **more: Any) -> Any:
        return device(binding.rebind(function, {**made, **more}))

    made["floor_divide"] = bound(floor_divide_32 if in_32_bits else floor_divide_64)
    for kind, merge in MERGES.items():
        merge = compiler.of_type(merge, COMPUTED[dtype])
        of_warp = bound(fold_of_warp, WIDTH=share.warp, merge=merge)
        block = bound(fold_of_block, WIDTH=share.warp, merge=merge, fold_of_warp=of_warp)
        row = block
        if share.across:
            row = bound(fold_across, merge=merge)
        elif few <= share.warp:
            of_few = bound(fold_of_warp, WIDTH=few, merge=merge)
            row = bound(fold_of_few, fold_of_warp=of_few)
        made |= {f"{kind}_over_warp": of_warp, f"{kind}_over_block": block}
        made[f"{kind}_over_row"] = row
    for function in SHARED:
        made[function.__name__] = bound(function)
    return made


def written(function: Callable, dtype: str, share: Share) -> Callable:
    """Give a kernel that is written by hand what its names mean."""
    return binding.rebind(function, names(dtype, share))

"""How work is shared among threads: by its shape alone, so that results are the same everywhere.

Tests and the simulator, which is slow, have tiny numbers here.
"""

import numpy as np

from nbloss.codegen.chunks import count as pieces
from nbloss.codegen.emit_cuda import Share
from nbloss.codegen.memory import STORED
from nbloss.engine.cuda.compiler import SIMULATED

WARP = 2 if SIMULATED else 32
THREADS = 4 if SIMULATED else 256  # of a block, where it is not a row's
MOST_OF_ROW = 8 if SIMULATED else 1024
# Enough for several turns on each multiprocessor, and few enough to be added up by one block.
MOST_BLOCKS = 2 if SIMULATED else 4096
WEIGHT_BLOCKS = 2 if SIMULATED else 256  # blocks that walk over labels
# How many numbers a thread loads at once, so that memory has enough to do; half types count double.
STRIP = 2 if SIMULATED else 4
KEPT = 4 if SIMULATED else 16  # how many of a row a thread keeps
MOST_UNROLLED = 300  # instructions, beyond which the compiler leaves a loop over a strip
PER_THREAD = 2 if SIMULATED else 8  # of a row that takes more than a warp
# Where rows lie across the memory: threads that fill a device, threads of a row at most, and rows
# side by side at least, which share what is read at once.
FULL = 1 << 17
MOST_ACROSS = 4 if SIMULATED else 128
SIDE_BY_SIDE = 2 if SIMULATED else 8


def share_elements(dtype: str, flat: bool, cost: int = 1) -> Share:
    """Share elements among all threads.

    Parameters
    ----------
    dtype : str
    flat : bool
        Whether all operands lie one element behind the other.
    cost : int, optional
        How many instructions there are for an element.
    """
    strip = STRIP * (2 if np.dtype(STORED[dtype]).itemsize < 4 else 1)
    return Share(THREADS, 1, unrolled(strip, cost), False, warp=WARP, flat=flat)


def share(columns: int, operands: int = 1, cost: int = 1) -> Share:
    """Share a row among threads that are next to each other.

    Parameters
    ----------
    columns : int
    operands : int, optional
        How many arrays the row is one of; each takes registers.
    cost : int, optional
        How many instructions there are for a column.
    """
    count, kept, most = 1, _kept(operands, cost), max(WARP, MOST_OF_ROW // operands)
    while count < WARP and count * min(STRIP, kept) < columns:
        count *= 2
    if columns > WARP * kept:
        while count < most and count * min(PER_THREAD, kept) < columns:
            count *= 2
    threads = count if count > WARP else THREADS
    return Share(threads, count, *_strip(count, columns, kept, cost), warp=WARP)


def share_across(rows: int, columns: int, operands: int = 1, cost: int = 1) -> Share:
    """Share rows that lie across the memory: few rows have several threads each."""
    count, threads = 1, THREADS
    while rows * count < FULL and count < MOST_ACROSS and count * PER_THREAD < columns:
        count *= 2
    while threads < count * SIDE_BY_SIDE:
        threads *= 2
    strip = _strip(count, columns, _kept(operands, cost), cost)
    return Share(threads, count, *strip, across=True, warp=WARP)


def unrolled(strip: int, cost: int) -> int:
    """Shorten a strip to what the compiler unrolls: else its numbers have no place in registers."""
    while strip > 1 and strip * cost > MOST_UNROLLED:
        strip //= 2
    return strip


def _kept(operands: int, cost: int) -> int:
    return unrolled(max(1, KEPT // operands), cost)


def _strip(count: int, columns: int, kept: int, cost: int) -> tuple[int, bool]:
    """How many numbers a thread has at once, and whether they are all there are."""
    strip = 1
    while strip < kept and count * strip < columns:
        strip *= 2
    whole = strip <= kept and count * strip >= columns
    return (strip if whole else unrolled(STRIP, cost)), whole


def blocks(total: int, per_block: int) -> int:
    """How many blocks do so much work; there is always one, to store the result."""
    return max(1, min(pieces(total, per_block), MOST_BLOCKS))

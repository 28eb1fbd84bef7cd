"""How work is shared among threads: by its shape alone, so that results are the same everywhere.

Tests and the simulator, which is slow, have tiny numbers here.
"""

from typing import NamedTuple

from nbloss.engine.chunks import count
from nbloss.engine.cuda.compiler import SIMULATED

WARP = 2 if SIMULATED else 32
THREADS = 4 if SIMULATED else 256  # of a block, where it is not a row's
MOST_LANES = 8 if SIMULATED else 1024  # of a row
# Enough for several turns on each multiprocessor, and few enough to be added up by one block.
MOST_BLOCKS = 2 if SIMULATED else 4096
SURVEYORS = 2 if SIMULATED else 256  # blocks that walk over labels
# How many numbers a thread loads at once, so that memory has enough to do; half types count double.
STRIP = 2 if SIMULATED else 4
KEPT = 4 if SIMULATED else 16  # how many of a row a thread keeps
PER_LANE = 2 if SIMULATED else 8  # of a row that takes more than a warp
# Where rows lie across the memory: threads that fill a device, lanes of a row at most, and rows
# side by side at least, which share what is read at once.
FULL = 1 << 17
MOST_ACROSS = 4 if SIMULATED else 128
SIDE_BY_SIDE = 2 if SIMULATED else 8


class Share(NamedTuple):
    """How a row is shared among threads.

    Attributes
    ----------
    threads : int
        Of a block.
    lanes : int
        Threads of a row.
    strip : int
        How many numbers each has at once.
    kept : bool
        Whether a strip of all lanes holds the whole row, so that it is read but once.
    across : bool
        Whether neighbouring threads take neighbouring rows; otherwise they take one row together,
        at most a warp of them, or a whole block.
    """

    threads: int
    lanes: int
    strip: int
    kept: bool
    across: bool = False


def share(columns: int, operands: int = 1) -> Share:
    """Share a row among lanes that are next to each other.

    Parameters
    ----------
    columns : int
    operands : int, optional
        How many arrays the row is one of, about; each takes registers.
    """
    lanes = 1
    kept, most = max(1, KEPT // operands), max(WARP, MOST_LANES // operands)
    while lanes < WARP and lanes * min(STRIP, kept) < columns:
        lanes *= 2
    if columns > WARP * kept:
        while lanes < most and lanes * min(PER_LANE, kept) < columns:
            lanes *= 2
    return Share(lanes if lanes > WARP else THREADS, lanes, *_strip(lanes, columns, kept))


def share_across(rows: int, columns: int) -> Share:
    """Share rows that lie across the memory: few rows have several lanes each."""
    lanes, threads = 1, THREADS
    while rows * lanes < FULL and lanes < MOST_ACROSS and lanes * PER_LANE < columns:
        lanes *= 2
    while threads < lanes * SIDE_BY_SIDE:
        threads *= 2
    return Share(threads, lanes, *_strip(lanes, columns, KEPT), across=True)


def _strip(lanes: int, columns: int, kept: int) -> tuple[int, bool]:
    """How many numbers a lane has at once, and whether they are all there are."""
    strip = 1
    while strip < kept and lanes * strip < columns:
        strip *= 2
    whole = lanes * strip >= columns
    return (strip if whole else STRIP), whole


def blocks(total: int, per_block: int) -> int:
    """How many blocks do so much work; there is always one, to store the result."""
    return max(1, min(count(total, per_block), MOST_BLOCKS))

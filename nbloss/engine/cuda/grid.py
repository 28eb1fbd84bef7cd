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


class Share(NamedTuple):
    """How a row is shared among threads.

    Attributes
    ----------
    threads : int
        Of a block.
    lanes : int
        Threads of a row: at most a warp of them, or a whole block.
    strip : int
        How many numbers each has at once.
    kept : bool
        Whether a strip of all lanes holds the whole row, so that it is read but once.
    """

    threads: int
    lanes: int
    strip: int
    kept: bool


def share(columns: int, across: bool = False, operands: int = 1) -> Share:
    """Share a row among lanes.

    Parameters
    ----------
    columns : int
    across : bool, optional
        Whether rows lie across the memory, so that neighbouring threads take neighbouring rows.
    operands : int, optional
        How many arrays the row is one of, about; each takes registers.
    """
    lanes = 1
    kept, most = max(1, KEPT // operands), max(WARP, MOST_LANES // operands)
    if not across:
        while lanes < WARP and lanes * min(STRIP, kept) < columns:
            lanes *= 2
        if columns > WARP * kept:
            while lanes < most and lanes * min(PER_LANE, kept) < columns:
                lanes *= 2
    strip = 1
    while strip < kept and lanes * strip < columns:
        strip *= 2
    whole = lanes * strip >= columns
    return Share(lanes if lanes > WARP else THREADS, lanes, strip if whole else STRIP, whole)


def blocks(total: int, per_block: int) -> int:
    """How many blocks do so much work; there is always one, to store the result."""
    return max(1, min(count(total, per_block), MOST_BLOCKS))

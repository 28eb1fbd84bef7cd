"""Adds up what the chunks left, the last step of every reduced loss."""

import functools

import numpy as np

from nbloss.engine import compiler
from nbloss.engine.driver import PARTIALS
from nbloss.engine.memory import COMPUTED as COMPUTING
from nbloss.engine.memory import NARROW, STORED, array_at

GROUPS_PER_CHUNK = 4096
# Where the templates find what the combiner needs in the blocks.
OUT, GROUPS, PER_GROUP = 0, 1, 2
SCALE = 0


def combine(integers, floats, chunk):
    groups, per_group = integers[GROUPS], integers[PER_GROUP]
    partials = array_at(integers[PARTIALS], groups * per_group, np.float64)
    out = array_at(integers[OUT], groups, STORAGE)
    scale = floats[SCALE]
    for group in range(chunk * GROUPS_PER_CHUNK, min(groups, (chunk + 1) * GROUPS_PER_CHUNK)):
        total = 0.0
        for i in range(group * per_group, (group + 1) * per_group):
            total += partials[i]
        out[group] = narrow(scale * total)


@functools.cache
def combiner(dtype: str) -> object:
    """Compile the combiner that stores results of a type."""
    return compiler.worker(
        combine, {}, COMPUTING[dtype], STORAGE=STORED[dtype], narrow=NARROW[dtype]
    )

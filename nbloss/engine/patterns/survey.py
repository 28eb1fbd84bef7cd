"""A first walk over index targets, which tells whether all are in range, and what they weigh.

No kernel touches memory at a target's index before this walk has passed it. It also gives the sum
of the weights that a weighted mean divides by, which has to be known before the first gradient.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from nbloss.engine import chunks, compiler, driver
from nbloss.engine.driver import PARTIALS
from nbloss.engine.memory import COMPUTED as COMPUTING
from nbloss.engine.memory import STORED, WIDEN, array_at

RESULT, PIECES, TARGETS, COUNT, LOWEST, CLASSES, IGNORED, WEIGHTS, PER_CHUNK = range(9)


class Survey(NamedTuple):
    """What the walk found."""

    weight: Any  # sum of the weights of all targets that are not ignored, a number
    first_bad: int  # place of the first target out of range, or -1


def template(integers, floats, chunk):
    count, lowest, classes = integers[COUNT], integers[LOWEST], integers[CLASSES]
    targets = array_at(integers[TARGETS], count, np.int64)
    weights = array_at(integers[WEIGHTS], classes if WEIGHTED else 0, STORAGE)
    found = array_at(integers[PARTIALS], 2 * integers[PIECES], np.float64)
    total = 0.0
    bad = -1
    for i in range(chunk * integers[PER_CHUNK], min(count, (chunk + 1) * integers[PER_CHUNK])):
        label = targets[i]
        if IGNORES and label == integers[IGNORED]:
            continue
        if label < lowest or label >= classes:
            if bad < 0:
                bad = i
        elif WEIGHTED:
            total += widen(weights[label])
        else:
            total += 1.0
    found[2 * chunk] = total
    found[2 * chunk + 1] = bad


def gather(integers, floats, chunk):
    """Bring the chunks' findings together."""
    pieces = integers[PIECES]
    found = array_at(integers[PARTIALS], 2 * pieces, np.float64)
    result = array_at(integers[RESULT], 2, np.float64)
    total = 0.0
    bad = -1.0
    for i in range(pieces):
        total += found[2 * i]
        if bad < 0.0 and found[2 * i + 1] >= 0.0:
            bad = found[2 * i + 1]
    result[0] = total
    result[1] = bad


@functools.cache
def kernels(dtype: str, weighted: bool, ignores: bool) -> tuple[Any, Any]:
    """Compile the walk for weights of a type, and the step that gathers what it found."""
    walk = compiler.worker(
        template,
        {},
        COMPUTING[dtype],
        STORAGE=STORED[dtype],
        widen=WIDEN[dtype],
        WEIGHTED=weighted,
        IGNORES=ignores,
    )
    return walk, compiler.worker(gather, {}, np.float64)


def survey(
    xp: Any,
    target: Any,
    lowest: int,
    classes: int,
    ignored: int | None = None,
    weight: Any = None,
) -> Survey:
    """Walk over contiguous int64 targets.

    Parameters
    ----------
    xp : module
    target : array of int64, contiguous
    lowest, classes : int
        The labels that are in range: at least the first, less than the second.
    ignored : int, optional
        A label that counts for nothing, in range or not.
    weight : array, optional
        The weight of each class, contiguous; one each by default.
    """
    count = xp.size(target)
    pieces = chunks.count(count, chunks.CHUNK)
    result = np.empty(2)
    walk, gathering = kernels(
        "float64" if weight is None else xp.dtype(weight), weight is not None, ignored is not None
    )
    integers = (
        result.__array_interface__["data"][0],
        pieces,
        xp.address(target),
        count,
        lowest,
        classes,
        ignored or 0,
        0 if weight is None else xp.address(weight),
        chunks.CHUNK,
    )
    driver.run(walk, pieces, integers, (), gathering, 1, 2 * pieces, count, xp.threads())
    return Survey(float(result[0]), int(result[1]))

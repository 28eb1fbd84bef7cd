"""A first walk over index targets, which tells whether all are in range, and what they weigh.

No kernel touches memory at a target's index before this walk has passed it; the driver stops at the
first that is out of range. The walk also gives the sum of the weights that a weighted mean divides
by, which has to be known before the first gradient.
"""

import functools
from typing import Any

import numpy as np

from nbloss.codegen import chunks
from nbloss.codegen.blocks import GRADIENT_SCALE, PARTIALS, VALUE_SCALE
from nbloss.codegen.memory import COMPUTED as COMPUTING
from nbloss.codegen.memory import STORED, WIDEN, array_at, label_at
from nbloss.engine import compiler, plan
from nbloss.engine.plan import (
    ABOVE,
    FIRST_BAD,
    IGNORED,
    LABEL_WEIGHTS,
    LABELS,
    LABELS_TO_VALIDATE,
    LOWEST,
    MEAN,
    PER_PIECE,
    PIECES,
    At,
    Stage,
)

LABEL_BYTES = 8
# What MEAN may be but 0: whether the mean of targets without weight is NaN whatever their values.
PLAIN, NAN_OF_NO_WEIGHT = 1, 2


def template(integers, floats, chunk):
    count, lowest, above = integers[LABELS_TO_VALIDATE], integers[LOWEST], integers[ABOVE]
    size = integers[PER_PIECE]
    labels = array_at(integers[LABELS], count, np.int64)
    weights = array_at(integers[LABEL_WEIGHTS], above if WEIGHTED else 0, STORAGE)
    found = array_at(integers[PARTIALS], 2 * integers[PIECES], np.float64)
    total = 0.0
    bad = -1
    start = chunk * size
    part = labels[start:]
    span = min(count - start, size)
    counted = 0
    outside = 0
    for i in range(span):
        counts = part[i] != integers[IGNORED] if IGNORES else True
        counted += counts
        outside += counts & ((part[i] < lowest) | (part[i] >= above))
    if outside > 0:
        for i in range(span):
            counts = part[i] != integers[IGNORED] if IGNORES else True
            if bad < 0 and counts and (part[i] < lowest or part[i] >= above):
                bad = start + i
    elif WEIGHTED:
        # The labels may have changed since they were looked at, just above.
        for i in range(span):
            label = label_at(integers[LABELS] + LABEL_BYTES * (start + i))
            if not IGNORES or label != integers[IGNORED]:
                if lowest <= label < above:
                    total += widen(weights[label])
                elif bad < 0:
                    bad = start + i
    else:
        total = 1.0 * counted
    found[2 * chunk] = total
    found[2 * chunk + 1] = bad


def gather(integers, floats, chunk):
    """Bring the chunks' findings together."""
    pieces = integers[PIECES]
    found = array_at(integers[PARTIALS], 2 * pieces, np.float64)
    total = 0.0
    for i in range(pieces):
        total += found[2 * i]
        if integers[FIRST_BAD] < 0 and found[2 * i + 1] >= 0.0:
            integers[FIRST_BAD] = np.int64(found[2 * i + 1])
    if integers[MEAN] > 0:
        # An infinite factor makes NaN of a sum of zeros. With smoothing the sum is another number.
        nothing = np.nan if integers[MEAN] == NAN_OF_NO_WEIGHT else np.inf
        factor = 1.0 / total if total != 0.0 else nothing
        floats[VALUE_SCALE] *= factor
        floats[GRADIENT_SCALE] *= factor


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
    return walk, gathered()


def gathered() -> Any:
    """Compile the step that gathers what the validation found."""
    return compiler.worker(gather, {}, np.float64)


def validate(
    request: plan.Request,
    count: int,
    lowest: int,
    above: int,
    ignored: int | None = None,
    weighted: bool = False,
    mean: int = 0,
) -> dict[str, Any]:
    """Prepare a walk over the first of a problem's constants, contiguous labels.

    Parameters
    ----------
    request : Request
    count : int
        How many labels there are.
    lowest, above : int
        The labels that are in range: at least the first, less than the second.
    ignored : int, optional
        A label that counts for nothing, in range or not.
    weighted : bool, optional
        Whether the second constant holds a weight for each label; otherwise each weighs 1.
    mean : int, optional
        Whether to divide the value and the gradients by the sum of the weights: ``PLAIN`` or
        ``NAN_OF_NO_WEIGHT``.

    Returns
    -------
    dict
        What :func:`nbloss.engine.plan.planned` takes.
    """
    pieces = max(1, chunks.count(count, chunks.CHUNK))
    walk, gathering = kernels(
        request.dtype if weighted else "float64", weighted, ignored is not None
    )
    return {
        "validation": Stage(walk, pieces, gathering, 1, 2 * pieces),
        "validation_integers": (
            count,
            pieces,
            lowest,
            above,
            ignored or 0,
            chunks.CHUNK,
            At("constant", 0),
            At("constant", 1) if weighted else 0,
            mean,
        ),
    }

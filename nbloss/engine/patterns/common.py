"""What all patterns share: how numbers are stored, and how the sums of the chunks come together."""

import functools
from typing import Any

import numpy as np

from nbloss.engine import chunks, compiler, driver
from nbloss.engine.driver import PARTIALS
from nbloss.engine.memory import COMPUTED, NARROW, STORED, WIDEN, array_at

GROUPS_PER_CHUNK = 4096
# The first integers and floats of every worker, which the combiner reads as well.
OUT, GROUPS, PER_GROUP, FIRST_INTEGER = range(4)
VALUE_SCALE, GRADIENT_SCALE, FIRST_FLOAT = range(3)


def combine(integers, floats, chunk):
    """Add up what the chunks left, the last step of every reduced loss."""
    groups, per_group = integers[GROUPS], integers[PER_GROUP]
    partials = array_at(integers[PARTIALS], groups * per_group, np.float64)
    out = array_at(integers[OUT], groups, STORAGE)
    scale = floats[VALUE_SCALE]
    for group in range(chunk * GROUPS_PER_CHUNK, min(groups, (chunk + 1) * GROUPS_PER_CHUNK)):
        total = 0.0
        for i in range(group * per_group, (group + 1) * per_group):
            total += partials[i]
        out[group] = narrow(scale * total)


@functools.cache
def combiner(dtype: str) -> Any:
    """Compile the combiner that stores results of a type."""
    return compiler.worker(
        combine, {}, COMPUTED[dtype], STORAGE=STORED[dtype], narrow=NARROW[dtype]
    )


def specialize(
    template: Any,
    scalars: dict[str, Any],
    dtype: str,
    *,
    value: str,
    upstream: bool,
    dense: bool,
    helpers: tuple = (),
    **flags: Any,
) -> Any:
    """Compile a template for one way of using it.

    Parameters
    ----------
    template, scalars, helpers, **flags
        As for :func:`nbloss.engine.compiler.worker`.
    dtype : str
        Type of the operands and results.
    value : {"each", "sum", ""}
        Whether values are stored one by one, summed, or not needed.
    upstream : bool
        Whether there is a gradient from above for each value.
    dense : bool
        Whether operands are laid out so that columns are next to each other.
    """
    return compiler.worker(
        template,
        scalars,
        COMPUTED[dtype],
        helpers=helpers,
        STORAGE=STORED[dtype],
        widen=WIDEN[dtype],
        narrow=NARROW[dtype],
        EACH=value == "each",
        SUMMED=value == "sum",
        UPSTREAM=upstream,
        DENSE=dense,
        **flags,
    )


def run(
    xp: Any,
    worker: Any,
    pieces: int,
    out: Any,
    integers: tuple[int, ...],
    floats: tuple[float, ...],
    *,
    dtype: str,
    summed: bool,
    work: int,
    groups: int = 1,
    partials: int | None = None,
) -> None:
    """Run a worker and, if the values are to be summed, the combiner.

    Parameters
    ----------
    xp : module
    worker
        What :func:`specialize` gave.
    pieces : int
        Into how many chunks the work is cut.
    out : array or None
        Where the value goes.
    integers, floats : tuple
        The worker's, without the first three integers.
    dtype : str
    summed : bool
    work : int
        How many elements there are.
    groups : int, optional
        How many sums there are.
    partials : int, optional
        How many numbers the chunks leave to be summed; by default one each.
    """
    partials = pieces if partials is None else partials
    driver.run(
        worker,
        pieces,
        (address_of(xp, out), groups, partials // max(groups, 1), *integers),
        floats,
        combiner(dtype) if summed else 0,
        chunks.count(groups, GROUPS_PER_CHUNK) if summed else 0,
        partials if summed else 0,
        work,
        xp.threads(),
    )


def address_of(xp: Any, x: Any) -> int:
    """Where an array lies, or 0 if there is none."""
    return 0 if x is None else xp.address(x)

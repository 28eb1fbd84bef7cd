"""Gradients times a number that is known on the device alone."""

import functools
from typing import Any

import numpy as np

from nbloss.engine.cuda import grid, groups
from nbloss.engine.cuda.compiler import kernel
from nbloss.engine.cuda.driver import PARAMETERS
from nbloss.engine.cuda.launch import Launch, Stage
from nbloss.engine.patterns.common import times

GRADIENT, FACTOR, SIZE = range(3)


def multiply(integers, floats):
    """Multiply all elements in place; by 1, which is what most steps of training do, none."""
    size = integers[SIZE]
    gradient = array_at(integers[GRADIENT], size, STORAGE)
    factor = widen(array_at(integers[FACTOR], 1, STORAGE)[0])
    if factor != COMPUTED(1.0):
        place = np.int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        while place < size:
            gradient[place] = narrow(times(factor, widen(gradient[place])))
            place += np.int64(cuda.gridDim.x) * THREADS


@functools.lru_cache(maxsize=4096)
def prepared(dtype: str, size: int, keeps_zeros: bool) -> Launch:
    """Prepare the kernel for so many elements of a type."""
    words = np.zeros(PARAMETERS, np.int64)
    words[SIZE] = size
    threads = grid.THREADS
    flags = {**groups.flags(grid.WARP, threads, threads), "KEEPS_ZEROS": keeps_zeros}
    made = kernel(multiply, {}, dtype, threads, (times,), **flags)
    stage = Stage(made, grid.blocks(size, threads))
    return Launch(
        "",
        (),
        None,
        words,
        places=np.array([GRADIENT, FACTOR]),
        sources=np.arange(2),
        offsets=np.zeros(2, np.int64),
        stages=(stage,),
        scratch=0,
    )


def scale(xp: Any, gradients: list, factor: Any, keeps_zeros: bool = False) -> None:
    """Multiply contiguous gradients in place by a number in the device's memory.

    Parameters
    ----------
    xp : module
    gradients : list of array or None
    factor : array of a single number
    keeps_zeros : bool, optional
        See :func:`nbloss.engine.patterns.common.keeps_zeros`.
    """
    for gradient in gradients:
        if gradient is not None:
            prepared(xp.dtype(gradient), xp.size(gradient), keeps_zeros).start(
                xp, [gradient, factor]
            )

"""Gradients times a number that is known on the device alone."""

import functools
from typing import Any

import numpy as np

from nbloss.engine.backend import DeviceBackend
from nbloss.engine.cuda import grid, runtime
from nbloss.engine.cuda.compiler import Kernel, kernel_of
from nbloss.engine.cuda.driver import PARAMETERS
from nbloss.engine.cuda.plan import Plan, Stage

FIELDS = {"gradient": 0, "factor": 1, "size": 2, "keeps_zeros": 3}


def multiply(call, numbers):
    """Multiply all elements in place; by 1, which is what most steps of training do, none."""
    gradient = pointer(call.gradient, stored)
    factor = widen(pointer(call.factor, stored)[0])
    if factor != 1.0:
        place = int64(cuda.blockIdx.x) * THREADS + cuda.threadIdx.x
        while place < call.size:
            x = widen(gradient[place])
            if x != 0.0 or call.keeps_zeros == 0:
                gradient[place] = narrow(factor * x)
            place += int64(cuda.gridDim.x) * THREADS


@functools.cache
def multiplying(dtype: str) -> Kernel:
    """Give the kernel for gradients of a type."""
    share = grid.share_elements(dtype, True)
    build = functools.partial(runtime.written, multiply, dtype, share)
    return kernel_of(f"multiply_{dtype}", dtype, share.threads, build, FIELDS, {})


@functools.lru_cache(maxsize=4096)
def plan_for(dtype: str, size: int, keeps_zeros: bool) -> Plan:
    """Prepare the kernel for so many elements of a type."""
    words = np.zeros(PARAMETERS, np.int64)
    words[[FIELDS["size"], FIELDS["keeps_zeros"]]] = size, keeps_zeros
    kernel = multiplying(dtype)
    stage = Stage(kernel, grid.blocks(size, kernel.threads))
    return Plan(
        "",
        (),
        None,
        words,
        places=np.array([FIELDS["gradient"], FIELDS["factor"]]),
        sources=np.arange(2),
        offsets=np.zeros(2, np.int64),
        stages=(stage,),
        scratch=0,
    )


def scale(xp: DeviceBackend, gradients: list, factor: Any, keeps_zeros: bool = False) -> None:
    """Multiply contiguous gradients in place by a number in the device's memory.

    Parameters
    ----------
    xp : module
    gradients : list of array or None
    factor : array of a single number
    keeps_zeros : bool, optional
        Whether what is 0 stays 0, though the number be infinite.
    """
    for gradient in gradients:
        if gradient is not None:
            plan_for(xp.dtype(gradient), xp.size(gradient), keeps_zeros).start(
                xp, [gradient, factor]
            )

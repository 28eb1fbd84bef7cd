"""Kernels that are ready to run on a device, but for the memory."""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from nbloss.codegen.blocks import FLOATS, INTEGERS, VALUE_SCALE
from nbloss.engine.backend import DeviceBackend
from nbloss.engine.cuda import driver, errors, grid, runtime
from nbloss.engine.cuda.compiler import Kernel, computed, kernel_of
from nbloss.engine.cuda.driver import PARAMETERS
from nbloss.engine.patterns.common import VALUE
from nbloss.engine.plan import At, Request, order

# The last integers of a block: memory in which blocks leave numbers for others to add up, first
# those of the weights; memory for the blocks alone; where errors go.
PARTIALS_AT, COUNT, WEIGHT_BLOCKS, MEMORY, ERRORS, SEEN = range(INTEGERS - 6, INTEGERS)
# Their names, and that of the float that all kernels have.
FIELDS = {
    "partials": PARTIALS_AT,
    "partial_count": COUNT,
    "weight_blocks": WEIGHT_BLOCKS,
    "errors": ERRORS,
    "seen": SEEN,
}
NUMBERS = {"value_factor": VALUE_SCALE}
BYTES = 8  # for each number that a block leaves


class Stage(NamedTuple):
    """A kernel, and how many blocks run it."""

    kernel: Kernel
    blocks: int


@dataclass(slots=True, eq=False)
class Plan:
    """Kernels with all that they need but addresses; see :class:`nbloss.engine.plan.Plan`.

    Attributes
    ----------
    loss, needs_grad, value_shape
        The definition's name, and as for the processor.
    words : array of int64
        The parameters of all kernels.
    places, sources, offsets : array of int
        Which words are addresses, of which array each, and how many bytes further.
    stages : tuple of Stage
        In the order in which they run.
    scratch : int
        Bytes of memory to work in, whose address is the last.
    """

    loss: str
    needs_grad: tuple[bool, ...]
    value_shape: tuple[int, ...] | None
    words: np.ndarray
    places: np.ndarray
    sources: np.ndarray
    offsets: np.ndarray
    stages: tuple[Stage, ...]
    scratch: int
    size: int = 0  # of memory that is not ours to keep
    contiguous: bool = False
    on_device: Literal[True] = True

    def start(self, xp: DeviceBackend, arrays: list) -> None:
        """Launch the kernels on memory, one after the other, and don't wait for them.

        Parameters
        ----------
        xp : module
        arrays : list of array
            In the order of :func:`nbloss.engine.plan.order`.

        Raises
        ------
        IndexError, RuntimeError
            If an earlier call had a label out of range.
        """
        errors.raise_found()
        first = arrays[0]
        index = xp.device(first)
        with xp.current(first):
            stream = xp.stream(first)
            addresses = [xp.address(x) for x in arrays]
            if self.scratch:
                scratch = xp.scratch(self.scratch, first)
                addresses.append(xp.address(scratch))
            words = driver.parameters.words
            words[:] = self.words
            words[self.places] = np.array(addresses)[self.sources] + self.offsets
            if self.loss:
                words[ERRORS], words[SEEN] = errors.places(self.loss, index)
            for kernel, blocks in self.stages:
                driver.launch(kernel, blocks, index, stream)
            if errors.BLOCKING and not xp.is_capturing():
                driver.synchronize(stream)
                errors.raise_found()


def planned(
    request: Request,
    value_shape: tuple[int, ...],
    integers: tuple[Any, ...],
    floats: tuple[float, ...],
    main: Stage,
    weights: Stage | None = None,
    memory: int = 0,
) -> Plan:
    """Put a plan together.

    Parameters
    ----------
    request : Request
    value_shape : tuple of int
        Shape of the value without a reduction.
    integers, floats : tuple
        The blocks of numbers; `At` stands for an address.
    main : Stage
    weights : Stage, optional
        What runs before it.
    memory : int, optional
        Bytes that the blocks of the main kernel need together.
    """
    if len(integers) > PARTIALS_AT or len(floats) > FLOATS:
        raise ValueError(
            f"a kernel takes at most {PARTIALS_AT} integers and {FLOATS} floats, "
            f"got {len(integers)} and {len(floats)}: the loss has too many operands or parameters"
        )
    stages = (main,) if weights is None else (weights, main)
    weight_blocks = 0 if weights is None else weights.blocks
    partials = main.blocks if request.value == "sum" and main.blocks > 1 else 0
    if partials:
        stages = (*stages, Stage(adding(request.dtype), 1))
    left = BYTES * (partials + weight_blocks)
    arrays = order(request)
    block: list[Any] = [0] * INTEGERS
    block[: len(integers)] = integers
    block[PARTIALS_AT:] = (
        At(SCRATCH, memory) if left else 0,
        partials,
        weight_blocks,
        At(SCRATCH, 0) if memory else 0,
        0,
        0,
    )
    words = np.zeros(PARAMETERS, np.int64)
    words[:INTEGERS] = [0 if isinstance(x, At) else x for x in block]
    dtype = np.dtype(computed(main.kernel))
    words[INTEGERS:].view(dtype)[:: BYTES // dtype.itemsize][: len(floats)] = floats
    addresses = [(at, x) for at, x in enumerate(block) if isinstance(x, At)]
    shapes = {"sum": (), "each": value_shape, "": None}
    return Plan(
        request.definition.name,
        request.needs_grad,
        shapes[request.value],
        words,
        np.array([at for at, _ in addresses]),
        np.array([len(arrays) if x.group == SCRATCH else arrays.index(x) for _, x in addresses]),
        np.array([x.number if x.group == SCRATCH else 0 for _, x in addresses]),
        stages,
        memory + left,
    )


SCRATCH = "scratch"  # the group of addresses in memory to work in, numbered by bytes


@functools.cache
def adding(dtype: str) -> Kernel:
    """Give the kernel that adds up what the blocks left, and stores a result of a type."""
    share = grid.share_elements(dtype, True)
    build = functools.partial(runtime.written, runtime.add_up, dtype, share)
    name = f"add_up_{dtype}_{share.threads}"
    return kernel_of(name, dtype, share.threads, build, {"values": VALUE, **FIELDS}, NUMBERS)

"""Kernels that are ready to run on a device, but for the memory."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from nbloss.engine.cuda import driver, errors, grid, groups
from nbloss.engine.cuda.compiler import Kernel, computed, kernel
from nbloss.engine.cuda.driver import PARAMETERS
from nbloss.engine.launch import FLOATS, INTEGERS, At, Request, order
from nbloss.engine.memory import STORED
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import VALUE, Blocks

# The last integers of a block: memory in which blocks leave numbers for others to add up, first
# those that survey the labels; memory for the blocks alone; the labels; where errors go.
LEFT, COUNT, SURVEYORS, MEMORY, LABELS, LABEL_WEIGHTS, ERRORS, SEEN = range(INTEGERS - 8, INTEGERS)
BYTES = 8  # for each number that a block leaves


class Stage(NamedTuple):
    """A kernel, and how many blocks run it."""

    kernel: Kernel
    blocks: int


@dataclass(slots=True, eq=False)
class Launch:
    """Kernels with all that they need but addresses; see :class:`nbloss.engine.launch.Launch`.

    Attributes
    ----------
    loss, wanted, value_shape
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
    wanted: tuple[bool, ...]
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

    def start(self, xp: Any, arrays: list) -> None:
        """Launch the kernels on memory, one after the other, and don't wait for them.

        Parameters
        ----------
        xp : module
        arrays : list of array
            In the order of :func:`nbloss.engine.launch.order`.

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


def specialize(
    template: Any,
    scalars: dict[str, Any],
    request: Request,
    laid: Blocks,
    share: grid.Share,
    helpers: tuple = (),
    **flags: Any,
) -> Kernel:
    """Give the kernel of a template for one way of using it.

    Parameters
    ----------
    template, scalars, helpers, **flags
        As for :func:`nbloss.engine.compiler.worker`.
    request : Request
    laid : Blocks
    share : Share
        How rows are shared among threads.
    """
    return kernel(
        template,
        scalars,
        request.dtype,
        share.threads,
        (*groups.FOLDS, groups.report, leave, *helpers),
        **groups.flags(grid.WARP, share.threads, share.lanes, share.across),
        **common.uses(request, laid),
        STRIP=tuple(range(share.strip)),
        WIDTH=share.strip,
        KEPT=share.kept,
        **flags,
    )


def ready(
    request: Request,
    value_shape: tuple[int, ...],
    laid: Blocks,
    main: Stage,
    survey: Stage | None = None,
    labels: tuple[Any, Any] = (0, 0),
    memory: int = 0,
) -> Launch:
    """Put a launch together.

    Parameters
    ----------
    request : Request
    value_shape : tuple of int
        Shape of the value without a reduction.
    laid : Blocks
    main : Stage
    survey : Stage, optional
        What runs before it.
    labels : tuple, optional
        Where labels and their weights lie, for the survey.
    memory : int, optional
        Bytes that the blocks of the main kernel need together.
    """
    integers, floats = laid.integers, laid.floats
    if len(integers) > LEFT or len(floats) > FLOATS:
        raise ValueError(
            f"a kernel takes at most {LEFT} integers and {FLOATS} floats, "
            f"got {len(integers)} and {len(floats)}: the loss has too many operands or parameters"
        )
    stages = (main,) if survey is None else (survey, main)
    surveyors = 0 if survey is None else survey.blocks
    partials = main.blocks if laid.value == "sum" and main.blocks > 1 else 0
    if partials:
        stages = (*stages, Stage(adding(request.dtype), 1))
    left = BYTES * (partials + surveyors)
    arrays = order(request)
    block: list[Any] = [0] * INTEGERS
    block[: len(integers)] = integers
    block[LEFT:] = (
        At(SCRATCH, memory) if left else 0,
        partials,
        surveyors,
        At(SCRATCH, 0) if memory else 0,
        *labels,
        0,
        0,
    )
    words = np.zeros(PARAMETERS, np.int64)
    words[:INTEGERS] = [0 if isinstance(x, At) else x for x in block]
    dtype = np.dtype(computed(main.kernel))
    words[INTEGERS:].view(dtype)[:: BYTES // dtype.itemsize][: len(floats)] = floats
    addresses = [(at, x) for at, x in enumerate(block) if isinstance(x, At)]
    shapes = {"sum": (), "each": value_shape, "": None}
    return Launch(
        request.definition.name,
        request.wanted,
        shapes[request.value],
        words,
        np.array([at for at, _ in addresses]),
        np.array([len(arrays) if x.group == SCRATCH else arrays.index(x) for _, x in addresses]),
        np.array([x.number if x.group == SCRATCH else 0 for _, x in addresses]),
        stages,
        memory + left,
    )


SCRATCH = "scratch"  # the group of addresses in memory to work in, numbered by bytes


# --- the sum of all blocks ------------------------------------------------------------------------


def leave(total, integers, scale, memory):
    """Store the sum of all threads, or leave what a block has of it for :func:`add_up`."""
    total = scale * block_fold(add, total, memory)
    if cuda.threadIdx.x == 0:
        if cuda.gridDim.x == 1:
            array_at(integers[VALUE], 1, STORAGE)[0] = narrow(total)
        else:
            before = integers[SURVEYORS]
            left = array_at(integers[LEFT], before + integers[COUNT], COMPUTED)
            left[before + cuda.blockIdx.x] = total


def add_up(integers, floats):
    """Add up what the blocks left, in the order of their numbers: one block does."""
    before, count = integers[SURVEYORS], integers[COUNT]
    left = array_at(integers[LEFT], before + count, COMPUTED)
    total = COMPUTED(0.0)
    for i in range(cuda.threadIdx.x, count, THREADS):
        total += left[before + i]
    total = block_fold(add, total, cuda.shared.array(WARPS, COMPUTED))
    if cuda.threadIdx.x == 0:
        array_at(integers[VALUE], 1, STORAGE)[0] = narrow(total)


def adding(dtype: str) -> Kernel:
    """Give the kernel that adds up what the blocks left, and stores a result of a type."""
    threads = grid.THREADS
    return kernel(
        add_up,
        {},
        dtype,
        threads,
        groups.FOLDS,
        **groups.flags(grid.WARP, threads, threads),
    )


# --- what patterns of rows have in common ---------------------------------------------------------


def upstream_step(request: Request) -> int:
    """How far the gradients from above of two rows are apart: 0 if it is one for all of them."""
    return int(request.upstream is not None and any(request.upstream))


def item_size(request: Request) -> int:
    """Bytes of a stored number."""
    return np.dtype(STORED[request.dtype]).itemsize

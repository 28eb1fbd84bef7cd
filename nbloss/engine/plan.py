"""A kernel that is ready to run, but for the memory.

Most calls of a loss are like one before: the same shapes, types and options, and only the numbers
are others. What the engine decides on such a call (which kernel, how the work is cut, how memory is
walked) is decided once, and kept as a :class:`Plan`; each call only fills in its addresses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from nbloss.codegen import chunks
from nbloss.codegen.blocks import FLOATS, INTEGERS, PARTIALS
from nbloss.codegen.memory import STORED
from nbloss.engine import buffers

# The last integers of a block. SURVEYED to MEAN are for the validation of labels.
(
    LABELS_TO_VALIDATE,
    PIECES,
    LOWEST,
    ABOVE,
    IGNORED,
    PER_PIECE,
    LABELS,
    LABEL_WEIGHTS,
    MEAN,
    FIRST_BAD,
) = range(INTEGERS - 11, PARTIALS)
LAST_INTEGER = LABELS_TO_VALIDATE
# FIRST_BAD is the place of a label, or one of these.
NOTHING_BAD, NO_MEMORY = -1, -2

# The record that the driver reads: the stages, the threads, where in the block which address
# belongs, and both blocks.
VALIDATOR, VALIDATIONS, GATHERER, WORKER, WORKS, COMBINER, COMBINATIONS, SUMS = range(8)
POOL, SLOTS, FIRST_SLOT = range(8, 11)
MOST_SLOTS = 20
FIRST_INTEGER = FIRST_SLOT + 2 * MOST_SLOTS
FIRST_FLOAT = FIRST_INTEGER + INTEGERS
RECORD = FIRST_FLOAT + FLOATS
# Addresses are handed over in multiples of this, so that few drivers are compiled.
ROUND = 4


class At(NamedTuple):
    """Stands among the integers of a kernel for the address of an array."""

    group: str
    number: int = 0


OUT, GRAD_OUTPUT_AT = At("out"), At("grad output")


@dataclass(frozen=True, slots=True)
class Request:
    """What a kernel is asked for: a problem without its memory.

    Attributes
    ----------
    definition, parameters, reduction, options
        As in :class:`~nbloss.engine.problem.Problem`.
    dtype : str
        Type of the operands and results.
    shape : tuple of int
        Shape of the operands.
    strides : tuple of tuple of int
        Steps through each operand, in elements.
    constants : tuple of bool
        Which of the constants there are.
    needs_grad : tuple of bool
        The operands whose gradients are stored.
    value : {"each", "sum", ""}
        Whether values are stored one by one, summed, or not needed.
    grad_output : tuple of int or None
        Steps through `grad_output`, if there is one number for each value.
    on_device : bool
        Whether the memory is that of a CUDA device.
    order : {1, 2}
        Whether what is stored are gradients, or diagonals of the Hessian.
    """

    definition: Any
    parameters: tuple[float, ...]
    reduction: str
    options: Any
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    constants: tuple[bool, ...]
    needs_grad: tuple[bool, ...]
    value: str
    grad_output: tuple[int, ...] | None
    on_device: bool = False
    order: int = 1


class Stage(NamedTuple):
    """What runs in parallel, and then what brings the results together."""

    worker: Any = 0
    pieces: int = 0
    combiner: Any = 0
    combinations: int = 0
    partials: int = 0


NO_STAGE = Stage()


@dataclass(slots=True, eq=False)
class Plan:
    """A kernel with all that it needs but addresses.

    Attributes
    ----------
    pattern : str
        Name of the module that has the kernel.
    dtype : str
        Type of the operands and results.
    record : array of int64
        What the compiled driver reads; see the names of its places in this module.
    address : int
        Where the record lies.
    validation, main : Stage
        The stages once more, for the driver that is plain Python.
    needs_grad : tuple of bool
        The operands whose gradients are made.
    value_shape : tuple of int or None
        Shape of the value; None if there is none.
    padding : tuple of int
        What to append to the addresses.
    parallel : bool
        Whether there is enough to do for threads.
    contiguous : bool
        Whether all operands are.
    size : int
        Bytes of an operand.
    shared : array of int64 or None
        The record once more, with the threads in it, once it has been run on them.
    quick : function or None
        The driver, once it is known that it always is the same.
    on_device : bool
        Always false here; see :class:`nbloss.engine.cuda.plan.Plan`.
    """

    pattern: str
    dtype: str
    record: np.ndarray
    address: int
    validation: Stage
    main: Stage
    needs_grad: tuple[bool, ...]
    value_shape: tuple[int, ...] | None
    padding: tuple[int, ...]
    parallel: bool
    contiguous: bool
    size: int
    shared: np.ndarray | None = None
    quick: Callable[[int, float, tuple[int, ...]], int] | None = None
    on_device: Literal[False] = False


def order(request: Request) -> list[At]:
    """In which order a plan takes its addresses."""
    return [
        *(At("operand", k) for k in range(len(request.strides))),
        *(At("constant", k) for k, there in enumerate(request.constants) if there),
        *(At("gradient", k) for k, needs_grad in enumerate(request.needs_grad) if needs_grad),
        *((OUT,) if request.value else ()),
        *((GRAD_OUTPUT_AT,) if request.grad_output is not None else ()),
    ]


# Elements from which threads pay. Entering a parallel region costs 2 to 4 microseconds, and waking
# the threads more.
PARALLEL_FROM = 1 << 16
# Elements of operands that are repeated, not in memory: no one means to wait for more. It would be
# minutes, in which a kernel can't be interrupted.
MOST_BROADCAST = 1 << 36


def planned(
    request: Request,
    value_shape: tuple[int, ...],
    main: Stage,
    integers: tuple[Any, ...],
    floats: tuple[float, ...],
    work: int,
    validation: Stage = NO_STAGE,
    validation_integers: tuple[Any, ...] = (),
) -> Plan:
    """Put a plan together.

    Parameters
    ----------
    request : Request
    value_shape : tuple of int
        Shape of the value without a reduction.
    main, validation : Stage
    integers, floats : tuple
        The blocks that all workers and combiners see; `At` stands for an address.
    work : int
        How many elements there are.
    validation_integers : tuple, optional
        What lies from ``LABELS_TO_VALIDATE`` on.
    """
    shape = request.shape  # of which an operand with one number a row lacks the last
    dense = [chunks.is_contiguous(shape[: len(steps)], steps) for steps in request.strides]
    if work > MOST_BROADCAST and not any(dense):
        raise MemoryError(
            f"{request.definition.name}(): operands of shape {list(request.shape)} have {work} "
            f"elements; broadcast operands may have at most {MOST_BROADCAST}"
        )
    if len(integers) > LAST_INTEGER or len(floats) > FLOATS:
        raise ValueError(
            f"a kernel takes at most {LAST_INTEGER} integers and {FLOATS} floats, "
            f"got {len(integers)} and {len(floats)}: the loss has too many operands or parameters"
        )
    places = order(request)
    rounded = -(-len(places) // ROUND) * ROUND
    block: list[Any] = [0] * INTEGERS
    block[: len(integers)] = integers
    block[LABELS_TO_VALIDATE : LABELS_TO_VALIDATE + len(validation_integers)] = validation_integers
    block[FIRST_BAD] = NOTHING_BAD
    slots = [
        number
        for place, at in enumerate(block)
        if isinstance(at, At)
        for number in (place, places.index(at))
    ]
    if len(slots) > 2 * MOST_SLOTS:
        raise ValueError(f"a kernel takes at most {MOST_SLOTS} arrays, got {len(slots) // 2}")
    record = np.zeros(RECORD, np.int64)
    addresses = (validation.worker, validation.combiner, main.worker, main.combiner)
    if all(isinstance(x, int) for x in addresses):
        record[[VALIDATOR, GATHERER, WORKER, COMBINER]] = addresses
    record[[VALIDATIONS, WORKS, COMBINATIONS]] = validation.pieces, main.pieces, main.combinations
    record[SUMS] = max(validation.partials, main.partials)
    record[SLOTS] = len(slots) // 2
    record[FIRST_SLOT : FIRST_SLOT + len(slots)] = slots
    record[FIRST_INTEGER:FIRST_FLOAT] = [0 if isinstance(x, At) else x for x in block]
    record[FIRST_FLOAT:].view(np.float64)[: len(floats)] = floats
    size = math.prod(request.shape) * np.dtype(STORED[request.dtype]).itemsize
    if size >= buffers.MAPPED:
        buffers.let_freed_memory_be_kept()
    shapes = {"sum": (), "each": value_shape, "": None}
    return Plan(
        request.definition.pattern,
        request.dtype,
        record,
        record.ctypes.data,
        validation,
        main,
        request.needs_grad,
        shapes[request.value],
        (0,) * (rounded - len(places)),
        work >= PARALLEL_FROM and max(main.pieces, validation.pieces) > 1,
        all(dense),
        size,
    )

"""What all patterns share: how numbers are stored, and how the sums of the chunks come together."""

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from nbloss.codegen import chunks
from nbloss.codegen.blocks import PARTIALS, VALUE_SCALE
from nbloss.codegen.memory import COMPUTED as COMPUTING
from nbloss.codegen.memory import NARROW, STORED, WIDEN, array_at
from nbloss.codegen.spec import Spec
from nbloss.engine import compiler
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.kernels import kernel
from nbloss.engine.plan import At, Plan, Request, Stage, planned
from nbloss.engine.problem import Problem

# The first integers of every worker, which the combiner reads as well.
VALUE, PARTIAL_COUNT, FIRST_INTEGER = range(3)


class Blocks(NamedTuple):
    """What all kernels of a request see, and what shapes their code: the same on every device.

    Attributes
    ----------
    integers, floats : tuple
        The two blocks of numbers; `At` stands for an address.
    rows, columns : int
        How the work lies.
    flags : dict
        Constants of the templates.
    dense : bool
        Whether the columns of all operands are next to each other.
    value : {"each", "sum", ""}
        Whether values are stored one by one, summed, or not needed.
    """

    integers: tuple[Any, ...]
    floats: tuple[float, ...]
    rows: int
    columns: int
    flags: dict[str, Any]
    dense: bool
    value: str


@dataclass(frozen=True)
class Work:
    """What there is to do for a request, the same on every device.

    Attributes
    ----------
    spec : Spec
        The kernel.
    values : dict of str to int or At
        The integers of the call, by their names in the kernel.
    floats : tuple of float
        The factors of the value and of the gradients, and the parameters.
    items : int
        How many rows, tiles or segments there are.
    item : float
        How much there is to do for one, in elements of a loss of middling cost.
    size : int
        How much there is to do, likewise.
    weighs : {"", "inf", "nan"}
        Whether a mean divides by the weight of all rows, and what comes of a division by 0.
    partials : int, optional
        How many sums the kernel leaves; by default one for each chunk of items.
    """

    spec: Spec
    values: dict[str, Any]
    floats: tuple[float, ...]
    items: int
    item: float
    size: int
    weighs: str = ""
    partials: int | None = None

    @property
    def weighing(self) -> Spec:
        """The kernel that sums the weights of all rows."""
        return replace(self.spec, needs_grad=(), value="weights", has_grad_output=False)


def make_plan(pattern: Any, request: Request) -> Plan | None:
    """Choose a kernel and cut the work into chunks; None if it takes contiguous operands."""
    made: Work | None = pattern.work(request)
    if made is None:
        return None
    per_chunk = max(1, int(chunks.CHUNK / max(made.item, 1)))
    pieces = chunks.count(made.items, per_chunk)
    partials = pieces if made.partials is None else made.partials
    values = {**made.values, "rows_per_chunk": per_chunk}
    has_labels = hasattr(pattern, "validate")
    validation = pattern.validate(request, made, pieces) if has_labels else {}
    return planned(
        request,
        pattern.value_shape(request),
        stage(kernel(made.spec), pieces, request, partials),
        made.spec.block(partials, values),
        made.floats,
        made.size,
        **validation,
    )


def combine(integers, floats, chunk):
    """Add up the chunks' partial sums, the last step of every reduced loss."""
    count = integers[PARTIAL_COUNT]
    partials = array_at(integers[PARTIALS], count, np.float64)
    total = 0.0
    for i in range(count):
        total += partials[i]
    array_at(integers[VALUE], 1, STORAGE)[0] = narrow(floats[VALUE_SCALE] * total)


@functools.cache
def combiner(dtype: str) -> Any:
    """Compile the combiner that stores results of a type."""
    return compiler.worker(
        combine, {}, COMPUTING[dtype], STORAGE=STORED[dtype], narrow=NARROW[dtype]
    )


def storage(dtype: str) -> dict[str, Any]:
    """Say how numbers of a type are stored, and how they become those that are computed with."""
    return {"STORAGE": STORED[dtype], "widen": WIDEN[dtype], "narrow": NARROW[dtype]}


def uses(request: Request, laid: Blocks) -> dict[str, Any]:
    """Say what becomes of the values and derivatives, and how the memory lies."""
    return {
        "EACH": laid.value == "each",
        "SUMMED": laid.value == "sum",
        "HAS_GRAD_OUTPUT": request.grad_output is not None,
        "DENSE": laid.dense,
        **laid.flags,
    }


def specialize(
    template: Any, scalars: dict[str, Any], request: Request, laid: Blocks, **more: Any
) -> Any:
    """Compile a template for one way of using it.

    Parameters
    ----------
    template, scalars
        As for :func:`nbloss.engine.compiler.worker`.
    request : Request
    laid : Blocks
    **more
        Helpers and further flags.
    """
    dtype = request.dtype
    return compiler.worker(
        template, scalars, COMPUTING[dtype], **storage(dtype), **uses(request, laid), **more
    )


def known_steps(inner: tuple[int, ...]) -> tuple[int, ...]:
    """Say which steps along the columns a kernel is compiled for.

    They are 1, and 0 for a number that is repeated. Any other stands as -1, and is read from the
    block.
    """
    return tuple(step if step in (0, 1) else -1 for step in inner)


def stage(worker: Any, pieces: int, request: Request, partials: int = 0) -> Stage:
    """Make the stage of a worker and, if the values are summed, the combiner.

    Parameters
    ----------
    worker
        What :func:`specialize` gave.
    pieces : int
        Into how many chunks the work is cut.
    request : Request
    partials : int, optional
        How many partial sums the chunks store; 0 if the values are not summed.
    """
    if request.value != "sum":
        return Stage(worker, pieces)
    return Stage(worker, pieces, combiner(request.dtype), 1, partials)


def gradient_places(request: Request) -> tuple[Any, ...]:
    """Where each operand's gradient lies; 0 if it is not needed."""
    return tuple(At("gradient", k) if want else 0 for k, want in enumerate(request.needs_grad))


def step_of_grad_output(request: Request) -> int:
    """How far `grad_output` steps from row to row: 0 if it is one number for all of them."""
    if request.on_device:
        return int(request.grad_output is not None and any(request.grad_output))
    return 1


def spread(xp: ArrayBackend, grad_output: Any, problem: Problem) -> Any:
    """Lay `grad_output` out, one number for each row; on a device one may do for all."""
    if xp.device(grad_output) is not None and not any(xp.strides(grad_output)):
        return grad_output
    return xp.contiguous(grad_output)

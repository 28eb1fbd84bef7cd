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
from nbloss.engine.kernels import kernel
from nbloss.engine.launch import At, Launch, Request, Stage, ready
from nbloss.engine.problem import Problem

GROUPS_PER_CHUNK = 4096
# The first integers of every worker, which the combiner reads as well.
VALUE, GROUPS, PER_GROUP, FIRST_INTEGER = range(4)


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
    groups : int
        How many sums there are.
    """

    integers: tuple[Any, ...]
    floats: tuple[float, ...]
    rows: int
    columns: int
    flags: dict[str, Any]
    dense: bool
    value: str
    groups: int = 1


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
    def survey(self) -> Spec:
        """The kernel that sums the weights of all rows."""
        return replace(self.spec, needs_grad=(), value="survey", has_grad_output=False)


def prepare(pattern: Any, request: Request) -> Launch | None:
    """Choose a kernel and cut the work into chunks; None if it takes contiguous operands."""
    made: Work | None = pattern.work(request)
    if made is None:
        return None
    per_chunk = max(1, int(chunks.CHUNK / max(made.item, 1)))
    pieces = chunks.count(made.items, per_chunk)
    summed = made.spec.value == "sum"
    partials = pieces if made.partials is None else made.partials
    values = {**made.values, "rows_per_chunk": per_chunk}
    survey = pattern.survey(request, made, pieces) if hasattr(pattern, "survey") else {}
    return ready(
        request,
        pattern.value_shape(request),
        stage(kernel(made.spec), pieces, request, int(summed), partials),
        made.spec.block(int(summed), partials, values),
        made.floats,
        made.size,
        **survey,
    )


def times(factor, slope):
    """Multiply a derivative by its share of `grad_output`."""
    if KEEPS_ZEROS:
        return factor * slope if slope != COMPUTED(0.0) else COMPUTED(0.0)
    else:
        return factor * slope


def combine(integers, floats, chunk):
    """Add up what the chunks left, the last step of every reduced loss."""
    groups, per_group = integers[GROUPS], integers[PER_GROUP]
    partials = array_at(integers[PARTIALS], groups * per_group, np.float64)
    out = array_at(integers[VALUE], groups, STORAGE)
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
        "FROM_ABOVE": request.upstream is not None,
        "DENSE": laid.dense,
        "KEEPS_ZEROS": request.definition.keeps_zeros,
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


def stage(
    worker: Any, pieces: int, request: Request, groups: int = 1, partials: int | None = None
) -> Stage:
    """Make the stage of a worker and, if the values are to be summed, the combiner.

    Parameters
    ----------
    worker
        What :func:`specialize` gave.
    pieces : int
        Into how many chunks the work is cut.
    request : Request
    groups : int, optional
        How many sums there are; 0 if the values are not to be summed.
    partials : int, optional
        How many numbers the chunks leave to be summed; by default one each.
    """
    if not groups:
        return Stage(worker, pieces)
    partials = pieces if partials is None else partials
    combinations = chunks.count(groups, GROUPS_PER_CHUNK)
    return Stage(worker, pieces, combiner(request.dtype), combinations, partials)


def gradient_places(request: Request) -> tuple[Any, ...]:
    """Where each operand's gradient lies; 0 if it is not wanted."""
    return tuple(At("gradient", k) if want else 0 for k, want in enumerate(request.wanted))


def step_of_upstream(request: Request) -> int:
    """How far the gradients from above of two rows are apart: 0 if it is one for all of them."""
    if request.on_device:
        return int(request.upstream is not None and any(request.upstream))
    return 1


def spread(xp: Any, upstream: Any, problem: Problem) -> Any:
    """Lay out the gradient from above, one number for each row; on a device one may do for all."""
    if xp.device(upstream) is not None and not any(xp.strides(upstream)):
        return upstream
    return xp.contiguous(upstream)

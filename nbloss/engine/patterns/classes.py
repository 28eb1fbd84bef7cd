"""Losses of a row of class scores and a target: one class, or a share for each class.

Rows may lie side by side: an input of shape (N, C, d1, ...) has a row for each sample and each
place of the further dimensions, and steps over the places from one class to the next.
"""

import math
from typing import Any

from nbloss.codegen import emit_cpu
from nbloss.codegen.compile import kernel
from nbloss.codegen.spec import Spec
from nbloss.engine import chunks
from nbloss.engine.launch import OUT, UPSTREAM, At, Launch, Request, ready
from nbloss.engine.patterns import common
from nbloss.engine.patterns.survey import NAN_OF_NO_WEIGHT, PLAIN, survey
from nbloss.engine.problem import Problem
from nbloss.engine.problem import class_dimensions as dimensions

# Of a row with but one class picked, so many gradients are cleared in the time that others take to
# compute one.
CLEARED = 4
# Two exponentials for each class.
NORMALIZED = 2


def is_picked(request: Request) -> bool:
    """Whether the loss takes but the score of the class that the target names."""
    return request.definition.sparse_gradient


def specify(request: Request) -> Spec:
    """Say which kernel a request takes."""
    by_label, has_weight = request.constants
    formula = request.definition.row_formulas[0 if by_label else 1]
    _, classes, places = dimensions(request.shape)
    options: dict[str, Any] = {} if has_weight else {"weight": 1.0}
    if "smoothed" in formula.options:
        options["smoothed"] = request.options.smoothing > 0.0
    step = chunks.canonical(request.shape, request.strides[0])[min(1, len(request.shape) - 1)]
    tiled = places > 1 and classes > 0
    wanted = zip(("input", "target"), request.wanted, strict=False)
    return Spec(
        formula,
        tuple(options.items()),
        tuple(name for name, is_wanted in wanted if is_wanted),
        request.value,
        request.dtype,
        () if tiled or step == 1 else (("input", -1),),
        request.upstream is not None,
        by_label,
        tiled,
        request.order,
    )


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    shape = request.shape
    steps = chunks.canonical(shape, request.strides[0])
    rest = request.strides[len(shape) < 3 :]
    if min(steps) < 0 or not all(chunks.is_contiguous(shape, s) for s in rest):
        return None
    by_label, has_weight = request.constants
    spec = specify(request)
    samples, classes, places = dimensions(shape)
    rows = samples * places
    work = work_of_row(request) * cost(request)
    count = samples * chunks.count(places, spec.tile) if spec.tiled else rows
    rows_per_item = min(places, spec.tile) if spec.tiled else 1
    per_chunk = max(1, int(chunks.CHUNK / max(work * rows_per_item, 1)))
    pieces = chunks.count(count, per_chunk)
    row_step, step = (steps[0], steps[1]) if len(shape) > 1 else (0, steps[0])
    if not spec.tiled and places > 1:
        row_step = 0  # of no classes
    if spec.tiled:
        row_step = classes * places
    values = {
        "rows": samples if spec.tiled else rows,
        "columns": classes,
        "rows_per_chunk": per_chunk,
        "spatial_size": places,
        "ignore_index": request.options.ignore_index,
        "values": OUT if request.value else 0,
        "input": At("operand", 0),
        "input_row_step": row_step,
        "input_step": places if spec.tiled else step,
        "target": At("constant", 0) if by_label else At("operand", 1),
        "target_row_step": classes * places if spec.tiled else classes,
        "target_step": places,
        "weight": At("constant", 1),
        "grad_output": UPSTREAM,
        "grad_output_row_step": places if spec.tiled else 1,
        "grad_input": At("gradient", 0),
        "grad_target": At("gradient", 1),
    }
    scale = 1.0
    if request.reduction == "mean" and not by_label:
        scale = 1.0 / rows if rows * classes else math.nan
    walk: dict[str, Any] = {}
    if by_label:
        ignored, smoothing = request.options.ignore_index, request.options.smoothing
        mean = (
            (NAN_OF_NO_WEIGHT if smoothing > 0.0 else PLAIN) if request.reduction == "mean" else 0
        )
        walk = survey(request, rows, 0, classes, ignored, has_weight, mean)
    return ready(
        request,
        value_shape(request),
        common.stage(kernel(spec), pieces, request, int(request.value == "sum")),
        spec.block(1, pieces, values),
        (scale, scale, request.options.smoothing),
        int(rows * work),
        **walk,
    )


def work_of_row(request: Request) -> int:
    """How many classes of a row there is something to do for."""
    single = is_picked(request) and not any(request.wanted)
    return 1 if single else max(dimensions(request.shape)[1], 1)


def cost(request: Request) -> float:
    """How much there is to do for a class, in elements of a loss of middling cost."""
    return 1 / CLEARED if is_picked(request) else NORMALIZED


def source(request: Request) -> str:
    """Give the source of a request's kernel."""
    return emit_cpu.source(specify(request))


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    shape = problem.shape
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def out_of_range(label: int) -> Exception:
    """Say that a target names no class, in torch's words."""
    return IndexError(f"Target {label} is out of bounds.")

"""Losses of a row of class scores and a target: one class, or a share for each class.

Rows may lie side by side: an input of shape (N, C, d1, ...) has a row for each sample and each
place of the further dimensions, and steps over the places from one class to the next.
"""

import math
from typing import Any

from nbloss.codegen import chunks
from nbloss.codegen.spec import Spec
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import Work
from nbloss.engine.patterns.labels import NAN_OF_NO_WEIGHT, PLAIN
from nbloss.engine.patterns.labels import validate as labels
from nbloss.engine.plan import GRAD_OUTPUT_AT, OUT, At, Request
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


def work(request: Request) -> Work | None:
    """Say what there is to do; None if it takes contiguous operands."""
    shape = request.shape
    steps = chunks.canonical(shape, request.strides[0])
    rest = request.strides[len(shape) < 3 :]
    if min(steps) < 0 or not all(chunks.is_contiguous(shape, s) for s in rest):
        return None
    by_label, has_weight = request.constants
    formula = request.definition.row_formulas[0 if by_label else 1]
    smoothing = request.options.smoothing
    options: dict[str, Any] = {} if has_weight else {"weight": 1.0}
    if "smoothed" in formula.options:
        options["smoothed"] = smoothing > 0.0
    samples, classes, places = dimensions(shape)
    rows, tiled = samples * places, places > 1 and classes > 0
    row_step, step = (steps[0], steps[1]) if len(shape) > 1 else (0, steps[0])
    if tiled:
        row_step, step = classes * places, places
    elif places > 1:
        row_step = 0  # of no classes
    spec = Spec(
        formula,
        tuple(options.items()),
        tuple(n for n, w in zip(("input", "target"), request.needs_grad, strict=False) if w),
        request.value,
        request.dtype,
        () if tiled or step == 1 else (("input", -1),),
        request.grad_output is not None,
        by_label,
        tiled,
        request.order,
    )
    upstream_step = common.step_of_grad_output(request)
    if tiled and not request.on_device:
        upstream_step = places
    values = {
        "rows": samples if tiled and not request.on_device else rows,
        "columns": classes,
        "spatial_size": places,
        "ignore_index": request.options.ignore_index,
        "values": OUT if request.value else 0,
        "input": At("operand", 0),
        "input_row_step": row_step,
        "input_step": step,
        "target": At("constant", 0) if by_label else At("operand", 1),
        "target_row_step": classes * places if tiled else classes,
        "target_step": places,
        "weight": At("constant", 1),
        "grad_output": GRAD_OUTPUT_AT,
        "grad_output_row_step": upstream_step,
        "grad_input": At("gradient", 0),
        "grad_target": At("gradient", 1),
    }
    scale, mean = 1.0, request.reduction == "mean"
    if mean and not by_label:
        scale = 1.0 / rows if rows * classes else math.nan
    of_row = work_of_row(request)
    return Work(
        spec,
        values,
        (scale, scale, smoothing),
        items=samples * chunks.count(places, spec.tile) if tiled else rows,
        item=of_row * cost(request) * (min(places, spec.tile) if tiled else 1),
        size=int(rows * of_row * cost(request)),
        # With smoothing the mean of no weight is that of another number than a sum of zeros.
        weighs=("nan" if smoothing > 0.0 else "inf") if mean and by_label else "",
    )


def validate(request: Request, made: Work, pieces: int) -> dict[str, Any]:
    """Prepare a first walk over the labels."""
    by_label, has_weight = request.constants
    if not by_label:
        return {}
    samples, classes, places = dimensions(request.shape)
    mean = {"": 0, "inf": PLAIN, "nan": NAN_OF_NO_WEIGHT}[made.weighs]
    ignored = request.options.ignore_index
    return labels(request, samples * places, 0, classes, ignored, has_weight, mean)


def work_of_row(request: Request) -> int:
    """How many classes of a row there is something to do for."""
    single = is_picked(request) and not any(request.needs_grad)
    return 1 if single else max(dimensions(request.shape)[1], 1)


def cost(request: Request) -> float:
    """How much there is to do for a class, in elements of a loss of middling cost."""
    return 1 / CLEARED if is_picked(request) else NORMALIZED


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    shape = problem.shape
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def out_of_range(label: int) -> Exception:
    """Say that a target names no class, in torch's words."""
    return IndexError(f"Target {label} is out of bounds.")

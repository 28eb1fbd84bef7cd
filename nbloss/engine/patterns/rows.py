"""Losses of rows: the formula takes rows along the last dimension, and gives a number for each."""

import math
from dataclasses import replace
from typing import Any

from nbloss.codegen import emit_cpu
from nbloss.codegen.compile import kernel
from nbloss.codegen.spec import Spec, gradient, identifier
from nbloss.engine import chunks
from nbloss.engine.launch import OUT, UPSTREAM, At, Launch, Request, Stage, ready
from nbloss.engine.patterns import common
from nbloss.engine.patterns.survey import PLAIN, gathered
from nbloss.engine.problem import Problem
from nbloss.formula.trace import Formula


def formula_of(request: Request) -> tuple[Formula, dict[str, Any]]:
    """Give the formula, and its options."""
    formula = request.definition.symbolic
    if request.options is None:
        return formula, {}
    return request.options.formula(formula)


def layout(request: Request, kinds: dict[str, str]) -> tuple | None:
    """Say how rows and columns of the operands step; None if it takes contiguous operands."""
    shape = request.shape
    rows, columns = math.prod(shape[:-1]), shape[-1]
    along = [k for k, kind in enumerate(kinds.values()) if kind == "element"]
    laid = chunks.rows(shape, tuple(request.strides[k] for k in along), rows, columns)
    others = [steps for k, steps in enumerate(request.strides) if k not in along]
    if laid is None or not all(chunks.is_contiguous(shape[:-1], steps) for steps in others):
        return None
    return laid


def specify(request: Request) -> tuple[Spec, tuple] | None:
    """Say which kernel a request takes, and how rows and columns step; None as :func:`layout`."""
    formula, options = formula_of(request)
    operands = floating(formula)
    laid = layout(request, operands)
    if laid is None:
        return None
    known = common.known_steps(laid[1])
    needs_grad = zip(operands, request.wanted, strict=True)
    spec = Spec(
        formula,
        tuple(options.items()),
        tuple(name for name, needed in needs_grad if needed),
        request.value,
        request.dtype,
        tuple((n, step) for n, step in zip(_along(operands), known, strict=True) if step != 1),
        request.upstream is not None,
        order=request.order,
    )
    return spec, laid


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    specified = specify(request)
    if specified is None:
        return None
    spec, laid = specified
    formula = spec.formula
    operands = floating(formula)
    outer, inner = (dict(zip(_along(operands), steps, strict=True)) for steps in laid)
    rows, columns = math.prod(request.shape[:-1]), request.shape[-1]
    per_chunk = max(1, chunks.CHUNK // max(1, columns))
    pieces = chunks.count(rows, per_chunk)
    values = {
        "rows": rows,
        "columns": columns,
        "rows_per_chunk": per_chunk,
        "values": OUT if request.value else 0,
        "grad_output": UPSTREAM,
        "grad_output_row_step": 1,
    }
    for k, name in enumerate(operands):
        field = identifier(name)
        values |= {
            field: At("operand", k),
            f"{field}_row_step": outer.get(name, 1),
            f"{field}_step": inner.get(name, 0),
            gradient(name): At("gradient", k),
        }
    constants = [n for n in formula.operands if n not in operands]
    values |= {identifier(name): At("constant", k) for k, name in enumerate(constants)}
    walk: dict[str, Any] = {}
    weighted = formula.graph(**dict(spec.options)).weight is not None
    mean = request.reduction == "mean"
    if "index" in formula.operands.values() or (weighted and mean):
        first = replace(spec, needs_grad=(), value="survey", has_grad_output=False)
        walk = surveyed(first, pieces, weighted and mean)
    scale = 1.0
    if mean and (rows == 0 or not weighted):
        scale = 1.0 / rows if rows else math.nan
    return ready(
        request,
        value_shape(request),
        common.stage(kernel(spec), pieces, request, int(request.value == "sum")),
        spec.block(1, pieces, values),
        (scale, scale, *request.parameters),
        len(operands) * rows * columns,
        **walk,
    )


def surveyed(spec: Spec, pieces: int, weighs: bool) -> dict[str, Any]:
    """Prepare a first walk over all rows, which finds labels that name no column.

    It also gives the sum of the weights that a weighted mean divides by, which has to be known
    before the first gradient.
    """
    stage = Stage(kernel(spec), pieces, gathered(), 1, 2 * pieces)
    integers = (0, pieces, 0, 0, 0, 0, 0, 0, PLAIN if weighs else 0)
    return {"survey": stage, "survey_integers": integers}


def floating(formula: Formula) -> dict[str, str]:
    """Give the operands that are floating-point numbers, in their order, and how each varies."""
    kinds = formula.operands.items()
    return {name: kind for name, kind in kinds if kind in ("element", "per_row")}


def _along(operands: dict[str, str]) -> list[str]:
    """Name the operands that vary along the row."""
    return [name for name, kind in operands.items() if kind == "element"]


def source(request: Request) -> str:
    """Give the source of a request's kernel."""
    specified = specify(request)
    assert specified is not None, "the operands are contiguous"
    return emit_cpu.source(specified[0])


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    return problem.shape[:-1]


def out_of_range(label: int) -> Exception:
    """Say that a label names no column, in torch's words."""
    return IndexError(f"Target {label} is out of bounds.")

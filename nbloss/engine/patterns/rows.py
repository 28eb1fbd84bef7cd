"""Losses of rows: the formula takes rows along the last dimension, and gives a number for each."""

import math
from typing import Any

from nbloss.codegen.compile import kernel
from nbloss.codegen.spec import Spec
from nbloss.engine import chunks
from nbloss.engine.launch import OUT, UPSTREAM, At, Launch, Request, ready
from nbloss.engine.patterns import common
from nbloss.engine.patterns.survey import survey
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


def prepare(request: Request) -> Launch | None:
    """Choose a kernel and cut the work; see :mod:`nbloss.engine.evaluate`."""
    formula, options = formula_of(request)
    kinds = dict(formula.operands)
    operands = {n: kind for n, kind in kinds.items() if kind in ("element", "per_row")}
    laid = layout(request, operands)
    if laid is None:
        return None
    outer, inner = (dict(zip(_along(operands), steps, strict=True)) for steps in laid)
    known = common.known_steps(tuple(inner.values()))
    needs_grad = zip(operands, request.wanted, strict=True)
    spec = Spec(
        formula,
        tuple(options.items()),
        tuple(name for name, needed in needs_grad if needed),
        request.value,
        request.dtype,
        tuple((n, step) for n, step in zip(inner, known, strict=True) if step != 1),
        request.upstream is not None,
    )
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
        values |= {
            name: At("operand", k),
            f"{name}_row_step": outer.get(name, 1),
            f"{name}_step": inner.get(name, 0),
            f"grad_{name}": At("gradient", k),
        }
    constants = [n for n, kind in kinds.items() if kind not in ("element", "per_row")]
    values |= {name: At("constant", k) for k, name in enumerate(constants)}
    labels = [k for k, name in enumerate(constants) if kinds[name] == "index"]
    walk = survey(request, rows, 0, columns, constant=labels[0]) if labels else {}
    scale = 1.0
    if request.reduction == "mean":
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


def _along(operands: dict[str, str]) -> list[str]:
    """Name the operands that vary along the row."""
    return [name for name, kind in operands.items() if kind == "element"]


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    return problem.shape[:-1]


def out_of_range(label: int) -> Exception:
    """Say that a label names no column, in torch's words."""
    return IndexError(f"Target {label} is out of bounds.")

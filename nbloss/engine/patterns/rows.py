"""Losses of rows: the formula takes rows along the last dimension, and gives a number for each."""

import math
from typing import Any

from nbloss.codegen import chunks
from nbloss.codegen.spec import Spec, gradient, identifier
from nbloss.engine.kernels import kernel
from nbloss.engine.patterns import common
from nbloss.engine.patterns.common import Work
from nbloss.engine.patterns.labels import PLAIN, gathered
from nbloss.engine.plan import GRAD_OUTPUT_AT, OUT, At, Request, Stage
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


def work(request: Request) -> Work | None:
    """Say what there is to do; None if it takes contiguous operands."""
    formula, options = formula_of(request)
    operands = floating(formula)
    laid = layout(request, operands)
    if laid is None:
        return None
    along = [name for name, kind in operands.items() if kind == "element"]
    outer, inner = (dict(zip(along, steps, strict=True)) for steps in laid)
    known = zip(along, common.known_steps(laid[1]), strict=True)
    needs_grad = zip(operands, request.needs_grad, strict=True)
    spec = Spec(
        formula,
        tuple(options.items()),
        tuple(name for name, needed in needs_grad if needed),
        request.value,
        request.dtype,
        tuple((name, step) for name, step in known if step != 1),
        request.grad_output is not None,
        order=request.order,
    )
    rows, columns = math.prod(request.shape[:-1]), request.shape[-1]
    values = {
        "rows": rows,
        "columns": columns,
        "values": OUT if request.value else 0,
        "grad_output": GRAD_OUTPUT_AT,
        "grad_output_row_step": common.step_of_grad_output(request),
    }
    for k, name in enumerate(operands):
        field = identifier(name)
        values |= {
            field: At("operand", k),
            f"{field}_row_step": outer.get(name, 1),
            f"{field}_step": inner.get(name, 0),
            gradient(name): At("gradient", k),
        }
    constants = [name for name in formula.operands if name not in operands]
    values |= {identifier(name): At("constant", k) for k, name in enumerate(constants)}
    mean = request.reduction == "mean"
    weighted = formula.graph(**options).weight is not None
    scale = 1.0
    if mean and (rows == 0 or not weighted):
        scale = 1.0 / rows if rows else math.nan
    return Work(
        spec,
        values,
        (scale, scale, *request.parameters),
        items=rows,
        item=columns,
        size=rows * columns,
        weighs="inf" if mean and weighted else "",
    )


def validate(request: Request, made: Work, pieces: int) -> dict[str, Any]:
    """Prepare a first walk over all rows, which finds labels that name no column.

    It also gives the sum of the weights that a weighted mean divides by, which has to be known
    before the first gradient.
    """
    if "index" not in made.spec.formula.operands.values() and not made.weighs:
        return {}
    stage = Stage(kernel(made.weighing), pieces, gathered(), 1, 2 * pieces)
    integers = (0, pieces, 0, 0, 0, 0, 0, 0, PLAIN if made.weighs else 0)
    return {"validation": stage, "validation_integers": integers}


def floating(formula: Formula) -> dict[str, str]:
    """Give the operands that are floating-point numbers, in their order, and how each varies."""
    kinds = formula.operands.items()
    return {name: kind for name, kind in kinds if kind in ("element", "per_row")}


spread = common.spread


def value_shape(problem: Request | Problem) -> tuple[int, ...]:
    """Shape of the value without a reduction."""
    return problem.shape[:-1]


def out_of_range(label: int) -> Exception:
    """Say that a label names no column, in torch's words."""
    return IndexError(f"Target {label} is out of bounds.")

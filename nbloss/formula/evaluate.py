"""A graph on NumPy arrays or torch tensors, as it stands: the oracle of kernels, and the composite.

Rows lie along the last axis. An operand that varies along the row has shape (..., columns), one
number a row (..., 1), and one number a column (columns). Of a formula of an element, operands have
any one shape.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbloss.formula import primitives
from nbloss.formula.expression import COMPARISONS, ELEMENTWISE, Node, ancestors


def evaluate(
    nodes: list[Node],
    operands: Mapping[str, Any],
    parameters: Mapping[str, Any],
    columns: int,
    xp: Any = np,
    constant: Callable[[float], Any] | None = None,
) -> list[Any]:
    """Give what nodes come to.

    Parameters
    ----------
    nodes : list of Node
    operands : mapping of str to array or tensor
        All of one floating type, but for labels.
    parameters : mapping of str to float or tensor
    columns : int
        The length of a row.
    xp : module, optional
        ``numpy`` or ``torch``.
    constant : function, optional
        Makes an array or tensor of a number; by default of the operands' type.

    Returns
    -------
    list of array or tensor
        They broadcast to the shape of the operands, or to (..., 1).
    """
    in_torch = xp is not np
    like = next(x for x in operands.values() if _is_floating(x, in_torch))
    if constant is None:
        made = {"dtype": like.dtype, **({"device": like.device} if in_torch else {})}

        def constant(value: float) -> Any:
            return xp.asarray(value, **made)

    found: dict[Node, Any] = {}
    functions = _in_torch(xp) if in_torch else _IN_NUMPY
    for x in ancestors(*nodes):
        given = [found[a] for a in x.args]
        match x.op:
            case "number" if isinstance(x.data, bool):
                found[x] = xp.asarray(x.data, **({"device": like.device} if in_torch else {}))
            case "number":
                found[x] = constant(x.data)
            case "parameter":
                value = parameters[x.data]
                found[x] = constant(value) if isinstance(value, int | float) else value
            case "operand":
                found[x] = operands[x.data[0]]
            case "column":
                found[x] = xp.arange(columns, **({"device": like.device} if in_torch else {}))
            case "width":
                found[x] = constant(float(columns))
            case "gather" if x.args[1].op == "number":
                place = int(x.args[1].data)
                found[x] = given[0][..., place : place + 1]
            case "gather":
                found[x] = _gathered(given[0], given[1], in_torch)
            case op:
                if op not in COMPARISONS:  # numbers of columns are integers, as labels are
                    given = [_floating(a, like.dtype, in_torch) for a in given]
                with np.errstate(all="ignore"):
                    found[x] = functions[op](*given)
    return [found[x] for x in nodes]


def _is_floating(x: Any, in_torch: bool) -> bool:
    return bool(x.is_floating_point()) if in_torch else x.dtype.kind == "f"


def _floating(x: Any, dtype: Any, in_torch: bool) -> Any:
    """Make floating-point numbers of integers."""
    if in_torch:
        is_integer = not (x.is_floating_point() or "bool" in str(x.dtype))
        return x.to(dtype) if is_integer else x
    return x.astype(dtype) if x.dtype.kind in "iu" else x


def _gathered(row: Any, label: Any, in_torch: bool) -> Any:
    """Take a row's number at a label."""
    shape = (*label.shape[:-1], row.shape[-1])
    if in_torch:
        return row.expand(shape).gather(-1, label)
    return np.take_along_axis(np.broadcast_to(row, shape), label, -1)


_IN_NUMPY: dict[str, Callable] = {
    **ELEMENTWISE,
    "masked": lambda condition, x: np.where(condition, x, 0.0),
    "detach": lambda x: x,
    "clamp_min": lambda x, low: np.where(x < low, low, x),
    "sum": primitives.sum,
    "max": primitives.max,
    "min": primitives.min,
    "sigmoid": primitives.sigmoid,
    "softplus": primitives.softplus,
    "logsumexp": primitives.logsumexp,
    "log_softmax": primitives.log_softmax,
    "softmax": primitives.softmax,
}


def _in_torch(torch: Any) -> dict[str, Callable]:
    """Give torch's functions; made once torch is there."""
    if not _IN_TORCH:
        named = {"power": "pow", "equal": "eq", "direction": "sign"}
        _IN_TORCH.update({op: getattr(torch, named.get(op, op)) for op in ELEMENTWISE})
        _IN_TORCH.update(
            masked=lambda condition, x: torch.where(condition, x, torch.zeros_like(x)),
            detach=lambda x: x.detach(),
            clamp_min=lambda x, low: torch.where(x < low, low, x),
            sum=lambda x: x.sum(-1, keepdim=True),
            max=lambda x: x.amax(-1, keepdim=True),
            min=lambda x: x.amin(-1, keepdim=True),
            sigmoid=torch.sigmoid,
            softplus=lambda x: torch.logaddexp(x, torch.zeros_like(x)),
            logsumexp=lambda x: x.logsumexp(-1, keepdim=True),
            log_softmax=lambda x: x.log_softmax(-1),
            softmax=lambda x: x.softmax(-1),
        )
    return _IN_TORCH


_IN_TORCH: dict[str, Callable] = {}

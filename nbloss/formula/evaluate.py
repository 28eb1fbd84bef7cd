"""A graph on NumPy arrays or torch tensors, as it stands: the oracle of kernels, and the composite.

Rows lie along the last axis. An operand that varies along the row has shape (rows, columns), one
number a row (rows, 1), and one number a column (columns) or (1, columns).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nbloss.formula.expression import ELEMENTWISE, Node, ancestors
from nbloss.formula.lower import lower

IN_TORCH = {"power": "pow", "equal": "eq"}


def evaluate(
    nodes: list[Node],
    operands: Mapping[str, Any],
    parameters: Mapping[str, Any],
    columns: int,
    xp: Any = np,
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

    Returns
    -------
    list of array or tensor
        They broadcast to (rows, columns), or to (rows, 1).
    """
    in_torch = xp is not np
    like = next(x for x in operands.values() if _is_floating(x, in_torch))
    made = {"dtype": like.dtype, **({"device": like.device} if in_torch else {})}
    axis = {"dim": -1, "keepdim": True} if in_torch else {"axis": -1, "keepdims": True}
    found: dict[Node, Any] = {}
    targets = [lower(x) for x in nodes]
    for x in ancestors(*targets):
        given = [found[a] for a in x.args]
        match x.op:
            case "number":
                is_condition = isinstance(x.data, bool)
                found[x] = xp.asarray(x.data, **({} if is_condition else made))
            case "parameter":
                found[x] = xp.asarray(parameters[x.data], **made)
            case "operand":
                found[x] = operands[x.data[0]]
            case "column":
                device = {"device": like.device} if in_torch else {}
                found[x] = xp.arange(columns, **device)
            case "width":
                found[x] = xp.asarray(float(columns), **made)
            case "gather":
                found[x] = _gathered(given[0], given[1], xp)
            case "masked":
                found[x] = xp.where(given[0], given[1], xp.zeros_like(given[1]))
            case "sum":
                found[x] = xp.sum(given[0], **axis)
            case "max" | "shift":
                found[x] = xp.amax(given[0], **axis)
            case "min":
                found[x] = xp.amin(given[0], **axis)
            case op:
                function = getattr(xp, IN_TORCH.get(op, op)) if in_torch else ELEMENTWISE[op]
                with np.errstate(all="ignore"):
                    found[x] = function(*given)
    return [found[x] for x in targets]


def _is_floating(x: Any, in_torch: bool) -> bool:
    return bool(x.is_floating_point()) if in_torch else x.dtype.kind == "f"


def _gathered(row: Any, label: Any, xp: Any) -> Any:
    """Take a row's number at a label."""
    shape = (*label.shape[:-1], row.shape[-1])
    if xp is np:
        return np.take_along_axis(np.broadcast_to(row, shape), label, -1)
    return row.expand(shape).gather(-1, label)

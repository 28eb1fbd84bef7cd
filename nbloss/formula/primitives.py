"""What formulas are written in, beyond arithmetic.

Each primitive takes symbols, which is how a formula becomes a graph, and plain numbers or NumPy
arrays as well, so that a formula can be tried out as it stands; a row is then the last axis, which
reductions keep with length 1. The elementwise ones are NumPy's own functions, which know symbols
by NumPy's protocols.
"""

from typing import Any

import numpy as np

from nbloss.formula import expression
from nbloss.formula.expression import Node, fail, node

where = np.where
maximum = np.maximum
minimum = np.minimum
absolute = np.absolute
sign = np.sign
exp = np.exp
expm1 = np.expm1
log = np.log
log1p = np.log1p
sqrt = np.sqrt
tanh = np.tanh

# The place along the row, and how many there are.
column = node("column")
width = node("width")


def sum(x: Any, axis: int = -1) -> Any:
    """Sum along the row, the last axis."""
    return _reduced("sum", x, axis)


def mean(x: Any, axis: int = -1) -> Any:
    """Average along the row, the last axis."""
    return _reduced("mean", x, axis)


def max(x: Any, axis: int = -1) -> Any:
    """Take the largest of the row; several largest share its derivative."""
    return _reduced("max", x, axis)


def min(x: Any, axis: int = -1) -> Any:
    """Take the smallest of the row; several smallest share its derivative."""
    return _reduced("min", x, axis)


def logsumexp(x: Any) -> Any:
    """Take the logarithm of the sum of exponentials along the row, without overflow."""
    if _is_symbolic(x):
        return _composite("logsumexp", x)
    top = np.max(x, -1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    return top + np.log(np.sum(np.exp(x - top), -1, keepdims=True))


def log_softmax(x: Any) -> Any:
    """Take the logarithm of the softmax, without overflow."""
    if _is_symbolic(x):
        return _composite("log_softmax", x)
    below = x - np.max(x, -1, keepdims=True)
    return below - np.log(np.sum(np.exp(below), -1, keepdims=True))


def softmax(x: Any) -> Any:
    """Take the exponentials of a row, divided by their sum."""
    return _composite("softmax", x) if _is_symbolic(x) else np.exp(log_softmax(x))


def sigmoid(x: Any) -> Any:
    """Give ``1 / (1 + exp(-x))``."""
    if _is_symbolic(x):
        return node("sigmoid", x)
    return np.exp(-softplus(-x))


def softplus(x: Any) -> Any:
    """Give ``log(1 + exp(x))``, without overflow."""
    if _is_symbolic(x):
        return node("softplus", x)
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.absolute(x)))


def power(x: Any, y: Any, slope_at_zero: float | None = None) -> Any:
    """Give ``x ** y``.

    Parameters
    ----------
    x, y : number
    slope_at_zero : float, optional
        The derivative with respect to ``x`` where that is 0; by default the power's own, which is
        infinite for exponents below 1.
    """
    if slope_at_zero is None or not _is_symbolic(x, y):
        return x**y if _is_symbolic(x, y) else np.power(x, y)
    return expression.apply("power", x, y, data=float(slope_at_zero))


def detach(x: Any) -> Any:
    """Take a number as it is, without its derivative."""
    return node("detach", x) if _is_symbolic(x) else x


def clamp_min(x: Any, low: Any, at: float = 1.0, below: float = 0.0) -> Any:
    """Give the larger of ``x`` and ``low``, which gets no derivative.

    Parameters
    ----------
    x, low : number
    at, below : float, optional
        The share of its derivative that ``x`` has where it is equal to ``low``, and where it is
        below.
    """
    if not _is_symbolic(x, low):
        return np.maximum(x, low)
    if isinstance(at, Node) or isinstance(below, Node):
        raise fail("`at` and `below` of clamp_min are numbers that are known with the formula")
    return node("clamp_min", x, low, data=(float(at), float(below)))


def hinge(x: Any, at: float = 1.0) -> Any:
    """Give the larger of ``x`` and 0; ``at`` is its derivative where ``x`` is 0."""
    return clamp_min(x, 0.0, at)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """Bring a number into a range; outside of it its derivative is 0."""
    return -clamp_min(-clamp_min(x, low), -high)


def xlogy(x: Any, y: Any) -> Any:
    """Give ``x * log(y)``, which is 0 where ``x`` is 0, though the logarithm be infinite."""
    return x * log(where((x == 0.0) & ((y <= 0.0) | (y == np.inf)), 1.0, y))


def weighted(value: Any, weight: Any) -> Any:
    """Give the value of a row that counts by a weight when a mean is taken.

    The mean is the sum of the values divided by the sum of the weights. The value itself is not
    multiplied by the weight.
    """
    if not _is_symbolic(value, weight):
        return value
    return node("weighted", value, weight)


def _is_symbolic(*given: Any) -> bool:
    return any(isinstance(x, Node) for x in given)


def _reduced(name: str, x: Any, axis: int) -> Any:
    if _is_symbolic(x):
        return expression.along_row(name, x, axis)
    return getattr(np, name)(x, axis, keepdims=True)


def _composite(op: str, x: Node) -> Node:
    if expression.COLUMN not in x.varies:
        raise fail(f"{op} takes a row, and got a number that is the same all along it")
    return node(op, x)


__all__ = [
    "absolute",
    "clamp",
    "clamp_min",
    "column",
    "detach",
    "exp",
    "expm1",
    "hinge",
    "log",
    "log1p",
    "log_softmax",
    "logsumexp",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "power",
    "sigmoid",
    "sign",
    "softmax",
    "softplus",
    "sqrt",
    "sum",
    "tanh",
    "weighted",
    "where",
    "width",
    "xlogy",
]

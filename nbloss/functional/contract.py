"""Checks that every face shares: torch's rules for arguments, and its words when they are broken.

A check that fails raises :class:`Unserved`. On NumPy arrays the error inside is raised; on tensors
torch itself is asked, which has its own words for it, or can do what nbloss does not.
"""

import math
import operator
import warnings
from typing import Any, NoReturn

REDUCTIONS = ("none", "mean", "sum")


class Unserved(Exception):
    """A call that nbloss has no kernel for, with the error that it should end in."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def refuse(error: Exception) -> NoReturn:
    raise Unserved(error)


def reduction(value: Any) -> str:
    """Check the name of a reduction."""
    if not isinstance(value, str) or value not in REDUCTIONS:
        refuse(ValueError(f"{value} is not a valid value for reduction"))
    return value


def legacy(value: Any, size_average: bool | None, reduce: bool | None) -> Any:
    """The reduction that torch's two old arguments stand for, if either is given."""
    if size_average is None and reduce is None:
        return value
    mean = size_average is None or size_average
    chosen = ("mean" if mean else "sum") if reduce is None or reduce else "none"
    warnings.warn(
        f"size_average and reduce args will be deprecated, please use reduction='{chosen}' instead.",
        stacklevel=4,
    )
    return chosen


def number(loss: str, argument: str, value: Any) -> float:
    """Check a parameter that is a number."""
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        refuse(
            TypeError(f"{loss}(): {argument} must be a number, got {type(value).__name__}")
        )
    return float(value)


def integer(loss: str, argument: str, value: Any) -> int:
    """Check a parameter that is an integer of 64 bits."""
    try:
        value = operator.index(value)
    except TypeError:
        refuse(TypeError(f"{loss}(): {argument} must be an int, got {type(value).__name__}"))
    if not -(2**63) <= value < 2**63:
        refuse(ValueError(f"{loss}(): {argument} must fit into 64 bits, got {value}"))
    return value


def positive_margin(loss: str, value: Any) -> float:
    """Check the margin of a triplet loss."""
    margin = number(loss, "margin", value)
    if margin <= 0:
        refuse(ValueError(f"margin must be greater than 0, got {value}"))
    return margin


def common_shape(*arrays: Any) -> tuple[int, ...]:
    """The shape that arrays broadcast to."""
    shapes = [tuple(a.shape) for a in arrays]
    rank = max(len(shape) for shape in shapes)
    common = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size == common[axis] or size == 1:
                continue
            if common[axis] != 1:
                refuse(
                    RuntimeError(
                        f"The size of tensor a ({common[axis]}) must match the size of tensor b "
                        f"({size}) at non-singleton dimension {axis}"
                    )
                )
            common[axis] = size
    return tuple(common)


def same_dimensions(message: str, *arrays: Any) -> None:
    """Check that operands have as many dimensions as each other."""
    if len({len(a.shape) for a in arrays}) != 1:
        refuse(RuntimeError(message))


def count(shape: tuple[int, ...]) -> int:
    return math.prod(shape)

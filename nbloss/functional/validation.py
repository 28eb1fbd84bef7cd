"""Validates arguments: torch's rules, and torch's error messages when they are broken.

A check that fails raises :class:`~nbloss.backends.unsupported.Unserved`.
"""

import operator
import warnings
from typing import Any

import numpy as np

from nbloss.backends.unsupported import unsupported

REDUCTIONS = ("none", "mean", "sum")


def reduction(
    value: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    message: str = "{} is not a valid value for reduction",
) -> str:
    """Check the name of a reduction, or take it from torch's two old arguments if one is given.

    To be called when all else has passed, for it warns of the old arguments, and torch, if it were
    asked afterwards, would warn again.
    """
    if size_average is not None or reduce is not None:
        mean = size_average is None or size_average
        value = ("mean" if mean else "sum") if reduce is None or reduce else "none"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{value}' "
            "instead.",
            stacklevel=6,
        )
    if not isinstance(value, str) or value not in REDUCTIONS:
        unsupported(ValueError(message.format(value)))
    return value


def number(loss: str, argument: str, value: Any) -> float:
    """Check a parameter that is a number."""
    single = isinstance(value, int | float) or getattr(value, "shape", None) == ()
    # A tensor that wants a gradient would not get one.
    if not single or getattr(value, "requires_grad", False):
        unsupported(TypeError(f"{loss}(): {argument} must be a number, got {type(value).__name__}"))
    return float(value)


def integer(loss: str, argument: str, value: Any) -> int:
    """Check a parameter that is an integer of 64 bits."""
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        unsupported(TypeError(f"{loss}(): {argument} must be an int, got {type(value).__name__}"))
    if not -(2**63) <= value < 2**63:
        unsupported(ValueError(f"{loss}(): {argument} must fit into 64 bits, got {value}"))
    return value


def flag(loss: str, argument: str, value: Any) -> bool:
    """Check a parameter that is true or false, Python's or NumPy's."""
    if not isinstance(value, bool | np.bool_):
        unsupported(TypeError(f"{loss}(): {argument} must be a bool, got {type(value).__name__}"))
    return bool(value)


def option(loss: str, argument: str, value: Any, default: Any) -> Any:
    """Check an option, which is of the type of its default."""
    if isinstance(default, bool):
        return flag(loss, argument, value)
    if isinstance(default, int):
        return integer(loss, argument, value)
    if isinstance(default, str) and not isinstance(value, str):
        unsupported(TypeError(f"{loss}(): {argument} must be a str, got {type(value).__name__}"))
    try:
        hash(value)
    except TypeError:
        unsupported(TypeError(f"{loss}(): {argument} must be hashable, got {type(value).__name__}"))
    return value


def positive_margin(loss: str, value: Any) -> float:
    """Check the margin of a triplet loss."""
    margin = number(loss, "margin", value)
    if margin <= 0:
        unsupported(ValueError(f"margin must be greater than 0, got {value}"))
    return margin


def common_shape(*arrays: Any) -> tuple[int, ...]:
    """The shape that arrays broadcast to."""
    shapes = [tuple(a.shape) for a in arrays]
    if len(set(map(len, shapes))) == 1 and all(shape == shapes[0] for shape in shapes[1:]):
        return shapes[0]  # without asking a compiler whether a size that it can't know is 1
    rank = max(len(shape) for shape in shapes)
    common = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size == common[axis] or size == 1:
                continue
            if common[axis] != 1:
                unsupported(
                    RuntimeError(
                        f"The size of tensor a ({common[axis]}) must match the size of tensor b "
                        f"({size}) at non-singleton dimension {axis}"
                    )
                )
            common[axis] = size
    return tuple(common)


def same_rank(*arrays: Any) -> bool:
    """Whether operands have as many dimensions as each other."""
    return len({len(x.shape) for x in arrays}) == 1


def class_target(input: Any, target: Any) -> None:
    """Check the shapes of class scores (C), (N, C) or (N, C, d1, ...) and of their labels."""
    scores, labels = tuple(input.shape), tuple(target.shape)
    rank = len(scores)
    if rank == 0:
        unsupported(ValueError("Expected 1 or more dimensions (got 0)"))
    if rank == 1:
        if len(labels) > 1:
            unsupported(RuntimeError(MULTI_TARGET))
        if labels not in ((), (1,)):
            unsupported(
                ValueError(
                    f"For 1D input, 1D target must have size 1, but got target size: {labels[0]}"
                )
            )
        return
    samples = labels[0] if labels else 0
    if scores[0] != samples:
        unsupported(
            ValueError(
                f"Expected input batch_size ({scores[0]}) to match target batch_size ({samples})."
            )
        )
    expected = (scores[0], *scores[2:])
    if labels == expected:
        if rank not in (2, 4) and scores[1] == 0 and 0 not in labels:
            # Labels of no classes. torch takes them where it need not reshape the scores.
            unsupported(
                RuntimeError(f"size mismatch (got input: {list(scores)} , target: {list(labels)})")
            )
        return
    if rank == 2:
        unsupported(RuntimeError(MULTI_TARGET))
    if rank == 4 and len(labels) != 3:
        unsupported(
            RuntimeError(
                "only batches of spatial targets supported (3D tensors) but got targets of "
                f"dimension: {len(labels)}"
            )
        )
    if rank == 4:
        unsupported(
            RuntimeError(f"size mismatch (got input: {list(scores)}, target: {list(labels)})")
        )
    unsupported(RuntimeError(f"Expected target size {list(expected)}, got {list(labels)}"))


MULTI_TARGET = "0D or 1D target tensor expected, multi-target not supported"


def class_weight(weight: Any, classes: int, prefix: str = "") -> None:
    """Check that there is a weight for each class."""
    shape = tuple(weight.shape)
    if shape != (classes,):
        unsupported(
            RuntimeError(
                f"{prefix}weight tensor should be defined either for all {classes} classes or no "
                f"classes but got weight tensor of shape: {list(shape)}"
            )
        )

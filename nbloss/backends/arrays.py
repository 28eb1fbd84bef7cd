"""Arguments that are arrays, of NumPy or of a library like it: what they may hold.

``take`` is the function of a backend that takes an argument as an array of its library.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from nbloss.backends.unsupported import unsupported
from nbloss.losses.distances import lp

FLOATS = ("float16", "float32", "float64")
Take = Callable[[str, str, Any], Any]


def readable(loss: str, argument: str, value: Any) -> Any:
    """Check that an array holds numbers; give it in the machine's order of bytes, aligned."""
    if value.dtype.kind not in "biufc":
        raise TypeError(
            f"{loss}(): {argument} must hold numbers, got an array of dtype {value.dtype}"
        )
    aligned = getattr(value.flags, "aligned", True) and value.dtype.isnative
    if not aligned or any(step % value.itemsize for step in value.strides):
        value = value.astype(value.dtype.newbyteorder("="))
    return value


def operands(take: Take, loss: str, integers: bool, named: dict[str, Any]) -> tuple[Any, ...]:
    """Bring operands to one floating type.

    Parameters
    ----------
    take : function
    loss : str
    integers : bool
        Whether the first operand may be of integers; all others may.
    named : dict
        The operands by the names of their arguments.

    Returns
    -------
    tuple of array
        As they are, where they are of one floating type; otherwise in the type that NumPy gives to
        their sum.
    """
    arrays = [take(loss, name, value) for name, value in named.items()]
    for x, name in zip(arrays, named, strict=True):
        floating = x.dtype.name in FLOATS
        if not floating and (x.dtype.kind not in "iu" or (x is arrays[0] and not integers)):
            also = ", or of integers" if x is not arrays[0] or integers else ""
            unsupported(
                NotImplementedError(
                    f"{loss}(): {name} must be of float16, float32 or float64{also}; "
                    f"got {x.dtype.name}"
                )
            )
    kinds = {x.dtype for x in arrays if x.dtype.kind == "f"}
    common = np.result_type(*kinds) if kinds else np.dtype(np.float64)
    return tuple(x if x.dtype == common else x.astype(common) for x in arrays)


def is_floating(x: Any) -> bool:
    """Whether something is an array of floating-point numbers."""
    return getattr(getattr(x, "dtype", None), "kind", "") == "f"


def labels(
    take: Take, loss: str, argument: str, value: Any, dtypes: tuple[str, ...], message: str
) -> Any:
    """Take a target of class indices, as int64.

    ``message`` is what to say of another type than those of ``dtypes``; the type follows it.
    """
    x = take(loss, argument, value)
    if x.dtype.name not in dtypes:
        unsupported(RuntimeError(message + x.dtype.name))
    return x.astype(np.int64, copy=False)


def class_weight(take: Take, loss: str, argument: str, value: Any, like: Any) -> Any:
    """Take the weights of classes, which must have the input's type."""
    x = take(loss, argument, value)
    if x.dtype != like.dtype:
        unsupported(
            RuntimeError(
                f"expected {argument} of dtype {like.dtype} like input but found {x.dtype}"
            )
        )
    return x


def distance(function: Any) -> Any:
    """Give the definition of a distance function; None is the default."""
    return lp(2.0, eps=1e-6) if function is None else function


def measured(loss: str, function: Any, *rest: Any) -> NoReturn:
    """Refuse a distance function that is no definition: nothing could differentiate it."""
    raise TypeError(
        f"{loss}(): on arrays distance_function must be one of nbloss.distances or made by "
        f"@nbloss.distance, got {function!r}"
    )

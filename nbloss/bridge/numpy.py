"""NumPy arrays, and whatever else speaks DLPack on the CPU, for the builders and the engine.

The names here are those that :mod:`nbloss.bridge.torch` has for tensors.
"""

import math
import sys
from typing import Any, NoReturn

import numpy as np

from nbloss.bridge.refusal import Unserved, refuse
from nbloss.engine import buffers
from nbloss.engine.problem import Problem
from nbloss.losses.distances import lp

THIS = sys.modules[__name__]
FLOATS = ("float16", "float32", "float64")

# --- memory -----------------------------------------------------------------------------------


def dtype(x: np.ndarray) -> str:
    return x.dtype.name


def address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def device(x: np.ndarray) -> None:
    """The number of the device whose memory it is; these are the processor's."""
    return None


def strides(x: np.ndarray) -> tuple[int, ...]:
    """Steps along the dimensions, in elements."""
    return tuple(step // x.itemsize for step in x.strides)


def is_contiguous(x: np.ndarray) -> bool:
    return x.flags.c_contiguous


def contiguous(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x) if x.ndim else x


def size(x: np.ndarray) -> int:
    return x.size


def empty(shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
    return np.empty(shape, like.dtype)


NUMBERS = {name: np.empty((), name) for name in FLOATS}


def empty_like(x: np.ndarray) -> np.ndarray:
    """Make room for as much again; of a memory map, too, an array in memory."""
    return np.empty(x.shape, x.dtype)


def large(shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
    """Make room for much; see :mod:`nbloss.engine.buffers`."""
    size = math.prod(shape) * like.itemsize

    def use(owner: np.ndarray) -> np.ndarray:
        return owner.view(like.dtype).reshape(shape)

    made = buffers.again(size, _is_free, use)
    if made is None:
        owner = np.empty(size, np.uint8)
        buffers.prefer_large_pages(address(owner), size)
        made = use(owner)
        buffers.remember(buffers.Buffer(owner, size, _is_free))
    return made


def _users(buffer: buffers.Buffer) -> int:
    """How many refer to a buffer's memory, this call included; each view of an array does."""
    return sys.getrefcount(buffer.owner)


def _is_free(buffer: buffers.Buffer) -> bool:
    return _users(buffer) == ALONE


ALONE = _users(buffers.Buffer(np.empty(1, np.uint8), 1, _is_free))


def broadcast_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(x, shape) if x.shape != shape else x


def threads() -> int:
    """As many as Numba will give."""
    return 1 << 30


# --- arguments --------------------------------------------------------------------------------


def array(loss: str, argument: str, value: Any) -> np.ndarray:
    """Take an argument as an array, without a copy if the machine can read it as it is."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    elif not isinstance(value, np.ndarray):
        value = _by_dlpack(loss, argument, value)
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{loss}(): {argument} is a masked array, whose mask nbloss can't honour")
    if value.dtype.kind not in "biufc":
        raise TypeError(
            f"{loss}(): {argument} must hold numbers, got an array of dtype {value.dtype}"
        )
    if not (value.flags.aligned and value.dtype.isnative) or any(
        step % value.itemsize for step in value.strides
    ):
        value = value.astype(value.dtype.newbyteorder("="))
    return value


def _by_dlpack(loss: str, argument: str, value: Any) -> np.ndarray:
    if not hasattr(value, "__dlpack__"):
        raise TypeError(
            f"{loss}(): {argument} must be a NumPy array, like the first operand, "
            f"or an array that speaks DLPack; got {type(value).__name__}"
        )
    if hasattr(type(value), "__torch_function__"):
        raise TypeError(
            f"{loss}(): {argument} is a {type(value).__name__} of torch, the first operand is not; "
            "convert one of them"
        )
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, ValueError) as error:
        raise TypeError(f"{loss}(): {argument} can't be read on the CPU: {error}") from error


def operands(loss: str, integers: bool = False, **named: Any) -> tuple[np.ndarray, ...]:
    """Bring operands to one floating type.

    Parameters
    ----------
    loss : str
    integers : bool
        Whether the first operand may be of integers; all others may.
    **named
        The operands by the names of their arguments.

    Returns
    -------
    tuple of array
        As they are, where they are of one floating type; otherwise in the type that NumPy gives to
        their sum.
    """
    arrays = [array(loss, name, value) for name, value in named.items()]
    for x, name in zip(arrays, named, strict=True):
        floating = x.dtype.name in FLOATS
        if not floating and (x.dtype.kind not in "iu" or (x is arrays[0] and not integers)):
            also = ", or of integers" if x is not arrays[0] or integers else ""
            refuse(
                NotImplementedError(
                    f"{loss}(): {name} must be of float16, float32 or float64{also}; "
                    f"got {x.dtype.name}"
                )
            )
    kinds = {x.dtype for x in arrays if x.dtype.kind == "f"}
    common = np.result_type(*kinds) if kinds else np.dtype(np.float64)
    return tuple(x if x.dtype == common else x.astype(common) for x in arrays)


def expand(arrays: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Broadcast operands to a shape."""
    return tuple(broadcast_to(x, shape) for x in arrays)


def is_floating(x: Any) -> bool:
    """Whether something is an array of floating-point numbers."""
    return getattr(getattr(x, "dtype", None), "kind", "") == "f"


def labels(loss: str, target: Any, dtypes: tuple[str, ...], message: str) -> np.ndarray:
    """Take a target of class indices, as contiguous int64.

    ``message`` is what to say of another type than those of ``dtypes``; the type follows it.
    """
    x = array(loss, "target", target)
    if x.dtype.name not in dtypes:
        refuse(RuntimeError(message + x.dtype.name))
    return np.ascontiguousarray(x, np.int64).reshape(x.shape)


def class_weight(loss: str, weight: Any, like: np.ndarray) -> np.ndarray:
    """Take the weights of classes, which must have the input's type."""
    x = array(loss, "weight", weight)
    if x.dtype != like.dtype:
        refuse(
            RuntimeError(f"expected weight of dtype {like.dtype} like input but found {x.dtype}")
        )
    return np.ascontiguousarray(x).reshape(x.shape)


def item(x: np.ndarray, index: int) -> int:
    """One number of a contiguous array, by its place in memory."""
    return int(x.reshape(-1)[index])


def distance(function: Any) -> Any:
    """Give the definition of a distance function; None is the default."""
    return lp(2.0, eps=1e-6) if function is None else function


def measured(loss: str, function: Any, *rest: Any) -> NoReturn:
    """Refuse a distance function that is no definition: nothing could differentiate it."""
    raise TypeError(
        f"{loss}(): on arrays distance_function must be one of nbloss.distances or made by "
        f"@nbloss.distance, got {function!r}"
    )


# --- calls --------------------------------------------------------------------------------------


def call(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss of a public function: an array, or a NumPy scalar."""
    from nbloss.engine.evaluate import forward  # imports Numba, which takes its time

    problem = built(function, arguments, named)
    value, _ = forward(THIS, problem, (False,) * len(problem.operands))
    return value[()]


def built(function: Any, arguments: tuple, named: dict[str, Any]) -> Problem:
    """Check the arguments of a public function; raise what is wrong with them."""
    try:
        return function.build(THIS, *arguments, **named)
    except Unserved as refusal:
        raise refusal.error from None

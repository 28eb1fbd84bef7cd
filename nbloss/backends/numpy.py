"""NumPy arrays, and whatever else speaks DLPack on the CPU, for the builders and the engine.

The names here are those that :mod:`nbloss.backends.torch` has for tensors.
"""

import math
import sys
from typing import Any

import numpy as np

from nbloss.backends import arrays
from nbloss.backends.arrays import FLOATS
from nbloss.backends.arrays import distance as distance
from nbloss.backends.arrays import is_floating as is_floating
from nbloss.backends.arrays import measured as measured
from nbloss.engine import buffers
from nbloss.engine import threads as engine_threads
from nbloss.engine.problem import Problem

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


def ones_like(x: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


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
        buffers.keep(buffers.Buffer(owner, size, _is_free))
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
    """As many as torch may use where it is loaded, otherwise as many as Numba will give."""
    count = engine_threads.torch_count()
    return 1 << 30 if count is None else count


# --- arguments --------------------------------------------------------------------------------


def array(loss: str, argument: str, value: Any) -> np.ndarray:
    """Take an argument as an array, without a copy if the machine can read it as it is."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    elif not isinstance(value, np.ndarray):
        value = _by_dlpack(loss, argument, value)
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{loss}(): {argument} is a masked array, whose mask nbloss can't honour")
    return arrays.readable(loss, argument, value)


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
    """Bring operands to one floating type; see :func:`nbloss.backends.arrays.operands`."""
    return arrays.operands(array, loss, integers, named)


def expand(operands: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Broadcast operands to a shape."""
    return tuple(broadcast_to(x, shape) for x in operands)


def labels(
    loss: str, argument: str, value: Any, dtypes: tuple[str, ...], message: str
) -> np.ndarray:
    """Take a target of class indices, as contiguous int64."""
    return contiguous(arrays.labels(array, loss, argument, value, dtypes, message))


def class_weight(loss: str, argument: str, value: Any, like: np.ndarray) -> np.ndarray:
    """Take the weights of classes, which must have the input's type."""
    return contiguous(arrays.class_weight(array, loss, argument, value, like))


def item(x: np.ndarray, index: int) -> int:
    """One number of a contiguous array, by its place in memory."""
    return int(x.reshape(-1)[index])


def on_one_device(problem: Problem) -> Problem:
    """Check that the arrays of a problem lie together: these always do."""
    return problem


def as_given(x: np.ndarray, like: Any) -> Any:
    """Give a result as an array of the library that an argument is of: always NumPy's."""
    return x


def is_on_device(x: Any) -> bool:
    """Whether something is an array in the memory of a CUDA device."""
    if type(x) is np.ndarray or not hasattr(x, "__dlpack_device__"):
        return False
    return int(x.__dlpack_device__()[0]) in CUDA_OF_DLPACK


# A device's own memory, and memory that it shares with the processor.
CUDA_OF_DLPACK = (2, 13)

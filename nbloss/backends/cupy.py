"""CuPy's arrays, and whatever else speaks DLPack on a CUDA device, for the builders and the engine.

The names here are those that :mod:`nbloss.backends.numpy` has for arrays of the processor.
"""

from typing import Any

import cupy
import numpy as np

from nbloss.backends import arrays
from nbloss.backends import numpy as host
from nbloss.backends.arrays import distance as distance
from nbloss.backends.arrays import is_floating as is_floating
from nbloss.backends.arrays import measured as measured
from nbloss.engine.problem import Problem, present

# --- memory -----------------------------------------------------------------------------------

dtype, strides, size = host.dtype, host.strides, host.size
is_contiguous, item = host.is_contiguous, host.item


def address(x: Any) -> int:
    return x.data.ptr


def device(x: Any) -> int:
    """The number of the device whose memory it is."""
    return x.device.id


def contiguous(x: Any) -> Any:
    return cupy.ascontiguousarray(x) if x.ndim else x


def empty(shape: tuple[int, ...], like: Any) -> Any:
    with current(like):
        return cupy.empty(shape, like.dtype)


def empty_like(x: Any) -> Any:
    return empty(x.shape, x)


def ones_like(x: Any) -> Any:
    with current(x):
        return cupy.ones(x.shape, x.dtype)


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    return cupy.broadcast_to(x, shape) if x.shape != shape else x


def expand(operands: tuple, shape: tuple[int, ...]) -> tuple:
    """Broadcast operands to a shape."""
    return tuple(broadcast_to(x, shape) for x in operands)


def scratch(size: int, like: Any) -> Any:
    """Bytes of memory of a device to work in; their next user waits on the same stream."""
    with current(like):
        return cupy.empty(size, np.uint8)


def stream(x: Any) -> int:
    """The stream that CuPy uses at this moment on the device that is current."""
    return cupy.cuda.get_current_stream().ptr


def current(x: Any) -> Any:
    """A context in which an array's device is the current one."""
    return cupy.cuda.Device(x.device.id)


def is_capturing() -> bool:
    """Whether what is launched is recorded in a graph instead of run."""
    return cupy.cuda.get_current_stream().is_capturing()


# --- arguments --------------------------------------------------------------------------------


def array(loss: str, argument: str, value: Any) -> Any:
    """Take an argument as an array on the device, without a copy if kernels can read it."""
    if not isinstance(value, cupy.ndarray):
        if not host.is_on_device(value):
            raise TypeError(
                f"{loss}(): {argument} must be an array on the CUDA device, like the first "
                f"operand; got {type(value).__name__}"
            )
        value = cupy.from_dlpack(value)
    return arrays.readable(loss, argument, value)


def operands(loss: str, integers: bool = False, **named: Any) -> tuple:
    """Bring operands to one floating type; see :func:`nbloss.backends.arrays.operands`."""
    return arrays.operands(array, loss, integers, named)


def labels(loss: str, argument: str, value: Any, dtypes: tuple[str, ...], message: str) -> Any:
    """Take a target of class indices, as contiguous int64."""
    return contiguous(arrays.labels(array, loss, argument, value, dtypes, message))


def class_weight(loss: str, argument: str, value: Any, like: Any) -> Any:
    """Take the weights of classes, which must have the input's type."""
    return contiguous(arrays.class_weight(array, loss, argument, value, like))


def on_one_device(problem: Problem) -> Problem:
    """Check that the arrays of a problem lie together."""
    numbers = {device(x) for x in (*problem.operands, *present(problem.constants))}
    if len(numbers) > 1:
        loss = problem.definition.name
        raise ValueError(f"{loss}(): all arrays must be on one device, got {sorted(numbers)}")
    return problem


def as_given(x: Any, like: Any) -> Any:
    """Give a result as an array of the library that an argument is of."""
    if isinstance(like, cupy.ndarray) or not hasattr(like, "__array_namespace__"):
        return x
    return like.__array_namespace__().from_dlpack(x)

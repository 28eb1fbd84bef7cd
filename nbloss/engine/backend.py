"""What the engine and the public functions ask of a library of arrays.

A module of :mod:`nbloss.backends` answers for each: ``numpy``, ``torch`` and ``cupy``.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from nbloss.engine.problem import Problem


class ArrayBackend(Protocol):
    """A module that knows the arrays of one library."""

    @property
    def NUMBERS(self) -> Mapping[str, Any]:
        """An array of a single number for each type."""

    # --- arrays as kernels see them ---

    def dtype(self, x: Any, /) -> str:
        """Give the name of the type of an array's numbers."""

    def address(self, x: Any, /) -> int:
        """Give the address of an array's memory."""

    def strides(self, x: Any, /) -> tuple[int, ...]:
        """Give an array's steps, in elements."""

    def size(self, x: Any, /) -> int:
        """Give the number of an array's elements."""

    def device(self, x: Any, /) -> int | None:
        """Give the number of the CUDA device that an array lies on; None for the CPU."""

    def item(self, x: Any, index: int, /) -> int:
        """Give one number of a contiguous array, by its place in memory."""

    # --- making arrays ---

    def contiguous(self, x: Any, /) -> Any:
        """Give an array whose elements lie one behind the other."""

    def empty(self, shape: tuple[int, ...], like: Any, /) -> Any:
        """Give a contiguous array of the type and on the device of another."""

    def empty_like(self, x: Any, /) -> Any:
        """Give an array like a contiguous one."""

    def large(self, shape: tuple[int, ...], like: Any, /) -> Any:
        """Do as `empty` does, for arrays whose memory is worth being used again."""

    def broadcast_to(self, x: Any, shape: tuple[int, ...], /) -> Any:
        """Repeat an array, without a copy."""

    # --- threads ---

    def threads(self) -> int:
        """Say how many threads a kernel may take."""

    # --- arguments ---

    def operands(self, loss: str, integers: bool = False, **named: Any) -> tuple[Any, ...]:
        """Bring operands to one floating type."""

    def expand(self, operands: tuple, shape: tuple[int, ...], /) -> tuple[Any, ...]:
        """Broadcast operands to a shape."""

    def labels(
        self, loss: str, argument: str, value: Any, dtypes: tuple[str, ...], message: str
    ) -> Any:
        """Take labels, as contiguous int64."""

    def class_weight(self, loss: str, argument: str, value: Any, like: Any) -> Any:
        """Take numbers of columns, such as class weights, of the type of another array."""

    def is_floating(self, x: Any, /) -> bool:
        """Whether something is an array of floating-point numbers."""

    def distance(self, function: Any, /) -> Any:
        """Give the definition of a distance function; None is the default."""

    def measured(self, loss: str, function: Any, /, *rest: Any) -> Any:
        """Have a distance function that has no definition measure the distances."""

    def on_one_device(self, problem: Problem, /) -> Problem:
        """Check that the arrays of a problem lie together."""


class DeviceBackend(ArrayBackend, Protocol):
    """A backend whose arrays lie on a CUDA device."""

    def device(self, x: Any, /) -> int:
        """Give the number of the device that an array lies on."""

    def scratch(self, size: int, like: Any, /) -> Any:
        """Give bytes of a device's memory to work in."""

    def stream(self, x: Any, /) -> int:
        """Give the stream that work on an array goes to."""

    def current(self, x: Any, /) -> contextlib.AbstractContextManager[Any]:
        """Make an array's device the current one."""

    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured."""

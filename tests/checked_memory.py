"""Emitted kernels as plain Python, in a memory that knows what may be done to each of its places.

Every array lies at an address that is made up, in a range that is its own: a pointer that has left
its array reaches nothing, however close another one lies in truth. Of an array with gaps only the
elements are there. The memory also sees that no kernel stores to what is given, that nothing is
read before it is stored, and that no chunk touches what another chunk of its stage has stored, so
that it does not matter which of them comes first.
"""

import functools
from collections.abc import Callable
from types import CodeType
from typing import Any

import numpy as np

from nbloss.codegen import emit_cpu, runtime
from nbloss.codegen.spec import Spec

RANGE = 1 << 40  # bytes from the beginning of one array to that of the next
GIVEN, NEVER = -1, -2  # who has stored a number, if it was none of the chunks


class Misplaced(Exception):
    """A kernel has touched what it may not touch."""


class Array:
    """The elements of an array by their places, counted from its first, and who stored each."""

    def __init__(self, memory: "Memory", numbers: np.ndarray, is_output: bool) -> None:
        self.memory, self.dtype = memory, numbers.dtype
        places = np.zeros(numbers.shape, np.int64)
        for axis, step in enumerate(numbers.strides):
            count = numbers.shape[axis]
            along = np.arange(count) * (step // numbers.itemsize)
            places = places + along.reshape((-1,) + (1,) * (numbers.ndim - 1 - axis))
        self.elements = {int(place): k for k, place in enumerate(places.ravel())}
        if is_output and not numbers.flags.c_contiguous:
            raise ValueError("what a kernel stores is contiguous")
        self.numbers = numbers.reshape(-1)  # a copy, if there are gaps
        self.stored_by = np.full(numbers.size, NEVER if is_output else GIVEN)

    def element(self, place: Any) -> int:
        """Find the element at a place."""
        if int(place) != place or (found := self.elements.get(int(place))) is None:
            raise Misplaced(f"no element lies at {place} of {self.numbers.size}")
        by = self.stored_by[found]
        if by not in (GIVEN, NEVER, self.memory.chunk) and by >= self.memory.first_of_stage:
            raise Misplaced(f"another chunk has stored the element at {place}")
        return found

    def load(self, place: Any) -> Any:
        found = self.element(place)
        if self.stored_by[found] == NEVER:
            raise Misplaced(f"nothing was stored yet at {place}")
        return self.numbers[found]

    def store(self, place: Any, value: Any) -> None:
        found = self.element(place)
        if self.stored_by[found] == GIVEN:
            raise Misplaced(f"the kernel stores to what it is given, at {place}")
        self.numbers[found] = value
        self.stored_by[found] = self.memory.chunk

    @property
    def is_complete(self) -> bool:
        """Whether something was stored in each element, or nothing had to be."""
        return not (self.stored_by == NEVER).any()


class Memory:
    """All arrays of a call, and which chunk is at work."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.chunk = self.first_of_stage = 0

    def add(self, numbers: np.ndarray, is_output: bool = False) -> int:
        """Add an array; give its address."""
        self.arrays.append(Array(self, numbers, is_output))
        return len(self.arrays) * RANGE

    def begin_stage(self) -> None:
        """Begin a stage, which may read all that those before it have stored."""
        self.chunk = self.first_of_stage = self.chunk + 1

    def begin_chunk(self) -> None:
        self.chunk += 1

    def find(self, address: int, dtype: Any) -> tuple[Array, int]:
        """Find an array of numbers of a type, and a place in it."""
        number, byte = divmod(int(address), RANGE)
        if not 1 <= number <= len(self.arrays):
            raise Misplaced(f"no array lies at {address}")
        array = self.arrays[number - 1]
        if array.dtype != np.dtype(dtype) or byte % array.dtype.itemsize:
            raise Misplaced(f"an array of {array.dtype} is taken for one of {np.dtype(dtype)}")
        return array, byte // array.dtype.itemsize

    def pointer(self, address: int, dtype: Any) -> "Place":
        return Place(*self.find(address, dtype))

    def read_once(self, address: int) -> int:
        return int(self.pointer(address, np.int64)[0])

    def stack(self, size: int, dtype: Any) -> "Place":
        """Give a kernel an array of its own, with nothing in it."""
        return Place(Array(self, np.zeros(size, dtype), True), 0)

    def array_at(self, address: int, size: int, dtype: Any) -> "Span":
        """Give numbers as kernels see them that are written by hand."""
        return Span(self.pointer(address, dtype) if size else None, int(size))


class Place:
    """A place in an array, from which all its elements can be reached and nothing else."""

    def __init__(self, array: Array, start: int) -> None:
        self.array, self.start = array, start

    def __getitem__(self, place: Any) -> Any:
        return self.array.load(self.start + place)

    def __setitem__(self, place: Any, value: Any) -> None:
        self.array.store(self.start + place, value)

    def offset(self, count: int) -> "Place":
        return Place(self.array, self.start + count)


class Span:
    """So many numbers from a place on."""

    def __init__(self, first: Place | None, size: int) -> None:
        self.first, self.size = first, size

    def at(self, index: Any) -> Any:
        if not 0 <= index < self.size:
            raise Misplaced(f"{index} is none of {self.size}")
        return index

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start = index.start or 0
            return Span(self.first and self.first.offset(start), max(self.size - start, 0))
        return self.first[self.at(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.first[self.at(index)] = value


def clear(pointer: Place, first: int, last: int) -> None:
    for place in range(first, last):
        pointer[place] = 0


@functools.cache
def code(spec: Spec) -> CodeType:
    return compile(emit_cpu.source(spec), f"<{spec.name}>", "exec")


def interpreted(spec: Spec, memory: Memory) -> Callable[..., None]:
    """The kernel of a specification as plain Python, whose every access is checked."""
    scope = {
        **runtime.names(spec.dtype),
        **runtime.interpreted(spec.dtype),
        "pointer": memory.pointer,
        "read_once": memory.read_once,
        "offset": Place.offset,
        "clear": clear,
        "stack": memory.stack,
    }
    exec(code(spec), scope)
    kernel = scope[spec.name]
    return lambda integers, floats, chunk: kernel(
        runtime.InterpretedFields(integers, spec.fields),
        runtime.InterpretedFields(floats, spec.numbers),
        chunk,
    )

"""Kernels of the compiler run by hand, compiled or as plain Python that checks each access."""

from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from nbloss.codegen import compile as compiling
from nbloss.codegen import emit_cpu, runtime
from nbloss.codegen.spec import GRAD_OUTPUT, Spec, gradient, identifier
from nbloss.engine import memory
from nbloss.engine.chunks import count
from nbloss.engine.launch import FLOATS, INTEGERS
from nbloss.formula import derive, expression
from nbloss.formula.evaluate import evaluate

Arrays = dict[str, NDArray[Any]]
SCALE = 0.5
ROWS_PER_CHUNK = 2
# Numbers before and after each array that a kernel is given.
MARGIN = 16


# --- plain Python ---------------------------------------------------------------------------------


class Memory:
    """The arrays of a kernel, and nothing else."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = list(arrays.values())

    def pointer(self, address: int, dtype: Any) -> "CheckedPointer":
        for array in self.arrays:
            begin = array.ctypes.data
            if begin <= address <= begin + array.nbytes and array.dtype == np.dtype(dtype):
                return CheckedPointer(array.reshape(-1), (address - begin) // array.itemsize)
        raise IndexError(f"no array of {dtype} lies at {address}")

    def read_once(self, address: int) -> int:
        return int(self.pointer(address, np.int64)[0])


class CheckedPointer:
    """A place in an array, from which only the array's own numbers can be reached."""

    def __init__(self, array: NDArray[Any], start: int) -> None:
        self.array, self.start = array, start

    def at(self, place: int) -> int:
        if not 0 <= self.start + place < self.array.size:
            raise IndexError(f"{self.start + place} of {self.array.size}")
        return int(self.start + place)

    def __getitem__(self, place: int) -> Any:
        return self.array[self.at(place)]

    def __setitem__(self, place: int, value: Any) -> None:
        self.array[self.at(place)] = value

    def offset(self, count: int) -> "CheckedPointer":
        return CheckedPointer(self.array, self.start + count)


def interpreted(spec: Spec, arrays: Arrays) -> Callable[..., None]:
    """The kernel of a specification as plain Python, in which an access outside is an error."""
    given = Memory(arrays)
    scope = {
        **runtime.names(spec.dtype),
        **runtime.interpreted(spec.dtype),
        "pointer": given.pointer,
        "read_once": given.read_once,
        "offset": CheckedPointer.offset,
        "stack": lambda size, dtype: CheckedPointer(np.full(size, 77, dtype), 0),
    }
    real = memory.COMPUTED[spec.dtype]
    code = compile(emit_cpu.source(spec), "<kernel>", "exec")
    exec(code, scope)
    kernel = scope[spec.name]
    constants = kernel.__code__.co_consts
    kernel.__code__ = kernel.__code__.replace(
        co_consts=tuple(real(x) if isinstance(x, float) else x for x in constants)
    )
    return lambda integers, floats, chunk: kernel(
        runtime.InterpretedFields(integers, spec.fields),
        runtime.InterpretedFields(floats, spec.numbers),
        chunk,
    )


# --- machine code ---------------------------------------------------------------------------------


@numba.njit
def call(kernel, integers, floats, chunks):
    for chunk in range(chunks):
        memory.call_worker(kernel, integers, floats, chunk)


class Fenced:
    """Arrays among numbers that a kernel must neither write nor take for its own."""

    def __init__(self) -> None:
        self.blocks: list[NDArray[Any]] = []
        self.arrays: Arrays = {}

    def add(self, name: str, array: NDArray[Any]) -> None:
        odd = np.nan if array.dtype.kind == "f" else 32767  # in bfloat16 and float16 a NaN
        block = np.full(array.size + 2 * MARGIN, odd, array.dtype)
        self.blocks.append(block)
        self.arrays[name] = block[MARGIN : MARGIN + array.size].reshape(array.shape)
        self.arrays[name][...] = array

    def check(self) -> None:
        for block in self.blocks:
            odd = np.nan if block.dtype.kind == "f" else 32767
            outside = np.concatenate([block[:MARGIN], block[len(block) - MARGIN :]])
            np.testing.assert_array_equal(outside, odd)


# --- a call ---------------------------------------------------------------------------------------


def run(
    spec: Spec,
    given: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, float],
    is_compiled: bool,
    columns: int,
    ignore_index: int = -100,
) -> Arrays:
    """Run a kernel on rows that lie one behind the other, or side by side.

    ``given`` has rows along the last axis, of which an operand with a step of -1 has every second
    number, and one with a step of 0 a single one. The result has values, partials and gradients.
    """
    rows = max((len(x) for n, x in given.items() if kind_of(spec, n) != "per_column"), default=0)
    fenced = Fenced()
    for name, x in given.items():
        kind = kind_of(spec, name)
        if spec.tiled and kind == "element":
            x = x.T
        elif kind == "element" and spec.step(identifier(name)) == -1:
            spread = np.full((rows, 2 * columns), 1e30 if x.dtype.kind == "f" else 0, x.dtype)
            spread[:, ::2] = x
            x = spread
        fenced.add(identifier(name), x)
    for name in spec.needs_grad:
        shape = {"per_row": (rows, 1), "element": (rows, columns)}[kind_of(spec, name)]
        shape = shape[::-1] if spec.tiled else shape
        fenced.add(gradient(name), np.full(shape, 99, memory.STORED[spec.dtype]))
    of_rows = spec.formula.rowwise
    shape = (rows, 1) if of_rows else (rows, columns)
    fenced.add("values", np.full(shape, 99, memory.STORED[spec.dtype]))
    if spec.tiled:
        pieces = count(rows, spec.tile)
    else:
        pieces = rows * (1 if of_rows else count(columns, spec.segment))
    chunks = count(pieces, ROWS_PER_CHUNK)
    partials = 2 * chunks if spec.value == "survey" else chunks if of_rows else pieces
    fenced.add("partials", np.full(partials, 99.0))

    arrays = fenced.arrays
    sizes = {
        "rows": 1 if spec.tiled else rows,
        "columns": columns,
        "rows_per_chunk": ROWS_PER_CHUNK,
        "spatial_size": rows,
        "ignore_index": ignore_index,
    }
    for name in spec.arrays:
        array = arrays[name]
        sizes[f"{name}_row_step"] = array.size // max(rows, 1)
        sizes[f"{name}_step"] = rows if spec.tiled else 2
    integers, floats = np.zeros(INTEGERS, np.int64), np.zeros(FLOATS)
    for name, place in spec.fields.items():
        integers[place] = arrays[name].ctypes.data if name in arrays else sizes[name]
    floats[spec.numbers["gradient_factor"]] = SCALE
    for name, x in parameters.items():
        floats[spec.numbers[identifier(name)]] = x

    if is_compiled:
        call(compiling.kernel(spec), integers.ctypes.data, floats.ctypes.data, chunks)
    else:
        kernel = interpreted(spec, arrays)
        with np.errstate(all="ignore"):
            for chunk in range(chunks):
                kernel(integers, floats, chunk)
    fenced.check()
    outputs = {"values", "partials", *map(gradient, spec.needs_grad)}
    return {
        name: x.T if spec.tiled and name not in ("values", "partials") else x
        for name, x in arrays.items()
        if name in outputs
    }


def kind_of(spec: Spec, name: str) -> str:
    """How an operand varies, or the gradient from above."""
    if name == GRAD_OUTPUT:
        return "per_row" if spec.formula.rowwise else "element"
    return spec.formula.operands[name]


def expected(
    spec: Spec, given: Mapping[str, NDArray[Any]], parameters: Mapping[str, float], columns: int
) -> tuple[NDArray[Any], Arrays]:
    """The values and gradients, evaluated from the graph."""
    graph = spec.formula.graph(**dict(spec.options))
    kinds = spec.formula.operands
    nodes = [expression.operand(name, kinds[name]) for name in spec.needs_grad]
    kind = "per_row" if spec.formula.rowwise else "element"
    above = expression.operand(GRAD_OUTPUT, kind) if spec.has_grad_output else derive.ONE
    slopes = derive.slopes(graph, nodes, derive.times(expression.number(SCALE), above))
    if spec.order == 2:
        slopes = [derive.diagonal(x, node) for x, node in zip(slopes, nodes, strict=True)]
    rows = max(len(x) for n, x in given.items() if kind_of(spec, n) != "per_column")
    shapes = {"element": (rows, columns), "per_row": (rows, 1)}
    full = {
        n: np.broadcast_to(x, (rows, columns)) if kind_of(spec, n) == "element" else x
        for n, x in given.items()
    }
    value, *found = evaluate([graph.value, *slopes], full, parameters, columns)
    return (
        np.broadcast_to(value, (rows, 1) if spec.formula.rowwise else (rows, columns)),
        {
            gradient(name): np.broadcast_to(x, shapes[kinds[name]])
            for name, x in zip(spec.needs_grad, found, strict=True)
        },
    )


def check(
    spec: Spec,
    given: Mapping[str, NDArray[Any]],
    parameters: Mapping[str, float],
    is_compiled: bool,
    columns: int,
    tolerance: float = 1e-9,
) -> None:
    """Compare a kernel with its graph, evaluated in float64."""
    values, gradients = expected(spec, given, parameters, columns)
    typed = {n: x.astype(spec.dtype) if x.dtype.kind == "f" else x for n, x in given.items()}
    found = run(spec, typed, parameters, is_compiled, columns)
    if spec.value == "each":
        np.testing.assert_allclose(found["values"], values, rtol=tolerance, atol=tolerance)
    if spec.value == "sum":
        size = tolerance * (1.0 + np.abs(values).sum())
        np.testing.assert_allclose(found["partials"].sum(), values.sum(), atol=size)
    for name, slopes in gradients.items():
        np.testing.assert_allclose(
            found[name], slopes, rtol=10 * tolerance, atol=tolerance, err_msg=name
        )

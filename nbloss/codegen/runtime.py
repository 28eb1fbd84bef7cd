"""What the source of a kernel calls on the CPU, beside the elementary functions.

Most are single instructions. Without Numba (``NUMBA_DISABLE_JIT``) each is plain Python, and the
kernels run as they are written.
"""

import ctypes
import functools
import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic

from nbloss.codegen import memory
from nbloss.codegen.elementary import RANK, WORDS
from nbloss.codegen.vectors import wide_vectors

# A sum may be taken in any order: this is what lets the loop that takes it be vectorised.
REASSOCIATED = ("reassoc", "contract", "nsz")


# --- the fields of a call -------------------------------------------------------------------------


class Fields(types.Type):  # type: ignore[misc]
    """Numba's type of a block of numbers that have names."""

    def __init__(self, number: types.Type, places: tuple[tuple[str, int], ...]) -> None:
        self.number, self.places = number, dict(places)
        super().__init__(f"Fields({number}, {places})")


@register_default(Fields)
class _FieldsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Fields) -> None:
        word = manager.lookup(kind.number).get_value_type()
        super().__init__(manager, kind, word.as_pointer())


@infer_getattr
class _FieldsAttributes(AttributeTemplate):  # type: ignore[misc]
    key = Fields

    def generic_resolve(self, kind: Fields, name: str) -> types.Type | None:
        return kind.number if name in kind.places else None


@lower_getattr_generic(Fields)
def _load_field(context: Any, builder: ir.IRBuilder, kind: Fields, value: Any, name: str) -> Any:
    return builder.load(cgutils.gep(builder, value, kind.places[name]))


class InterpretedFields:
    """The same for kernels that run as plain Python."""

    def __init__(self, block: Any, places: dict[str, int]) -> None:
        self._block, self._places = block, places

    def __getattr__(self, name: str) -> Any:
        return self._block[self._places[name]].item()


# --- memory ---------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def _stack(typingctx, size, dtype):
    """A few numbers of the kernel's own, which takes no allocation that might fail."""
    kind = types.CPointer(dtype.dtype)

    def codegen(context, builder, signature, given):
        word = context.get_data_type(dtype.dtype)
        with builder.goto_entry_block():
            block = builder.alloca(ir.ArrayType(word, size.literal_value))
            block.align = 64
        return builder.bitcast(block, word.as_pointer())

    return kind(size, dtype), codegen


class Pointer:
    """Numbers at an address, for kernels that run as plain Python."""

    def __init__(self, address: int, dtype: Any) -> None:
        self.address, self.dtype = int(address), np.dtype(dtype)

    def _view(self, place: int) -> np.ndarray:
        size = self.dtype.itemsize
        buffer = (ctypes.c_byte * size).from_address(self.address + int(place) * size)
        return np.frombuffer(buffer, self.dtype)

    def __getitem__(self, place: int) -> Any:
        return self._view(place)[0]

    def __setitem__(self, place: int, value: Any) -> None:
        self._view(place)[0] = value


@numba.njit(forceinline=True)
def _clear(pointer, first, last):
    for place in range(first, last):
        pointer[place] = 0


def _interpreted_offset(pointer: Pointer, count: int) -> Pointer:
    return type(pointer)(pointer.address + count * pointer.dtype.itemsize, pointer.dtype)


@intrinsic
def _fetch(typingctx, pointer, count):
    """Have the first lines of memory so many numbers on brought near the processor.

    What comes next the processor brings by itself, but only to the end of a page; the first lines
    of each page are waited for. Any address will do, even one that nothing lies at.
    """

    def codegen(context, builder, signature, given):
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_read, to_keep, data = (ir.Constant(word, number) for number in (0, 3, 1))
        first = builder.bitcast(builder.gep(given[0], [given[1]]), byte)
        for line in range(4):
            address = builder.gep(first, [ir.Constant(word, 64 * line)])
            builder.call(function, [address, to_read, to_keep, data])
        return context.get_dummy_value()

    return types.void(pointer, count), codegen


# --- numbers --------------------------------------------------------------------------------------


def _instruction(name: str, build: Any) -> Any:
    """Make a function of numbers of one type of LLVM's instructions: no call, no branch."""

    def typed(result: Any, given: tuple) -> Any:
        return result(*given), lambda context, builder, sig, values: build(builder, *values)

    functions = {
        1: lambda typingctx, x: typed(x, (x,)),
        2: lambda typingctx, x, y: typed(x, (x, y)),
        3: lambda typingctx, x, y, z: typed(y, (x, y, z)),
    }
    function = functions[build.__code__.co_argcount - 1]
    function.__name__ = name
    return intrinsic(function)


def _maximum(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    keeps = b.or_(b.fcmp_ordered(">=", x, y), b.fcmp_unordered("uno", x, x))
    return b.select(keeps, x, y)


def _minimum(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    keeps = b.or_(b.fcmp_ordered("<=", x, y), b.fcmp_unordered("uno", x, x))
    return b.select(keeps, x, y)


def _condition(b: ir.IRBuilder, condition: Any) -> Any:
    if condition.type.width > 1:  # a condition that was stored
        return b.icmp_unsigned("!=", condition, ir.Constant(condition.type, 0))
    return condition


def _where(b: ir.IRBuilder, condition: Any, x: Any, y: Any) -> Any:
    return b.select(_condition(b, condition), x, y)


def _sign(b: ir.IRBuilder, x: Any, otherwise: Any = None) -> Any:
    zero, one = (ir.Constant(x.type, value) for value in (0.0, 1.0))
    name = f"llvm.copysign.{'f32' if isinstance(x.type, ir.FloatType) else 'f64'}"
    copysign = cgutils.get_or_insert_function(b.module, ir.FunctionType(x.type, [x.type] * 2), name)
    # What is neither above nor below zero is a zero or a NaN, and its own sign.
    otherwise = x if otherwise is None else otherwise
    return b.select(b.fcmp_ordered("!=", x, zero), b.call(copysign, [one, x]), otherwise)


def _direction(b: ir.IRBuilder, x: Any) -> Any:
    return _sign(b, x, ir.Constant(x.type, 0.0))


def _not(b: ir.IRBuilder, condition: Any) -> Any:
    return b.not_(_condition(b, condition))


_where_instruction = _instruction("where", _where)


@intrinsic
def _masked(typingctx, condition, x):
    def codegen(context, builder, signature, given):
        zero = ir.Constant(given[1].type, 0.0)
        return builder.select(_condition(builder, given[0]), given[1], zero)

    return x(condition, x), codegen


INSTRUCTIONS = {
    "where": _where_instruction,
    "masked": _masked,
    "logical_not": _instruction("logical_not", _not),
    "plus": _instruction("plus", lambda b, x, y: b.fadd(x, y, flags=REASSOCIATED)),
    "larger": _instruction("larger", lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y)),
    "smaller": _instruction("smaller", lambda b, x, y: b.select(b.icmp_signed("<", x, y), x, y)),
    "maximum": _instruction("maximum", _maximum),
    "minimum": _instruction("minimum", _minimum),
    "sign": _instruction("sign", lambda b, x: _sign(b, x)),
    "direction": _instruction("direction", _direction),
    "offset": memory.offset,
    "clear": _clear,
    "pointer": memory.pointer,
    "read_once": memory.load_once,
    "stack": _stack,
    "fetch": _fetch,
    "wide_vectors": wide_vectors,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "tanh": math.tanh,
    "power": math.pow,
}
INTERPRETED = {
    "where": lambda condition, x, y: x if condition else y,
    "masked": lambda condition, x: x if condition else 0.0,
    "logical_not": lambda condition: not condition,
    "plus": lambda x, y: x + y,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "sign": np.sign,
    "direction": lambda x: np.sign(x) if x == x else 0.0,
    "offset": _interpreted_offset,
    "clear": getattr(_clear, "py_func", _clear),
    "pointer": Pointer,
    "read_once": memory.label_at,
    "stack": lambda size, dtype: np.empty(size, dtype),
    "fetch": lambda pointer, count: None,
    "wide_vectors": lambda: None,
    **{
        name: getattr(np, name)
        for name in ("sqrt", "exp", "expm1", "log", "log1p", "tanh", "power")
    },
}


def _nan_last(rank: Any, real: Any, last: Any) -> Any:
    """Make a rank in which all NaNs come last, whatever their sign."""

    def ranked(x):
        return last if x != x else rank(x)

    ranked.__name__ = ranked.__qualname__ = (
        f"rank_nan_{'high' if last > 0 else 'low'}_{real.__name__}"
    )
    return numba.njit(forceinline=True)(ranked)


def _inlined(function: Any) -> Any:
    """Have a function compiled into what calls it; a type is an instruction already."""
    return function if isinstance(function, type) else numba.njit(forceinline=True)(function)


@functools.cache
def names(dtype: str) -> dict[str, Any]:
    """Give what the names in a source mean, for kernels of a type."""
    real = memory.COMPUTED[dtype]
    rank, ranked = RANK[real]
    integer = np.int32 if real is np.float32 else np.int64
    ends = np.iinfo(integer)
    high, low = integer(ends.max), integer(ends.min + 1)  # the bits of both are those of a NaN
    made = {
        "float32": np.float32,
        "float64": np.float64,
        "int8": np.int8,
        "int64": np.int64,
        "ranks": integer,
        "stored": memory.STORED[dtype],
        "inf": real(np.inf),
        "nan": real(np.nan),
        "lowest_rank": integer(ends.min),
        "highest_rank": integer(ends.max),
        "rank": rank,
        "ranked": ranked,
    }
    if numba.config.DISABLE_JIT:
        return {**made, **interpreted(dtype)}
    return {
        **made,
        **INSTRUCTIONS,
        "rank_nan_high": _nan_last(rank, real, high),
        "rank_nan_low": _nan_last(rank, real, low),
        "widen": _inlined(memory.WIDEN[dtype]),
        "narrow": _inlined(memory.NARROW[dtype]),
        **WORDS[real],
    }


def interpreted(dtype: str) -> dict[str, Any]:
    """Give what the names mean where a kernel runs as plain Python."""
    real = memory.COMPUTED[dtype]
    same = {name: lambda x: x for name in ("rank", "rank_nan_high", "rank_nan_low", "ranked")}
    return {
        **INTERPRETED,
        **same,
        "larger": np.maximum,
        "smaller": np.minimum,
        "ranks": real,
        "lowest_rank": real(-np.inf),
        "highest_rank": real(np.inf),
        "widen": memory.WIDEN[dtype],
        "narrow": memory.NARROW[dtype],
    }

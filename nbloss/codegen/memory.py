"""Memory as kernels see it: addresses become arrays, stored numbers become computing ones.

Each function has a body in plain Python, which runs when Numba is switched off and says what is
meant, and a few instructions that stand for it in a kernel. What is an ``@overload`` instead is
compiled by itself, which takes Numba twenty milliseconds and more in each process.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

# How a stored number is held, and what it is computed in. NumPy has no bfloat16 and Numba no
# float16, so both half types travel as their bits.
STORED = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.uint16,
    "bfloat16": np.uint16,
}
COMPUTED = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float32,
    "bfloat16": np.float32,
}


def _apart(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Make a pointer of an address, apart from all other pointers.

    What is written through one is then known not to be read through another. Otherwise LLVM has a
    loop find out from the addresses each time, and takes numbers one by one where two arrays lie
    close together: a sum of few numbers would depend on where their memory happens to be.
    """
    name, word, byte = "nbloss_memory", ir.IntType(64), ir.IntType(8).as_pointer()
    function = builder.module.globals.get(name)
    if function is None:
        # As if it allocated memory: that promise is made by the call of a function alone.
        function = ir.Function(builder.module, ir.FunctionType(byte, [word]), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        function.return_value.add_attribute("noalias")
        body = ir.IRBuilder(function.append_basic_block())
        body.ret(body.inttoptr(function.args[0], byte))
    pointer = builder.call(function, [address])
    # LLVM drops stores to memory of a function's own that no other code has seen; so the pointer is
    # shown to an empty piece of assembly.
    builder.asm(ir.FunctionType(ir.VoidType(), [byte]), "", "r", [pointer], True)
    return pointer


def instructions(intrinsic: Callable, types: Any, space: int = 0) -> dict[str, Any]:
    """Make the few instructions that Python has no word for.

    Parameters
    ----------
    intrinsic, types
        Those of a compiler: Numba's own, or the one for CUDA of the same make.
    space : int, optional
        The address space that arrays lie in; CUDA's global memory is 1. Where a compiler can't
        tell, each access finds out anew.
    """

    @intrinsic
    def pointer(typingctx, address, dtype):
        kind = types.CPointer(dtype.dtype)

        def codegen(context, builder, signature, arguments):
            pointer = context.get_value_type(kind)
            if not space:
                return builder.bitcast(_apart(builder, arguments[0]), pointer)
            there = pointer.pointee.as_pointer(space)
            return builder.addrspacecast(builder.inttoptr(arguments[0], there), pointer)

        return kind(types.int64, dtype), codegen

    def same_bits(name, result, given, kind):
        def typer(typingctx, x):
            def codegen(context, builder, signature, arguments):
                return builder.bitcast(arguments[0], kind)

            return result(given), codegen

        typer.__name__ = name
        return intrinsic(typer)

    # CUDA's compiler knows float16 from 12.8 on; its assembler always did.
    @intrinsic
    def widen_half(typingctx, x):
        def codegen(context, builder, signature, arguments):
            if space:
                kind = ir.FunctionType(ir.FloatType(), [ir.IntType(16)])
                return builder.asm(kind, "cvt.f32.f16 $0, $1;", "=f,h", arguments, False)
            return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

        return types.float32(types.uint16), codegen

    @intrinsic
    def round_half(typingctx, x):
        def codegen(context, builder, signature, arguments):
            if space:
                kind = ir.FunctionType(ir.IntType(16), [ir.FloatType()])
                return builder.asm(kind, "cvt.rn.f16.f32 $0, $1;", "=h,f", arguments, False)
            return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

        return types.uint16(types.float32), codegen

    @intrinsic
    def add_one(typingctx, counts, place):
        def codegen(context, builder, signature, arguments):
            counts, place = arguments
            one = ir.Constant(ir.IntType(32), 1)
            builder.atomic_rmw("add", builder.gep(counts, [place]), one, "monotonic")
            return context.get_dummy_value()

        return types.void(types.CPointer(types.int32), types.int64), codegen

    @intrinsic
    def offset(typingctx, start, count):
        def codegen(context, builder, signature, arguments):
            return builder.gep(arguments[0], [arguments[1]])

        return start(start, count), codegen

    # A number that another thread may change is read a single time: a compiler is free to read
    # memory again where it needs a number again, and what was checked need not be what is used.
    # An atomic load, like an assembler's volatile one, it neither repeats nor leaves out.
    @intrinsic
    def load_once(typingctx, address):
        def codegen(context, builder, signature, arguments):
            word = ir.IntType(64)
            if space:
                kind = ir.FunctionType(word, [word])
                return builder.asm(
                    kind, "ld.volatile.global.b64 $0, [$1];", "=l,l", arguments, True
                )
            return builder.load_atomic(
                builder.inttoptr(arguments[0], word.as_pointer()), "monotonic", 8
            )

        return types.int64(types.int64), codegen

    return {
        "add_one": add_one,
        "load_once": load_once,
        "offset": offset,
        "pointer": pointer,
        "widen_half": widen_half,
        "round_half": round_half,
        "bits": same_bits("bits", types.uint32, types.float32, ir.IntType(32)),
        "from_bits": same_bits("from_bits", types.float32, types.uint32, ir.FloatType()),
        "bits64": same_bits("bits64", types.uint64, types.float64, ir.IntType(64)),
        "from_bits64": same_bits("from_bits64", types.float64, types.uint64, ir.DoubleType()),
    }


_own = instructions(intrinsic, types)
pointer, widen_half, round_half = _own["pointer"], _own["widen_half"], _own["round_half"]
bits, from_bits = _own["bits"], _own["from_bits"]
bits64, from_bits64 = _own["bits64"], _own["from_bits64"]
load_once, offset = _own["load_once"], _own["offset"]


def array_at(address, size, dtype):
    """View ``size`` numbers of ``dtype`` at an address as a 1-D array."""
    if size == 0:
        return np.empty(0, dtype)
    buffer = (ctypes.c_byte * (size * np.dtype(dtype).itemsize)).from_address(int(address))
    return np.frombuffer(buffer, dtype)


@intrinsic
def _array_at(typingctx, address, size, dtype):
    kind = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, signature, arguments):
        from numba.np.arrayobj import populate_array  # with much else, for what compiles

        address, size, _ = arguments
        word = context.get_data_type(kind.dtype)
        item = context.get_constant(types.intp, context.get_abi_sizeof(word))
        data = builder.bitcast(_apart(builder, address), word.as_pointer())
        array = context.make_array(kind)(context, builder)
        populate_array(array, data, [size], [item], item, meminfo=None)
        return array._getvalue()

    return kind(types.int64, types.int64, dtype), codegen


def label_at(address):
    """Read the int64 at an address, once; another thread may be writing to it."""
    return int(array_at(address, 1, np.int64)[0])


def allocate(size):
    """Take so many bytes of memory, to be given back by ``release``; 0 if there are none.

    `numpy.empty` raises an exception, which a worker could not hand on: it would be printed, and
    the worker would end without a result.
    """
    return ctypes.pythonapi.PyMem_RawMalloc(int(size)) or 0


def release(address):
    """Give back memory that ``allocate`` gave."""
    ctypes.pythonapi.PyMem_RawFree(address)


if hasattr(ctypes, "pythonapi"):
    ctypes.pythonapi.PyMem_RawMalloc.restype = ctypes.c_void_p
    ctypes.pythonapi.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]
    ctypes.pythonapi.PyMem_RawFree.argtypes = [ctypes.c_void_p]


@intrinsic
def _allocate(typingctx, size):
    def codegen(context, builder, signature, arguments):
        memory = context.nrt.allocate_unchecked(builder, arguments[0])
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def _release(typingctx, address):
    def codegen(context, builder, signature, arguments):
        context.nrt.free(builder, builder.inttoptr(arguments[0], cgutils.voidptr_t))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


# What stands for the functions above in a kernel.
INSTRUCTIONS = {
    "array_at": _array_at,
    "label_at": load_once,
    "allocate": _allocate,
    "release": _release,
}


def span(rows, outer, columns, inner):
    """How many numbers rows and columns reach over, by their strides."""
    return (rows - 1) * outer + (columns - 1) * inner + 1 if rows > 0 and columns > 0 else 0


@overload(span)
def _span(rows, outer, columns, inner):
    return span


# --- half types -----------------------------------------------------------------------------


def _half_to_float(x):
    return np.uint16(x).view(np.float16).astype(np.float32)


def _float_to_half(x):
    return np.float32(x).astype(np.float16).view(np.uint16)


def _bfloat16_to_float(x):
    return (np.uint32(x) << np.uint32(16)).view(np.float32)


def _float_to_bfloat16(x):
    if x != x:
        return np.uint16(0x7FC0)
    bits = np.float32(x).view(np.uint32)
    # Round to nearest, ties to the even neighbour.
    carry = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.uint16((np.uint64(bits) + np.uint64(carry)) >> np.uint64(16))


def widen_bfloat16_bits(x):
    return from_bits(np.uint32(x) << np.uint32(16))


def round_to_bfloat16(x):
    """Round to nearest, ties to the even neighbour; a NaN stays one."""
    word = bits(np.float32(x))
    carry = np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint16((np.uint32(word + carry)) >> np.uint32(16))
    return np.uint16(0x7FC0) if x != x else rounded


@overload(_half_to_float)
def _overload_half_to_float(x):
    return lambda x: widen_half(x)


@overload(_float_to_half)
def _overload_float_to_half(x):
    return lambda x: round_half(np.float32(x))


@overload(_bfloat16_to_float)
def _overload_bfloat16_to_float(x):
    return widen_bfloat16_bits


@overload(_float_to_bfloat16)
def _overload_float_to_bfloat16(x):
    return round_to_bfloat16


def widen_float16(x):
    return _half_to_float(x)


def widen_bfloat16(x):
    return _bfloat16_to_float(x)


def narrow_float16(x):
    return _float_to_half(x)


def narrow_bfloat16(x):
    return _float_to_bfloat16(x)


WIDEN = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": widen_float16,
    "bfloat16": widen_bfloat16,
}
NARROW = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": narrow_float16,
    "bfloat16": narrow_bfloat16,
}

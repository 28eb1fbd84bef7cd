"""The source of a kernel becomes machine code."""

import hashlib
import linecache
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
from numba import types
from numba.core.ccallback import CFunc

from nbloss.codegen import emit_cpu, memory, runtime
from nbloss.codegen.spec import Spec
from nbloss.engine import cache, compiler

# Formulas may assume neither that sums can be reordered nor that there is no NaN; a division by
# zero gives an infinity or a NaN.
OPTIONS = {"nopython": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
_kernels: dict[Spec, Any] = {}


def kernel(spec: Spec) -> Any:
    """Compile a kernel, or take it from memory or disk.

    Parameters
    ----------
    spec : Spec

    Returns
    -------
    int or function
        The kernel's address; when Numba is switched off, a function of the two blocks of numbers
        and a chunk.
    """
    found = _kernels.get(spec)
    if found is None:
        with compiler.alone():
            found = _kernels.get(spec)
            if found is None:
                found = _kernels[spec] = _compile(spec)
    return found


def _compile(spec: Spec) -> Any:
    text = emit_cpu.source(spec)
    fields, numbers = spec.fields, spec.numbers
    named = f"{text} {spec.dtype} {fields} {numbers}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:24]
    function = function_of(text, spec, digest, lambda: runtime.names(spec.dtype))
    if numba.config.DISABLE_JIT:
        return lambda integers, floats, chunk: function(
            runtime.InterpretedFields(integers, fields),
            runtime.InterpretedFields(floats, numbers),
            chunk,
        )
    block = runtime.Fields(types.int64, tuple(fields.items()))
    floats = runtime.Fields(types.float64, tuple(numbers.items()))
    compiled: Any = CFunc(function, ((block, floats, types.int64), types.void), {}, OPTIONS)
    compiled._cache = cache.kernel_cache(function)
    compiled.compile()
    compiler.keep_alive(compiled)
    return compiled.address


def function_of(
    text: str, spec: Spec, suffix: str, names: Callable[[], dict[str, Any]]
) -> Callable:
    """Make a function of a source, under a name that no other source has.

    Parameters
    ----------
    text : str
    spec : Spec
    suffix : str
        Tells the source from all others.
    names : function
        Gives what the names in the source mean.
    """
    file = f"<nbloss {spec.name} {suffix}>"
    # Tracebacks and profilers find the source here.
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    scope = dict(names())
    exec(compile(text, file, "exec"), scope)
    function: FunctionType = scope[spec.name]
    real = memory.COMPUTED[spec.dtype]
    # A literal of Python would make float64 of float32 numbers.
    function.__code__ = function.__code__.replace(
        co_consts=tuple(real(x) if isinstance(x, float) else x for x in function.__code__.co_consts)
    )
    function.__name__ = function.__qualname__ = f"{spec.name}_{spec.dtype}_{suffix}"
    function.__module__ = __name__  # what is cached names a module that can be imported
    return function

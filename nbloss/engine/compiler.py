"""A template and what it is specialised for become a compiled worker.

Every worker has one signature, ``worker(integers, floats, chunk)``: a block of integers (addresses,
sizes, strides), a block of floats (parameters, factors), and the number of the chunk to do. What
shapes the machine code (number type, operands, gradients) is fixed when it is compiled.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numba
from llvmlite.binding import ffi
from numba import types
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock

from nbloss.codegen import memory
from nbloss.engine import binding, cache, forks

_SIGNATURE = types.void(types.CPointer(types.int64), types.CPointer(types.float64), types.int64)
BOUNDSCHECK = bool(numba.config.BOUNDSCHECK)
_lock = threading.RLock()
# A fork waits until no other thread compiles. This is the order in which the locks are taken.
forks.wait_for(sys.modules[__name__], "_lock")
forks.wait_for(global_compiler_lock, "_lock")
forks.wait_for(getattr(ffi.lib, "_lock", None), "_lock")
_thread = threading.local()  # `compiles`: whether this thread holds the lock
_workers: dict[Any, Any] = {}


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Compile something while no other thread does.

    Raises
    ------
    RuntimeError
        If this thread is in the middle of a compilation, which a signal handler or a finalizer has
        interrupted. There is no waiting for its end, and LLVM aborts the process that begins
        another.
    """
    if getattr(_thread, "compiles", False) or global_compiler_lock.is_locked():
        raise RuntimeError(
            "a loss was called for the first time while its own thread was compiling, by a signal "
            "handler or a finalizer; call it once before, so that it is compiled by then"
        )
    with _lock:
        _thread.compiles = True
        try:
            yield
        finally:
            _thread.compiles = False


def worker(
    template: Callable,
    scalars: dict[str, Callable],
    dtype: type,
    helpers: tuple[Callable, ...] = (),
    **flags: Any,
) -> Any:
    """Compile a template, or take it from memory or disk.

    Parameters
    ----------
    template : function
        ``template(integers, floats, chunk)``, in the subset of Python that Numba compiles.
    scalars : dict
        Definitions for the template to call, by the name that the template gives them.
    dtype : type
        NumPy's type of the numbers that the definitions compute in.
    helpers : tuple of function
        Templates that this one calls by their names; they see the same scalars and flags, and each
        the helpers before it.
    **flags
        Constants of the templates, by name, hashable; or functions that they share.

    Returns
    -------
    int or function
        The worker's address in memory; the function itself when Numba is switched off.
    """
    key = (template, dtype, tuple(scalars.items()), helpers, tuple(flags.items()))
    found = _workers.get(key)
    if found is None:
        with alone():
            found = _workers.get(key)
            if found is None:
                found = _workers[key] = _compile(template, scalars, dtype, helpers, flags)
    return found


def _compile(
    template: Callable, scalars: dict, dtype: type, helpers: tuple[Callable, ...], flags: dict
) -> Any:
    # The same definitions and flags always give the same name, and any change in them another.
    suffix = binding.digest(template, scalars, dtype, helpers, flags, BOUNDSCHECK)
    names = {
        name: _helper(flag) if isinstance(flag, FunctionType) else flag
        for name, flag in flags.items()
    }
    if not numba.config.DISABLE_JIT:
        names |= memory.INSTRUCTIONS
    bound = binding.specialize(template, scalars, dtype, helpers, names, suffix, binding.CPU)
    if numba.config.DISABLE_JIT:
        return bound
    options = {"nopython": True, "fastmath": binding.TEMPLATE_MATH, "error_model": "numpy"}
    compiled: Any = CFunc(bound, (_SIGNATURE.args, _SIGNATURE.return_type), {}, options)
    compiled._cache = cache.kernel_cache(bound)
    compiled.compile()
    keep_alive(compiled)
    return compiled.address


_keep_alive: list[CFunc] = []


def keep_alive(compiled: CFunc) -> None:
    """Keep machine code, which lives as long as the object that holds it."""
    _keep_alive.append(compiled)


@functools.cache
def _helper(function: Callable) -> Callable:
    """Compile a function that templates share; once, since Numba keeps what it has compiled."""
    return numba.njit(function)

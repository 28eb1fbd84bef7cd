"""From a plain Python function to one bound to a number type.

A definition or a template names what it uses: primitives, other definitions, flags. Binding makes
a copy of the function in which those names mean something particular, say the scalar ``exp`` and
float32 numbers, and a digest of everything that went in, by which compiled kernels are cached.
"""

import dis
import functools
import hashlib
import types as python_types
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from nbloss.codegen import elementary
from nbloss.codegen.emit_scalar import WORDS
from nbloss.engine import scalars

# Sums may be reordered in templates (they add up blocks) but not within definitions; neither may
# assume that there is no NaN or infinity.
SCALAR_MATH = {"contract", "nsz"}
TEMPLATE_MATH = {"contract", "nsz", "reassoc"}

# The functions of numbers that stand for NumPy's functions in kernels.
SCALARS = {name: getattr(scalars, name) for name in WORDS}


@functools.cache
def words(dtype: type) -> dict[str, Callable]:
    """Give what the primitives mean in kernels that compute in a type."""
    if numba.config.DISABLE_JIT:
        return SCALARS
    return {**SCALARS, **elementary.WORDS[dtype]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def rebind(function: Callable, names: dict[str, Any], suffix: str = "") -> Callable:
    """Copy a function with other meanings for its global names."""
    copy = python_types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__ + suffix,
        function.__defaults__,
        function.__closure__,
    )
    copy.__qualname__ = copy.__name__
    copy.__module__ = function.__module__
    return copy


def bind(
    function: Callable, words: dict[str, Callable], number: Callable, helper: Callable
) -> Callable:
    """Copy a definition, or a helper of one, with other meanings for what it is made of.

    Parameters
    ----------
    function : function
    words : dict
        What the primitives of each name mean.
    number : callable
        Makes numbers of the number constants.
    helper : callable
        Binds plain functions that the definition calls, and those among the words.
    """
    primitive = {id(getattr(np, name)): word for name, word in words.items()}

    def meaning(value: Any) -> Any:
        value = primitive.get(id(value), value)
        if isinstance(value, python_types.FunctionType):
            return helper(value)
        return number(value) if _is_number(value) else value

    code = function.__code__
    names = {name: meaning(function.__globals__[name]) for name in global_names(function)}
    copy = python_types.FunctionType(
        code.replace(co_consts=tuple(number(c) if _is_number(c) else c for c in code.co_consts)),
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        tuple(
            python_types.CellType(meaning(cell.cell_contents))
            for cell in function.__closure__ or ()
        ),
    )
    copy.__qualname__ = function.__name__
    copy.__module__ = function.__module__
    return copy


class Target(NamedTuple):
    """What code is made for.

    Attributes
    ----------
    words : function
        Gives what the primitives mean in kernels that compute in a type, by their names.
    compiled : function
        Has a function compiled when a kernel calls it; takes the function and what its floating
        arithmetic may do.
    """

    words: Callable[[type], dict[str, Callable]]
    compiled: Callable[[Callable, set[str]], Callable]


@functools.cache
def bind_scalar(function: Callable, dtype: type, target: Target) -> Callable:
    """Compile a definition, or a helper of one, for numbers of one type.

    Every number constant becomes one of the type: a bare literal would promote float32 to float64.
    """
    words = target.words(dtype)
    for name, word in words.items():
        if function is getattr(np, name):
            function = word
    if not isinstance(function, python_types.FunctionType):
        return function  # compiled already
    bound = bind(function, words, dtype, lambda helper: bind_scalar(helper, dtype, target))
    return target.compiled(named(bound, digest(function, dtype)), SCALAR_MATH)


def specialize(
    template: Callable,
    scalars: dict[str, Callable],
    dtype: type,
    helpers: tuple[Callable, ...],
    names: dict[str, Any],
    suffix: str,
    target: Target,
) -> Callable:
    """Copy a template with meanings for the names that it leaves open.

    Parameters
    ----------
    template, scalars, dtype, helpers
        As for :func:`nbloss.engine.compiler.worker`.
    names : dict
        Constants of the templates, and what they share.
    suffix : str
        Tells the copy from all others.
    target : Target
    """
    names = {
        **names,
        **{name: bind_scalar(scalar, dtype, target) for name, scalar in scalars.items()},
        "COMPUTED": dtype,
    }
    for helper in helpers:
        bound = named(rebind(helper, names), suffix)
        names[helper.__name__] = target.compiled(bound, TEMPLATE_MATH)
    return named(rebind(template, names), suffix)


def compiled(function: Callable, math: set[str]) -> Callable:
    """Have Numba compile a function when it is called in a kernel.

    A division by zero gives an infinity or a NaN, as IEEE 754 has it. A Python exception would cost
    a branch at each, and the loop could not be vectorised; nor could one with a call in it, which
    LLVM would leave in the place of all but the smallest formulas.
    """
    return numba.njit(fastmath=math, error_model="numpy", forceinline=True)(function)


CPU = Target(words, compiled)


def named(function: Callable, suffix: str) -> Callable:
    """Give a function a name that no other function has, before Numba compiles it.

    Numba names machine code by the function's name, its types and a count that starts anew in each
    process. In a kernel from the cache, which another process compiled, a helper of the same name,
    types and count may be another function; the loader takes both for one, and whichever it met
    first runs in both places.
    """
    function.__name__ = function.__qualname__ = f"{function.__name__}_{suffix}"
    return function


def global_names(function: Callable) -> list[str]:
    """Names of the globals that a function reads; attributes of other things are not among them."""
    return sorted(
        {
            instruction.argval
            for instruction in dis.get_instructions(function.__code__)
            if instruction.opname == "LOAD_GLOBAL" and instruction.argval in function.__globals__
        }
    )


def digest(*things: Any) -> str:
    """Hash functions by what they do (code, constants, all that they call), values by ``repr``."""
    hasher = hashlib.sha256()
    _feed(hasher, things, set())
    return hasher.hexdigest()[:24]


def _feed(hasher: Any, thing: Any, seen: set[int]) -> None:
    thing = getattr(thing, "formula", thing)
    thing = getattr(thing, "py_func", thing)
    if isinstance(thing, python_types.FunctionType):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        hasher.update(thing.__name__.encode())
        _feed(hasher, thing.__code__, seen)
        for name in global_names(thing):
            hasher.update(name.encode())
            _feed(hasher, thing.__globals__[name], seen)
        for cell in thing.__closure__ or ():
            _feed(hasher, cell.cell_contents, seen)
    elif isinstance(thing, python_types.CodeType):
        hasher.update(thing.co_code)
        hasher.update(repr(thing.co_names).encode())
        for constant in thing.co_consts:
            _feed(hasher, constant, seen)
    elif isinstance(thing, tuple | list):
        hasher.update(f"{len(thing)}(".encode())
        for item in thing:
            _feed(hasher, item, seen)
    elif isinstance(thing, dict):
        for key in sorted(thing):
            hasher.update(key.encode())
            _feed(hasher, thing[key], seen)
    elif isinstance(thing, python_types.ModuleType | type | np.ufunc) or callable(thing):
        hasher.update(f"{getattr(thing, '__module__', '')}.{thing.__name__}".encode())
    else:
        hasher.update(f"{type(thing).__name__}:{thing!r}".encode())

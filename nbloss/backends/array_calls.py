"""Calls with arrays: which library knows them, and what becomes of their problem."""

from typing import Any

from nbloss.backends import numpy
from nbloss.backends.numpy import is_on_device
from nbloss.backends.unsupported import Unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import Problem


def backend_of(first: Any) -> Any:
    """Give the module that knows arrays like the first of a call."""
    if not is_on_device(first):
        return numpy
    from nbloss.engine.cuda import compiler

    compiler.require("13")
    try:
        from nbloss.backends import cupy
    except ModuleNotFoundError as error:
        raise ImportError(CUPY_MISSING) from error
    return cupy


CUPY_MISSING = (
    "nbloss needs CuPy for arrays on a CUDA device, which is not installed; "
    "run: pip install cupy-cuda13x"
)


def call(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss of a public function: an array, or a NumPy scalar, as NumPy would give."""
    from nbloss.engine.evaluate import forward  # imports Numba, which takes its time

    first = arguments[0] if arguments else named.get(function.leading)
    xp = backend_of(first)
    problem = built(xp, function, arguments, named)
    value, _ = forward(xp, problem, (False,) * len(problem.operands))
    return xp.as_given(value[()], first)


def built(xp: ArrayBackend, function: Any, arguments: tuple, named: dict[str, Any]) -> Problem:
    """Check the arguments of a public function; raise what is wrong with them."""
    try:
        return xp.on_one_device(function.build(xp, *arguments, **named))
    except Unsupported as reason:
        raise reason.error from None

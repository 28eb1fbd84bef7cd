"""From a problem to its value and gradients, on any kind of array.

Each pattern says what shape its value has (``value_shape``), how the memory is walked (``prepare``),
and how it reads the gradient from above (``spread``); the rest is the same for all.

``xp`` is the module that knows the arrays at hand, :mod:`nbloss.bridge.numpy` or
:mod:`nbloss.bridge.torch`.
"""

import functools
from typing import Any

from nbloss.engine import driver
from nbloss.engine.launch import Launch, Request
from nbloss.engine.patterns import classes, pairs, pointwise, triplets
from nbloss.engine.problem import Problem

PATTERNS = {"pointwise": pointwise, "classes": classes, "pairs": pairs, "triplets": triplets}


def forward(xp: Any, problem: Problem, wanted: tuple[bool, ...]) -> tuple[Any, tuple]:
    """Give the value and, for a reduced loss, the wanted gradients from the same pass.

    Parameters
    ----------
    xp : module
    problem : Problem
    wanted : tuple of bool
        For each operand, whether its gradient is wanted.

    Returns
    -------
    tuple
        The value, and a gradient or None for each operand.

    Raises
    ------
    IndexError, RuntimeError
        If a label is out of range.
    """
    launch, operands, _ = fitted(xp, problem, *first_pass(problem, wanted))
    return run(xp, launch, operands, problem.constants)


def first_pass(problem: Problem, wanted: tuple[bool, ...]) -> tuple[tuple[bool, ...], str]:
    """Say which gradients are made together with the value, and what becomes of the values.

    Without a reduction none are: each is multiplied by a number that is not known yet.
    """
    if problem.reduction == "none":
        return (False,) * len(wanted), "each"
    return wanted, "sum"


def backward(xp: Any, problem: Problem, upstream: Any, wanted: tuple[bool, ...]) -> tuple:
    """Give the wanted gradients, times the gradient from above.

    ``upstream`` is a number for a reduced loss, and otherwise an array of the value's shape.
    """
    scale = 1.0
    if problem.reduction == "none":
        upstream = PATTERNS[problem.definition.pattern].spread(xp, upstream, problem)
    else:
        scale, upstream = upstream, None
    launch, operands, upstream = fitted(xp, problem, wanted, "", upstream)
    return run(xp, launch, operands, problem.constants, scale, upstream)[1]


def fitted(
    xp: Any, problem: Problem, wanted: tuple[bool, ...], value: str, upstream: Any = None
) -> tuple[Launch, tuple, Any]:
    """Prepare a launch for arrays as they lie, or else for contiguous copies of them.

    Returns
    -------
    tuple
        The launch, the operands, and the gradient from above.
    """
    operands = problem.operands
    launch = prepared(request(xp, problem, operands, wanted, value, upstream))
    if launch is None:
        operands = tuple(xp.contiguous(x) for x in operands)
        upstream = None if upstream is None else xp.contiguous(upstream)
        launch = prepared(request(xp, problem, operands, wanted, value, upstream))
        assert launch is not None, "every kernel takes contiguous arrays"
    return launch, operands, upstream


def request(
    xp: Any, problem: Problem, operands: tuple, wanted: tuple[bool, ...], value: str, upstream: Any
) -> Request:
    """Say what a kernel is asked for."""
    return Request(
        problem.definition,
        problem.parameters,
        problem.reduction,
        problem.options,
        xp.dtype(operands[0]),
        problem.shape,
        tuple(xp.strides(x) for x in operands),
        tuple(x is not None for x in problem.constants),
        wanted,
        value,
        None if upstream is None else xp.strides(upstream),
    )


@functools.lru_cache(maxsize=4096)
def prepared(request: Request) -> Launch | None:
    """Prepare a launch once for all calls that are alike; None if it takes contiguous operands."""
    return PATTERNS[request.definition.pattern].prepare(request)


def run(
    xp: Any,
    launch: Launch,
    operands: tuple,
    constants: tuple,
    scale: float = 1.0,
    upstream: Any = None,
) -> tuple[Any, tuple]:
    """Run a launch on memory.

    Parameters
    ----------
    xp : module
    launch : Launch
    operands, constants : tuple
        The arrays of a problem.
    scale : float, optional
        A further factor of all gradients.
    upstream : array, optional
        The gradient from above, if there is one for each value.

    Returns
    -------
    tuple
        The value or None, and a gradient or None for each operand.
    """
    empty, address, shape = xp.empty, xp.address, launch.value_shape
    value = None if shape is None else empty(shape, operands[0])
    gradients = tuple(
        [
            empty(x.shape, x) if wanted else None
            for x, wanted in zip(operands, launch.wanted, strict=True)
        ]
    )
    arrays = (value, upstream, *operands, *constants, *gradients)
    addresses = tuple([0 if x is None else address(x) for x in arrays])
    bad = driver.run(launch, scale, addresses, xp.threads())
    if bad >= 0:
        raise PATTERNS[launch.pattern].out_of_range(xp.item(constants[0], bad))
    return value, gradients

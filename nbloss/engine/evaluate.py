"""From a problem to its value and gradients, on any kind of array.

Each pattern says what shape its value has (``value_shape``), how its sums are scaled (``scales``),
and how its kernel is run (``launch``); the rest is the same for all.

``xp`` is the module that knows the arrays at hand, :mod:`nbloss.bridge.numpy` or
:mod:`nbloss.bridge.torch`.
"""

from typing import Any

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
    """
    pattern = PATTERNS[problem.definition.pattern]
    like = problem.operands[0]
    if problem.reduction == "none":
        out = xp.empty(pattern.value_shape(problem), like)
        nothing = (False,) * len(wanted)
        return out, pattern.launch(xp, problem, nothing, "each", out, pattern.scales(problem))
    out = xp.empty((), like)
    return out, pattern.launch(xp, problem, wanted, "sum", out, pattern.scales(problem))


def backward(xp: Any, problem: Problem, upstream: Any, wanted: tuple[bool, ...]) -> tuple:
    """Give the wanted gradients, times the gradient from above.

    ``upstream`` is a number for a reduced loss, and otherwise an array of the value's shape.
    """
    pattern = PATTERNS[problem.definition.pattern]
    _, scale = pattern.scales(problem)
    if problem.reduction == "none":
        return pattern.launch(xp, problem, wanted, "", None, (0.0, scale), upstream)
    return pattern.launch(xp, problem, wanted, "", None, (0.0, scale * upstream))

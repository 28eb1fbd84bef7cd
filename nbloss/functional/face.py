"""Makes the public function of a loss from the function that checks its arguments.

``build(xp, ...)`` has torch's signature behind the module ``xp`` that knows the arrays at hand, and
gives a :class:`~nbloss.engine.problem.Problem`. What becomes of the problem is the bridge's matter.
"""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from nbloss.engine.problem import Problem
from nbloss.functional.contract import Unserved

P = ParamSpec("P")


def bridge_for(arguments: tuple, named: dict[str, Any]) -> Any:
    """The bridge for the kind of the first operand."""
    first = arguments[0] if arguments else next(iter(named.values()), None)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(first, torch.Tensor):
        from nbloss.bridge import torch as bridge
    else:
        from nbloss.bridge import numpy as bridge
    return bridge


def face(build: Callable[Concatenate[Any, P], Problem]) -> Callable[P, Any]:
    """Make a public function.

    Its attribute ``build`` is the function that it was made of.
    """
    name = build.__name__

    @functools.wraps(build)
    def function(*arguments: P.args, **named: P.kwargs) -> Any:
        xp = bridge_for(arguments, named)
        try:
            problem = build(xp, *arguments, **named)
        except Unserved as refusal:
            return xp.unserved(name, refusal.error, arguments, named)
        return xp.evaluate(problem)

    signature = inspect.signature(build)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    del function.__wrapped__  # type: ignore[attr-defined]
    function.build = build  # type: ignore[attr-defined]
    function.__module__ = "nbloss.functional"
    return function

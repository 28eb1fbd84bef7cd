"""Makes the public function of a loss from the function that checks its arguments, or without one.

``build(xp, ...)`` has torch's signature behind the module ``xp`` that knows the arrays at hand, and
gives a :class:`~nbloss.engine.problem.Problem`. What becomes of the problem is the bridge's matter.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from nbloss.engine.problem import Problem
from nbloss.engine.registry import Definition
from nbloss.functional import contract

P = ParamSpec("P")


# What computes a loss of arrays or of tensors, once there was one to compute.
BRIDGES: dict[str, Callable[[Any, tuple, dict[str, Any]], Any]] = {}


def bridge(kind: str) -> Callable[[Any, tuple, dict[str, Any]], Any]:
    """Import a bridge, and torch or Numba with it. torch's compiler sees through the statements."""
    if kind == "tensors":
        from nbloss.bridge.routes import call
    else:
        from nbloss.bridge.numpy import call
    BRIDGES[kind] = call
    return call


def face(build: Callable[Concatenate[Any, P], Problem]) -> Callable[P, Any]:
    """Make a public function.

    Its attribute ``build`` is the function that it was made of, and ``leading`` the name of its
    first operand.
    """
    signature = inspect.signature(build)
    parameters = list(signature.parameters.values())[1:]
    leading = parameters[0].name

    @functools.wraps(build)
    def function(*arguments: P.args, **named: P.kwargs) -> Any:
        # The first operand decides, wherever it stands among keyword arguments.
        first = arguments[0] if arguments else named.get(leading)
        kind = "tensors" if hasattr(type(first), "__torch_function__") else "arrays"
        call = BRIDGES.get(kind) or bridge(kind)
        return call(function, arguments, named)

    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=Any
    )
    function.__annotations__ = {
        **{name: kind for name, kind in build.__annotations__.items() if name != "xp"},
        "return": Any,
    }
    del function.__wrapped__
    function.build = build  # type: ignore[attr-defined]
    function.leading = leading  # type: ignore[attr-defined]
    function.__prepare_scriptable__ = lambda: scriptable(function)  # type: ignore[attr-defined]
    function.__module__ = "nbloss.functional"
    return function


def scriptable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give TorchScript, which compiles from the source, torch's own function instead."""
    from nbloss.bridge.originals import ORIGINALS

    return ORIGINALS.get(function.__name__, function)


def default(definition: Definition) -> Callable[..., Any]:
    """Make the face of a pointwise loss from its definition alone.

    Its arguments are the operands, which broadcast, then ``reduction``, then the parameters with
    the defaults that they have in the formula.
    """
    operands, parameters = definition.operands, tuple(definition.parameters)

    def build(xp: Any, *arguments: Any, **named: Any) -> Problem:
        bound = signature.bind(xp, *arguments, **named)
        bound.apply_defaults()
        given = bound.arguments
        arrays = xp.operands(definition.name, **{name: given[name] for name in operands})
        shape = contract.common_shape(*arrays)
        numbers = tuple(contract.number(definition.name, name, given[name]) for name in parameters)
        reduction = contract.reduction(given["reduction"])
        return Problem(definition, xp.expand(arrays, shape), operands, numbers, reduction)

    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter("xp", either),
            *(inspect.Parameter(name, either) for name in operands),
            inspect.Parameter("reduction", either, default="mean"),
            *(
                inspect.Parameter(name, either, default=value)
                for name, value in definition.parameters.items()
            ),
        ]
    )
    build.__signature__ = signature  # type: ignore[attr-defined]
    build.__name__ = build.__qualname__ = definition.name
    build.__doc__ = _docstring(definition)
    return face(build)


def _docstring(definition: Definition) -> str:
    text = inspect.cleandoc(definition.formula.__doc__ or f"The {definition.name}.")
    names = ", ".join(definition.operands)
    parameters = "".join(
        f"{name} : float, optional\n    A parameter of the formula, {value:g} by default.\n"
        for name, value in definition.parameters.items()
    )
    return f"""{text}

Parameters
----------
{names} : tensor or array
    float16, bfloat16, float32 or float64; all but the first may be of integers. They broadcast.
reduction : {{"mean", "sum", "none"}}, optional
    What becomes of the losses of the elements.
{parameters}
Returns
-------
tensor or array
    A number, or with ``reduction="none"`` an array of the broadcast shape.

Raises
------
RuntimeError
    If the shapes don't broadcast.
ValueError
    If the reduction is unknown.
"""

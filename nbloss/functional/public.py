"""Makes the public function of a loss from the function that checks its arguments, or without one.

``build(xp, ...)`` has torch's signature behind the module ``xp`` that knows the arrays at hand, and
gives a :class:`~nbloss.engine.problem.Problem`. What becomes of the problem is the matter of
:mod:`nbloss.torch` and :mod:`nbloss.backends`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from nbloss.backends.unsupported import unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import FormulaOptions, Problem
from nbloss.formula.registry import FUNCTIONS, Definition
from nbloss.formula.trace import Formula
from nbloss.functional import validation

P = ParamSpec("P")


# What computes a loss of arrays or of tensors, once there was one to compute.
CALLS: dict[str, Callable[[Any, tuple, dict[str, Any]], Any]] = {}


def import_call(kind: str) -> Callable[[Any, tuple, dict[str, Any]], Any]:
    """Import what computes a loss, and torch or Numba with it.

    torch's compiler sees through these statements.
    """
    if kind == "tensors":
        from nbloss.torch.dispatch import call
    else:
        from nbloss.backends.array_calls import call
    CALLS[kind] = call
    return call


def public_function(build: Callable[Concatenate[ArrayBackend, P], Problem]) -> Callable[P, Any]:
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
        call = CALLS.get(kind) or import_call(kind)
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
    FUNCTIONS[function.__name__] = function
    return function


def scriptable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give TorchScript, which compiles from the source, torch's own function instead."""
    from nbloss.torch.fallback import TORCH_FUNCTIONS

    return TORCH_FUNCTIONS.get(function.__name__, function)


def default(definition: Definition) -> Callable[..., Any]:
    """Make the public function of a loss from its definition alone.

    Its arguments are the operands, then ``reduction``, then the parameters and options with the
    defaults that they have in the formula.
    """
    formula = definition.symbolic

    def build(xp: ArrayBackend, *arguments: Any, **named: Any) -> Problem:
        bound = signature.bind(xp, *arguments, **named)
        bound.apply_defaults()
        given = bound.arguments
        loss = definition.name
        floats = {n: given[n] for n, kind in formula.operands.items() if kind in FLOATING}
        arrays = dict(zip(floats, xp.operands(loss, **floats), strict=True))
        elements = [x for n, x in arrays.items() if formula.operands[n] == "element"]
        shape = validation.common_shape(*elements)
        if formula.rowwise and len(elements) < len(arrays):
            each = (x[..., None] for n, x in arrays.items() if formula.operands[n] != "element")
            shape = validation.common_shape(*elements, *each)
        constants = (
            _constants(xp, formula, given, elements[0], shape, loss) if formula.rowwise else ()
        )
        expanded = tuple(
            xp.expand((x,), shape if formula.operands[n] == "element" else shape[:-1])[0]
            for n, x in arrays.items()
        )
        numbers = tuple(validation.number(loss, name, given[name]) for name in formula.parameters)
        options = tuple(
            (name, validation.option(loss, name, given[name], value))
            for name, value in formula.options.items()
        )
        reduction = validation.reduction(given["reduction"])
        return Problem(
            definition,
            expanded,
            tuple(floats),
            numbers,
            reduction,
            constants,
            FormulaOptions(options) if options else None,
        )

    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            inspect.Parameter("xp", either),
            *(inspect.Parameter(name, either) for name in formula.operands),
            inspect.Parameter("reduction", either, default="mean"),
            *(
                inspect.Parameter(name, either, default=value)
                for name, value in {**formula.parameters, **formula.options}.items()
            ),
        ]
    )
    build.__signature__ = signature  # type: ignore[attr-defined]
    build.__name__ = build.__qualname__ = definition.name
    build.__doc__ = _docstring(definition)
    return public_function(build)


FLOATING = ("element", "per_row")


def _constants(
    xp: ArrayBackend,
    formula: Formula,
    given: dict[str, Any],
    first: Any,
    shape: tuple[int, ...],
    loss: str,
) -> tuple:
    """Check the labels of rows, and the numbers of columns; see that there are columns enough."""
    if not shape:
        unsupported(
            RuntimeError(
                f"{loss}(): {next(iter(formula.operands))} needs a row, at least one dimension"
            )
        )
    graph = formula.graph()
    if shape[-1] < graph.least_columns:
        least = f"{graph.least_columns} column{'s' if graph.least_columns > 1 else ''}"
        unsupported(ValueError(f"{loss}(): a row must have at least {least}, got {shape[-1]}"))
    constants = []
    for name, kind in formula.operands.items():
        if kind == "index":
            message = f"{loss}(): {name} must be of int64, int32 or uint8, got "
            x = xp.labels(loss, name, given[name], ("int64", "int32", "uint8"), message)
            expected = shape[:-1]
        elif kind == "per_column":
            x = xp.class_weight(loss, name, given[name], first)
            expected = shape[-1:]
        else:
            continue
        if tuple(x.shape) != expected:
            unsupported(
                ValueError(
                    f"{loss}(): {name} must have shape {list(expected)} beside rows of shape "
                    f"{list(shape)}, got {list(x.shape)}"
                )
            )
        constants.append(x)
    return tuple(constants)


TYPES = """\
float16, bfloat16, float32 or float64; all but the first may be of integers. They
    broadcast."""
# The shape of a row's operand, and what it is.
KINDS = {
    "element": ("tensor or array, shape (..., C)", f"Rows. {TYPES}"),
    "per_row": ("tensor or array, shape (...)", "A number for each row; they broadcast."),
    "per_column": ("tensor or array, shape (C)", "A number for each column."),
    "index": (
        "tensor or array of int64, int32 or uint8, shape (...)",
        "A label for each row, from 0 to C - 1.",
    ),
}


def _docstring(definition: Definition) -> str:
    formula = definition.symbolic
    text = inspect.cleandoc(definition.formula.__doc__ or f"The {definition.name}.")
    operands = f"{', '.join(formula.operands)} : tensor or array\n    {TYPES}\n"
    if formula.rowwise:
        kinds = [(name, *KINDS[kind]) for name, kind in formula.operands.items()]
        operands = "".join(f"{name} : {shape}\n    {what}\n" for name, shape, what in kinds)
    parameters = "".join(
        f"{name} : float, optional\n    A parameter of the formula, {value:g} by default.\n"
        for name, value in formula.parameters.items()
    ) + "".join(
        f"{name} : {type(value).__name__}, optional\n    An option of the formula, {value!r} by "
        "default.\n"
        for name, value in formula.options.items()
    )
    unit = "rows" if formula.rowwise else "elements"
    return f"""{text}

Parameters
----------
{operands}reduction : {{"mean", "sum", "none"}}, optional
    What becomes of the losses of the {unit}.
{parameters}
Returns
-------
tensor or array
    A number, or with ``reduction="none"`` an array with a number for each of the {unit}.

Raises
------
RuntimeError
    If the shapes don't broadcast.
ValueError
    If the reduction is unknown.
"""

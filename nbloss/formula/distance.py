"""What a distance is, and the decorator by which users bring their own."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, overload
from weakref import WeakValueDictionary

import numpy as np

from nbloss.formula import expression, trace
from nbloss.formula.expression import FormulaError, Node, fail
from nbloss.formula.trace import Formula

# The distances that there are, by what stands for them in a graph that can be stored.
NAMED: "WeakValueDictionary[str, Distance]" = WeakValueDictionary()


# What measures tensors; nbloss.functional says.
MEASURE_TENSORS: list[Callable[["Distance", Any, Any], Any]] = []


@dataclass(frozen=True, eq=False)
class Distance:
    """A distance between two rows, which the triplet losses compile in.

    Attributes
    ----------
    formula : Formula
        The distance of two rows.
    parameters : mapping of str to float
        Numbers that the formula takes, by name.
    key : str
        Names the distance among all others.
    """

    formula: Formula
    parameters: Mapping[str, float]
    key: str = ""

    def __post_init__(self) -> None:
        numbers = " ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        function = self.formula.function
        key = f"{function.__module__} {function.__qualname__} {numbers}"
        while (known := NAMED.get(key)) is not None and known.formula is not self.formula:
            key += "'"  # another one of the same name
        object.__setattr__(self, "key", key)
        NAMED[key] = self

    @property
    def name(self) -> str:
        """The formula's name."""
        return self.formula.name

    @property
    def extremes(self) -> list[str]:
        """What the distance takes of the coordinates that there is not of none."""
        every = expression.ancestors(self.formula.graph().value)
        return [x.op for x in every if x.op in ("max", "min")]

    def with_parameters(self, **parameters: float) -> "Distance":
        """Give the same distance with other numbers for its parameters."""
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            raise TypeError(
                f"distance {self.name} has no parameter {sorted(unknown)}; "
                f"it takes {list(self.parameters)}"
            )
        merged = {**self.parameters, **{k: float(v) for k, v in parameters.items()}}
        return replace(self, parameters=MappingProxyType(merged))

    def __call__(self, x: Any, y: Any) -> Any:
        """Measure the distances between rows, over the last axis; they broadcast.

        Parameters
        ----------
        x, y : array or tensor, shape (..., D)
            Tensors give a tensor that autograd and the transforms of torch can differentiate.

        Returns
        -------
        array or tensor, shape (...)
        """
        if isinstance(x, Node) or isinstance(y, Node):
            numbers = {name: expression.parameter(name) for name in self.parameters}
            return self.formula.function(x, y, **numbers)
        if hasattr(type(x), "__torch_function__") or hasattr(type(y), "__torch_function__"):
            return MEASURE_TENSORS[0](self, x, y)
        from nbloss.formula.evaluate import evaluate

        x, y = np.asarray(x), np.asarray(y)
        dtype = np.result_type(x, y, *(() if "f" in (x.dtype.kind, y.dtype.kind) else (float,)))
        x, y = np.broadcast_arrays(x.astype(dtype), y.astype(dtype))
        operands = dict(zip(self.formula.operands, (x, y), strict=True))
        value = self.formula.graph().value
        (found,) = evaluate([value], operands, self.parameters, x.shape[-1])
        return np.broadcast_to(found, (*x.shape[:-1], 1))[..., 0]

    def __reduce__(self) -> tuple:
        # The formula's name stands for this object, so that pickle would not find the formula.
        return _recall, (self.formula.function.__module__, self.name, dict(self.parameters))

    def __repr__(self) -> str:
        numbers = ", ".join(f"{k}={v:g}" for k, v in self.parameters.items())
        return f"<distance {self.name}({numbers})>"


def _recall(module: str, name: str, parameters: dict[str, float]) -> Distance:
    """Find a distance where it was defined."""
    found = getattr(importlib.import_module(module), name)
    return found.with_parameters(**parameters)


def recall(key: str) -> Distance:
    """Find a distance by its key, if need be where it was defined."""
    found = NAMED.get(key)
    if found is None:
        module, name, *numbers = key.split(" ")
        try:
            parameters = {k: float(v) for k, v in (x.split("=") for x in numbers if x)}
            found = _recall(module, name, parameters)
        except (ImportError, AttributeError, ValueError) as error:
            raise KeyError(f"there is no distance {key!r} (any more): {error}") from error
    return found


@overload
def distance(function: Callable[..., Any], /) -> Distance: ...


@overload
def distance() -> Callable[[Callable[..., Any]], Distance]: ...


def distance(function: Callable | None = None, **arguments: Any) -> Any:
    """Make a distance of one's own, which the triplet losses compile in like those that there are.

    Parameters
    ----------
    function : function
        Gives the distance of two rows: a formula of the value alone, with arithmetic, the
        functions of :mod:`nbloss.primitives` and NumPy's. Arguments with a default are parameters
        (numbers).

    Returns
    -------
    Distance
        To be passed as ``distance_function``, and to be called on rows of arrays or tensors.

    Raises
    ------
    FormulaError
        If the formula does what the compiler can't follow.

    Examples
    --------
    >>> import nbloss
    >>> from nbloss.primitives import absolute, sum
    >>> @nbloss.distance
    ... def weighted_manhattan(x, y, scale=2.0):
    ...     return scale * sum(absolute(x - y))
    >>> float(weighted_manhattan([0.0, 1.0], [1.0, 3.0]))
    6.0
    """
    if arguments:
        raise fail(
            f"distance() takes a formula alone, got {', '.join(arguments)}: the formula states how "
            "the coordinates come together, as in sqrt(sum((x - y) ** 2)) or max(absolute(x - y))"
        )
    if function is None:
        return distance
    given = inspect.signature(function).parameters.values()
    if sum(a.default is a.empty for a in given) != 2:
        raise FormulaError(
            f"distance {function.__name__} must take two rows, and parameters with defaults; "
            f"it takes {inspect.signature(function)} {trace.location(function)}"
        )
    formula = trace.formula(function, True)
    # Where others have options, a distance has parameters: `p=2` is a number.
    parameters = {n: float(x) for n, x in {**formula.parameters, **formula.options}.items()}
    formula = replace(formula, parameters=parameters, options={})
    trace.check_uses(formula)  # mistakes are told now
    return Distance(formula, MappingProxyType(parameters))

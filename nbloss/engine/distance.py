"""What a distance is, and the decorator by which users bring their own."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, overload
from weakref import WeakValueDictionary

import numpy as np

from nbloss.engine.finite_differences import STEP, agree

REDUCTIONS = ("sum", "max", "min")


# The distances that there are, by what stands for them in a graph that can be stored.
NAMED: "WeakValueDictionary[str, Distance]" = WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Distance:
    """A distance between two rows, in pieces that the engine can fuse.

    Attributes
    ----------
    formula : function
        ``formula(x, y, *parameters)``: what one coordinate adds, as ``(term, d_x, d_y)``, or a
        tuple of such triples if several sums are needed.
    finish : function or None
        ``finish(*sums, *parameters)``: the distance and its derivative by each sum.
    reduce : {"sum", "max", "min"}
        How the terms of the coordinates come together.
    sums : int
        How many sums there are.
    parameters : mapping
        Numbers that both functions take, by name.
    key : str
        Names the distance among all others.
    """

    formula: Callable
    finish: Callable | None
    reduce: str
    sums: int
    parameters: Mapping[str, float]
    key: str = ""

    def __post_init__(self) -> None:
        numbers = " ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        key = f"{self.formula.__module__} {self.formula.__qualname__} {numbers}"
        while (known := NAMED.get(key)) is not None and known.pieces != self.pieces:
            key += "'"  # another one of the same name
        object.__setattr__(self, "key", key)
        NAMED[key] = self

    @property
    def pieces(self) -> tuple:
        """What makes it another distance, beside its parameters."""
        return self.formula, self.finish, self.reduce

    @property
    def name(self) -> str:
        return self.formula.__name__

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
        """Distances between rows of NumPy arrays, over the last axis; they broadcast.

        The definition is evaluated as it stands. It must be written with the words of
        ``nbloss.primitives``, which work on whole arrays.
        """
        x, y = np.asarray(x), np.asarray(y)
        terms = triples(self.formula(x, y, *self.parameters.values()))
        with np.errstate(all="ignore"):
            totals = [getattr(np, self.reduce)(term[0], axis=-1) for term in terms]
            if self.finish is None:
                return totals[0]
            return self.finish(*totals, *self.parameters.values())[0]

    def __reduce__(self) -> tuple:
        # The formula's name stands for this object, so that pickle would not find the formula.
        return _recall, (self.formula.__module__, self.name, dict(self.parameters))

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


def triples(terms: tuple) -> tuple:
    """Wrap what a formula with one sum returns, so that all look alike."""
    return terms if isinstance(terms[0], tuple) else (terms,)


@overload
def distance(
    formula: Callable, *, finish: Callable | None = None, reduce: str = "sum"
) -> Distance: ...
@overload
def distance(
    formula: None = None, *, finish: Callable | None = None, reduce: str = "sum"
) -> Callable[[Callable], Distance]: ...
def distance(
    formula: Callable | None = None,
    *,
    finish: Callable | None = None,
    reduce: str = "sum",
) -> Any:
    """Make a distance of one's own, which the triplet loss fuses like those that it ships.

    Parameters
    ----------
    formula : function
        ``formula(x, y, *parameters)`` on two coordinates, in plain Python that Numba compiles.
        It returns ``(term, derivative by x, derivative by y)``, or a tuple of such triples if the
        distance needs several sums. Arguments with a default are parameters (numbers).
    finish : function, optional
        ``finish(*sums, *parameters)`` returns the distance and its derivative by each sum; by
        default the distance is the sum.
    reduce : {"sum", "max", "min"}, optional
        How the terms of the coordinates come together. With "max" and "min" coordinates that tie
        share the gradient.

    Returns
    -------
    Distance
        To be passed as ``distance_function``.

    Raises
    ------
    ValueError
        If the derivatives disagree with finite differences of the values, or if the functions do
        not return as many numbers as they should.

    Examples
    --------
    >>> import nbloss
    >>> from nbloss.primitives import absolute, sign
    >>> @nbloss.distance
    ... def weighted_manhattan(x, y, scale=2.0):
    ...     z = x - y
    ...     return scale * absolute(z), scale * sign(z), -scale * sign(z)
    >>> float(weighted_manhattan([0.0, 1.0], [1.0, 3.0]))
    6.0
    """
    if formula is None:
        return lambda function: distance(function, finish=finish, reduce=reduce)
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {REDUCTIONS}, got {reduce!r}")
    arguments = list(inspect.signature(formula).parameters.values())
    parameters = {a.name: float(a.default) for a in arguments if a.default is not a.empty}
    if len(arguments) - len(parameters) != 2:
        raise ValueError(
            f"distance {formula.__name__} must take two coordinates, and parameters with defaults; "
            f"it takes {inspect.signature(formula)}"
        )
    sums = _check(formula, finish, reduce, tuple(parameters.values()))
    return Distance(formula, finish, reduce, sums, MappingProxyType(parameters))


# Pairs of coordinates to check derivatives at: both signs, near and far, no ties.
_POINTS = ((0.3, 1.7), (1.9, 0.4), (-0.7, 0.6), (0.8, -1.1), (-2.3, -0.2), (-0.5, -1.6))


def _check(
    formula: Callable, finish: Callable | None, reduce: str, parameters: tuple[float, ...]
) -> int:
    """Compare all derivatives with central differences; give the number of sums."""
    name = formula.__name__

    def terms(x: float, y: float) -> tuple:
        result = formula(x, y, *parameters)
        if not isinstance(result, tuple) or any(len(t) != 3 for t in triples(result)):
            raise ValueError(
                f"distance {name} must return (term, derivative by x, derivative by y), "
                f"or a tuple of such triples; at x={x}, y={y} it returned {result!r}"
            )
        return triples(result)

    count = len(terms(*_POINTS[0]))
    if count > 1 and (finish is None or reduce != "sum"):
        raise ValueError(f"distance {name} has {count} sums: it needs finish=, and reduce='sum'")
    for x, y in _POINTS:
        given = terms(x, y)
        right, left = terms(x + STEP, y), terms(x - STEP, y)
        above, below = terms(x, y + STEP), terms(x, y - STEP)
        for k in range(count):
            place = f"x={x}, y={y}" + (f" (sum {k})" if count > 1 else "")
            agree(f"distance {name}", "x", place, given[k][1], right[k][0] - left[k][0])
            agree(f"distance {name}", "y", place, given[k][2], above[k][0] - below[k][0])
    if finish is not None:
        rows = np.array(_POINTS)
        per_point = [[t[0] for t in terms(x, y)] for x, y in rows]
        totals = [float(getattr(np, reduce)(column)) for column in zip(*per_point, strict=True)]
        given = finish(*totals, *parameters)
        if not isinstance(given, tuple) or len(given) != count + 1:
            raise ValueError(
                f"finish of distance {name} must return the distance and its derivative by each "
                f"of the {count} sums; it returned {given!r}"
            )
        for k in range(count):
            ends = []
            for sign in (1, -1):
                moved = list(totals)
                moved[k] += sign * STEP
                ends.append(finish(*moved, *parameters)[0])
            agree(
                f"distance {name}",
                f"sum {k} in finish",
                f"sums={totals}",
                given[1 + k],
                ends[0] - ends[1],
            )
    return count

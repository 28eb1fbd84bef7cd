"""One call of a loss, ready for the engine."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nbloss.formula import expression
from nbloss.formula.distance import Distance
from nbloss.formula.registry import Definition
from nbloss.formula.trace import Formula


@dataclass(frozen=True, slots=True)
class Problem:
    """A definition together with the arguments of one call, checked and brought to one type.

    Attributes
    ----------
    definition : Definition
    operands : tuple of array
        What a gradient can be asked for: floating, of one type and, but for classes, one shape.
    names : tuple of str
        The argument that each operand comes from.
    parameters : tuple of float
    reduction : {"none", "mean", "sum"}
    constants : tuple of array or None
        Arrays that get no gradient: labels (contiguous int64), class weights (contiguous).
    options : Any
        What the pattern needs beyond.
    """

    definition: Definition
    operands: tuple
    names: tuple[str, ...]
    parameters: tuple[float, ...]
    reduction: str
    constants: tuple = ()
    options: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the operands."""
        return tuple(self.operands[0].shape)

    @property
    def differentiable(self) -> tuple[bool, ...]:
        """For each operand, whether it has a gradient; in one's own loss some may have none."""
        definition = self.definition
        return tuple(
            name in definition.differentiable or name not in definition.operands
            for name in self.names
        )


def present(constants: tuple) -> tuple:
    """Give the constants that there are."""
    return tuple(x for x in constants if x is not None)


class ClassOptions(NamedTuple):
    """What a loss over the classes of a row needs beside its arrays.

    The problem's constants are the labels and the weight of each class; either may be None. Without
    labels the second operand holds a share for each class.
    """

    ignore_index: int = -100
    smoothing: float = 0.0


class FormulaOptions(NamedTuple):
    """The options of a formula."""

    chosen: tuple[tuple[str, Any], ...]

    def formula(self, loss: Formula) -> tuple[Formula, dict[str, Any]]:
        """Give the formula of a loss, and its options."""
        return loss, dict(self.chosen)


class TripletOptions(NamedTuple):
    """What a loss of two distances needs beside its arrays."""

    distance: Distance
    swap: bool
    # How many columns count for the distances from anchor to positive, from anchor to negative, and
    # from positive to negative. Fewer than there are where a single column was broadcast.
    columns: tuple[int, int, int]

    def formula(self, loss: Formula) -> tuple[Formula, dict[str, Any]]:
        """Give the formula of a loss with this distance, and its options."""
        options = {
            "distance": on_parameters(self.distance.formula),
            "swap": self.swap,
            "single": tuple(bool(count == 1) for count in self.columns),
        }
        return with_distance(loss, self.distance.formula), options


@functools.cache
def on_parameters(distance: Formula) -> Callable:
    """Give a distance of two rows whose parameters are those of the kernel."""
    numbers = {name: expression.parameter(name) for name in distance.parameters}
    return functools.partial(distance.function, **numbers)


@functools.cache
def with_distance(loss: Formula, distance: Formula) -> Formula:
    """Give a loss's formula the parameters of a distance as well."""
    return replace(loss, parameters={**loss.parameters, **distance.parameters})


def class_dimensions(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Samples, classes and places of scores of shape (C), (N, C) or (N, C, d1, ...)."""
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], math.prod(shape[2:])

"""One call of a loss, ready for the engine."""

from dataclasses import dataclass
from typing import Any

from nbloss.engine.registry import Definition


@dataclass(slots=True)
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

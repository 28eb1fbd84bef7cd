"""One call of a loss, ready for the engine."""

from typing import Any

from nbloss.engine.registry import Definition


class Problem:
    """A definition together with the arguments of one call, checked and brought to one type.

    Attributes
    ----------
    definition : Definition
    operands : tuple of array
        In the order of the definition's operands, of one floating type; index targets apart.
    parameters : tuple of float
    reduction : {"none", "mean", "sum"}
    options : Any
        What the pattern needs beyond.
    """

    __slots__ = ("definition", "operands", "options", "parameters", "reduction")

    def __init__(
        self,
        definition: Definition,
        operands: tuple,
        parameters: tuple[float, ...],
        reduction: str,
        options: Any = None,
    ) -> None:
        self.definition = definition
        self.operands = operands
        self.parameters = parameters
        self.reduction = reduction
        self.options = options

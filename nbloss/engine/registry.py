"""What a definition is, and the list of all of them.

The decorators here turn a plain formula into a :class:`Definition`. The pattern says what the
formula is a formula of: one element, one class of a row, one pair, one coordinate of a distance.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from nbloss.engine import finite_differences
from nbloss.formula.trace import Formula

LOSSES: dict[str, "Definition"] = {}
# Called with a definition that another one takes the place of.
ON_REPLACEMENT: list[Callable[["Definition"], None]] = []


@dataclass(frozen=True, eq=False)
class Definition:
    """A formula and what the engine has to know of it.

    Attributes
    ----------
    name : str
        Name of the function in ``nbloss.functional``.
    formula : function
        Plain Python over the primitives; returns the value and its derivatives.
    pattern : str
        Name of the module of :mod:`nbloss.engine.patterns` that turns it into kernels.
    operands : tuple of str
        The arguments that are arrays: those without a default.
    parameters : mapping
        The arguments that are numbers, with their defaults.
    differentiable : tuple of str
        The operands whose derivatives the formula returns, in the order of their return.
    module : str
        Name of the class in ``nbloss.nn``.
    mean_over_classes : bool
        Whether the loss of a sample is the mean over the last dimension.
    hinge : function or None
        For a pairwise loss that is a hinge: what the formula adds to the other class's score.
    saves_operands : bool
        Whether torch's own function saves the operands for its backward pass, where a change in
        place between the passes is an error. Where it does not, it keeps as much memory as the
        gradients take.
    sparse_gradient : bool
        Whether the value takes but a few of the numbers that the gradient has.
    row_formulas : tuple of Formula
        The formulas of a row's value, from which the CPU's kernels are made: for a label, and for
        probabilities.
    """

    name: str
    formula: Callable
    pattern: str
    operands: tuple[str, ...]
    parameters: Mapping[str, float]
    differentiable: tuple[str, ...]
    module: str
    mean_over_classes: bool = False
    hinge: Callable | None = None
    saves_operands: bool = True
    sparse_gradient: bool = False
    row_formulas: tuple[Formula, ...] = ()

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate the formula as it stands, on Python numbers or NumPy arrays."""
        return self.formula(*arguments)

    def __repr__(self) -> str:
        return f"<{self.pattern} definition {self.name}>"


def define(
    pattern: str,
    formula: Callable,
    differentiable: str | tuple[str, ...],
    module: str | None = None,
    **more: Any,
) -> Definition:
    """Make a definition, check it, and list it among the losses."""
    if isinstance(differentiable, str):
        differentiable = (differentiable,)
    arguments = inspect.signature(formula).parameters.values()
    definition = Definition(
        name=formula.__name__,
        formula=formula,
        pattern=pattern,
        operands=formula_operands(formula),
        parameters=MappingProxyType(
            {a.name: float(a.default) for a in arguments if a.default is not a.empty}
        ),
        differentiable=tuple(differentiable),
        module=module or "".join(word.capitalize() for word in formula.__name__.split("_")),
        **more,
    )
    unknown = set(differentiable) - set(definition.operands)
    if unknown:
        raise ValueError(
            f"{definition.name}: differentiable names {sorted(unknown)}, "
            f"which are not among the operands {definition.operands}"
        )
    if pattern == "pointwise":
        parameters = tuple(definition.parameters.values())
        finite_differences.check(
            definition.name, formula, definition.operands, parameters, definition.differentiable
        )
    return listed(definition)


def listed(definition: Definition) -> Definition:
    """List a definition among the losses.

    One's own loss may be defined again, as a notebook does when its cell is run again; whatever is
    made of it from then on is made of the new definition.
    """
    known = LOSSES.get(definition.name)
    if known is not None and is_built_in(known):
        raise ValueError(
            f"{definition.name} is a loss of nbloss; a loss of your own needs another name"
        )
    LOSSES[definition.name] = definition
    if known is not None:
        for forget in ON_REPLACEMENT:
            forget(known)
    return definition


def is_built_in(definition: Definition) -> bool:
    """Whether a definition is one of those in :mod:`nbloss.losses`."""
    return definition.formula.__module__.startswith("nbloss.losses.")


def variant(definition: Definition, name: str, module: str) -> Definition:
    """List the same formula once more, for a function that differs in its arguments alone."""
    return listed(replace(definition, name=name, module=module))


def pointwise(
    *,
    differentiable: str | tuple[str, ...],
    module: str | None = None,
    mean_over_classes: bool = False,
    saves_operands: bool = True,
) -> Callable[[Callable], Definition]:
    """Define a loss by the formula of one element.

    Parameters
    ----------
    differentiable : str or tuple of str
        The operands that have a derivative. The formula returns the value followed by the
        derivative with respect to each of them, in this order.
    module : str, optional
        Name of the class in ``nbloss.nn``; by default the formula's name in CamelCase.
    mean_over_classes : bool, optional
        Take the mean over the last dimension first, so that ``reduction="none"`` gives a value a
        sample.
    saves_operands : bool, optional
        Whether torch's own function, if there is one, saves the operands for its backward pass.

    Raises
    ------
    ValueError
        If the formula returns another number of values; if a derivative disagrees with finite
        differences of the value; if the name is that of a loss of nbloss; or if ``differentiable``
        names what is no operand.
    """
    return lambda formula: define(
        "pointwise",
        formula,
        differentiable,
        module,
        mean_over_classes=mean_over_classes,
        saves_operands=saves_operands,
    )


def picked(
    *, module: str | None = None, row_formulas: tuple[Formula, ...] = ()
) -> Callable[[Callable], Definition]:
    """Define a loss by the formula of the one class of a row that the target names.

    The formula takes the class's score and its weight, and returns the value and the derivative by
    the score.
    """
    return lambda formula: define(
        "classes",
        formula,
        formula_operands(formula)[:1],
        module,
        sparse_gradient=True,
        row_formulas=row_formulas,
    )


def normalized(
    *, module: str | None = None, row_formulas: tuple[Formula, ...] = ()
) -> Callable[[Callable], Definition]:
    """Define a loss over the classes of a row, by the formula of one class.

    The formula takes the class's score, the logarithm of the sum of the exponentials of all scores
    of the row, the share of the target that falls to this class, and the sum of all shares. It
    returns the value, the derivative of the row's loss by the score, and the one by the share.
    """
    return lambda formula: define(
        "classes",
        formula,
        formula_operands(formula)[:1],
        module,
        saves_operands=False,
        row_formulas=row_formulas,
    )


def pairwise(
    *, module: str | None = None, hinge: Callable | None = None
) -> Callable[[Callable], Definition]:
    """Define a loss over all pairs of a target class and another class of a row.

    The formula takes the scores of the two and returns the value and the derivative by each. The
    loss of a row is the sum over the pairs divided by the number of classes.

    Parameters
    ----------
    module : str, optional
        Name of the class in ``nbloss.nn``; by default the formula's name in CamelCase.
    hinge : function, optional
        Says that the formula is ``maximum(hinge(labelled) + other, 0)``, and that ``hinge`` falls
        as fast as its argument rises. The sum over all pairs then needs but the labels in order.
    """
    return lambda formula: define("pairs", formula, formula_operands(formula), module, hinge=hinge)


def triplet(*, module: str | None = None) -> Callable[[Callable], Definition]:
    """Define a loss of two distances from an anchor, to a positive and to a negative example.

    The formula takes the two distances and returns the value and the derivative by each.
    """
    return lambda formula: define(
        "triplets", formula, formula_operands(formula), module, saves_operands=False
    )


def formula_operands(formula: Callable) -> tuple[str, ...]:
    """Name the arguments of a formula that have no default."""
    arguments = inspect.signature(formula).parameters.values()
    return tuple(a.name for a in arguments if a.default is a.empty)

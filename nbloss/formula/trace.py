"""A formula, and the graph that it leaves when it is run once on symbols."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from nbloss.formula import expression
from nbloss.formula.expression import COLUMN, KINDS, Node, node, number

if TYPE_CHECKING:  # for a type checker a formula's arguments may be anything
    Row: TypeAlias = Any
    PerRow: TypeAlias = Any
    PerColumn: TypeAlias = Any
    Index: TypeAlias = Any
else:

    class Row:
        """Annotates an operand that is a row of numbers; the default in a formula of a row."""

        kind = "element"

    class PerRow:
        """Annotates an operand that is one number for each row."""

        kind = "per_row"

    class PerColumn:
        """Annotates an operand that is one number for each column, the same in all rows."""

        kind = "per_column"

    class Index:
        """Annotates an operand that is a label for each row: which of its columns is meant."""

        kind = "index"


ANNOTATIONS = {annotation.__name__: annotation for annotation in (Row, PerRow, PerColumn, Index)}


@dataclass(frozen=True, eq=False)
class Graph:
    """What is known of a formula with its options.

    Attributes
    ----------
    value : Node
        What an element costs, or a row.
    weight : Node or None
        What a row counts when a mean is taken; None if all count the same.
    names : dict of Node to str
        What the formula calls its results.
    slopes : mapping of str to Node
        Derivatives with respect to operands that are stated, and take the place of the value's.
    """

    value: Node
    weight: Node | None
    names: Mapping[Node, str]
    slopes: Mapping[str, Node]

    @property
    def least_columns(self) -> int:
        """How many columns a row must have, for the formula to take those that it does."""
        every = expression.ancestors(self.value)
        given = [x.args[1] for x in every if x.op == "gather"]
        numbered = [int(x.data) + 1 for x in given if x.op == "number"]
        extremes = any(x.op in ("max", "min") for x in every)
        return max([*numbered, int(extremes)], default=0)


@dataclass(frozen=True, eq=False)
class Formula:
    """A formula and what its signature says of its arguments.

    Attributes
    ----------
    function : function
    rowwise : bool
        Whether it is the formula of a row; otherwise it is that of an element.
    operands : mapping of str to str
        The kinds of the arguments without a default, which are arrays; see
        :data:`nbloss.formula.expression.KINDS`.
    parameters : mapping of str to float
        The arguments with a float as default, which kernels are given.
    options : mapping of str to Any
        The arguments with another default, which are known when a kernel is made.
    overrides : mapping of str to function
        Derivatives that are deliberately others than those of the value: of the same arguments, by
        operand.
    """

    function: Callable
    rowwise: bool
    operands: Mapping[str, str]
    parameters: Mapping[str, float]
    options: Mapping[str, Any]
    overrides: Mapping[str, Callable]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    def graph(self, **options: Any) -> Graph:
        """Run the formula on symbols.

        Parameters
        ----------
        **options
            Other values than the formula's own for its options, or 1.0 for an operand that there
            is not, such as class weights that all are 1.

        Raises
        ------
        FormulaError
            If the formula does what the compiler can't follow, or gives anything but one number an
            element or a row.
        """
        return _graph(self, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=1024)
def _graph(formula: Formula, options: tuple[tuple[str, Any], ...]) -> Graph:
    arguments: dict[str, Any] = {
        name: expression.operand(name, kind) for name, kind in formula.operands.items()
    }
    arguments |= {name: expression.parameter(name) for name in formula.parameters}
    arguments |= formula.options
    for name, value in options:
        arguments[name] = number(value) if name in formula.operands else value
    result, names = _watched(formula.function, arguments)
    value, weight = _checked(formula, result)
    slopes = {}
    for name, override in formula.overrides.items():
        slope, more = _watched(override, arguments)
        slopes[name] = expression.as_number(slope)
        names.update(more)
    for argument in arguments.values():
        if isinstance(argument, Node):
            names.pop(argument, None)
    return Graph(value, weight, MappingProxyType(names), MappingProxyType(slopes))


def _watched(function: Callable, arguments: dict[str, Any]) -> tuple[Any, dict[Node, str]]:
    """Call a formula, and see what it has its local variables stand for."""
    names: dict[Node, str] = {}
    code = inspect.unwrap(function).__code__

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            names.update((x, n) for n, x in frame.f_locals.items() if isinstance(x, Node))

    taken = inspect.signature(function).parameters
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        result = function(**{name: x for name, x in arguments.items() if name in taken})
    except TypeError as error:
        if isinstance(error, expression.FormulaError) or "Node" not in str(error):
            raise
        trail, line = error.__traceback__, None
        while trail is not None:
            line = trail.tb_lineno if trail.tb_frame.f_code is code else line
            trail = trail.tb_next
        what = str(error).partition("\n")[0]
        raise expression.FormulaError(
            f"{function.__name__} calls a function that does not know a formula's data, or has an "
            f"operator that formulas lack: use those of nbloss.primitives or NumPy ({what}) "
            f"{location(function, line)}"
        ) from None
    finally:
        sys.setprofile(before)
    return result, names


def _checked(formula: Formula, result: Any) -> tuple[Node, Node | None]:
    """Take a formula's result apart, and see that it is what it should be."""
    where = location(formula.function)
    if isinstance(result, tuple | list):
        raise expression.FormulaError(
            f"{formula.name} returns {len(result)} values, but a formula states the value alone: "
            f"derivatives are made from it {where}"
        )
    if result is None:
        raise expression.FormulaError(f"{formula.name} returns nothing {where}")
    try:
        value, weight = expression.as_number(result), None
    except expression.FormulaError:
        raise expression.FormulaError(
            f"{formula.name} returns a {type(result).__name__}, not a number {where}"
        ) from None
    if value.op == "weighted":
        value, weight = value.args
        if COLUMN in weight.varies:
            raise expression.FormulaError(
                f"{formula.name}: the weight of a row must be one number {where}"
            )
    every = expression.ancestors(value, *(() if weight is None else (weight,)))
    if any(x.op == "weighted" for x in every):
        raise expression.FormulaError(
            f"{formula.name}: weighted(value, weight) must be what the formula returns {where}"
        )
    if formula.rowwise and COLUMN in value.varies:
        raise expression.FormulaError(
            f"{formula.name} gives a number for each column, but must give one for the row: take "
            f"the sum or the mean {where}"
        )
    along_row = (*expression.REDUCTIONS, *expression.ROW_COMPOSITES, "gather", "column", "width")
    found = [x for x in every if x.op in along_row]
    if not formula.rowwise and found:
        raise expression.FormulaError(
            f"{formula.name} is the formula of an element, and has no row to take the "
            f"{found[0].op} of: define it with @rowwise {where}"
        )
    labels = {x for x in every if x.op == "operand" and x.data[1] == "index"}
    as_numbers: set[Node | None] = {value, weight}
    for x in every:
        compared = x.op in ("equal", "not_equal") and node("column") in set(x.args)
        as_numbers.update(() if compared else x.args[:1] if x.op == "gather" else x.args)
    for label in labels & as_numbers:
        raise expression.FormulaError(
            f"{formula.name}: the label {label} can only index a row or be compared with `column`; "
            f"annotate it nbloss.PerRow if it is a number {where}"
        )
    return value, weight


def check_uses(formula: Formula) -> None:
    """See that a formula depends on its operands: on each, unless an option may say otherwise.

    Raises
    ------
    FormulaError
        If it does not, or does what the compiler can't follow.
    """
    graph = formula.graph()
    roots = [graph.value, *graph.slopes.values(), *([] if graph.weight is None else [graph.weight])]
    used = {x.data[0] for x in expression.ancestors(*roots) if x.op == "operand"}
    unused = [name for name in formula.operands if name not in used]
    if unused and (not used or not formula.options):
        raise expression.FormulaError(
            f"{formula.name} does not depend on {' and '.join(unused)}: leave the argument out, or "
            f"give it a default {location(formula.function)}"
        )


def location(function: Callable, line: int | None = None) -> str:
    """Say where a function is, or a line of it."""
    code = inspect.unwrap(function).__code__
    return f'(in "{code.co_filename}", line {line or code.co_firstlineno})'


def formula(
    function: Callable, rowwise: bool, overrides: Mapping[str, Callable] | None = None
) -> Formula:
    """Read off a function's signature what its arguments are."""
    arguments = inspect.signature(function).parameters.values()
    operands, parameters, options = {}, {}, {}
    for argument in arguments:
        if argument.kind not in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY):
            raise expression.FormulaError(
                f"{function.__name__}: the arguments of a formula are named one by one, without "
                f"*, ** or / {location(function)}"
            )
        default = argument.default
        if default is argument.empty:
            operands[argument.name] = _kind(function, argument.annotation)
        elif isinstance(default, float):
            parameters[argument.name] = default
        else:
            options[argument.name] = default
    if not operands:
        raise expression.FormulaError(
            f"{function.__name__} has no operand, an argument without a default "
            f"{location(function)}"
        )
    return Formula(
        function,
        rowwise,
        MappingProxyType(operands),
        MappingProxyType(parameters),
        MappingProxyType(options),
        MappingProxyType(dict(overrides or {})),
    )


def _kind(function: Callable, annotation: Any) -> str:
    if isinstance(annotation, str):
        annotation = ANNOTATIONS.get(annotation.rpartition(".")[2])
    kind = getattr(annotation, "kind", "element")
    return kind if kind in KINDS else "element"

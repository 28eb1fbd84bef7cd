"""A formula and its derivatives as a plain Python function of numbers.

The loops that are written by hand call it: they bind NumPy's functions in it to their own.
"""

import functools
import linecache
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nbloss.codegen.emit import ATOM, Writer
from nbloss.formula import derive, expression
from nbloss.formula.expression import Node, ancestors
from nbloss.formula.lower import lower
from nbloss.formula.registry import Definition
from nbloss.formula.schedule import LEAVES, count_uses

# NumPy's functions that such a function may call.
WORDS = (
    "absolute",
    "exp",
    "expm1",
    "log",
    "log1p",
    "logical_and",
    "logical_not",
    "logical_or",
    "maximum",
    "minimum",
    "power",
    "sign",
    "sqrt",
    "tanh",
    "where",
)


class Scalar(Writer):
    """Writes a function of numbers, without a loop."""

    def __init__(self, arguments: Mapping[Node, str], titles: Mapping[Node, str]) -> None:
        self.lines, self.indent, self.is_half = [], 0, False
        self.names = dict(arguments)
        self.taken, self.of_loops = (
            {*arguments.values(), *WORDS, "abs", "inf", "nan"},
            set(),
        )
        self.titles = {lower(x): name for x, name in titles.items()}

    def text(self, x: Node, priority: int = 0) -> str:
        if x not in self.names and x.op == "masked":
            return f"where({self.text(x.args[0])}, {self.text(x.args[1])}, 0.0)"
        if x not in self.names and x.op == "direction":
            a = self.text(x.args[0], ATOM)
            return f"where({a} > 0.0, 1.0, where({a} < 0.0, -1.0, 0.0))"
        return super().text(x, priority)

    def function(self, name: str, groups: Sequence[Sequence[Node]]) -> str:
        groups = [[lower(x) for x in group] for group in groups]
        results = [x for group in groups for x in group]
        inside = ancestors(*results, known=self.names)
        uses = count_uses(inside, results)
        arguments = ", ".join(self.names.values())
        self(f"def {name}({arguments}):")
        self.indent = 1
        for x in inside:
            if x.op not in LEAVES and (uses[x] > 1 or x in self.titles):
                self(self.assign(x))
        tuples = [f"({', '.join(map(self.text, group))},)" for group in groups]
        self(f"return {tuples[0] if len(tuples) == 1 else f'({chr(44).join(tuples)})'}")
        return "\n".join([*self.lines, ""])


def function(
    name: str,
    arguments: Mapping[Node, str],
    *results: Sequence[Node],
    titles: Mapping[Node, str] | None = None,
) -> Callable[..., tuple]:
    """Make a function of numbers.

    Parameters
    ----------
    name : str
    arguments : mapping of Node to str
        What the function takes, in this order.
    *results : sequence of Node
        What it returns, elementwise in the arguments: a tuple, or a tuple of several tuples.
    titles : mapping of Node to str, optional
        Names for what is computed on the way.
    """
    text = Scalar(arguments, titles or {}).function(name, results)
    file = f"<nbloss {name} {hash(text):x}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    scope: dict[str, Any] = {name: getattr(np, name) for name in WORDS}
    scope |= {"__name__": __name__, "inf": math.inf, "nan": math.nan}
    exec(compile(text, file, "exec"), scope)
    return scope[name]


@functools.cache
def stated(definition: Definition) -> Callable[..., tuple]:
    """Give the value and the derivatives of an element or a pair, as a function of numbers."""
    absent = {n: 1.0 for n in definition.symbolic.operands if n not in definition.operands}
    graph = definition.symbolic.graph(**absent)
    names = dict(graph.names)
    operands = [expression.operand(name) for name in definition.differentiable]
    slopes = derive.slopes(graph, operands, derive.ONE, names)
    arguments = {expression.operand(name): name for name in definition.operands}
    arguments |= {expression.parameter(name): name for name in definition.parameters}
    return function(definition.name, arguments, [graph.value, *slopes], titles=names)

"""A formula and its derivatives as a plain Python function of numbers.

The kernels of CUDA, and the losses as operations of torch, take what a formula comes to in this
form: they bind the primitives that the function calls to their own.
"""

import linecache
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbloss.codegen.emit import ATOM, Writer
from nbloss.engine import primitives
from nbloss.formula.expression import Node, ancestors
from nbloss.formula.lower import lower
from nbloss.formula.schedule import LEAVES, count_uses


class Scalar(Writer):
    """Writes a function of numbers, without a loop."""

    def __init__(self, arguments: Mapping[Node, str], titles: Mapping[Node, str]) -> None:
        self.lines, self.indent, self.is_half = [], 0, False
        self.names = dict(arguments)
        self.taken, self.of_loops = (
            {*arguments.values(), *primitives.__all__, "abs", "inf", "nan"},
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
    scope: dict[str, Any] = {n: getattr(primitives, n) for n in primitives.__all__}
    scope |= {"__name__": __name__, "inf": math.inf, "nan": math.nan}
    exec(compile(text, file, "exec"), scope)
    return scope[name]

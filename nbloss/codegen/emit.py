"""What the sources of all kernels share: how expressions are written, and in which order.

A source is written to be read. Its names are those of the formula's arguments and local variables;
a derivative is called ``grad_`` and what it is taken with respect to.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from nbloss.codegen.layout import laid_out
from nbloss.codegen.spec import (
    GRAD_OUTPUT,
    GRADIENT_FACTOR,
    RESERVED,
    Spec,
    gradient,
    identifier,
)
from nbloss.formula.derive import Guard, diagonal, slopes, times
from nbloss.formula.expression import (
    COLUMN,
    COMPARISONS,
    ROW,
    Node,
    ancestors,
    node,
    number,
    operand,
    parameter,
)
from nbloss.formula.lower import lower
from nbloss.formula.schedule import LEAVES, Walk, assumed, count_uses, schedule

# How operations are written, and how strongly they bind.
INFIX = {
    "less": ("<", 2),
    "less_equal": ("<=", 2),
    "greater": (">", 2),
    "greater_equal": (">=", 2),
    "equal": ("==", 2),
    "not_equal": ("!=", 2),
    "add": ("+", 3),
    "subtract": ("-", 3),
    "multiply": ("*", 4),
    "divide": ("/", 4),
}
ATOM = 6
# What a number is called that the formula has no name for.
NAMES = {
    "shift": "largest",
    "max": "largest",
    "min": "smallest",
    "sum": "total",
    "exp": "exponential",
    "log": "logarithm",
    "log1p": "logarithm",
    "sqrt": "root",
    "power": "powered",
    "multiply": "factor",
    "divide": "quotient",
    "subtract": "difference",
    "add": "term",
    "absolute": "size",
    "negative": "negated",
    "where": "chosen",
    "masked": "kept_slope",
    "sign": "direction",
}


@dataclass
class Fold:
    """A reduction as it is written: its partial, its whole, and how numbers join.

    The numbers of a segment join in the computing type, and the segments' partials in float64. The
    largest is found among integers that are in the order of the numbers.
    """

    node: Node
    name: str
    mark: str  # what follows the name of a number of a row: its place in the tile

    def __post_init__(self) -> None:
        self.partial, self.whole = f"{self.name}_partial{self.mark}", f"{self.name}_all{self.mark}"
        self.is_sum = self.node.op == "sum"
        self.join = "plus" if self.is_sum else "smaller" if self.node.op == "min" else "larger"
        self.start = (
            "0.0" if self.is_sum else "highest_rank" if self.node.op == "min" else "lowest_rank"
        )
        self.rank = {"max": "rank_nan_high", "min": "rank_nan_low"}.get(self.node.op, "rank")

    def taking(self, text: str) -> str:
        """Write how a number is taken in."""
        text = text if self.is_sum else f"{self.rank}({text})"
        return f"{self.partial} = {self.join}({self.partial}, {text})"

    def given(self, text: str, real: str) -> str:
        """Write how the result is made of the whole."""
        return f"{self.name}{self.mark} = {f'{real}({text})' if self.is_sum else f'ranked({text})'}"


def _is_place(x: Node) -> bool:
    """Whether a number is that of a column."""
    return x.op == "column" or (x.op == "operand" and x.data[1] == "index")


class Writer:
    """Writes a kernel; what is particular to a device or a layout is in the subclasses."""

    branches = True
    keeps = True  # whether an array holds something costly for a later walk
    fold = Fold

    def __init__(self, spec: Spec) -> None:
        self.spec, self.arrays = spec, spec.arrays
        self.lines: list[str] = []
        self.indent = 0
        self.is_half = spec.dtype in ("float16", "bfloat16")
        self.real = "float32" if self.is_half else spec.dtype
        self.names: dict[Node, str] = {}
        self.labels = [n for n, kind in self.arrays.items() if kind == "index"]
        self._schedule()
        self.taken = {*self.arrays, *map(identifier, spec.formula.parameters), *RESERVED}
        results = {*self.outputs, *self.schedule.of_rows}
        self.taken |= results | {f"all_{n}" for n in {*self.arrays, *results}}
        self.taken |= {f"{n}_step" for n in self.arrays}
        self.of_loops: set[str] = set()

    def _schedule(self) -> None:
        """Derive what is asked for, and split it into walks."""
        spec = self.spec
        graph = spec.formula.graph(**dict(spec.options))
        names = dict(graph.names)
        names.setdefault(graph.value, "value")
        grad_output = parameter(GRADIENT_FACTOR)
        if spec.has_grad_output:
            of_call = operand(GRAD_OUTPUT, self.arrays["grad_output"])
            grad_output = times(grad_output, of_call)
        operands = [operand(n, spec.formula.operands[n]) for n in spec.needs_grad]
        found = slopes(graph, operands, grad_output, names)
        if spec.order == 2:
            found = [diagonal(x, operand) for x, operand in zip(found, operands, strict=True)]
        kinds = spec.formula.operands
        slopes_of = dict(zip(spec.needs_grad, map(lower, found), strict=True))
        results = {gradient(n): x for n, x in slopes_of.items() if kinds[n] == "element"}
        of_rows = {gradient(n): x for n, x in slopes_of.items() if kinds[n] == "per_row"}
        self.outputs = list(results)
        value = lower(graph.value) if spec.value else None
        if spec.value == "weights":
            value = number(1.0) if graph.weight is None else lower(graph.weight)
        if value is not None and not spec.formula.rowwise:
            if spec.value == "each":
                results["values"], value = value, None
            else:
                value = node("sum", value) if COLUMN in value.varies else value * node("width")
        self.results = results
        self.titles = {lower(x): name for x, name in names.items()}
        self.schedule = schedule(
            results, of_rows, value, self.titles, self.keeps and not self.is_half, self.branches
        )

    def __call__(self, *lines: str) -> None:
        for line in lines:
            self.lines += laid_out("    " * self.indent + line) if line else [""]

    @contextmanager
    def block(self, *heads: str) -> Iterator[None]:
        """Indent what is written under some heads."""
        for head in heads:
            self(head)
            self.indent += 1
        yield
        self.indent -= len(heads)

    def unique(self, name: str, *endings: str, in_loop: bool = False) -> str:
        """Give a name that is not taken, nor with one of these endings."""
        taken = self.taken - self.of_loops if in_loop else self.taken
        found, count = name, 1
        while not taken.isdisjoint(f"{found}{ending}" for ending in ("", *endings)):
            count += 1
            found = f"{name}_{count}"
        self.taken.update(f"{found}{ending}" for ending in ("", *endings))
        self.of_loops.discard(found)
        return found

    # --- expressions ------------------------------------------------------------------------------

    def text(self, x: Node, priority: int = 0) -> str:
        """Write an expression, in parentheses where its surroundings bind more strongly."""
        if x in self.names:
            return self.names[x] + self.of_row(x)
        match x.op:
            case "number" if isinstance(x.data, bool):
                return str(x.data)
            case "number":
                return self._number(x.data, priority)
            case "parameter":
                return identifier(x.data)
            case "width":
                return f"{self.real}(columns)"
            case "column":
                return f"{self.real}(c)"
            case "operand" if x.data[1] == "index":
                return f"{self.real}({self.place(x)})"
            case "operand" if x.data[1] == "kept":
                return self.element(x.data[0], "element", "c")
            case "operand":
                return self.loaded(x.data[0], x.data[1], "c")
            case "gather":
                name, kind = x.args[0].data
                return self.loaded(name, kind, self.place(x.args[1]))
            case "negative":
                return self._enclosed(f"-{self.text(x.args[0], ATOM - 1)}", ATOM - 1, priority)
            case "logical_and" | "logical_or":
                # In Python they bind more strongly than comparisons.
                sign = "&" if x.op == "logical_and" else "|"
                text = f" {sign} ".join(self.text(a, ATOM) for a in x.args)
                return self._enclosed(text, INFIX["add"][1] - 1, priority)
            case "absolute":
                return f"abs({self.text(x.args[0])})"
        if x.op in INFIX:
            sign, own = INFIX[x.op]
            first, second = x.args
            if x.op in COMPARISONS:  # they don't chain
                is_of_columns = any(_is_place(a) for a in x.args)
                text = f" {sign} ".join(
                    self.place(a) if is_of_columns else self.text(a, own + 1) for a in x.args
                )
            else:  # differences and quotients associate to the left
                text = f"{self.text(first, own)} {sign} {self.text(second, own + 1)}"
            return self._enclosed(text, own, priority)
        return f"{x.op}({', '.join(map(self.text, x.args))})"

    def place(self, x: Node) -> str:
        """Write what is compared with a column's number, or names a column: as an integer."""
        if x.op == "column":
            return "c"
        if x.op == "operand" and x.data[1] == "index":
            return identifier(x.data[0]) + self.of_row(x)
        if x.op == "number" and x.data == int(x.data):
            return str(int(x.data))
        return self.text(x, INFIX["add"][1])

    def _number(self, value: float, priority: int) -> str:
        if value != value or value - value != 0:
            text = "nan" if value != value else "inf" if value > 0 else "-inf"
        else:
            text = repr(value)
        return self._enclosed(text, ATOM - 1 if text.startswith("-") else ATOM, priority)

    @staticmethod
    def _enclosed(text: str, own: int, priority: int) -> str:
        return f"({text})" if own < priority else text

    def of_row(self, x: Node) -> str:
        """Give what follows the name of a number of a row."""
        return ""

    def element(self, name: str, kind: str, column: str) -> str:
        """Write where an array has a row's number."""
        if kind == "per_row":
            return f"{name}[0]"
        step = self.spec.step(name)
        return f"{name}[{({0: '0', 1: column, -1: f'{column} * {name}_step'})[step]}]"

    def loaded(self, name: str, kind: str, column: str) -> str:
        """Write how a number of an operand is read."""
        return self.number_at(identifier(name), kind, column)

    def number_at(self, name: str, kind: str, column: str) -> str:
        """Write how a number of an array is read."""
        text = self.element(name, kind, column)
        return f"widen({text})" if self.is_half else text

    def stored(self, element: str, text: str) -> str:
        """Write how a number is stored."""
        return f"{element} = {f'narrow({text})' if self.is_half else text}"

    def assign(self, x: Node, name: str | None = None) -> str:
        """Write an assignment to a new name."""
        name = name or self.titles.get(x) or NAMES.get(x.op, "test")
        name = self.unique(name, in_loop=COLUMN in x.varies)
        line = f"{name}{self.of_row(x)} = {self.text(x)}"
        self.names[x] = name
        return line

    # --- statements -------------------------------------------------------------------------------

    def per_row(self, lines: list[str], of: list[Node]) -> None:
        """Write lines that compute numbers of a row."""
        self(*lines)

    @contextmanager
    def folded(self, walk: Walk, folds: list[Fold]) -> Iterator[None]:
        """Write what surrounds the loop of a reduction."""
        raise NotImplementedError

    def columns(self, roots: list[Node]) -> AbstractContextManager[None]:
        """Write a loop along the row, in which some numbers are computed."""
        raise NotImplementedError

    def folds(self, walk: Walk) -> list[Fold]:
        """Give names to what a walk reduces."""
        return [
            self.fold(r, self.unique(title, "_partial", "_all"), self.of_row(r))
            for r in walk.reductions
            for title in [self.titles.get(r) or NAMES[r.op]]
        ]

    def walk(self, walk: Walk) -> None:
        """Write a loop along the row, and what comes before and after it."""
        folds = self.folds(walk)
        if walk.roots:
            with self.folded(walk, folds):
                for heads, stores in self._branches(walk):
                    roots = [*(fold.node.args[0] for fold in folds), *(x for _, x in stores)]
                    with self.block(*heads), self.columns(roots):
                        self.body(stores, folds)
        self.names.update((fold.node, fold.name) for fold in folds)
        for name, label, x in walk.at_labels:
            self.store_at_label(name, label, x)

    def store_at_label(self, name: str, label: Node, x: Node) -> None:
        """Write what is stored in the column that a label names."""
        raise NotImplementedError

    def store_of_row(self, name: str, text: str) -> None:
        """Write how a result that is one number a row is stored."""
        raise NotImplementedError

    def _branches(self, walk: Walk) -> list[tuple[list[str], list[tuple[str, Node]]]]:
        """Give what is stored, by the branches in which it is."""
        guard: Guard | None = walk.guard
        if guard is None:
            return [([], walk.stores)]
        test = self.text(guard[0])
        chosen, other = (
            [(name, assumed(x, guard, side)) for name, x in walk.stores] for side in (True, False)
        )
        head = f"if {test}:" if guard[1] else f"if not ({test}):"
        return [([head], chosen), (["else:"], other)]

    def body(self, stores: list[tuple[str, Node]], folds: list[Fold]) -> None:
        """Write what is done in a column."""
        roots = [*(fold.node.args[0] for fold in folds), *(x for _, x in stores)]
        inside = ancestors(*roots, known=self.names, along_rows=True)
        uses, outside = count_uses(inside, roots), dict(self.names)
        for x in inside:
            # A kept number is read before something else is stored in its place.
            is_kept = x.op == "operand" and x.data[1] == "kept"
            if is_kept or (x.op not in LEAVES and (uses.get(x, 0) > 1 or x in self.titles)):
                self(self.assign(x, "kept_number" if is_kept else None))
        for fold in folds:
            self(fold.taking(self.text(fold.node.args[0])))
        for name, x in stores:
            self(self.stored(self.element(name, "element", "c"), self.text(x)))
        # The next loop may have the formula's own names again, where they mean the same.
        self.of_loops |= {self.names[x] for x in inside if x in self.names and x in self.titles}
        self.names = outside

    def row(self) -> None:
        """Write all that is done for a row."""
        self.rest_of_row(self.schedule.walks)

    def rest_of_row(self, walks: list[Walk]) -> None:
        """Write these walks of a row, and what comes after them."""
        made = self.schedule
        for walk in walks:
            self.per_row([self.assign(x) for x in walk.names], walk.names)
            self.walk(walk)
        self.per_row([self.assign(x) for x in made.names], made.names)
        for name, x in made.of_rows.items():
            self.store_of_row(name, self.text(x))
        if made.value is not None:
            self.finish(made.value)

    def finish(self, value: Node) -> None:
        """Write what becomes of a row's value."""
        raise NotImplementedError

    def prelude(self) -> None:
        """Write the head, and what is read from the call."""
        raise NotImplementedError

    @contextmanager
    def rows(self) -> Iterator[None]:
        """Write the loop over rows."""
        raise NotImplementedError

    def ending(self) -> None:
        """Write what comes after all rows."""
        raise NotImplementedError

    def shared_walk(self, walk: Walk) -> None:
        """Write a walk that is done once for all rows."""
        self.walk(walk)

    def source(self) -> str:
        """Write the kernel."""
        made = self.schedule
        self.prelude()
        for walk in made.shared:
            self.shared_walk(walk)
        self(*(self.assign(x) for x in made.constants))
        with self.rows():
            self.row()
        self.ending()
        return "\n".join([*self.lines, ""])

    def title(self) -> list[str]:
        """Say what the kernel does."""
        spec = self.spec
        value = {
            "sum": "the sum of the values",
            "each": "the values",
            "weights": "the sum of the weights, and the first label that is out of range",
            "": "",
        }[spec.value]
        what = "gradients" if spec.order == 1 else "diagonals of the Hessian"
        made = [value] if value else []
        if spec.needs_grad:
            made.append(f"the {what} with respect to {', '.join(spec.needs_grad)}")
        return [
            f'"""Compute {spec.formula.name} in {spec.dtype}.',
            "",
            *(f"It makes {' and '.join(made)}.".splitlines()),
            '"""',
        ]

    def is_read(self, name: str, kind: str, used: set[Node]) -> bool:
        """Whether the kernel reads an array; labels it does in any case, to look at them."""
        return kind == "index" or any(
            x.op == "operand" and x.data[1] == kind and identifier(x.data[0]) == name for x in used
        )

    def used(self) -> set[Node]:
        """Give all that the kernel is made of."""
        made = self.schedule
        roots = [x for w in (*made.shared, *made.walks) for x in w.roots]
        roots += [x for w in made.walks for *_, x in w.at_labels]
        roots += [w.guard[0] for w in made.walks if w.guard]
        roots += [*made.of_rows.values(), *([] if made.value is None else [made.value])]
        return set(ancestors(*roots))

    def varies_by_row(self, x: Node) -> bool:
        """Whether a number is one of a row."""
        return ROW in x.varies and COLUMN not in x.varies

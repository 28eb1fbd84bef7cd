"""The graph that a formula leaves when it is run on symbols.

Nodes are immutable, and equal nodes are one node: the graph of ``exp(x) + 1 / exp(x)`` has a single
exponential. A node may vary from row to row, from column to column along a row, both, or not at
all; the compiler computes a node where it varies, and nowhere else.
"""

import contextlib
import hashlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROW, COLUMN = "row", "column"

# The elementwise operations, under NumPy's names.
ELEMENTWISE: dict[str, Callable] = {
    function.__name__: function
    for function in (
        np.add, np.subtract, np.multiply, np.divide, np.negative, np.power,
        np.exp, np.expm1, np.log, np.log1p, np.sqrt, np.tanh, np.absolute, np.sign,
        np.maximum, np.minimum, np.where,
        np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal,
        np.logical_and, np.logical_or, np.logical_not,
    )
}  # fmt: skip


def _direction(x: Any) -> Any:
    """Give 1 above zero, -1 below, and 0 for zero and NaN: torch's derivative of the absolute."""
    return np.where(x > 0.0, 1.0, np.where(x < 0.0, -1.0, 0.0))


ELEMENTWISE["direction"] = _direction
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
LOGIC = ("logical_and", "logical_or", "logical_not")
CONDITIONS = (*COMPARISONS, *LOGIC)
# The operations that make one number of a row. "shift" is the largest number as well, but a NaN
# need not show in it: it is subtracted before exponentials are summed, where the NaN shows.
REDUCTIONS = ("sum", "max", "min", "shift")
# Operations that have derivative rules of their own and are taken apart afterwards (see `lower`):
# along a row, and of single numbers.
ROW_COMPOSITES = ("logsumexp", "log_softmax", "softmax")
COMPOSITES = ("sigmoid", "softplus", "clamp_min", "detach", *ROW_COMPOSITES)
# What takes a condition for a number, beside the elementwise operations.
OF_NUMBERS = (*REDUCTIONS, *COMPOSITES, "weighted")
# NumPy's functions that reduce, and what they make of a row.
REDUCING = {np.add: "sum", np.maximum: "max", np.minimum: "min"}
# Those that `&`, `|` and `~` are.
BETWEEN_CONDITIONS = {
    np.bitwise_and: "logical_and",
    np.bitwise_or: "logical_or",
    np.invert: "logical_not",
}


class FormulaError(TypeError):
    """A formula does what the compiler can't follow; the message says where, and what to write."""


class MissingAttribute(FormulaError, AttributeError):
    """A formula asks its data for what arrays and tensors have; `hasattr` says no."""


def fail(message: str, kind: type[FormulaError] = FormulaError) -> FormulaError:
    """Make an error that names the line of the formula."""
    package = f"{Path(__file__).parent.parent}{os.sep}"
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        own = file.startswith(package) and not file.startswith(f"{package}losses{os.sep}")
        if not own and "site-packages" not in file and not file.startswith("<__array"):
            return kind(f'{message} (in "{file}", line {frame.f_lineno})')
        frame = frame.f_back
    return kind(message)


class Node:
    """One operation of a graph, or a leaf.

    Attributes
    ----------
    op : str
        The operation: one of `ELEMENTWISE`, `REDUCTIONS`, `COMPOSITES`; ``"gather"``, a row at a
        label; or a leaf: ``"number"``, ``"parameter"``, ``"operand"``, ``"column"``, ``"width"``.
    args : tuple of Node
    data : Any
        Of a number its value, of a parameter its name, of an operand its name and kind.
    varies : frozenset of str
        Which of `ROW` and `COLUMN` the number depends on.
    picks : bool
        Whether it depends on what a row has in a single column.
    height : int
        How many operations lead to it.
    key : str
        Tells it from all other nodes: the same in each process, whatever else there is.
    """

    __slots__ = ("__weakref__", "args", "data", "height", "key", "op", "picks", "varies")
    op: str
    args: tuple["Node", ...]
    data: Any
    varies: frozenset[str]
    picks: bool
    height: int
    key: str

    __hash__ = object.__hash__
    __array_priority__ = 1000  # NumPy's numbers leave arithmetic to the node

    def __repr__(self) -> str:
        if self.op in ("number", "parameter"):
            return str(self.data)
        if self.op == "operand":
            return str(self.data[0])
        return f"{self.op}({', '.join(map(repr, self.args))})" if self.args else self.op

    # --- arithmetic -------------------------------------------------------------------------------

    def __add__(self, other: Any) -> "Node":
        return apply("add", self, other)

    def __radd__(self, other: Any) -> "Node":
        return apply("add", other, self)

    def __sub__(self, other: Any) -> "Node":
        return apply("subtract", self, other)

    def __rsub__(self, other: Any) -> "Node":
        return apply("subtract", other, self)

    def __mul__(self, other: Any) -> "Node":
        return apply("multiply", self, other)

    def __rmul__(self, other: Any) -> "Node":
        return apply("multiply", other, self)

    def __truediv__(self, other: Any) -> "Node":
        return apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> "Node":
        return apply("divide", other, self)

    def __pow__(self, exponent: Any) -> "Node":
        return apply("power", self, exponent)

    def __rpow__(self, base: Any) -> "Node":
        return apply("power", base, self)

    def __neg__(self) -> "Node":
        return apply("negative", self)

    def __pos__(self) -> "Node":
        return self

    def __abs__(self) -> "Node":
        return apply("absolute", self)

    def __lt__(self, other: Any) -> "Node":
        return apply("less", self, other)

    def __le__(self, other: Any) -> "Node":
        return apply("less_equal", self, other)

    def __gt__(self, other: Any) -> "Node":
        return apply("greater", self, other)

    def __ge__(self, other: Any) -> "Node":
        return apply("greater_equal", self, other)

    def __eq__(self, other: Any) -> "Node":  # type: ignore[override]
        return apply("equal", self, other)

    def __ne__(self, other: Any) -> "Node":  # type: ignore[override]
        return apply("not_equal", self, other)

    def __and__(self, other: Any) -> "Node":
        return _between_conditions("logical_and", self, other)

    def __rand__(self, other: Any) -> "Node":
        return _between_conditions("logical_and", other, self)

    def __or__(self, other: Any) -> "Node":
        return _between_conditions("logical_or", self, other)

    def __ror__(self, other: Any) -> "Node":
        return _between_conditions("logical_or", other, self)

    def __invert__(self) -> "Node":
        return _between_conditions("logical_not", self)

    def __setitem__(self, label: Any, value: Any) -> None:
        raise fail("a formula cannot change a row: use where(column == label, x, y)")

    def __getitem__(self, label: Any) -> "Node":
        if isinstance(label, int) and not isinstance(label, bool) and label >= 0:
            return gather(self, number(label))
        if not isinstance(label, Node) or label.op != "operand" or label.data[1] != "index":
            raise fail(
                "a row is indexed by a label, an operand that is annotated nbloss.Index, or by the "
                "number of a column"
            )
        return gather(self, label)

    # --- NumPy's protocols ------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> "Node":
        name = ufunc.__name__
        if name == "matmul":
            raise fail(NO_MATMUL)
        if method == "__call__" and ufunc in BETWEEN_CONDITIONS:
            return _between_conditions(BETWEEN_CONDITIONS[ufunc], *args)
        if method == "reduce" and ufunc in REDUCING:
            return along_row(REDUCING[ufunc], *args, **kwargs)
        if method != "__call__" or (name not in ELEMENTWISE and name != "square"):
            raise fail(_unknown(name))
        if kwargs:
            raise fail(f"numpy.{name} takes no {', '.join(kwargs)} in a formula")
        return args[0] * args[0] if name == "square" else apply(name, *args)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> "Node":
        name = function.__name__
        if name == "where" and len(args) == 3 and not kwargs:
            return apply("where", *args)
        if name in ("sum", "mean", "max", "min", "amax", "amin"):
            return along_row(name.removeprefix("a"), *args, **kwargs)
        if name == "clip" and len(args) == 3 and not kwargs:
            return apply("minimum", apply("maximum", args[0], args[1]), args[2])
        if name in ("dot", "vdot", "inner", "einsum", "tensordot"):
            raise fail(NO_MATMUL)
        if name in ("where", "clip"):
            raise fail(f"numpy.{name} takes three arguments in a formula, none by its name")
        raise fail(_unknown(name))

    def __matmul__(self, other: Any) -> "Node":
        raise fail(NO_MATMUL)

    __rmatmul__ = __matmul__

    def sum(self, *args: Any, **kwargs: Any) -> "Node":
        """Sum along the row."""
        return along_row("sum", self, *args, **kwargs)

    def mean(self, *args: Any, **kwargs: Any) -> "Node":
        """Average along the row."""
        return along_row("mean", self, *args, **kwargs)

    def max(self, *args: Any, **kwargs: Any) -> "Node":
        """Take the largest of the row."""
        return along_row("max", self, *args, **kwargs)

    def min(self, *args: Any, **kwargs: Any) -> "Node":
        """Take the smallest of the row."""
        return along_row("min", self, *args, **kwargs)

    # --- what a formula cannot do -----------------------------------------------------------------

    def __bool__(self) -> bool:
        raise fail(
            "a formula cannot branch on its data (if, while, and, or, not, Python's max and min): "
            "use where(condition, x, y), maximum, minimum, and &, | and ~ between conditions"
        )

    def __float__(self) -> float:
        raise fail(
            "a formula's data are not numbers yet: use the functions of nbloss.primitives or "
            "NumPy instead of those of math, and float() and int() not at all"
        )

    __int__ = __index__ = __float__

    def __len__(self) -> int:
        raise fail("the length of a row is `width`, of nbloss.primitives")

    def __iter__(self) -> Any:
        raise fail(
            "a formula cannot loop over a row: use sum, mean, max and min of nbloss.primitives "
            "instead of Python's"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise fail(
            "a formula's data cannot become an array, nor index one: use elementwise functions, "
            "and make the array an operand, an argument of the formula without a default"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a protocol that Python or a library looks for
            raise AttributeError(name)
        raise fail(
            f"a formula's data have no .{name}: use operators and the functions of "
            "nbloss.primitives or NumPy, such as exp(x); the length of a row is `width`",
            MissingAttribute,
        )


def _unknown(name: str) -> str:
    known = {*ELEMENTWISE, "square", "clip", "sum", "mean", "max", "min"} - {"direction"}
    instead = INSTEAD.get(name) or f"they know {', '.join(sorted(known))}"
    return f"numpy.{name} is not among NumPy's functions that formulas know: {instead}"


INSTEAD = {
    "sort": "sort the rows before the call, and pass them as an operand",
    "argsort": "sort the rows before the call, and pass them as an operand",
    "cumsum": "compute it before the call, and pass it as an operand",
    "argmax": "compare x with max(x), or pass the label as an operand annotated nbloss.Index",
    "argmin": "compare x with min(x), or pass the label as an operand annotated nbloss.Index",
}


NO_MATMUL = (
    "a formula is about single elements or rows, and cannot multiply matrices: do that before the "
    "call, and pass the product as an operand; a product of two rows is sum(x * y)"
)

# --- making nodes ---------------------------------------------------------------------------------

_known: "weakref.WeakValueDictionary[tuple, Node]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def node(op: str, *args: Any, data: Any = None) -> Node:
    """Give the node of an operation, the same one each time."""
    args = tuple(map(as_number if op in OF_NUMBERS else as_node, args))
    # A node keeps its arguments alive, so that no other node has their identity meanwhile.
    key = (op, tuple(map(id, args)), repr(data))
    with _lock:
        found = _known.get(key)
        if found is None:
            found = Node()
            found.op, found.args, found.data = op, args, data
            found.varies = _varies(op, args, data)
            found.picks = op == "gather" or any(a.picks for a in args)
            found.height = 1 + max((a.height for a in args), default=-1)
            before = hashlib.sha256(" ".join(a.key for a in args).encode()).hexdigest()
            found.key = f"{op} {data!r} {before}"
            _known[key] = found
        return found


KINDS = {
    "element": frozenset({ROW, COLUMN}),
    "per_row": frozenset({ROW}),
    "per_column": frozenset({COLUMN}),
    "index": frozenset({ROW}),
    "kept": frozenset({ROW, COLUMN}),  # in the array of a result, by a walk for a later one
}


def _varies(op: str, args: tuple[Node, ...], data: Any) -> frozenset[str]:
    if op == "operand":
        return KINDS[data[1]]
    if op == "column":
        return frozenset({COLUMN})
    varies = frozenset().union(*(a.varies for a in args))
    if op in REDUCTIONS or op in ("gather", "logsumexp"):
        varies -= {COLUMN}
    return varies


def as_node(x: Any) -> Node:
    """Give a node; of a number, the node of that number."""
    if isinstance(x, Node):
        return x
    if isinstance(x, bool | int | float | np.bool_ | np.integer | np.floating):
        return number(x)
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return number(x.item())
    what = "an array" if hasattr(x, "shape") else f"a {type(x).__name__}"
    raise fail(
        f"a formula's numbers are its operands, its parameters and constants; got {what}: make it "
        "an operand, an argument of the formula without a default"
    )


def number(x: Any) -> Node:
    """Give the node of a number."""
    return node("number", data=bool(x) if isinstance(x, bool | np.bool_) else float(x))


def is_condition(x: Node) -> bool:
    """Whether a node is true or false."""
    return x.op in CONDITIONS or (x.op == "number" and isinstance(x.data, bool))


def as_number(x: Any) -> Node:
    """Give a number; of a condition 1 where it holds, and 0 elsewhere."""
    x = as_node(x)
    return apply("where", x, 1.0, 0.0) if is_condition(x) else x


def as_condition(x: Any) -> Node:
    """Give a condition; of a number whether it is not 0."""
    x = as_node(x)
    if x.op == "where" and is_number(x.args[1], 1) and is_number(x.args[2], 0):
        return x.args[0]
    return x if is_condition(x) else apply("not_equal", x, 0.0)


def _between_conditions(op: str, *args: Any) -> Node:
    nodes = tuple(map(as_node, args))
    if not all(map(is_condition, nodes)):
        raise fail(
            "&, | and ~ are between conditions, and bind more strongly than comparisons: write "
            "(x > 0) & (y > 0)"
        )
    return apply(op, *nodes)


def is_number(x: Node, value: float) -> bool:
    """Whether a node is a certain number."""
    return x.op == "number" and x.data == value


def operand(name: str, kind: str = "element") -> Node:
    """Give the node of an operand; see `KINDS`."""
    return node("operand", data=(name, kind))


def parameter(name: str) -> Node:
    """Give the node of a parameter."""
    return node("parameter", data=name)


_context = threading.local()


@contextlib.contextmanager
def single_column() -> Iterator[None]:
    """Have formulas that run meanwhile take every number for a row of a single column."""
    before = getattr(_context, "single", False)
    _context.single = True
    try:
        yield
    finally:
        _context.single = before


def reduction(op: str, x: Any) -> Node:
    """Give the node of a reduction along the row; of what is the same along it, less."""
    x = as_number(x)
    if getattr(_context, "single", False):
        return x
    if COLUMN not in x.varies:
        return x * node("width") if op == "sum" else x
    return node(op, x)


def along_row(name: str, x: Any, axis: Any = None, **kwargs: Any) -> Node:
    """Give what NumPy's function of that name comes to along the row."""
    if axis not in (None, -1) or kwargs.keys() - {"keepdims"}:
        raise fail(
            f"a formula is about one row, and {name}(x) is taken along it: there is no other axis"
        )
    return reduction("sum", x) / width() if name == "mean" else reduction(name, x)


def width() -> Node:
    """Give the node of the number of columns."""
    return number(1.0) if getattr(_context, "single", False) else node("width")


def gather(x: Node, label: Node) -> Node:
    """Give the node of a row's number at a label."""
    return node("gather", x, label) if COLUMN in x.varies else x


def apply(op: str, *args: Any, data: Any = None) -> Node:
    """Give the node of an elementwise operation, or of a simpler one that comes to the same.

    ``data`` says more of the operation's derivative.
    """
    if op == "where":
        nodes = (as_condition(args[0]), *map(as_number, args[1:]))
    else:
        nodes = tuple(map(as_condition if op in LOGIC else as_number, args))
    if all(a.op == "number" for a in nodes):
        with np.errstate(all="ignore"):
            result = ELEMENTWISE[op](*(a.data for a in nodes))
        return number(result.item())
    simpler = _simpler(op, nodes)
    if data is not None and simpler is nodes[0]:
        simpler = None  # whose derivative is another
    return node(op, *nodes, data=data) if simpler is None else simpler


def _simpler(op: str, args: tuple[Node, ...]) -> Node | None:
    a, b = args[0], args[-1]
    match op:
        case "add" | "subtract" if is_number(b, 0):
            return a
        case "add" if is_number(a, 0):
            return b
        case "subtract" if is_number(a, 0):
            return -b
        case "add" | "subtract" if b.op == "negative":
            return apply("subtract" if op == "add" else "add", a, b.args[0])
        case "add" if a.op == "negative":
            return b - a.args[0]
        case "multiply" if is_number(a, 1):
            return b
        case "multiply" | "divide" if is_number(b, 1):
            return a
        case "multiply" if is_number(a, -1):
            return -b
        case "multiply" if is_number(b, -1):
            return -a
        case "multiply" if a.op == "negative":
            return -(a.args[0] * b)
        case "multiply" if b.op == "negative":
            return -(a * b.args[0])
        case "negative" if a.op == "negative":
            return a.args[0]
        case "negative" if a.op == "subtract":
            return a.args[1] - a.args[0]
        case "absolute" if a.op == "negative":
            return apply("absolute", a.args[0])
        case "greater" | "less" if a.op == "negative" and is_number(b, 0):
            return apply("less" if op == "greater" else "greater", a.args[0], b)
        case "power" if b.op == "number" and b.data in (2.0, 3.0, 4.0):
            # Products are exact where the powers of the C library are, and vectorise.
            square = a * a
            return {2.0: square, 3.0: square * a, 4.0: square * square}[b.data]
        case "power" if is_number(b, 0):
            return number(1.0)
        case "power" if is_number(b, 1):
            return a
        case "power" if _is_reciprocal(b) and _is_power_of_size(a, b.args[1]):
            return a.args[0]
        case "sqrt" if a.op == "multiply" and a.args[0] is a.args[1]:
            return apply("absolute", a.args[0])  # which neither overflows nor loses what is small
        case "where" if a.op == "number":
            return args[1] if a.data else b
        case "where" if args[1] is b:
            return b
        case "logical_not" if a.op == "logical_not":
            return a.args[0]
        case "logical_and" | "logical_or" if a.op == "number" or b.op == "number":
            known, other = (a, b) if a.op == "number" else (b, a)
            return known if known.data == (op == "logical_or") else other
    return None


def _is_reciprocal(x: Node) -> bool:
    return x.op == "divide" and is_number(x.args[0], 1)


def _is_power_of_size(x: Node, exponent: Node) -> bool:
    return x.op == "power" and x.args[1] is exponent and x.args[0].op == "absolute"


def ancestors(*nodes: Node, known: Iterable[Node] = (), along_rows: bool = False) -> list[Node]:
    """List all that nodes are made of, themselves included, each after its arguments.

    Parameters
    ----------
    *nodes : Node
    known : container of Node, optional
        Nodes that are left out, with what only they are made of.
    along_rows : bool, optional
        Leave out what does not vary along a row.
    """
    found: dict[Node, None] = {}
    waiting = list(reversed(nodes))
    while waiting:
        x = waiting[-1]
        if x in found or x in known or (along_rows and COLUMN not in x.varies):
            waiting.pop()
            continue
        before = [a for a in x.args if a not in found and a not in known]
        if along_rows:
            before = [a for a in before if COLUMN in a.varies]
        if before:
            waiting += reversed(before)
        else:
            found[waiting.pop()] = None
    return list(found)

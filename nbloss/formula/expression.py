"""The graph that a formula leaves when it is run on symbols.

Nodes are immutable, and equal nodes are one node: the graph of ``exp(x) + 1 / exp(x)`` has a single
exponential. A node may vary from row to row, from column to column along a row, both, or not at
all; the compiler computes a node where it varies, and nowhere else.
"""

import contextlib
import inspect
import itertools
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
CONDITIONS = (*COMPARISONS, "logical_and", "logical_or", "logical_not")
# The operations that make one number of a row. "shift" is the largest number as well, but a NaN
# need not show in it: it is subtracted before exponentials are summed, where the NaN shows.
REDUCTIONS = ("sum", "max", "min", "shift")
# Operations that have derivative rules of their own and are taken apart afterwards (see `lower`):
# along a row, and of single numbers.
ROW_COMPOSITES = ("logsumexp", "log_softmax", "softmax")
COMPOSITES = ("sigmoid", "softplus", "clamp_min", "detach", *ROW_COMPOSITES)


class FormulaError(TypeError):
    """A formula does what the compiler can't follow; the message says where, and what to write."""


def fail(message: str) -> FormulaError:
    """Make an error that names the line of the formula."""
    package = str(Path(__file__).parent.parent)
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        own = file.startswith(package) and not file.startswith(str(Path(package) / "losses"))
        if not own and "site-packages" not in file and not file.startswith("<__array"):
            return FormulaError(f'{message} (in "{file}", line {frame.f_lineno})')
        frame = frame.f_back
    return FormulaError(message)


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
    number : int
        Nodes are numbered as they are made: each after its arguments.
    """

    __slots__ = ("__weakref__", "args", "data", "number", "op", "varies")
    op: str
    args: tuple["Node", ...]
    data: Any
    varies: frozenset[str]
    number: int

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
        return apply("logical_and", self, other)

    def __or__(self, other: Any) -> "Node":
        return apply("logical_or", self, other)

    def __invert__(self) -> "Node":
        return apply("logical_not", self)

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
        if method == "reduce" and ufunc in (np.add, np.maximum, np.minimum):
            return reduction({"add": "sum", "maximum": "max", "minimum": "min"}[name], args[0])
        if method != "__call__" or kwargs or name not in ELEMENTWISE:
            if name == "square" and not kwargs:
                return args[0] * args[0]
            if name == "matmul":
                raise fail(NO_MATMUL)
            raise fail(f"numpy.{name} is not among the functions that formulas know")
        return apply(name, *args)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> "Node":
        name = function.__name__
        if name == "where" and len(args) == 3 and not kwargs:
            return apply("where", *args)
        if name in ("sum", "mean", "max", "min", "amax", "amin") and len(args) == 1 and not kwargs:
            return getattr(self, name.removeprefix("a"))()
        if name == "clip" and len(args) == 3 and not kwargs:
            return apply("minimum", apply("maximum", args[0], args[1]), args[2])
        if name in ("dot", "vdot", "inner", "einsum", "tensordot"):
            raise fail(NO_MATMUL)
        raise fail(f"numpy.{name} with these arguments is not among what formulas know")

    def __matmul__(self, other: Any) -> "Node":
        raise fail(NO_MATMUL)

    __rmatmul__ = __matmul__

    def sum(self) -> "Node":
        """Sum along the row."""
        return reduction("sum", self)

    def mean(self) -> "Node":
        """Average along the row."""
        return reduction("sum", self) / width()

    def max(self) -> "Node":
        """Take the largest of the row."""
        return reduction("max", self)

    def min(self) -> "Node":
        """Take the smallest of the row."""
        return reduction("min", self)

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
        raise fail("a formula's data cannot become an array: use elementwise functions")


NO_MATMUL = (
    "a formula is about single elements or rows, and cannot multiply matrices: do that before the "
    "call, and pass the product as an operand; a product of two rows is sum(x * y)"
)

# --- making nodes ---------------------------------------------------------------------------------

_known: "weakref.WeakValueDictionary[tuple, Node]" = weakref.WeakValueDictionary()
_numbers = itertools.count()
_lock = threading.Lock()


def node(op: str, *args: Any, data: Any = None) -> Node:
    """Give the node of an operation, the same one each time."""
    args = tuple(map(as_node, args))
    # A node keeps its arguments alive, so that no other node has their identity meanwhile.
    key = (op, tuple(map(id, args)), repr(data))
    with _lock:
        found = _known.get(key)
        if found is None:
            found = Node()
            found.op, found.args, found.data, found.number = op, args, data, next(_numbers)
            found.varies = _varies(op, args, data)
            _known[key] = found
        return found


KINDS = {
    "element": frozenset({ROW, COLUMN}),
    "per_row": frozenset({ROW}),
    "per_column": frozenset({COLUMN}),
    "index": frozenset({ROW}),
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
    x = as_node(x)
    if getattr(_context, "single", False):
        return x
    if COLUMN not in x.varies:
        return x * node("width") if op == "sum" else x
    return node(op, x)


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
    nodes = tuple(map(as_node, args))
    if all(a.op == "number" for a in nodes):
        with np.errstate(all="ignore"):
            result = ELEMENTWISE[op](*(a.data for a in nodes))
        return number(result.item())
    simpler = _simpler(op, nodes)
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
    found: set[Node] = set()
    waiting = list(nodes)
    while waiting:
        x = waiting.pop()
        if x in found or x in known or (along_rows and COLUMN not in x.varies):
            continue
        found.add(x)
        waiting.extend(x.args)
    return sorted(found, key=lambda x: x.number)

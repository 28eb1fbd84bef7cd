"""Derivatives of a graph, as another graph: reverse mode, with one rule for each operation.

A choice between a derivative and nothing (``where(condition, derivative, 0)``) is kept outside of
all products: what the other branch would come to, be it infinite, touches nothing. Where there is
no derivative, at a kink, it is the one that torch takes.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeAlias

from nbloss.formula.expression import (
    COLUMN,
    REDUCTIONS,
    ROW_COMPOSITES,
    Node,
    ancestors,
    apply,
    fail,
    gather,
    is_number,
    node,
    number,
)
from nbloss.formula.trace import Graph

ZERO, ONE = number(0.0), number(1.0)
COLUMN_NUMBER, WIDTH = node("column"), node("width")
# A choice between something and nothing: the condition, and whether something is where it holds.
Guard: TypeAlias = tuple[Node, bool]


def gradients(
    value: Node, operands: list[Node], grad_output: Node, names: dict[Node, str] | None = None
) -> list[Node]:
    """Differentiate the sum of all values.

    Parameters
    ----------
    value : Node
    operands : list of Node
        What the derivatives are taken with respect to.
    grad_output : Node
        What they are multiplied by.
    names : dict of Node to str, optional
        Names of nodes; their derivatives are added, as ``grad_`` and the name.

    Returns
    -------
    list of Node
        The derivative with respect to each operand, 0 where the value does not depend on it.
    """
    order = ancestors(value)
    active = set(operands)
    active.update(x for x in order if _depends(x, active))
    adjoints: dict[Node, Node] = {value: grad_output}
    for x in reversed(order):
        if x not in adjoints or x not in active or x.op not in RULES:
            continue
        guards, adjoint = split_guards(adjoints[x])
        # A guard that is the same for the row stays outside of its sums.
        of_row = [guard for guard in guards if COLUMN not in guard[0].varies]
        of_column = [guard for guard in guards if COLUMN in guard[0].varies]
        if x.op in ROW_COMPOSITES:
            # Each number of the result depends on all numbers of the row.
            adjoint, of_column = guarded(adjoint, of_column), []
        for argument, part in zip(x.args, RULES[x.op](x, adjoint, *x.args), strict=True):
            if argument not in active or part is None:
                continue
            part = guarded(part, of_column)
            if COLUMN in x.varies and COLUMN not in argument.varies:
                part = row_sum(part)
            adjoints[argument] = plus(adjoints.get(argument, ZERO), guarded(part, of_row))
    if names is not None:
        for x, name in list(names.items()):
            if x in adjoints and adjoints[x].op not in ("number", "parameter", "operand"):
                names.setdefault(adjoints[x], f"grad_{name}")
    return [adjoints.get(x, ZERO) for x in operands]


def slopes(
    graph: Graph, operands: list[Node], grad_output: Node, names: dict[Node, str] | None = None
) -> list[Node]:
    """Differentiate a formula's value; derivatives that the formula states are taken as they are.

    Parameters and results are those of :func:`gradients`, for a graph in the place of its value.
    """
    found = gradients(graph.value, operands, grad_output, names)
    for k, x in enumerate(operands):
        stated = graph.slopes.get(x.data[0])
        if stated is not None:
            found[k] = times(grad_output, stated)
    return found


def _depends(x: Node, active: set[Node]) -> bool:
    if any(a in active for a in x.args):
        active.add(x)
        return True
    return False


# --- sums and products ----------------------------------------------------------------------------


def split_guards(x: Node) -> tuple[list[Guard], Node]:
    """Take the choices between something and nothing off a node, the outermost first."""
    guards: list[Guard] = []
    while x.op == "where" and any(is_number(a, 0) for a in x.args[1:]):
        if_true = not is_number(x.args[1], 0)
        guards.append((x.args[0], if_true))
        x = x.args[1 if if_true else 2]
    return guards, x


def guarded(x: Node, guards: list[Guard]) -> Node:
    """Put choices between something and nothing around a node."""
    for condition, if_true in reversed(guards):
        x = apply("where", condition, x, ZERO) if if_true else apply("where", condition, ZERO, x)
    return x


def is_at_label(condition: Node) -> bool:
    """Whether a condition holds in the column that a label names, and in no other.

    A label is an operand, which kernels guard; a row need not have the column of another number.
    """
    if condition.op != "equal" or not any(a is COLUMN_NUMBER for a in condition.args):
        return False
    label = label_of(condition)
    return label.op == "operand" and bool(label.data[1] == "index")


def label_of(condition: Node) -> Node:
    """Give the label of such a condition."""
    first, second = condition.args
    return second if first is COLUMN_NUMBER else first


def _order(x: Node) -> tuple:
    return COLUMN in x.varies, len(x.varies), x.picks, x.height, x.key


def factors(x: Node) -> tuple[float, list[Node]]:
    """Take a product apart: a number, and other factors."""
    if x.op == "number":
        return float(x.data), []
    if x.op == "negative":
        coefficient, rest = factors(x.args[0])
        return -coefficient, rest
    if x.op != "multiply":
        return 1.0, [x]
    (first, left), (second, right) = map(factors, x.args)
    return first * second, sorted(left + right, key=_order)


def times(*nodes: Node) -> Node:
    """Multiply; first what is the same for all rows, then what is the same for a row."""
    parts = [factors(x) for x in nodes]
    coefficient = math.prod(c for c, _ in parts)
    if coefficient == 0:
        return ZERO
    rest = sorted((f for _, own in parts for f in own), key=_order)
    product = number(abs(coefficient))
    for x in rest:
        product = apply("multiply", product, x)
    return -product if coefficient < 0 else product


def plus(x: Node, y: Node) -> Node:
    """Add; two choices by one condition become one, and multiples of the same a multiple.

    Along a row, what both terms are multiplied by is taken out.
    """
    if is_number(x, 0):
        return y
    if is_number(y, 0):
        return x
    (xs, _), (ys, _) = split_guards(x), split_guards(y)
    if xs and ys and xs[0][0] is ys[0][0]:
        (condition, if_true), (_, other) = xs[0], ys[0]
        mine, others = x.args[1 if if_true else 2], y.args[1 if other else 2]
        if if_true == other:
            return guarded(plus(mine, others), [(condition, if_true)])
        both = (mine, others) if if_true else (others, mine)
        return apply("where", condition, *both)
    (a, same), (b, also) = factors(x), factors(y)
    if [f.key for f in same] == [f.key for f in also]:
        return times(number(a + b), *same)
    common = Counter(same) & Counter(also)
    of_row = [f for f in (Counter(same) | Counter(also)) - common if COLUMN not in f.varies]
    if of_row:  # outside of the loop, what the row has is better multiplied by these
        common = Counter({f: n for f, n in common.items() if COLUMN in f.varies})
    if common and COLUMN in (x.varies | y.varies):
        rest = (Counter(own) - common for own in (same, also))
        terms = (times(number(c), *own.elements()) for c, own in zip((a, b), rest, strict=True))
        return times(*common.elements(), plus(*terms))
    return x + y


def row_sum(x: Node) -> Node:
    """Sum along the row: what is the same along it is taken out, and a label picks its column."""
    if COLUMN not in x.varies:
        return times(x, WIDTH)
    guards, _ = split_guards(x)
    if guards:
        (condition, if_true), inner = guards[0], x.args[1 if guards[0][1] else 2]
        if COLUMN not in condition.varies:
            return guarded(row_sum(inner), guards[:1])
        if if_true and is_at_label(condition):
            return at_label(inner, label_of(condition))
    if x.op in ("add", "subtract") and any(_picks_column(a) for a in x.args):
        first, second = map(row_sum, x.args)
        return plus(first, second if x.op == "add" else -second)
    coefficient, rest = factors(x)
    outside = [f for f in rest if COLUMN not in f.varies]
    if outside or coefficient != 1:
        inside = times(*(f for f in rest if COLUMN in f.varies))
        return times(number(coefficient), *outside, row_sum(inside))
    return node("sum", x)


def _picks_column(x: Node) -> bool:
    guards, _ = split_guards(x)
    return bool(guards) and guards[0][1] and is_at_label(guards[0][0])


def at_label(x: Node, label: Node) -> Node:
    """Give what a node along the row is at a label.

    Composites of a row stay whole, and are taken at the label as they are.
    """
    if COLUMN not in x.varies:
        return x
    if x is COLUMN_NUMBER:
        return label
    if x.op == "operand" or x.op in ROW_COMPOSITES:
        return gather(x, label)
    args = tuple(at_label(a, label) for a in x.args)
    if x.op in ("sigmoid", "softplus", "clamp_min", "detach", "masked") or x.data is not None:
        return node(x.op, *args, data=x.data)
    if x.op == "equal" and args[0] is args[1]:
        return number(True)
    return times(*args) if x.op == "multiply" else apply(x.op, *args)


# --- the rules: node, its adjoint, its arguments -> what that makes of each argument's adjoint ----


def _chosen_side(other: Node, tie: Node, adjoint: Node) -> Node:
    # No guards, here and for clamp_min: what comes of these is multiplied even where it is 0, as
    # torch does, so that a NaN or an infinity behind a hinge that is not violated shows.
    shared = apply("where", tie, times(number(0.5), adjoint), adjoint)
    return node("masked", apply("logical_not", other), shared)


def _clamp_min(x: Node, adjoint: Node, operand: Node, low: Node) -> tuple:
    at, below = x.data
    if at == 1.0:
        kept = node("masked", operand >= low, adjoint)
    else:
        kept = node("masked", operand > low, adjoint)
        if at != 0.0:
            kept = kept + node("masked", apply("equal", operand, low), times(number(at), adjoint))
    if below != 0.0:
        kept = kept + node("masked", operand < low, times(number(below), adjoint))
    return kept, None


def _power(x: Node, adjoint: Node, base: Node, exponent: Node) -> tuple:
    by_base = times(adjoint, exponent, apply("power", base, exponent - 1.0))
    if x.data is None and exponent.op != "number":
        by_base = apply("where", apply("equal", exponent, ZERO), ZERO, by_base)
    if x.data is not None:
        at_zero = times(adjoint, number(x.data))
        by_base = apply("where", apply("equal", base, ZERO), at_zero, by_base)
    by_exponent = apply("where", apply("equal", base, ZERO), ZERO, times(adjoint, x, _log(base)))
    return by_base, by_exponent


def _log(x: Node) -> Node:
    return apply("log", x)


def _reciprocal(x: Node) -> Node:
    return apply("divide", ONE, x)


def _extreme(x: Node, adjoint: Node, operand: Node) -> tuple:
    is_extreme = apply("equal", operand, x)
    count = node("sum", apply("where", is_extreme, ONE, ZERO))
    return (apply("where", is_extreme, adjoint / count, ZERO),)


def _sqrt(x: Node, adjoint: Node, operand: Node) -> tuple:
    # torch's norm has derivative 0 where the row is 0; its sqrt would have an infinity.
    reciprocal = apply("where", apply("equal", x, ZERO), ZERO, _reciprocal(x))
    return (times(number(0.5), adjoint, reciprocal),)


Rule: TypeAlias = Callable[..., tuple]
RULES: Mapping[str, Rule] = {
    "add": lambda n, g, x, y: (g, g),
    "subtract": lambda n, g, x, y: (g, -g),
    "multiply": lambda n, g, x, y: (
        (times(number(2.0), g, x), None) if x is y else (times(g, y), times(g, x))
    ),
    "divide": lambda n, g, x, y: (
        times(g, _reciprocal(y)),
        -times(g, n, _reciprocal(y)),
    ),
    "negative": lambda n, g, x: (-g,),
    "exp": lambda n, g, x: (times(g, n),),
    "expm1": lambda n, g, x: (times(g, n + 1.0),),
    "log": lambda n, g, x: (times(g, _reciprocal(x)),),
    "log1p": lambda n, g, x: (times(g, _reciprocal(1.0 + x)),),
    "sqrt": _sqrt,
    "tanh": lambda n, g, x: (times(g, 1.0 - n * n),),
    "power": _power,
    "absolute": lambda n, g, x: (times(g, apply("direction", x)),),
    "maximum": lambda n, g, x, y: (
        _chosen_side(x < y, apply("equal", x, y), g),
        _chosen_side(y < x, apply("equal", x, y), g),
    ),
    "minimum": lambda n, g, x, y: (
        _chosen_side(x > y, apply("equal", x, y), g),
        _chosen_side(y > x, apply("equal", x, y), g),
    ),
    "where": lambda n, g, c, x, y: (
        None,
        apply("where", c, g, ZERO),
        apply("where", c, ZERO, g),
    ),
    "masked": lambda n, g, c, x: (None, node("masked", c, g)),
    "sigmoid": lambda n, g, x: (times(g, n, node("sigmoid", -x)),),
    "softplus": lambda n, g, x: (times(g, node("sigmoid", x)),),
    "clamp_min": _clamp_min,
    "gather": lambda n, g, x, label: (
        apply("where", apply("equal", COLUMN_NUMBER, label), g, ZERO),
        None,
    ),
    "sum": lambda n, g, x: (g,),
    "max": _extreme,
    "min": _extreme,
    "shift": lambda n, g, x: (ZERO,),  # it makes no difference to what it is used for
    "logsumexp": lambda n, g, x: (times(g, node("softmax", x)),),
    "log_softmax": lambda n, g, x: (plus(g, -times(node("softmax", x), row_sum(g))),),
    "softmax": lambda n, g, x: (plus(times(g, n), -times(n, row_sum(times(g, n)))),),
}


# --- the diagonal of a second derivative ----------------------------------------------------------


def diagonal(slope: Node, x: Node) -> Node:
    """Differentiate each number of a gradient with respect to its own number of the operand.

    Parameters
    ----------
    slope : Node
        The derivative of a value with respect to ``x``.
    x : Node
        An operand that varies along the row.

    Raises
    ------
    FormulaError
        If a number of the gradient depends on its neighbours in a way that the rules don't know.
    """
    direct: dict[Node, Node] = {x: ONE}
    for n in ancestors(slope):
        if n is not x and any(a in direct for a in n.args):
            direct[n] = _own_derivative(n, direct)
    return direct.get(slope, ZERO)


def _own_derivative(n: Node, direct: dict[Node, Node]) -> Node:
    """Give what a node, or a number of the row that it is, changes with its own column of ``x``."""
    rest = [direct.get(a, ZERO) for a in n.args]
    match n.op:
        case "sum" if not _has_active_reduction(n.args[0], direct):
            return rest[0]
        case "logsumexp" if not _has_active_reduction(n.args[0], direct):
            return times(node("softmax", n.args[0]), rest[0])
        case "log_softmax" if not _has_active_reduction(n.args[0], direct):
            return times(ONE - node("softmax", n.args[0]), rest[0])
        case "softmax" if not _has_active_reduction(n.args[0], direct):
            return times(n, ONE - n, rest[0])
        case "gather" if not _has_active_reduction(n.args[0], direct):
            return apply("where", apply("equal", COLUMN_NUMBER, n.args[1]), rest[0], ZERO)
        case "gather" if n.args[0].op == "log_softmax":
            (scores,) = n.args[0].args
            if not _has_active_reduction(scores, direct):
                own = apply("where", apply("equal", COLUMN_NUMBER, n.args[1]), ONE, ZERO)
                return times(own - node("softmax", scores), direct.get(scores, ZERO))
        case "where":
            return apply("where", n.args[0], rest[1], rest[2])
        case op if op not in (*REDUCTIONS, *ROW_COMPOSITES) and op in RULES:
            total = ZERO
            for part, change in zip(RULES[op](n, ONE, *n.args), rest, strict=True):
                if part is not None:
                    total = plus(total, times(part, change))
            return total
        case op if op not in RULES:
            return ZERO  # comparisons, signs
    raise fail(f"there is no rule for the diagonal of the Hessian of {n.op} in this formula")


def _has_active_reduction(x: Node, direct: dict[Node, Node]) -> bool:
    """Whether numbers along the row depend on the whole row."""
    along = (*REDUCTIONS, *ROW_COMPOSITES)
    return any(n.op in along and n in direct for n in ancestors(x))

"""Composite primitives are taken apart, when the derivatives are known.

Afterwards a graph has elementwise operations, reductions and leaves alone, and what a value and its
derivative have in common, such as the exponentials of a row, is one node.
"""

import functools
from collections.abc import Callable
from typing import Any

from nbloss.formula.derive import times
from nbloss.formula.expression import REDUCTIONS, Node, ancestors, apply, node, number

# What gives another node for a node and its new arguments, or None.
Change = Callable[[Node, tuple[Node, ...]], Node | None]


def rebuilt(x: Node, change: Change) -> Node:
    """Build a graph anew from its leaves."""
    done: dict[Node, Node] = {}
    for n in ancestors(x):
        args = tuple(done[a] for a in n.args)
        found = change(n, args)
        if found is None:
            same = all(a is b for a, b in zip(args, n.args, strict=True))
            found = n if same else again(n, args)
        done[n] = found
    return done[x]


def again(x: Node, args: tuple[Node, ...]) -> Node:
    """Give the operation of a node with other arguments."""
    if x.op == "multiply":
        return times(*args)
    if x.op in REDUCTIONS or x.op in ("gather", "masked") or x.data is not None:
        return node(x.op, *args, data=x.data)
    return apply(x.op, *args)


@functools.lru_cache(maxsize=4096)
def lower(x: Node) -> Node:
    """Take the composite operations of a graph apart."""
    return rebuilt(x, _apart)


def _apart(n: Node, args: tuple[Node, ...]) -> Node | None:
    x: Any = args[0] if args else None
    match n.op:
        case "sigmoid":
            small = apply("exp", -apply("absolute", x))
            likelier = 1.0 / (1.0 + small)
            return apply("where", x > 0.0, likelier, small * likelier)
        case "softplus":
            small = apply("exp", -apply("absolute", x))
            return apply("where", x > 0.0, x, 0.0) + apply("log1p", small)
        case "clamp_min":
            return apply("where", x < args[1], args[1], x)
        case "detach":
            return x
        case "gather":
            return pushed_to_operands(*args)
        case "subtract" if n.args[0].op == "logsumexp":
            # What is large in both is subtracted first.
            (scores,) = n.args[0].args
            shift, total = _shifted_sum(lower(scores))
            return apply("log", total) - (args[1] - shift)
        case "logsumexp":
            shift, total = _shifted_sum(x)
            return shift + apply("log", total)
        case "softmax" | "log_softmax":
            shift = node("shift", x)
            exponential = apply("exp", x - shift)
            total = node("sum", exponential)
            if n.op == "softmax":
                return times(exponential, 1.0 / total)
            return x - shift - apply("log", total)
    return None


def _shifted_sum(x: Node) -> tuple[Node, Node]:
    """The shift that keeps exponentials from overflowing, and their sum."""
    shift = node("shift", x)
    return shift, node("sum", apply("exp", x - shift))


def pushed_to_operands(x: Node, label: Node) -> Node:
    """Give what a node along the row is at a label, computed from operands at the label."""

    def change(n: Node, args: tuple[Node, ...]) -> Node | None:
        if "column" not in n.varies:
            return n
        if n.op == "column":
            return label
        if n.op == "equal" and args[0] is args[1]:
            return number(True)
        return node("gather", n, label) if n.op == "operand" else None

    return rebuilt(x, change)


def replaced(x: Node, old: Node, new: Node, inside_reductions: bool = False) -> Node:
    """Put a node in the place of another."""
    stop = () if inside_reductions else REDUCTIONS
    return rebuilt(x, lambda n, args: new if n is old else n if n.op in stop else None)

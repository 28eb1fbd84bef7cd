"""From a graph to a schedule: walks along a row, and what is computed between them.

A reduction of what needs no other reduction belongs to the first walk along the row, a reduction of
what needs that one to the second, and so on. A result that varies along the row is stored by the
first walk that knows all it takes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nbloss.formula.derive import Guard, is_at_label, label_of, split_guards
from nbloss.formula.expression import (
    COLUMN,
    REDUCTIONS,
    ROW,
    Node,
    ancestors,
    apply,
    is_number,
    node,
    number,
    operand,
)
from nbloss.formula.lower import pushed_to_operands, replaced

LEAVES = ("number", "parameter", "operand", "column", "width", "gather")
# Worth being kept for a later walk rather than computed again.
COSTLY = ("exp", "expm1", "log", "log1p", "power", "divide", "sqrt", "tanh")


@dataclass(eq=False)
class Walk:
    """A walk along the row, and what comes right before and after it.

    Attributes
    ----------
    names : list of Node
        Numbers of the row that are computed before the walk, each to have a name.
    reductions : list of Node
        What the walk reduces.
    stores : list of (str, Node)
        What it stores, and in which array.
    guard : Guard or None
        A choice between something and nothing that all its stores share: a branch around the loop.
    at_labels : list of (str, Node, Node)
        What is stored in a single column afterwards: array, label, number.
    """

    names: list[Node] = field(default_factory=list)
    reductions: list[Node] = field(default_factory=list)
    stores: list[tuple[str, Node]] = field(default_factory=list)
    guard: Guard | None = None
    at_labels: list[tuple[str, Node, Node]] = field(default_factory=list)

    @property
    def roots(self) -> list[Node]:
        """All that is computed in the columns."""
        return [*(r.args[0] for r in self.reductions), *(x for _, x in self.stores)]


@dataclass(eq=False)
class Schedule:
    """What a kernel does.

    Attributes
    ----------
    cleared : list of str
        The arrays that are zero but in single columns: they are cleared before the rows.
    shared : list of Walk
        Walks that are done once for all rows, whose reductions don't depend on the row.
    constants : list of Node
        Numbers that are the same for all rows, each to have a name.
    walks : list of Walk
        What is done for each row.
    names : list of Node
        Numbers of the row that are computed after the walks.
    value : Node or None
        The row's value.
    of_rows : dict of str to Node
        Further results that are one number a row, by the names of their arrays.
    """

    cleared: list[str]
    shared: list[Walk]
    constants: list[Node]
    walks: list[Walk]
    names: list[Node]
    value: Node | None
    of_rows: Mapping[str, Node]


def schedule(
    results: Mapping[str, Node],
    of_rows: Mapping[str, Node],
    value: Node | None,
    named: Iterable[Node],
    keeps: bool,
    branches: bool,
) -> Schedule:
    """Split a graph into walks.

    Parameters
    ----------
    results : mapping of str to Node
        What is computed along the row, by the names of the arrays it is stored in.
    of_rows : mapping of str to Node
        What is computed for the row and stored, likewise.
    value : Node, optional
        The row's value.
    named : iterable of Node
        The nodes that the formula has names for.
    keeps : bool
        Whether the array of a result may hold something costly until the result is known.
    branches : bool
        Whether rows are done one at a time, so that a row can do without what it does not need.
    """
    levels: dict[Node, int] = {}
    rows = [*of_rows.values(), *([] if value is None else [value])]
    needed = [*results.values(), *rows]
    walks = [Walk() for _ in range(1 + max((_level(x, levels) for x in needed), default=0))]
    cleared: list[str] = []
    for name, x in results.items():
        walk = walks[_level(x, levels)]
        labels = {label_of(n) for n in ancestors(x, along_rows=True) if is_at_label(n)}
        if len(labels) == 1:  # one column of the row differs: no choice in all the others
            (label,) = labels
            here = apply("equal", node("column"), label)
            own = pushed_to_operands(replaced(x, here, number(True)), label)
            walk.at_labels.append((name, label, own))
            x = replaced(x, here, number(False))
        if labels and is_number(x, 0):
            cleared.append(name)
        else:
            walk.stores.append((name, x))
    shared = []
    for n in ancestors(*_roots(walks, rows)):
        if n.op not in REDUCTIONS:
            continue
        if ROW in n.varies:
            walks[_level(n.args[0], levels)].reductions.append(n)
        else:
            shared.append(Walk(reductions=[n]))
    walks = [walk for walk in walks if walk.roots or walk.at_labels]
    if keeps:
        for k, walk in enumerate(walks):
            _keep(walks[:k], walk)
    if branches:
        for walk in walks:
            if not walk.reductions:
                walk.guard = _common_guard([x for _, x in walk.stores])
    made = Schedule(cleared, shared, [], walks, [], value, of_rows)
    return _with_names(made, _roots(walks, rows), set(named))


def _roots(walks: list[Walk], rows: list[Node]) -> list[Node]:
    """List all that is stored or reduced."""
    return [*rows, *(n for w in walks for n in (*w.roots, *(x for *_, x in w.at_labels)))]


def _level(x: Node, levels: dict[Node, int]) -> int:
    """Count the walks that have to be done before a number is known."""
    for n in ancestors(x, known=levels):
        own = n.op in REDUCTIONS and ROW in n.varies
        levels[n] = max((levels[a] for a in n.args), default=0) + own
    return levels[x]


def _common_guard(numbers: list[Node]) -> Guard | None:
    """Find a choice between something and nothing that numbers share, and that the row decides."""
    guards = [split_guards(x)[0][:1] for x in numbers]
    if not guards or not all(guards) or COLUMN in guards[0][0][0].varies:
        return None
    condition, if_true = guards[0][0]
    alike = all(g[0][0] is condition and g[0][1] == if_true for g in guards)
    return (condition, if_true) if alike else None


def assumed(x: Node, guard: Guard, chosen: bool) -> Node:
    """Give a number where a choice is known to fall on the side that has something, or not."""
    return replaced(x, guard[0], number(chosen == guard[1]))


def _keep(earlier: list[Walk], last: Walk) -> None:
    """Have a walk leave something costly in the array where a later one stores a result."""
    for name, _ in list(last.stores):
        costly = {x for x in ancestors(*last.roots, along_rows=True) if x.op in COSTLY}
        for walk in earlier:
            common = costly.intersection(ancestors(*walk.roots, along_rows=True))
            if common:
                kept = max(common, key=lambda x: (len(ancestors(x)), x.key))
                there = operand(name, "kept")
                walk.stores.append((name, kept))
                last.stores = [(to, replaced(x, kept, there)) for to, x in last.stores]
                break


def count_uses(nodes: Iterable[Node], roots: Iterable[Node] = ()) -> dict[Node, int]:
    """Count how often nodes are arguments of nodes, or roots."""
    found: dict[Node, int] = {}
    for x in [*(a for n in nodes for a in n.args), *roots]:
        found[x] = found.get(x, 0) + 1
    return found


def _with_names(made: Schedule, roots: list[Node], named: set[Node]) -> Schedule:
    """Find what has to have a name: what a loop takes from outside, and what is used repeatedly."""
    uses = count_uses(ancestors(*roots))
    known: set[Node] = set()

    def to_name(roots: list[Node], level: frozenset[str]) -> list[Node]:
        inside = ancestors(*roots, known=known)
        outside = {a for x in inside if not x.varies <= level for a in x.args}
        outside.update(roots)
        found = [
            x
            for x in inside
            if x.varies <= level
            and x.op not in (*LEAVES, *REDUCTIONS)
            and (x in outside or x in named or uses.get(x, 0) > 1)
        ]
        known.update(found)
        return found

    constant: frozenset[str] = frozenset()
    row = frozenset({ROW})
    known.update(n for walk in made.shared for n in walk.reductions)
    made.constants = to_name(roots, constant)
    for walk in made.walks:
        guards = [] if walk.guard is None else [walk.guard[0]]
        at_labels = [x for *_, x in walk.at_labels]
        walk.names = to_name([*walk.roots, *guards, *at_labels], row)
        known.update(walk.reductions)
    made.names = to_name(
        [*made.of_rows.values(), *([] if made.value is None else [made.value])], row
    )
    return made

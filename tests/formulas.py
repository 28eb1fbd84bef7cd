"""Random formulas for tests of the compiler, over operands of all kinds."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nbloss.formula import primitives as nb
from nbloss.formula.expression import COLUMN, Node
from nbloss.formula.trace import Formula, Index, PerColumn, PerRow, formula

# Set NBLOSS_RANDOM_FORMULAS to have that many times as many formulas tried, others each time.
TIMES = int(os.environ.get("NBLOSS_RANDOM_FORMULAS", "1"))


def examples(count: int) -> settings:
    return settings(max_examples=count * TIMES, deadline=None, derandomize=TIMES == 1)


ELEMENTWISE: list[Callable[[Node, Node, Node], Node]] = [
    lambda a, b, c: a + b,
    lambda a, b, c: a - b,
    lambda a, b, c: a * b,
    lambda a, b, c: a / (1.0 + b * b),
    lambda a, b, c: -a,
    lambda a, b, c: nb.absolute(a),
    lambda a, b, c: nb.exp(-nb.absolute(a)),
    lambda a, b, c: nb.expm1(-nb.absolute(a)),
    lambda a, b, c: nb.log(1.0 + a * a),
    lambda a, b, c: nb.log1p(nb.absolute(a)),
    lambda a, b, c: nb.sqrt(1.0 + a * a),
    lambda a, b, c: nb.tanh(a),
    lambda a, b, c: nb.sigmoid(a),
    lambda a, b, c: nb.softplus(a),
    lambda a, b, c: nb.power(1.0 + a * a, 0.7),
    lambda a, b, c: nb.power(1.0 + nb.absolute(a), nb.tanh(b)),
    lambda a, b, c: nb.tanh(a - b) ** 3,
    lambda a, b, c: nb.xlogy(nb.tanh(a), 1.0 + b * b),
    lambda a, b, c: nb.maximum(a, b),
    lambda a, b, c: nb.minimum(a, b),
    lambda a, b, c: nb.hinge(a - b + 0.3),
    lambda a, b, c: nb.clamp(a, -0.5, 0.5),
    lambda a, b, c: nb.detach(a) * b,
    lambda a, b, c: nb.sign(a) * b,
    lambda a, b, c: nb.where(a > b, a * c, b - 0.7),
    lambda a, b, c: nb.where((a > b) & (b > c) | ~(a <= c), 0.0, a * b),
    lambda a, b, c: (a > b) * (a - c) + (b != c),
    lambda a, b, c: nb.where(nb.column == 2, a, b),
    lambda a, b, c: nb.where(nb.column == 50, a, b),
    lambda a, b, c: a * nb.column / (1.0 + nb.log1p(nb.column)),
]
ALONG_ROW: list[Callable[[Node, Node, Node], Node]] = [
    lambda a, b, label: nb.sum(a),
    lambda a, b, label: nb.mean(a),
    lambda a, b, label: nb.mean(a > b),
    lambda a, b, label: nb.max(a),
    lambda a, b, label: nb.min(a),
    lambda a, b, label: nb.logsumexp(a),
    lambda a, b, label: nb.log_softmax(a),
    lambda a, b, label: nb.softmax(a),
    lambda a, b, label: a[label],
    lambda a, b, label: a[1],
    lambda a, b, label: nb.where(nb.column == label, a, b),
    lambda a, b, label: nb.where(nb.column != label, a, 0.0),
]
Choices = list[tuple[int, int, int, int]]


def built(choices: Choices) -> Formula:
    """Make the formula of a row that a list of choices stands for."""

    def random_loss(x, y, label: Index, s: PerRow, w: PerColumn, other: Index, k=0.7):
        pool: list[Node] = [x, y, w, s, x - w, k * y]
        for operation, *places in choices:
            a, b, c = (pool[place % len(pool)] for place in places)
            number = operation % (len(ELEMENTWISE) + len(ALONG_ROW))
            if number < len(ELEMENTWISE):
                made = ELEMENTWISE[number](a, b, c)
            elif COLUMN not in a.varies:
                made = a * 0.5
            else:
                labels = label if places[0] % 2 else other
                made = ALONG_ROW[number - len(ELEMENTWISE)](a, b, labels)
            pool.append(made)
        last = pool[-1] * x + pool[-2] * y + s
        return nb.mean(last)

    return formula(random_loss, True)


def built_of_elements(choices: Choices) -> Formula:
    """Make the formula of an element that a list of choices stands for."""

    def random_loss(x, y, k=0.7):
        pool: list[Node] = [x, y, k * x]
        count = len(ELEMENTWISE) - 3  # the rest is of columns
        for operation, *places in choices:
            a, b, c = (pool[place % len(pool)] for place in places)
            pool.append(ELEMENTWISE[operation % count](a, b, c))
        return pool[-1] * x + pool[-2] * y

    return formula(random_loss, False)


ROWS, COLUMNS = 5, 7
PARAMETERS = {"k": 0.7}
number = st.integers(0, 10_000)
choices = st.lists(st.tuples(number, number, number, number), min_size=2, max_size=8)
formulas = choices.map(built)
formulas_of_elements = choices.map(built_of_elements)


def operands(seed: int = 0, columns: int = COLUMNS) -> dict[str, NDArray[Any]]:
    """Operands for a formula, with rows along the last axis."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(ROWS, columns)),
        "y": rng.normal(size=(ROWS, columns)),
        "label": rng.integers(0, columns, (ROWS, 1)),
        "s": rng.normal(size=(ROWS, 1)),
        "w": rng.uniform(0.5, 2.0, (1, columns)),
        "other": rng.integers(0, columns, (ROWS, 1)),
    }

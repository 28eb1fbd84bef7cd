"""Random formulas for tests of the compiler, over operands of all kinds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from nbloss.formula import primitives as nb
from nbloss.formula.expression import COLUMN, Node
from nbloss.formula.trace import Formula, Index, PerColumn, PerRow, formula

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
    lambda a, b, c: (a - b) ** 3,
    lambda a, b, c: nb.maximum(a, b),
    lambda a, b, c: nb.minimum(a, b),
    lambda a, b, c: nb.hinge(a - b + 0.3),
    lambda a, b, c: nb.clamp(a, -0.5, 0.5),
    lambda a, b, c: nb.where(a > b, a * c, b - 0.7),
    lambda a, b, c: nb.where((a > b) & (b > c), 0.0, a * b),
    lambda a, b, c: nb.where(nb.column == 2, a, b),
]
ALONG_ROW: list[Callable[[Node], Node]] = [
    nb.sum,
    nb.mean,
    nb.max,
    nb.min,
    nb.logsumexp,
    nb.log_softmax,
    nb.softmax,
]


def built(choices: list[tuple[int, int, int, int]]) -> Formula:
    """Make the formula of a row that a list of choices stands for."""

    def random_loss(x, y, label: Index, s: PerRow, w: PerColumn, k=0.7):
        pool: list[Node] = [x, y, w, s, x - w, k * y]
        for operation, *places in choices:
            a, b, c = (pool[place % len(pool)] for place in places)
            number = operation % (len(ELEMENTWISE) + len(ALONG_ROW) + 1)
            if number < len(ELEMENTWISE):
                made = ELEMENTWISE[number](a, b, c)
            elif COLUMN not in a.varies:
                made = a * 0.5
            elif number == len(ELEMENTWISE) + len(ALONG_ROW):
                made = a[label]
            else:
                made = ALONG_ROW[number - len(ELEMENTWISE)](a)
            pool.append(made)
        last = pool[-1] * x + pool[-2] * y + s
        return nb.mean(last)

    return formula(random_loss, True)


ROWS, COLUMNS = 5, 7
PARAMETERS = {"k": 0.7}
number = st.integers(0, 10_000)
formulas = st.lists(st.tuples(number, number, number, number), min_size=2, max_size=8).map(built)


def operands(seed: int = 0) -> dict[str, NDArray[Any]]:
    """Operands for a formula, with rows along the last axis."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(ROWS, COLUMNS)),
        "y": rng.normal(size=(ROWS, COLUMNS)),
        "label": rng.integers(0, COLUMNS, (ROWS, 1)),
        "s": rng.normal(size=(ROWS, 1)),
        "w": rng.uniform(0.5, 2.0, (1, COLUMNS)),
    }

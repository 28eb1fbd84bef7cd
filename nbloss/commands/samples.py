"""Random operands for each loss, for what calls them all."""

from typing import Any, NamedTuple

import numpy as np

from nbloss.engine.registry import Definition

MOST_LABELS = 10
# The targets of pointwise losses that are not just any numbers.
TARGETS = {"margin_ranking_loss": [-1.0, 1.0], "multilabel_soft_margin_loss": [0.0, 1.0]}


class Sample(NamedTuple):
    """Operands in the order of their positions, and the positions of those that learn."""

    operands: list[Any]
    learning: tuple[int, ...]


def sample(definition: Definition, rows: int, columns: int) -> Sample:
    """Make operands of rows × columns, float64 and int64, the same each time."""
    rng = np.random.default_rng(0)

    def numbers() -> Any:
        return rng.normal(size=(rows, columns))

    if definition.pattern == "classes":
        return Sample([numbers(), rng.integers(0, columns, rows)], (0,))
    if definition.pattern == "pairs":
        labels = np.full((rows, columns), -1)
        few = min(MOST_LABELS, columns // 4)
        for row in labels:
            row[:few] = rng.permutation(columns)[:few]
        return Sample([numbers(), labels], (0,))
    if definition.of_distances:
        return Sample([numbers() for _ in range(3)], (0, 1, 2))
    operands = [
        rng.choice(TARGETS[definition.name], (rows, columns))
        if name == "target" and definition.name in TARGETS
        else numbers()
        for name in definition.operands
    ]
    places = enumerate(definition.operands)
    return Sample(operands, tuple(k for k, name in places if name != "target"))


def arrays(chosen: Sample, dtype: str) -> list[Any]:
    """Give the operands in a type."""
    return [x.astype(dtype) if x.dtype.kind == "f" else x for x in chosen.operands]

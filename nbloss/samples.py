"""Random operands for each loss, for what calls them all."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nbloss.formula.registry import Definition

MOST_LABELS = 10


class Sample(NamedTuple):
    """Operands in the order of their positions, and the positions of those that learn."""

    operands: list[Any]
    learning: tuple[int, ...]


def sample(definition: Definition, *shape: int) -> Sample:
    """Make operands of a shape, float64 and int64, the same each time."""
    rng = np.random.default_rng(0)
    columns = shape[min(1, len(shape) - 1)]

    def numbers() -> Any:
        return rng.normal(size=shape)

    if definition.pattern == "classes":
        return Sample([numbers(), rng.integers(0, columns, (*shape[:1], *shape[2:]))], (0,))
    if definition.pattern == "pairs":
        labels = np.full(shape, -1)
        few = min(MOST_LABELS, columns // 4)
        for row in labels:
            row[:few] = rng.permutation(columns)[:few]
        return Sample([numbers(), labels], (0,))
    kinds = definition.symbolic.operands
    made: dict[str, Callable[[], Any]] = {
        "element": numbers,
        "per_row": lambda: rng.normal(size=shape[:-1]),
        "per_column": lambda: rng.uniform(0.5, 2.0, shape[-1:]),
        "index": lambda: rng.integers(0, shape[-1], shape[:-1]),
    }
    operands = [
        rng.choice(definition.targets, shape)
        if name == "target" and definition.targets
        else made[kinds[name]]()
        for name in definition.operands
    ]
    places = enumerate(definition.operands)
    learning = [k for k, name in places if name != "target" and name in definition.differentiable]
    return Sample(operands, tuple(learning))


def arrays(chosen: Sample, dtype: str) -> list[Any]:
    """Give the operands in a type."""
    return [x.astype(dtype) if x.dtype.kind == "f" else x for x in chosen.operands]

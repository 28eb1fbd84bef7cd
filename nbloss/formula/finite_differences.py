"""Checks derivatives that a formula states against finite differences of its value."""

import math
from collections.abc import Iterator

import numpy as np

from nbloss.formula import derive, expression
from nbloss.formula.evaluate import evaluate
from nbloss.formula.trace import Formula

STEP = 1e-6
TOLERANCE = 1e-4
# What rounding makes of a difference of two values, in parts of the value: some 1e-16 / STEP.
ROUNDING = 1e-8
COLUMNS = 4  # of the rows that are tried, unless the formula takes a column further on


def check(formula: Formula) -> None:
    """Check the derivatives that a formula states, with the defaults of its options.

    Raises
    ------
    ValueError
        If a derivative is wrong. Where the value is not finite nothing is compared.
    """
    graph = formula.graph()
    columns = max(COLUMNS, graph.least_columns) if formula.rowwise else 1
    stated = [name for name in formula.overrides if name in formula.operands]
    operands = [expression.operand(name, formula.operands[name]) for name in stated]
    slopes = derive.slopes(graph, operands, derive.ONE)
    for point in points(formula, columns):
        value, *found = evaluate([graph.value, *slopes], point, formula.parameters, columns)
        for name, slope in zip(stated, found, strict=True):
            slope = np.broadcast_to(slope, point[name].shape)
            for place in np.ndindex(slope.shape):
                ends = []
                for step in (STEP, -STEP):
                    moved = {**point, name: point[name].copy()}
                    moved[name][place] += step
                    ends.extend(evaluate([graph.value], moved, formula.parameters, columns))
                if not np.isfinite([value, *ends]).all():
                    continue
                measured = (ends[0] - ends[1]).item() / (2 * STEP)
                tolerance = TOLERANCE + ROUNDING * abs(value.item())
                if not math.isclose(slope[place], measured, rel_tol=TOLERANCE, abs_tol=tolerance):
                    at = f"column {place[-1]} of {name}" if slope.size > 1 else name
                    where = ", ".join(f"{n}={_shown(x)}" for n, x in point.items())
                    raise ValueError(
                        f"loss {formula.name}: the derivative with respect to {at} at {where} is "
                        f"stated as {slope[place]:.6g}, but finite differences of the value give "
                        f"{measured:.6g}"
                    )


def points(formula: Formula, columns: int) -> Iterator[dict[str, np.ndarray]]:
    """Make operands to check a formula with, always the same ones.

    They hold numbers as probabilities are, near 0, and further away. Those that have no stated
    derivative are -1, 0 or 1 at times, as targets are; a formula may have a kink there.
    """
    rng = np.random.default_rng(0)
    shapes = {"element": (1, columns), "per_row": (1, 1), "per_column": (1, columns)}
    for turn in range(18):
        point: dict[str, np.ndarray] = {}
        for name, kind in formula.operands.items():
            if kind == "index":
                point[name] = rng.integers(0, columns, (1, 1))
            elif turn % 2 == 0 and name not in formula.overrides:
                point[name] = rng.integers(-1, 2, shapes[kind]).astype(float)
            elif turn < 6:
                point[name] = rng.uniform(0.05, 0.95, shapes[kind])
            else:
                point[name] = rng.normal(0.0, 0.5 if turn < 12 else 4.0, shapes[kind])
        yield point


def _shown(x: np.ndarray) -> str:
    numbers = [f"{number:.6g}" for number in x.ravel()]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"

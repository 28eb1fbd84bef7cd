"""Checks derivatives that a definition states against finite differences of the value."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

STEP = 1e-6
TOLERANCE = 1e-4
# What rounding makes of a difference of two values, in parts of the value: some 1e-16 / STEP.
ROUNDING = 1e-8


def agree(
    subject: str, argument: str, place: str, stated: float, rise: float, value: float = 0.0
) -> None:
    """Compare a stated derivative with a central difference.

    Parameters
    ----------
    subject : str
        What states it, for the message.
    argument, place : str
        With respect to which argument, and where.
    stated : float
        The derivative.
    rise : float
        By how much the value rises over ``2 * STEP``.
    value : float, optional
        The value, if it may be large beside its derivative.

    Raises
    ------
    ValueError
        If they differ.
    """
    measured = float(rise) / (2 * STEP)
    tolerance = TOLERANCE + ROUNDING * abs(float(value))
    if not math.isclose(stated, measured, rel_tol=TOLERANCE, abs_tol=tolerance):
        raise ValueError(
            f"{subject}: the derivative with respect to {argument} at {place} is stated as "
            f"{float(stated):.6g}, but finite differences of the value give {measured:.6g}"
        )


def points(count: int, generic: Sequence[bool]) -> list[list[float]]:
    """Make points to check a formula at.

    Parameters
    ----------
    count : int
        How many numbers a point has.
    generic : sequence of bool
        Whether a number is taken at random. The others are -1, 0 or 1 at times, as targets are; a
        formula may have a kink there.

    Returns
    -------
    list of list of float
        Numbers as probabilities are, near 0, and further away; always the same ones.
    """
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [
            rng.uniform(0.05, 0.95, (6, count)),
            rng.normal(0.0, 0.5, (6, count)),
            rng.normal(0.0, 4.0, (6, count)),
        ]
    )
    for column, random in enumerate(generic):
        if not random:
            rows[::2, column] = rng.integers(-1, 2, len(rows[::2]))
    return rows.tolist()


def check(
    name: str,
    formula: Callable[..., Any],
    operands: Sequence[str],
    parameters: Sequence[float],
    differentiable: Sequence[str],
) -> None:
    """Check the derivatives that a definition states.

    Parameters
    ----------
    name : str
        Name of the loss, for the messages.
    formula : function
        ``formula(*operands, *parameters)`` gives the value, and then a derivative with respect to
        each operand of ``differentiable``.
    operands, differentiable : sequence of str
    parameters : sequence of float

    Raises
    ------
    ValueError
        If a derivative is wrong. Where the value is not finite nothing is compared.
    """
    subject = f"loss {name}"
    places = [operands.index(operand) for operand in differentiable]
    generic = [operand in differentiable for operand in operands]
    with np.errstate(all="ignore"):
        for point in points(len(operands), generic):
            numbers = np.array(point)
            outputs = formula(*numbers, *parameters)
            for k, place in enumerate(places):
                ends = []
                for step in (STEP, -STEP):
                    moved = numbers.copy()
                    moved[place] += step
                    ends.append(formula(*moved, *parameters)[0])
                if np.isfinite([outputs[0], *ends]).all():
                    where = ", ".join(f"{o}={x:.6g}" for o, x in zip(operands, point, strict=True))
                    rise = ends[0] - ends[1]
                    agree(subject, operands[place], where, outputs[1 + k], rise, outputs[0])

"""Losses of the order of two scores."""

from typing import Any

from nbloss.backends.unsupported import unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import Problem
from nbloss.functional import validation
from nbloss.functional.public import public_function
from nbloss.losses import ranking as definitions


@public_function
def margin_ranking_loss(
    xp: ArrayBackend,
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem:
    r"""How far two scores are from the order that they should have.

    For learning to rank from pairs: which of two documents answers better, which patient is worse.

    .. math:: \ell(x_1, x_2, y) = \max(0,\; -y \, (x_1 - x_2) + \text{margin})

    At the kink, where the maximum's two sides are equal, the gradient is the installed torch's:
    before its release 2.14 that of the right side; since then, and without torch, 0.

    Parameters
    ----------
    input1, input2 : tensor or array
        The scores; float16, bfloat16, float32, float64 or integers. All three operands have the
        same number of dimensions, and sizes of 1 broadcast.
    target : tensor or array
        1 where the first score should be the higher one, -1 where it should be the lower one.
    margin : float, optional
        By how much, in units of the scores.
    size_average, reduce : bool, optional
        Older ways to choose the reduction.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the pairs.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the broadcast shape.

    Raises
    ------
    RuntimeError
        If the shapes don't fit together.
    ValueError
        If the reduction is unknown.

    References
    ----------
    R. Herbrich, T. Graepel, K. Obermayer, "Large Margin Rank Boundaries for Ordinal Regression",
    Advances in Large Margin Classifiers (2000).

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> first, second = np.array([0.3, 0.9]), np.array([0.5, 0.1])
    >>> round(float(nbloss.margin_ranking_loss(first, second, np.array([1.0, 1.0]))), 6)
    0.1
    """
    operands = xp.operands(
        "margin_ranking_loss", integers=True, input1=input1, input2=input2, target=target
    )
    margin = validation.number("margin_ranking_loss", "margin", margin)
    if not validation.same_rank(*operands):
        unsupported(
            RuntimeError(
                "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
                f"input1: {operands[0].shape}, input2: {operands[1].shape}, "
                f"target: {operands[2].shape} "
            )
        )
    shape = validation.common_shape(*operands)
    return Problem(
        definitions.margin_ranking_loss,
        xp.expand(operands, shape),
        ("input1", "input2", "target"),
        (margin,),
        validation.reduction(reduction, size_average, reduce),
    )

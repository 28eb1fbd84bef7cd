"""Losses of a prediction that is a number."""

import warnings
from typing import Any

from nbloss.backends.unsupported import unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import Problem
from nbloss.functional import validation
from nbloss.functional.public import public_function
from nbloss.losses import regression as definitions


@public_function
def huber_loss(
    xp: ArrayBackend,
    input: Any,
    target: Any,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Any = None,
) -> Problem:
    r"""Squared error where the error is small, absolute error where it is large.

    For regression on data that are wrong in places: what is far off pulls no harder than what is
    off by ``delta``.

    .. math::

       \ell(x, y) = \begin{cases}
           \tfrac12 (x - y)^2 & \text{where } |x - y| < \delta \\
           \delta \, (|x - y| - \tfrac12 \delta) & \text{elsewhere}
       \end{cases}

    At :math:`|x - y| = \delta` the slope is :math:`\pm\delta`, from both sides.

    Parameters
    ----------
    input, target : tensor or array, any shape
        float16, bfloat16, float32 or float64; the target may be of integers. They broadcast, with a
        warning.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the elements.
    delta : float, optional
        Where the square ends and the line begins; above 0, in units of the input.
    weight : tensor or array, optional
        A factor for each element, of the input's shape. A mean divides by the number of elements,
        not by the sum of the weights.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the broadcast shape; of the input's type.

    Raises
    ------
    RuntimeError
        If ``delta`` is not above 0, or if the shapes don't broadcast.
    ValueError
        If the reduction is unknown, or if the weight has another shape than the input.

    References
    ----------
    P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics
    35 (1964).

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> float(nbloss.huber_loss(np.array([0.0, 3.0]), np.array([0.5, 0.0])))
    1.3125
    """
    named = {"input": input, "target": target}
    if weight is not None:
        named["weight"] = weight
    operands = xp.operands("huber_loss", **named)
    delta = validation.number("huber_loss", "delta", delta)
    if not delta > 0.0:
        unsupported(RuntimeError("huber_loss does not support non-positive values for delta."))
    shape = validation.common_shape(*operands[:2])
    message = "{} is not a valid value for reduction"
    if weight is not None:
        if operands[2].shape != operands[0].shape:
            unsupported(ValueError("Weights and input must have the same size."))
        message = "Invalid reduction mode: {}. Expected one of 'none', 'mean', 'sum'."
    reduction = validation.reduction(reduction, message=message)
    if operands[0].shape != operands[1].shape:
        warnings.warn(
            f"Using a target size ({operands[1].shape}) that is different to the input size "
            f"({operands[0].shape}). This will likely lead to incorrect results due to "
            "broadcasting. Please ensure they have the same size.",
            stacklevel=5,
        )
    return Problem(
        definitions.huber_loss, xp.expand(operands, shape), tuple(named), (delta,), reduction
    )

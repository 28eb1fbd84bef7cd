"""Losses of samples that have several labels at once."""

from typing import Any

from nbloss.backends.unsupported import unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import Problem
from nbloss.functional import validation
from nbloss.functional.public import public_function
from nbloss.losses import multilabel as definitions


@public_function
def multilabel_margin_loss(
    xp: ArrayBackend,
    input: Any,
    target: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem:
    r"""Every class that a sample has should score 1 above every class that it has not.

    For samples with several classes, where it is their order that matters and not a threshold.

    .. math:: \ell(x, y) = \frac1C \sum_{j \in y} \sum_{i \notin y} \max(0,\; 1 - (x_j - x_i))

    At the kink the gradient is 0.

    Parameters
    ----------
    input : tensor or array, shape (N, C), (C) or ()
        Scores; float16, bfloat16, float32 or float64. A NaN among a sample's scores makes its loss
        NaN.
    target : tensor or array of int64 or int32, same shape
        A row holds the labels of a sample and ends at the first -1. What follows is ignored, but
        must lie between -1 and C - 1 as well. A label that stands twice counts twice.
    size_average, reduce : bool, optional
        Older ways to choose the reduction.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the samples. The mean of no samples is NaN, their sum 0.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of shape (N).

    Raises
    ------
    RuntimeError
        If a label is out of range, or if the shapes don't fit together.
    ValueError
        If the reduction is unknown.

    References
    ----------
    K. Crammer, Y. Singer, "A Family of Additive Online Algorithms for Category Ranking", JMLR 3
    (2003).

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> scores = np.array([[0.1, 0.2, 0.4, 0.8]])
    >>> round(float(nbloss.multilabel_margin_loss(scores, np.array([[3, 0, -1, 1]]))), 6)
    0.85
    """
    loss = "multilabel_margin_loss"
    operands = xp.operands(loss, input=input)
    message = f"{loss}(): target must be of int64 or int32, got "
    labels = xp.labels(loss, "target", target, ("int64", "int32"), message)
    shape = tuple(operands[0].shape)
    classes = shape[-1] if shape else 1
    if len(shape) > 2 or classes == 0:
        unsupported(
            RuntimeError(
                "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
                f"{list(shape)}"
            )
        )
    if tuple(labels.shape) != shape and not (classes == 1 and _is_one(shape, labels.shape)):
        unsupported(
            RuntimeError(
                f"inconsistent target size: {list(labels.shape)} for input of size: {list(shape)}"
            )
        )
    return Problem(
        definitions.multilabel_margin_loss,
        operands,
        ("input",),
        (),
        validation.reduction(reduction, size_average, reduce),
        constants=(labels,),
    )


def _is_one(*shapes: tuple[int, ...]) -> bool:
    """Whether shapes are of a single number; () and (1,) go together."""
    return all(tuple(shape) in ((), (1,)) for shape in shapes)


@public_function
def multilabel_soft_margin_loss(
    xp: ArrayBackend,
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem:
    r"""A logistic loss for each class, and the mean over the classes.

    For samples that may have any number of classes, each of which is judged on its own.

    .. math::

       \ell(x, y) = -\frac1C \sum_i w_i \left(
           y_i \log\sigma(x_i) + (1 - y_i) \log(1 - \sigma(x_i)) \right)

    Parameters
    ----------
    input : tensor or array, shape (..., C)
        Scores, before the sigmoid; float16, bfloat16, float32 or float64.
    target : tensor or array
        1 for a class that the sample has and 0 for another, or any share in between; integers or
        floating. It broadcasts to the input's shape.
    weight : tensor or array, optional
        A factor for each class, or for each element; it broadcasts to the input's shape.
    size_average, reduce : bool, optional
        Older ways to choose the reduction.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the samples.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the input's shape without its last
        dimension.

    Raises
    ------
    RuntimeError
        If target or weight do not broadcast to the input's shape.
    IndexError
        If the input has no dimension.
    ValueError
        If the reduction is unknown.

    References
    ----------
    The logistic loss as in D. R. Cox, "The Regression Analysis of Binary Sequences", JRSS B 20
    (1958), applied to each label.

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> scores, labels = np.array([[2.0, -2.0]]), np.array([[1, 0]])
    >>> round(float(nbloss.multilabel_soft_margin_loss(scores, labels)), 6)
    0.126928
    """
    loss = "multilabel_soft_margin_loss"
    named = {"input": input, "target": target}
    if weight is not None:
        named["weight"] = weight
    operands = xp.operands(loss, **named)
    shape = tuple(operands[0].shape)
    if not shape:
        unsupported(
            IndexError(f"{loss}(): input must have at least one dimension, got a single number")
        )
    common = validation.common_shape(*operands)
    if common != shape:
        # torch counts the classes in the input all the same, and sums over some other dimension.
        unsupported(
            RuntimeError(
                f"{loss}(): target and weight must broadcast to the shape of input, {list(shape)}; "
                f"together they are of {list(common)}"
            )
        )
    return Problem(
        definitions.multilabel_soft_margin_loss,
        xp.expand(operands, shape),
        tuple(named),
        (),
        validation.reduction(reduction, size_average, reduce, "{} is not valid"),
    )

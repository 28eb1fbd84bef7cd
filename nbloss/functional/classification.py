"""Losses of samples that have one class each."""

from dataclasses import replace
from typing import Any

from nbloss.backends.unsupported import unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import ClassOptions, Problem, class_dimensions
from nbloss.functional import validation
from nbloss.functional.public import public_function
from nbloss.losses import classification as definitions


@public_function
def nll_loss(
    xp: ArrayBackend,
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem:
    r"""The negative log-likelihood of the target class.

    For classification with a network that ends in a log-softmax; :func:`nbloss.cross_entropy` takes
    the scores before it, and does both in one pass.

    .. math:: \ell(x, y) = -w_y \, x_y

    Parameters
    ----------
    input : tensor or array, shape (C), (N, C) or (N, C, d1, ...)
        Log-probabilities, as a log-softmax over the classes gives them; float16, bfloat16, float32
        or float64.
    target : tensor or array of int64, int32 or uint8, shape (), (N) or (N, d1, ...)
        Class indices from 0 to C - 1.
    weight : tensor or array of the input's type, shape (C), optional
        A factor for each class.
    size_average : bool, optional
        An older way to choose the reduction, together with ``reduce``.
    ignore_index : int, optional
        A target that counts for nothing, whether it is a class or not.
    reduce : bool, optional
        An older way to choose the reduction, together with ``size_average``.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the samples. A mean divides by the sum of the weights of the
        targets that are not ignored; it is NaN if all are.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the target's shape.

    Raises
    ------
    IndexError
        If a target is out of range.
    RuntimeError
        If the target is of another type, or if shapes don't fit together.
    ValueError
        If the sizes of the batches differ, or if the reduction is unknown.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning", section 4.3.4 (2006).

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> log_probabilities = np.log([[0.5, 0.25, 0.25]])
    >>> round(float(nbloss.nll_loss(log_probabilities, np.array([1]))), 6)
    1.386294
    """
    operands = xp.operands("nll_loss", input=input)
    constants, options = _labels(xp, "nll_loss", operands[0], target, weight, ignore_index)
    return Problem(
        definitions.nll_loss,
        operands,
        ("input",),
        (),
        validation.reduction(reduction, size_average, reduce),
        constants,
        options,
    )


@public_function
def cross_entropy(
    xp: ArrayBackend,
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Problem:
    r"""Log-softmax and negative log-likelihood in one.

    For classification: each sample has one class of several, or a share of each.

    .. math::

       \ell(x, y) = -\sum_c w_c \, y_c \left( x_c - \log \sum_k e^{x_k} \right)

    where :math:`y_c` is the share of the target that falls to class :math:`c`: 1 for the class that
    an index names, or the probability that is given. Smoothing by :math:`\varepsilon` makes
    :math:`(1 - \varepsilon) \, y_c + \varepsilon / C` of it.

    Parameters
    ----------
    input : tensor or array, shape (C), (N, C) or (N, C, d1, ...)
        Scores, before the softmax; float16, bfloat16, float32 or float64.
    target : tensor or array
        Class indices (int64, int32 or uint8) of shape (), (N) or (N, d1, ...), or probabilities
        (floating) of the input's shape.
    weight : tensor or array of the input's type, shape (C), optional
        A factor for each class.
    size_average : bool, optional
        An older way to choose the reduction, together with ``reduce``.
    ignore_index : int, optional
        A class index that counts for nothing; not with probabilities.
    reduce : bool, optional
        An older way to choose the reduction, together with ``size_average``.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the samples. With class indices a mean divides by the sum of
        the weights of the targets that are not ignored, with probabilities by the number of
        samples.
    label_smoothing : float from 0 to 1, optional
        The share of each target that is spread evenly over all classes.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the shape that class indices have.

    Raises
    ------
    IndexError
        If a target is out of range.
    RuntimeError
        If the target is of another type, if shapes don't fit together, or if ``label_smoothing``
        is above 1.
    ValueError
        If the sizes of the batches differ, or if the reduction is unknown.

    References
    ----------
    C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", section 7
    (2015), for the smoothing.

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> round(float(nbloss.cross_entropy(np.array([[2.0, 0.0]]), np.array([0]))), 6)
    0.126928
    """
    loss = "cross_entropy"
    smoothing = validation.number(loss, "label_smoothing", label_smoothing)
    if smoothing > 1.0:
        unsupported(
            RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
        )
    smoothing = smoothing if smoothing > 0.0 else 0.0
    if getattr(target, "shape", None) == getattr(input, "shape", ()):
        problem = _probabilities(xp, input, target, weight, ignore_index, smoothing)
    else:
        operands = xp.operands(loss, input=input)
        constants, options = _labels(xp, loss, operands[0], target, weight, ignore_index)
        problem = Problem(
            definitions.cross_entropy,
            operands,
            ("input",),
            (),
            "",
            constants,
            options._replace(smoothing=smoothing),
        )
    return replace(problem, reduction=validation.reduction(reduction, size_average, reduce))


def _labels(
    xp: ArrayBackend, loss: str, scores: Any, target: Any, weight: Any, ignore_index: int
) -> tuple[tuple, ClassOptions]:
    """Check a target of class indices; give the constants and options of its problem."""
    ignore_index = validation.integer(loss, "ignore_index", ignore_index)
    message = "expected target dtype to be Long or Byte, but got "
    labels = xp.labels(loss, "target", target, ("int64", "int32", "uint8"), message)
    validation.class_target(scores, labels)
    _, classes, _ = class_dimensions(tuple(scores.shape))
    if weight is not None:
        weight = xp.class_weight(loss, "weight", weight, scores)
        validation.class_weight(weight, classes)
    return (labels, weight), ClassOptions(ignore_index)


def _probabilities(
    xp: ArrayBackend, input: Any, target: Any, weight: Any, ignore_index: int, smoothing: float
) -> Problem:
    """Check a target of probabilities."""
    loss = "cross_entropy"
    xp.operands(loss, input=input)  # may be refused for its own sake
    if not xp.is_floating(target):
        dtype = getattr(target, "dtype", type(target).__name__)
        unsupported(
            RuntimeError(
                f"Expected floating point type for target with class probabilities, got {dtype}"
            )
        )
    operands = xp.operands(loss, input=input, target=target)
    if validation.integer(loss, "ignore_index", ignore_index) >= 0:
        unsupported(RuntimeError("ignore_index is not supported for floating point target"))
    shape = tuple(operands[0].shape)
    if not shape:
        unsupported(ValueError("Expected 1 or more dimensions (got 0)"))
    _, classes, _ = class_dimensions(shape)
    if weight is not None:
        weight = xp.class_weight(loss, "weight", weight, operands[0])
        validation.class_weight(weight, classes, prefix="cross_entropy: ")
    return Problem(
        definitions.cross_entropy,
        operands,
        ("input", "target"),
        (),
        "",
        (None, weight),
        ClassOptions(smoothing=smoothing),
    )

"""Losses of an anchor, a positive example like it and a negative example unlike it."""

from collections.abc import Callable
from typing import Any, cast

from nbloss.backends.unsupported import unsupported
from nbloss.engine.backend import ArrayBackend
from nbloss.engine.problem import Problem, TripletOptions
from nbloss.formula.distance import Distance
from nbloss.formula.registry import Definition
from nbloss.functional import validation
from nbloss.functional.public import public_function
from nbloss.losses import triplet as definitions
from nbloss.losses.distances import lp, minkowski

NAMES = ("anchor", "positive", "negative")
# The same on distances that have been measured.
OF_DISTANCES = cast(Definition, definitions.triplet_margin_loss.of_distances)


@public_function
def triplet_margin_loss(
    xp: ArrayBackend,
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Problem:
    r"""The positive example should lie nearer to the anchor than the negative one does.

    For learning an embedding in which like things lie together: faces, sentences, pictures.

    .. math::

       \ell(a, p, n) = \max(0,\; d(a, p) - d(a, n) + \text{margin}), \qquad
       d(x, y) = \left\lVert x - y + \varepsilon \right\rVert_p

    At the kink of the maximum the gradient is the installed torch's: before its release 2.14 that
    of the right side; since then, and without torch, 0. Where a norm is 0, its gradient is 0.

    Parameters
    ----------
    anchor, positive, negative : tensor or array, shape (..., D)
        Rows to compare; float16, bfloat16, float32, float64 or integers. They have the same number
        of dimensions, and sizes of 1 broadcast.
    margin : float, optional
        By how much nearer; above 0, in units of the distance.
    p : float, optional
        The norm: any number or infinity; 0 counts the coordinates that differ, with gradient 0.
    eps : float, optional
        Added to every difference of coordinates.
    swap : bool, optional
        Measure the negative example from the positive one if that is nearer.
    size_average, reduce : bool, optional
        Older ways to choose the reduction.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the triplets.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the broadcast shape without its last
        dimension.

    Raises
    ------
    RuntimeError
        If the shapes don't fit together.
    ValueError
        If the margin is not above 0, or if the reduction is unknown.

    References
    ----------
    V. Balntas, E. Riba, D. Ponsa, K. Mikolajczyk, "Learning Shallow Convolutional Feature
    Descriptors with Triplet Losses", BMVC (2016).

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> anchor, near, far = np.zeros((1, 2)), np.array([[0.0, 1.0]]), np.array([[1.5, 0.0]])
    >>> round(float(nbloss.triplet_margin_loss(anchor, near, far, eps=0.0)), 6)
    0.5
    """
    loss = "triplet_margin_loss"
    distance = lp(validation.number(loss, "p", p), validation.number(loss, "eps", eps))
    swap = validation.flag(loss, "swap", swap)
    operands = xp.operands(loss, integers=True, anchor=anchor, positive=positive, negative=negative)
    margin = validation.positive_margin(loss, margin)
    return _problem(xp, operands, distance, margin, swap, reduction, size_average, reduce)


@public_function
def triplet_margin_with_distance_loss(
    xp: ArrayBackend,
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Problem:
    r"""The positive example should lie nearer to the anchor, by a distance of one's own choice.

    For embeddings whose likeness is not Euclidean: directions by the cosine, counts by Manhattan.

    .. math:: \ell(a, p, n) = \max(0,\; d(a, p) - d(a, n) + \text{margin})

    Parameters
    ----------
    anchor, positive, negative : tensor or array, shape (..., D)
        Rows to compare; float16, bfloat16, float32, float64 or integers. They have the same number
        of dimensions, and sizes of 1 broadcast.
    distance_function : callable, optional
        One of :mod:`nbloss.distances`, or one's own made by :func:`nbloss.distance`: they are
        compiled into the loss. On tensors any function of two tensors that torch can
        differentiate; ``torch.nn.PairwiseDistance`` is compiled in as well, and is the default,
        with its own defaults.
    margin : float, optional
        By how much nearer; above 0, in units of the distance.
    swap : bool, optional
        Measure the negative example from the positive one if that is nearer.
    reduction : {"mean", "sum", "none"}, optional
        What becomes of the losses of the triplets.

    Returns
    -------
    tensor or array
        A number, or with ``reduction="none"`` an array of the shape that the distances have.

    Raises
    ------
    RuntimeError
        If the shapes don't fit together.
    ValueError
        If the margin is not above 0, or if the reduction is unknown.
    TypeError
        If the distance function is none, or on arrays has no gradient.

    References
    ----------
    V. Balntas, E. Riba, D. Ponsa, K. Mikolajczyk, "Learning Shallow Convolutional Feature
    Descriptors with Triplet Losses", BMVC (2016).

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> anchor, like, unlike = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])[:, None]
    >>> float(
    ...     nbloss.triplet_margin_with_distance_loss(
    ...         anchor, like, unlike, distance_function=nbloss.distances.cosine
    ...     )
    ... )
    0.0
    """
    loss = "triplet_margin_with_distance_loss"
    distance = xp.distance(distance_function)
    operands = xp.operands(loss, integers=True, anchor=anchor, positive=positive, negative=negative)
    margin = validation.positive_margin(loss, margin)
    if isinstance(distance, Distance):
        return _problem(xp, operands, distance, margin, swap, reduction)
    _check_rank(operands)
    distances = xp.measured(loss, distance, *operands, swap)
    distances = xp.expand(distances, validation.common_shape(*distances))
    return Problem(
        OF_DISTANCES,
        distances,
        ("positive_distance", "negative_distance"),
        (margin,),
        validation.reduction(reduction),
    )


def _problem(
    xp: ArrayBackend,
    operands: tuple,
    distance: Distance,
    margin: float,
    swap: bool,
    reduction: Any,
    size_average: bool | None = None,
    reduce: bool | None = None,
) -> Problem:
    """Make the problem of a distance that is fused."""
    _check_rank(operands)
    shape = validation.common_shape(*operands)
    if not shape:
        unsupported(RuntimeError("anchor, positive and negative need at least one dimension"))
    a, p, n = (x.shape[-1] for x in operands)
    columns = tuple(y if x == 1 else x for x, y in ((a, p), (a, n), (p, n)))
    if shape[-1] == 0 and any(columns):
        # Two of the three broadcast to rows that the third has not: expanded to no coordinates
        # at all, their memory is gone.
        unsupported(
            RuntimeError(
                "rows of one coordinate and rows of none make distances of different kinds; got "
                f"anchor {a}, positive {p}, and negative {n} coordinates"
            )
        )
    negative = distance.formula is minkowski.formula and distance.parameters["p"] < 0.0
    extremes = distance.extremes
    if (extremes or negative) and 0 in columns:
        what = "norm of negative order" if negative else extremes[0]
        unsupported(RuntimeError(f"there is no {what} of no coordinates, for {distance}"))
    return Problem(
        definitions.triplet_margin_loss,
        xp.expand(operands, shape),
        NAMES,
        (margin, *distance.parameters.values()),
        validation.reduction(reduction, size_average, reduce),
        options=TripletOptions(distance, bool(swap), columns),
    )


def _check_rank(operands: tuple) -> None:
    if not validation.same_rank(*operands):
        a, p, n = (len(x.shape) for x in operands)
        unsupported(
            RuntimeError(
                "The anchor, positive, and negative tensors are expected to have the same number "
                f"of dimensions, but got: anchor {a}D, positive {p}D, and negative {n}D inputs"
            )
        )

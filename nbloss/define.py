"""Losses of one's own: the decorators that make a public function of the formula of a value."""

from collections.abc import Callable, Mapping
from typing import Any, overload

from nbloss import functional
from nbloss.formula import registry
from nbloss.formula.expression import fail


@overload
def pointwise(function: Callable[..., Any], /) -> Callable[..., Any]: ...


@overload
def pointwise(
    *,
    module: str | None = ...,
    derivatives: Mapping[str, Callable[..., Any]] | None = ...,
    check: bool = ...,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...


def pointwise(function: Callable | None = None, **options: Any) -> Any:
    """Define a loss by the formula of one element.

    The decorated name is the loss: a function of tensors and of arrays like those of
    :mod:`nbloss.functional`, with ``reduction``. ``nbloss.nn`` has its module, under its name in
    CamelCase. To define a name again replaces the loss.

    Parameters
    ----------
    function : function
        Gives the value: a formula with arithmetic, the functions of :mod:`nbloss.primitives` and
        NumPy's. Arguments without a default are operands, which broadcast; those with a float as
        default are parameters; those with another default are options, known when a kernel is
        made.
    module : str, optional
        Another name for the module.
    derivatives : mapping of str to function, optional
        Derivatives that deliberately are not those of the value, by operand: functions of the same
        arguments, in the same language.
    check : bool, optional
        Whether these are compared with finite differences of the value; true by default.

    Returns
    -------
    function
        The loss.

    Raises
    ------
    FormulaError
        If the formula does what the compiler can't follow; the message says where, and what to
        write instead.
    ValueError
        If the name is that of a loss of nbloss, or if a stated derivative disagrees with finite
        differences.

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> @nbloss.pointwise
    ... def pinball_loss(input, target, quantile=0.5):
    ...     error = target - input
    ...     return np.maximum(quantile * error, (quantile - 1.0) * error)
    >>> float(pinball_loss(np.zeros(3), np.array([1.0, -1.0, 2.0]), quantile=0.9, reduction="sum"))
    2.8
    """
    return _defined(registry.pointwise, pointwise, function, options)


@overload
def rowwise(function: Callable[..., Any], /) -> Callable[..., Any]: ...


@overload
def rowwise(
    *,
    module: str | None = ...,
    derivatives: Mapping[str, Callable[..., Any]] | None = ...,
    check: bool = ...,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...


def rowwise(function: Callable | None = None, **options: Any) -> Any:
    """Define a loss by the formula of one row, which lies along the last dimension.

    Parameters
    ----------
    function : function
        Gives the value of the row; see :func:`pointwise`. An operand is a row, unless its
        annotation says otherwise: :class:`nbloss.Index` is a label a row, which indexes rows
        (``scores[label]``), :class:`nbloss.PerRow` one number a row, :class:`nbloss.PerColumn` one
        number a column, the same for all rows.
    module, derivatives, check
        As for :func:`pointwise`.

    Returns
    -------
    function
        The loss.

    Raises
    ------
    FormulaError
        If the formula does what the compiler can't follow.
    ValueError
        If the name is that of a loss of nbloss, or if a stated derivative disagrees with finite
        differences.

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> from nbloss.primitives import exp, log_softmax
    >>> @nbloss.rowwise
    ... def focal_loss(scores, label: nbloss.Index, gamma=2.0):
    ...     log_prob = log_softmax(scores)[label]
    ...     return -((1.0 - exp(log_prob)) ** gamma) * log_prob
    >>> round(float(focal_loss(np.zeros((1, 2)), np.array([0]))), 6)
    0.173287
    """
    return _defined(registry.rowwise, rowwise, function, options)


def _defined(
    define: Callable, decorator: Callable, function: Callable | None, options: dict
) -> Any:
    known = ("module", "derivatives", "check")
    unknown = [name for name in options if name not in known]
    if unknown:
        old = " a formula states its value alone, and all derivatives are made from it:"
        name = decorator.__name__
        raise fail(
            f"{name}() takes no {', '.join(unknown)}:{old if 'differentiable' in unknown else ''} "
            f"its arguments are {', '.join(known)}"
        )
    if function is None:
        return lambda given: decorator(given, **options)
    # torch's autocast knows nothing of it: it computes in the type that it is given.
    return getattr(functional, define(function, autocast=(), **options).name)

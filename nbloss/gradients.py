"""Values and gradients for arrays, without torch."""

import functools
import operator
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

from nbloss.backends.arrays import is_floating


def value_and_grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Make a function that gives a loss and its gradient, after JAX's function of the same name.

    Parameters
    ----------
    fn : function
        A loss of nbloss, or ``functools.partial`` of one.
    argnums : int or sequence of int, optional
        The positions of the arguments to differentiate with respect to.

    Returns
    -------
    function
        It takes the arguments of ``fn``, as arrays, and returns ``(value, gradient)``: a gradient
        of the argument's shape and type (or of the loss's type, for an argument of integers), or a
        tuple of gradients if ``argnums`` is a sequence. With ``reduction="none"`` the gradient is
        that of the sum of the values.

    Raises
    ------
    TypeError
        If ``fn`` is no loss of nbloss, if ``argnums`` is of another type, or when called with
        something that is no array.
    ValueError
        If an argument has no gradient: a target of labels, say.

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> prediction, truth = np.array([0.5, 3.0]), np.array([0.0, 0.0])
    >>> value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(prediction, truth)
    >>> float(value), gradient.tolist()
    (1.3125, [0.25, 0.5])
    """
    loss, before, named_before = unwrapped(fn)
    single = not isinstance(argnums, Sequence)
    chosen = arguments_at(loss, argnums, len(before))

    # Not what `loss` has for attributes: the result is no loss.
    @functools.wraps(loss, updated=())
    def both(*arguments: Any, **named: Any) -> tuple[Any, Any]:
        named = {**named_before, **named}
        arguments = (*before, *arguments)
        value, gradients = _evaluate(loss, chosen, arguments, named)
        return value, gradients[0] if single else tuple(gradients)

    return both


def value_grad_hess(fn: Callable[..., Any], argnum: int = 0) -> Callable[..., Any]:
    """Make a function that gives a loss, its gradient and the diagonal of its Hessian.

    They are what libraries for gradient boosting ask of an objective.

    Parameters
    ----------
    fn : function
        A pointwise loss, :func:`nbloss.cross_entropy` or a loss of rows of one's own; or
        ``functools.partial`` of one.
    argnum : int, optional
        The position of the argument to differentiate with respect to.

    Returns
    -------
    function
        It takes the arguments of ``fn``, as arrays, and returns ``(value, gradient, hessian)``. The
        last two have the argument's shape. With ``reduction="none"`` they are those of the sum of
        the values.

    Raises
    ------
    TypeError
        If ``fn`` is no loss of nbloss, or when called with something that is no array.
    NotImplementedError
        If the loss is of another kind.
    ValueError
        If an argument has no gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import nbloss
    >>> objective = nbloss.value_grad_hess(nbloss.huber_loss)
    >>> value, gradient, hessian = objective(np.array([0.5, 3.0]), np.zeros(2), reduction="sum")
    >>> float(value), gradient.tolist(), hessian.tolist()
    (2.625, [0.5, 1.0], [1.0, 0.0])
    """
    loss, before, named_before = unwrapped(fn)
    chosen = arguments_at(loss, argnum, len(before))

    @functools.wraps(loss, updated=())
    def three(*arguments: Any, **named: Any) -> tuple[Any, Any, Any]:
        from nbloss.backends.array_calls import backend_of
        from nbloss.engine.evaluate import hessian_diagonal

        named = {**named_before, **named}
        arguments = (*before, *arguments)
        value, (gradient,) = _evaluate(loss, chosen, arguments, named)
        xp, problem, given, _ = _problem(loss, arguments, named)
        definition = problem.definition
        if definition.pattern == "pairs" or definition.of_distances or xp is not backend_of(None):
            raise NotImplementedError(
                "value_grad_hess() takes pointwise losses, cross_entropy and one's own losses of "
                f"rows, of NumPy arrays, not {loss.__name__}() of these"
            )
        needs_grad = tuple(name in chosen for name in problem.names)
        found = dict(zip(problem.names, hessian_diagonal(xp, problem, needs_grad), strict=True))
        return value, gradient, _like(found[chosen[0]], given[chosen[0]])

    return three


def unwrapped(fn: Any) -> tuple[Any, tuple, dict[str, Any]]:
    """Give a loss, and the arguments that ``functools.partial`` has fixed."""
    loss: Any = fn
    before: tuple = ()
    named_before: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        before, named_before = (*loss.args, *before), {**loss.keywords, **named_before}
        loss = loss.func
    if hasattr(getattr(loss, "__wrapped__", None), "build"):
        raise TypeError(
            "fn is what value_and_grad returned; it has no gradient of its own, since arrays have "
            "first derivatives only. Second derivatives are those of tensors: torch.func.hessian"
        )
    if not hasattr(loss, "build"):
        raise TypeError(f"fn must be a loss of nbloss, or functools.partial of one, got {fn!r}")
    return loss, before, named_before


def arguments_at(loss: Any, argnums: Any, count: int) -> list[str]:
    """Name the arguments at positions, after a number of arguments that are fixed."""
    names = list(signature(loss).parameters)
    numbers = argnums if isinstance(argnums, Sequence) else (argnums,)
    chosen = []
    for given in numbers:
        try:
            number = operator.index(given)
        except TypeError:
            raise TypeError(
                f"argnums must be an int or a sequence of int, got {argnums!r}"
            ) from None
        place = number + count if number >= 0 else number
        if not -len(names) <= place < len(names):
            raise ValueError(f"argnums has {number}, but {loss.__name__}() takes {names}")
        chosen.append(names[place])
    return chosen


def _evaluate(
    loss: Any, chosen: list[str], arguments: tuple, named: dict[str, Any]
) -> tuple[Any, list[Any]]:
    from nbloss.engine.evaluate import backward, forward

    xp, problem, given, first = _problem(loss, arguments, named)
    possible = [n for n, has in zip(problem.names, problem.differentiable, strict=True) if has]
    for name in chosen:
        if name not in possible:
            raise ValueError(
                f"{loss.__name__}() has no gradient with respect to {name} here, only with respect "
                f"to {possible}"
            )
    needs_grad = tuple(name in chosen for name in problem.names)
    value, gradients = forward(xp, problem, needs_grad)
    if problem.reduction == "none":
        gradients = backward(xp, problem, xp.ones_like(value), needs_grad)
    by_name = dict(zip(problem.names, gradients, strict=True))
    found = [_like(by_name[name], given[name]) for name in chosen]
    return xp.as_given(value[()], first), [xp.as_given(x, first) for x in found]


def _problem(loss: Any, arguments: tuple, named: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Check the arguments of a loss of arrays; give their module, problem, names and the first."""
    from nbloss.backends.array_calls import backend_of, built

    given = signature(loss).bind(*arguments, **named).arguments
    first = given.get(loss.leading)
    if hasattr(type(first), "__torch_function__"):
        raise TypeError(
            f"value_and_grad takes arrays, but {loss.leading} is a {type(first).__name__} of "
            f"torch; for tensors call {loss.__name__}(), and then .backward() or "
            "torch.autograd.grad"
        )
    xp = backend_of(first)
    problem = built(xp, loss, arguments, named)
    return xp, problem, given, first


def _like(gradient: Any, argument: Any) -> Any:
    """Sum over what was broadcast, and give it the argument's type if that is floating."""
    shape = tuple(argument.shape)
    added = gradient.ndim - len(shape)
    repeated = tuple(
        axis
        for axis, size in enumerate(gradient.shape)
        if axis < added or (shape[axis - added] == 1 and size != 1)
    )
    if repeated:
        # Many small numbers are lost beside a sum of their own type.
        wide = "float32" if gradient.dtype.name == "float16" else "float64"
        total = gradient.sum(axis=repeated, keepdims=True, dtype=wide)
        gradient = total.reshape(shape).astype(gradient.dtype)
    if is_floating(argument):
        return gradient.astype(argument.dtype.newbyteorder("="), copy=False)
    return gradient

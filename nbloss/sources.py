"""The source of a loss's kernels."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np


def source(
    loss: Callable[..., Any],
    device: str = "cpu",
    dtype: str = "float32",
    reduction: str = "mean",
    gradients: bool = True,
    shape: tuple[int, ...] = (8, 16),
    **options: Any,
) -> str:
    """Give the Python source of the kernel that computes a loss.

    Parameters
    ----------
    loss : function
        A loss of nbloss, or one's own.
    device : {"cpu", "cuda"}, optional
        For which device; none need be there.
    dtype : {"float32", "float64", "float16", "bfloat16"}, optional
        Type of the operands.
    reduction : {"mean", "sum", "none"}, optional
    gradients : bool, optional
        Whether the kernel makes the gradients as well; with ``reduction="none"`` the gradients have
        a kernel of their own, which is given then.
    shape : tuple of int, optional
        Shape of the operands; scores of shape (N, C, d1, ...) have kernels of their own.
    **options
        Further arguments of the loss, such as ``label_smoothing=0.1`` or ``p=1``; also operands,
        such as class weights, or class probabilities as the ``target`` of cross entropy.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If ``loss`` is no loss of nbloss.
    ValueError
        If the device is unknown.

    Examples
    --------
    >>> import nbloss
    >>> print(nbloss.source(nbloss.huber_loss).splitlines()[0])
    def huber_loss(call, numbers, chunk):
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if not hasattr(loss, "build"):
        raise TypeError(f"loss must be a loss of nbloss, got {loss!r}")
    # Numba comes with these.
    from nbloss.backends import numpy as xp
    from nbloss.codegen import emit_cpu
    from nbloss.codegen.memory import STORED
    from nbloss.engine.evaluate import PATTERNS, request
    from nbloss.engine.patterns import pairs
    from nbloss.formula.registry import LOSSES
    from nbloss.samples import sample

    if dtype not in STORED:
        raise ValueError(f"dtype must be one of {', '.join(STORED)}, got {dtype!r}")
    definition = LOSSES[loss.build.__name__]
    chosen = sample(definition, *shape)
    given = dict(zip(list(inspect.signature(loss).parameters), chosen.operands, strict=False))
    problem = loss.build(xp, **{**given, **options}, reduction=reduction)
    needs_grad = tuple(gradients and has for has in problem.differentiable)
    value = "each" if reduction == "none" else "sum"
    grad_output = None
    pattern = PATTERNS[problem.definition.pattern]
    if gradients and reduction == "none":
        value = ""
        grad_output = pattern.spread(xp, np.ones(pattern.value_shape(problem)), problem)
    asked = request(xp, problem, problem.operands, needs_grad, value, grad_output)
    # NumPy has no bfloat16, and the kernel is not run.
    asked = replace(asked, dtype=dtype, on_device=device == "cuda")
    if device == "cuda":
        from nbloss.engine.cuda import emitted
        from nbloss.engine.cuda import pairs as pairs_on_device

        return pairs_on_device.source() if pattern is pairs else emitted.source(pattern, asked)
    if pattern is pairs:
        return pairs.source(asked)
    return emit_cpu.source(pattern.work(asked).spec)

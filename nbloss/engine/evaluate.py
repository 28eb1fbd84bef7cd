"""From a problem to its value and gradients, on any kind of array.

Each pattern says what shape its value has (``value_shape``), how the memory is walked
(``prepare``), and how it reads the gradient from above (``spread``); the rest is the same for all.

``xp`` is the module that knows the arrays at hand, :mod:`nbloss.bridge.numpy` or
:mod:`nbloss.bridge.torch`.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from nbloss.engine import driver
from nbloss.engine.buffers import LARGE
from nbloss.engine.launch import NO_MEMORY, NOTHING_BAD, Launch, Request
from nbloss.engine.patterns import classes, common, pairs, pointwise, rows
from nbloss.engine.problem import Problem, present
from nbloss.formula.registry import Definition

if TYPE_CHECKING:
    from nbloss.engine.cuda.launch import Launch as LaunchOnDevice

    AnyLaunch: TypeAlias = Launch | LaunchOnDevice
else:
    AnyLaunch = Launch  # the other is imported where there is a device

PATTERNS = {"pointwise": pointwise, "classes": classes, "pairs": pairs, "rows": rows}


def forward(xp: Any, problem: Problem, wanted: tuple[bool, ...]) -> tuple[Any, list]:
    """Give the value and, for a reduced loss, the wanted gradients from the same pass.

    Parameters
    ----------
    xp : module
    problem : Problem
    wanted : tuple of bool
        For each operand, whether its gradient is wanted.

    Returns
    -------
    tuple
        The value, and a gradient or None for each operand.

    Raises
    ------
    IndexError, RuntimeError
        If a label is out of range.
    """
    launch, operands, _ = fitted(xp, problem, *first_pass(problem, wanted))
    return run(xp, launch, (*operands, *present(problem.constants)))


def first_pass(problem: Problem, wanted: tuple[bool, ...]) -> tuple[tuple[bool, ...], str]:
    """Say which gradients are made together with the value, and what becomes of the values.

    Without a reduction none are: each is multiplied by a number that is not known yet.
    """
    if problem.reduction == "none":
        return (False,) * len(wanted), "each"
    return wanted, "sum"


def backward(xp: Any, problem: Problem, upstream: Any, wanted: tuple[bool, ...]) -> list:
    """Give the wanted gradients, times the gradient from above.

    ``upstream`` is an array of the value's shape. To look at the number that it is for a reduced
    loss would be to wait for a device; there every row reads it.
    """
    scale = 1.0
    pattern = PATTERNS[problem.definition.pattern]
    if problem.reduction == "none":
        upstream = pattern.spread(xp, upstream, problem)
    elif xp.device(problem.operands[0]) is None:
        scale, upstream = upstream.item(), None
    else:
        one_for_each = problem.shape if pattern is pointwise else pattern.value_shape(problem)
        upstream = xp.broadcast_to(upstream, one_for_each)
    launch, operands, upstream = fitted(xp, problem, wanted, "", upstream)
    return run(xp, launch, (*operands, *present(problem.constants)), scale, upstream)[1]


def hessian_diagonal(xp: Any, problem: Problem, wanted: tuple[bool, ...]) -> list:
    """Give the diagonals of the Hessian of the sum of the values, for the wanted operands."""
    operands = problem.operands
    asked = request(xp, problem, operands, wanted, "", None)
    launch = prepared(replace(asked, order=2))
    if launch is None:
        operands = tuple(xp.contiguous(x) for x in operands)
        asked = request(xp, problem, operands, wanted, "", None)
        launch = prepared(replace(asked, order=2))
        assert launch is not None, "every kernel takes contiguous arrays"
    return run(xp, launch, (*operands, *present(problem.constants)))[1]


def rescale(xp: Any, definition: Definition, gradients: list, grad_output: Any) -> None:
    """Multiply gradients that were made with the value by `grad_output`, in place.

    `grad_output` is a number, or an array that broadcasts to the gradients; on a device it is a
    number.
    """
    keeps_zeros = definition.keeps_zeros
    if xp.device(grad_output) is not None:
        from nbloss.engine.cuda.scaling import scale

        scale(xp, gradients, grad_output, keeps_zeros)
        return
    steps = zip(grad_output.shape, xp.strides(grad_output), strict=True)
    if xp.size(grad_output) > 1 and not any(step for size, step in steps if size != 1):
        grad_output = grad_output[(0,) * len(grad_output.shape)]  # one number, as of a sum
    factor = grad_output.item() if xp.size(grad_output) == 1 else grad_output
    if xp.size(grad_output) == 1 and factor == 1.0:
        return
    with xp.serial():
        if keeps_zeros:
            # Without infinities and NaN, zeros stay what they are. (A product that overflows only
            # takes the longer way.)
            numbers = grad_output.reshape(-1)
            keeps_zeros = not bool(numbers.dot(numbers) < math.inf)
        for gradient in gradients:
            if gradient is not None:
                zeros = gradient == 0 if keeps_zeros else None
                gradient *= factor
                if zeros is not None:
                    gradient[zeros] = 0


def fitted(
    xp: Any, problem: Problem, wanted: tuple[bool, ...], value: str, upstream: Any = None
) -> tuple[AnyLaunch, tuple, Any]:
    """Prepare a launch for arrays as they lie, or else for contiguous copies of them.

    Returns
    -------
    tuple
        The launch, the operands, and the gradient from above.
    """
    operands = problem.operands
    launch = prepared(request(xp, problem, operands, wanted, value, upstream))
    if launch is None:
        operands = tuple(xp.contiguous(x) for x in operands)
        upstream = None if upstream is None else xp.contiguous(upstream)
        launch = prepared(request(xp, problem, operands, wanted, value, upstream))
        assert launch is not None, "every kernel takes contiguous arrays"
    return launch, operands, upstream


def request(
    xp: Any, problem: Problem, operands: tuple, wanted: tuple[bool, ...], value: str, upstream: Any
) -> Request:
    """Say what a kernel is asked for."""
    return Request(
        problem.definition,
        problem.parameters,
        problem.reduction,
        problem.options,
        xp.dtype(operands[0]),
        problem.shape,
        tuple(xp.strides(x) for x in operands),
        tuple(x is not None for x in problem.constants),
        wanted,
        value,
        None if upstream is None else xp.strides(upstream),
        xp.device(operands[0]) is not None,
    )


@functools.lru_cache(maxsize=4096)
def prepared(request: Request) -> AnyLaunch | None:
    """Prepare a launch once for all calls that are alike; None if it takes contiguous operands."""
    pattern = PATTERNS[request.definition.pattern]
    if request.on_device:
        from nbloss.engine.cuda import emitted
        from nbloss.engine.cuda import pairs as pairs_on_device

        if pattern is pairs:
            return pairs_on_device.prepare(request)
        return emitted.prepare(pattern, request)
    return pairs.prepare(request) if pattern is pairs else common.prepare(pattern, request)


def run(
    xp: Any, launch: AnyLaunch, arrays: Sequence, scale: float = 1.0, upstream: Any = None
) -> tuple[Any, list]:
    """Run a launch on memory. Tiny calls spend much of their time here; every line counts.

    Parameters
    ----------
    xp : module
    launch : Launch
    arrays : sequence
        The operands of a problem, and then the constants that there are.
    scale : float, optional
        A further factor of all gradients.
    upstream : array, optional
        The gradient from above, if there is one for each value.

    Returns
    -------
    tuple
        The value or None, and a gradient or None for each operand.
    """
    every, gradients, value = [*arrays], [], None
    empty_like, shape = xp.empty_like, launch.value_shape
    for x, wanted in zip(arrays, launch.wanted):  # noqa: B905 (the constants come last)
        made = None
        if wanted:
            if launch.size >= LARGE:
                made = xp.large(x.shape, x)
            else:
                made = empty_like(x) if launch.contiguous else xp.empty(x.shape, x)
            every.append(made)
        gradients.append(made)
    if shape is not None:
        if not shape and not launch.on_device:
            value = empty_like(xp.NUMBERS[launch.dtype])
        else:
            value = (xp.large if launch.size >= LARGE else xp.empty)(shape, arrays[0])
        every.append(value)
    if upstream is not None:
        every.append(upstream)
    if launch.on_device:
        launch.start(xp, every)
        return value, gradients
    addresses = (*map(xp.address, every), *launch.padding)
    quick = launch.quick
    if quick is None:
        bad = driver.run(launch, scale, addresses, xp.threads)
    else:
        bad = quick(launch.address, scale, addresses)
    if bad != NOTHING_BAD:
        if bad == NO_MEMORY:
            raise MemoryError("nbloss found no memory for a kernel to work in")
        labels = [x for x in arrays[len(gradients) :] if "int" in str(x.dtype)]
        which, place = divmod(bad, xp.size(labels[0]))
        raise PATTERNS[launch.pattern].out_of_range(xp.item(labels[which], place))
    return value, gradients

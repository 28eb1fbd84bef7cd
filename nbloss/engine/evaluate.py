"""From a problem to its value and gradients, on any kind of array.

Each pattern says what shape its value has (``value_shape``), what there is to do (``work``), and
how it reads `grad_output` (``spread``); the rest is the same for all.

``xp`` is the module that knows the arrays at hand, :mod:`nbloss.backends.numpy` or
:mod:`nbloss.backends.torch`.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from nbloss.engine import driver
from nbloss.engine.backend import ArrayBackend, DeviceBackend
from nbloss.engine.buffers import LARGE
from nbloss.engine.patterns import classes, common, pairs, pointwise, rows
from nbloss.engine.plan import NO_MEMORY, NOTHING_BAD, Plan, Request
from nbloss.engine.problem import Problem, present
from nbloss.formula.registry import Definition

if TYPE_CHECKING:
    from nbloss.engine.cuda.plan import Plan as PlanOnDevice

    AnyPlan: TypeAlias = Plan | PlanOnDevice
else:
    AnyPlan = Plan  # the other is imported where there is a device

PATTERNS = {"pointwise": pointwise, "classes": classes, "pairs": pairs, "rows": rows}


def forward(xp: ArrayBackend, problem: Problem, needs_grad: tuple[bool, ...]) -> tuple[Any, list]:
    """Give the value and, for a reduced loss, the gradients that are needed, from the same pass.

    Parameters
    ----------
    xp : module
    problem : Problem
    needs_grad : tuple of bool
        For each operand, whether its gradient is needed.

    Returns
    -------
    tuple
        The value, and a gradient or None for each operand.

    Raises
    ------
    IndexError, RuntimeError
        If a label is out of range.
    """
    plan, operands, _ = fitted(xp, problem, *first_pass(problem, needs_grad))
    return run(xp, plan, (*operands, *present(problem.constants)))


def first_pass(problem: Problem, needs_grad: tuple[bool, ...]) -> tuple[tuple[bool, ...], str]:
    """Say which gradients are made together with the value, and what becomes of the values.

    Without a reduction none are: each is multiplied by a number that is not known yet.
    """
    if problem.reduction == "none":
        return (False,) * len(needs_grad), "each"
    return needs_grad, "sum"


def backward(
    xp: ArrayBackend, problem: Problem, grad_output: Any, needs_grad: tuple[bool, ...]
) -> list:
    """Give the gradients that are needed, times `grad_output`.

    ``grad_output`` is an array of the value's shape. To look at the number that it is for a reduced
    loss would be to wait for a device; there every row reads it.
    """
    scale = 1.0
    pattern = PATTERNS[problem.definition.pattern]
    if problem.reduction == "none":
        grad_output = pattern.spread(xp, grad_output, problem)
    elif xp.device(problem.operands[0]) is None:
        scale, grad_output = grad_output.item(), None
    else:
        one_for_each = problem.shape if pattern is pointwise else pattern.value_shape(problem)
        grad_output = xp.broadcast_to(grad_output, one_for_each)
    plan, operands, grad_output = fitted(xp, problem, needs_grad, "", grad_output)
    return run(xp, plan, (*operands, *present(problem.constants)), scale, grad_output)[1]


def hessian_diagonal(xp: ArrayBackend, problem: Problem, needs_grad: tuple[bool, ...]) -> list:
    """Give the diagonal of the Hessian of the sum of the values, for each operand that needs it."""
    operands = problem.operands
    asked = request(xp, problem, operands, needs_grad, "", None)
    plan = plan_for(replace(asked, order=2))
    if plan is None:
        operands = tuple(xp.contiguous(x) for x in operands)
        asked = request(xp, problem, operands, needs_grad, "", None)
        plan = plan_for(replace(asked, order=2))
        assert plan is not None, "every kernel takes contiguous arrays"
    return run(xp, plan, (*operands, *present(problem.constants)))[1]


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
    xp: ArrayBackend,
    problem: Problem,
    needs_grad: tuple[bool, ...],
    value: str,
    grad_output: Any = None,
) -> tuple[AnyPlan, tuple, Any]:
    """Plan for arrays as they lie, or else for contiguous copies of them.

    Returns
    -------
    tuple
        The plan, the operands, and `grad_output`.
    """
    operands = problem.operands
    plan = plan_for(request(xp, problem, operands, needs_grad, value, grad_output))
    if plan is None:
        operands = tuple(xp.contiguous(x) for x in operands)
        grad_output = None if grad_output is None else xp.contiguous(grad_output)
        plan = plan_for(request(xp, problem, operands, needs_grad, value, grad_output))
        assert plan is not None, "every kernel takes contiguous arrays"
    return plan, operands, grad_output


def request(
    xp: ArrayBackend,
    problem: Problem,
    operands: tuple,
    needs_grad: tuple[bool, ...],
    value: str,
    grad_output: Any,
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
        needs_grad,
        value,
        None if grad_output is None else xp.strides(grad_output),
        xp.device(operands[0]) is not None,
    )


@functools.lru_cache(maxsize=4096)
def plan_for(request: Request) -> AnyPlan | None:
    """Plan once for all calls that are alike; None if it takes contiguous operands."""
    pattern = PATTERNS[request.definition.pattern]
    if request.on_device:
        from nbloss.engine.cuda import emitted
        from nbloss.engine.cuda import pairs as pairs_on_device

        if pattern is pairs:
            return pairs_on_device.make_plan(request)
        return emitted.make_plan(pattern, request)
    return pairs.make_plan(request) if pattern is pairs else common.make_plan(pattern, request)


def run(
    xp: ArrayBackend, plan: AnyPlan, arrays: Sequence, scale: float = 1.0, grad_output: Any = None
) -> tuple[Any, list]:
    """Run a plan on memory. Tiny calls spend much of their time here; every line counts.

    Parameters
    ----------
    xp : module
    plan : Plan
    arrays : sequence
        The operands of a problem, and then the constants that there are.
    scale : float, optional
        A further factor of all gradients.
    grad_output : array, optional
        One number for each value.

    Returns
    -------
    tuple
        The value or None, and a gradient or None for each operand.
    """
    every, gradients, value = [*arrays], [], None
    empty_like, shape = xp.empty_like, plan.value_shape
    for x, needs_grad in zip(arrays, plan.needs_grad):  # noqa: B905 (the constants come last)
        made = None
        if needs_grad:
            if plan.size >= LARGE:
                made = xp.large(x.shape, x)
            else:
                made = empty_like(x) if plan.contiguous else xp.empty(x.shape, x)
            every.append(made)
        gradients.append(made)
    if shape is not None:
        if not shape and not plan.on_device:
            value = empty_like(xp.NUMBERS[plan.dtype])
        else:
            value = (xp.large if plan.size >= LARGE else xp.empty)(shape, arrays[0])
        every.append(value)
    if grad_output is not None:
        every.append(grad_output)
    if plan.on_device:
        plan.start(cast(DeviceBackend, xp), every)
        return value, gradients
    addresses = (*map(xp.address, every), *plan.padding)
    quick = plan.quick
    if quick is None:
        bad = driver.run(plan, scale, addresses, xp.threads)
    else:
        bad = quick(plan.address, scale, addresses)
    if bad != NOTHING_BAD:
        if bad == NO_MEMORY:
            raise MemoryError("nbloss found no memory for a kernel to work in")
        labels = [x for x in arrays[len(gradients) :] if "int" in str(x.dtype)]
        which, place = divmod(bad, xp.size(labels[0]))
        raise PATTERNS[plan.pattern].out_of_range(xp.item(labels[which], place))
    return value, gradients

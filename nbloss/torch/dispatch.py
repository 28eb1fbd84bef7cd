"""How a call with tensors is computed: the first route that can.

1. Where torch watches operations instead of running them (``torch.compile``, ``torch.export``,
   modes of the dispatcher, tracers) it gets an operator: :mod:`nbloss.torch.operators`.
2. Subclasses and modes that override torch's functions are asked first.
3. Where torch transforms functions (``torch.func``, forward-mode differentiation) the loss is
   composed of torch's own operations: :mod:`nbloss.torch.composite`.
4. A call like one before goes straight to its kernel.
5. Any other call has its arguments checked, and then goes to a kernel.

They are asked for in another order, so that the fourth, which most calls take, is found soon.

What has no kernel (a dtype, a device, a subclass) is handed to torch's own function of the same
name, and so is every call whose arguments fail a check: torch then computes the result, or says
what is wrong in its own words.
"""

import inspect
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.parameter import Parameter

from nbloss.backends import torch as backend
from nbloss.backends.unsupported import Unsupported
from nbloss.engine.evaluate import fitted, forward, run
from nbloss.engine.problem import present
from nbloss.formula.distance import Distance
from nbloss.torch import fallback, operators
from nbloss.torch.autograd import CallPlan, LossFunction, apply, in_forward
from nbloss.torch.composite import composed

# What is asked at every call, by the shortest names.
_compiling = torch.compiler.is_compiling
_overridden = torch.overrides.has_torch_function
_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_grad_enabled = torch.is_grad_enabled


def call(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss of a public function, with a way back for autograd."""
    if _compiling():
        return operators.call(function, arguments, named)
    if _overridden((*arguments, *named.values()) if named else arguments):
        return overriding(function, arguments, named)
    if forward_ad._current_level >= 0:
        return composed(function, arguments, named)
    key, tensors = cache_key(function, arguments, named)
    try:
        kinds = CALL_PLANS.get(key)
    except TypeError:  # an argument that can't be hashed
        kinds, key = None, None
    # Even to ask a tensor for its shape leaves a mark in the graph that torch.jit.trace records.
    watched = _modes() > 0 or _tracing_state() is not None
    if kinds is not None and not watched:
        # The guard also tells that there are no transforms, tracers or autocast.
        latest = kinds.latest
        kind = latest if latest.guard(*tensors) else kinds.find(tensors)
        if kind is not None:
            if kind.needs_grad:
                return apply(kind, *tensors)
            return run(backend, kind.plan, tensors)[0]  # type: ignore[arg-type]
    if torch._C._functorch.maybe_current_level() is not None:
        return composed(function, arguments, named)
    if watched:
        return operators.call(function, arguments, named)
    if torch._C._is_any_autocast_enabled():
        key = None
    return checked(function, arguments, named, key, tensors)


# --- calls that are alike -------------------------------------------------------------------------


class Kinds:
    """What is known of calls that have all in common but their tensors."""

    __slots__ = ("latest", "others")

    def __init__(self, kind: CallPlan) -> None:
        self.latest = kind
        # By the layout of their tensors: however many there are, one of them is looked at.
        self.others: dict[tuple, CallPlan] = {}

    def find(self, tensors: list[Tensor]) -> CallPlan | None:
        """Find what fits tensors other than the latest."""
        kind = self.others.get(layout(tensors))
        if kind is None or not kind.guard(*tensors):
            return None
        self.latest = kind
        return kind


CALL_PLANS: dict[tuple, Kinds] = {}
MOST_LAYOUTS = 4096  # of calls that have all else in common
MOST_OPTIONS = 1024
# Options that stay what they are.
LASTING = (bool, int, float, str, type(None), np.generic, Distance)
DEPRECATED = ("size_average", "reduce")  # torch warns of these at every call


def cache_key(function: Any, arguments: tuple, named: dict[str, Any]) -> tuple[Any, list[Tensor]]:
    """Give all of a call but its tensors, and these."""
    key: list[Any] = [function, _grad_enabled()]
    tensors = []
    for x in arguments:
        kind = type(x)
        if kind is Tensor or kind is Parameter:
            tensors.append(x)
        else:
            key += len(tensors), kind, x
    for name, x in named.items():
        kind = type(x)
        if kind is Tensor or kind is Parameter:
            tensors.append(x)
            key.append(name)
        else:
            key += name, kind, x
    key.append(len(tensors))
    return tuple(key), tensors


def layout(tensors: list[Tensor]) -> tuple:
    """Give what tells the tensors of calls apart that are alike but for them."""
    return tuple((x.shape, x.stride(), x.dtype, x.requires_grad, x.device) for x in tensors)


def cache_plan(
    function: Any,
    arguments: tuple,
    named: dict[str, Any],
    key: tuple,
    tensors: list,
    kind: CallPlan,
) -> None:
    """Let calls like this one go straight to the kernel, if it can take their tensors as they are.

    That is so if the tensors of the call, one by one, are the arrays of the problem, and if nothing
    has to be said at each call.
    """
    given = inspect.signature(function).bind(*arguments, **named).arguments
    if any(given.get(word) is not None for word in DEPRECATED):
        return
    if not all(isinstance(x, (Tensor, *LASTING)) for x in given.values()):
        return  # a distance, say, that can be changed
    problem = kind.problem
    arrays = (*problem.operands, *present(problem.constants))
    if len(arrays) != len(tensors) or any(x is not y for x, y in zip(arrays, tensors, strict=True)):
        return
    value = "each" if problem.reduction == "none" else "sum"
    plan, operands, _ = fitted(backend, problem, kind.in_forward, value)
    if any(x is not y for x, y in zip(operands, problem.operands, strict=True)):
        return
    # torch's own compiler tells in this way whether it can use again what it has compiled: by the
    # types, shapes and strides, and by the dispatch keys of the tensors and of the moment.
    guards: Any = torch._C._dynamo.guards
    guard = guards.TensorGuards(
        *tensors,
        dynamic_dims_sizes=[list(x.shape) for x in tensors],
        dynamic_dims_strides=[list(x.stride()) for x in tensors],
    ).check
    if not guard(*tensors):  # the same tensor in two places, say
        return
    known = kind.bare(plan, guard)
    kinds = CALL_PLANS.get(key)
    if kinds is None:
        if len(CALL_PLANS) >= MOST_OPTIONS:
            CALL_PLANS.clear()
        kinds = CALL_PLANS[key] = Kinds(known)
    if len(kinds.others) >= MOST_LAYOUTS:
        kinds.others.clear()
    kinds.others[layout(tensors)] = kinds.latest = known


# --- routes ---------------------------------------------------------------------------------------


def checked(
    function: Any,
    arguments: tuple,
    named: dict[str, Any],
    key: tuple | None = None,
    tensors: Any = (),
) -> Any:
    """Check the arguments, and run a kernel on them."""
    if any(isinstance(x, FakeTensor) for x in (*arguments, *named.values())):
        return operators.call(function, arguments, named)
    try:
        problem = function.build(backend, *arguments, **named)
        backend.on_one_device(problem)
    except Unsupported as reason:
        return fallback.fall_back(function.__name__, reason.error, arguments, named)
    operands = problem.operands
    needs_grad = tuple(
        x.requires_grad and has for x, has in zip(operands, problem.differentiable, strict=True)
    )
    if not any(needs_grad) or not _grad_enabled():
        needs_grad = ()
    kind = CallPlan(problem, len(operands), needs_grad, in_forward(problem, needs_grad))
    if key is not None:
        cache_plan(function, arguments, named, key, tensors, kind)
    if needs_grad:
        constants = present(problem.constants)
        return LossFunction.apply(kind.bare(), *operands, *constants)  # type: ignore[no-untyped-call]
    return forward(backend, problem, kind.in_forward)[0]


def overriding(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Ask the subclass or mode that overrides torch's functions.

    A subclass knows torch's functions: it is shown what stands under torch's name, which is ours
    where it is patched in. A mode passes on what it does not know, and is shown ours.
    """
    everything = (*arguments, *named.values())
    name = function.build.__name__
    if name in fallback.TORCH_FUNCTIONS and any(_overrides(x) for x in everything):
        function = getattr(torch.nn.functional, name)
    return torch.overrides.handle_torch_function(function, everything, *arguments, **named)


def _overrides(x: Any) -> bool:
    return getattr(type(x), "__torch_function__", None) not in (
        None,
        Tensor.__torch_function__,
        torch._C._disabled_torch_function_impl,
    )

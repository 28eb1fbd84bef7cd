"""How a call with tensors is computed: the first route that can.

1. Subclasses and modes that override torch's functions are asked first.
2. Where torch transforms functions (``torch.func``, forward-mode differentiation) the loss is
   composed of torch's own operations: :mod:`nbloss.bridge.composite`.
3. Where torch watches operations instead of running them (``torch.compile``, ``torch.export``,
   modes of the dispatcher) it gets an operator: :mod:`nbloss.bridge.operators`.
4. A call like one before goes straight to its kernel.
5. Any other call has its arguments checked, and then goes to a kernel.

What has no kernel (a dtype, a device, a subclass) is handed to torch's own function of the same
name, and so is every call whose arguments fail a check: torch then computes the result, or says
what is wrong in its own words.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.parameter import Parameter

from nbloss.bridge import composite, operators, originals
from nbloss.bridge import torch as tensors_bridge
from nbloss.bridge.autograd import Kind, LossFunction, apply
from nbloss.bridge.refusal import Unserved
from nbloss.engine.evaluate import first_pass, fitted, forward, run
from nbloss.engine.problem import present

# What is asked at every call, by the shortest names.
_compiling = torch.compiler.is_compiling
_overridden = torch.overrides.has_torch_function
_transforms = torch._C._functorch.maybe_current_level
_modes = torch._C._len_torch_dispatch_stack
_traced = torch._C._get_tracing_state
_autocast = torch._C._is_any_autocast_enabled
_grad_enabled = torch.is_grad_enabled
_keys = torch._C._dispatch_keys


def call(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss of a public function, with a way back for autograd."""
    if _compiling():
        return operators.call(function, arguments, named)
    if _overridden((*arguments, *named.values()) if named else arguments):
        return overriding(function, arguments, named)
    if _transforms() is not None or forward_ad._current_level >= 0:
        return composed(function, arguments, named)
    if _modes() or _traced() is not None:
        return operators.call(function, arguments, named)
    if _autocast():
        return checked(function, arguments, named)
    key, tensors = likeness(function, arguments, named)
    try:
        kind = KINDS.get(key)
    except TypeError:  # an argument that can't be hashed
        kind = None
    if kind is None:
        return checked(function, arguments, named, key, tensors)
    if kind.wanted:
        return apply(kind, *tensors)
    return run(tensors_bridge, kind.launch, tensors)[0]  # type: ignore[arg-type]


# --- calls that are alike -------------------------------------------------------------------------

# What is known of calls by what they have in common.
KINDS: dict[tuple, Kind] = {}
MOST_KINDS = 4096
DEPRECATED = ("size_average", "reduce")  # torch warns of these at every call


def likeness(function: Any, arguments: tuple, named: dict[str, Any]) -> tuple[tuple, list[Tensor]]:
    """Give all of a call but the numbers in its tensors, and these tensors."""
    key: list[Any] = [function, _grad_enabled(), tuple(named)]
    tensors = []
    for x in (*arguments, *named.values()) if named else arguments:
        kind = type(x)
        if kind is Tensor or kind is Parameter:
            tensors.append(x)
            key += (
                x.dtype,
                x.shape,
                _keys(x).raw_repr(),  # device, layout, and whether x is what its memory says
                x.requires_grad,
                x.is_contiguous() or x.stride(),
            )
        else:
            key += kind, x
    return tuple(key), tensors


def remember(
    function: Any, arguments: tuple, named: dict[str, Any], key: tuple, tensors: list, kind: Kind
) -> None:
    """Let calls like this one go straight to the kernel, if it can take their tensors as they are.

    That is so if the tensors of the call, one by one, are the arrays of the problem, and if nothing
    has to be said at each call.
    """
    given = inspect.signature(function).bind(*arguments, **named).arguments
    if any(given.get(word) is not None for word in DEPRECATED):
        return
    if any(isinstance(x, torch.nn.Module) for x in given.values()):
        return  # a distance that can be changed
    problem = kind.problem
    arrays = (*problem.operands, *present(problem.constants))
    if len(arrays) != len(tensors) or any(x is not y for x, y in zip(arrays, tensors, strict=True)):
        return
    launch, operands, _ = fitted(tensors_bridge, problem, *first_pass(problem, kind.early))
    if any(x is not y for x, y in zip(operands, problem.operands, strict=True)):
        return
    if len(KINDS) >= MOST_KINDS:
        KINDS.clear()
    KINDS[key] = kind.bare(launch)


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
        problem = function.build(tensors_bridge, *arguments, **named)
    except Unserved as refusal:
        return originals.unserved(function.__name__, refusal.error, arguments, named)
    operands = problem.operands
    wanted = tuple(x.requires_grad for x in operands)
    if not any(wanted) or not _grad_enabled():
        wanted = ()
    # A half type rounds its gradient once: when what comes from above is known.
    half = operands[0].dtype in tensors_bridge.HALF
    early = (False,) * len(operands) if half or not wanted else wanted
    kind = Kind(problem, len(operands), wanted, early)
    if key is not None:
        remember(function, arguments, named, key, tensors, kind)
    if wanted:
        constants = present(problem.constants)
        return LossFunction.apply(kind.bare(), *operands, *constants)  # type: ignore[no-untyped-call]
    return forward(tensors_bridge, problem, early)[0]


def composed(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss by operations that torch can differentiate again and transform."""
    try:
        problem = function.build(tensors_bridge, *arguments, **named)
    except Unserved as refusal:
        return originals.unserved(function.__name__, refusal.error, arguments, named)
    return composite.evaluate(problem)


def overriding(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Ask the subclass or mode that overrides torch's functions.

    A subclass knows torch's functions: it is shown what stands under torch's name, which is ours
    where it is patched in. A mode passes on what it does not know, and is shown ours.
    """
    everything = (*arguments, *named.values())
    if any(hasattr(type(x), "__torch_function__") and _overrides(x) for x in everything):
        function = getattr(torch.nn.functional, function.__name__, function)
    return torch.overrides.handle_torch_function(function, everything, *arguments, **named)


def _overrides(x: Any) -> bool:
    return type(x).__torch_function__ not in (
        Tensor.__torch_function__,
        torch._C._disabled_torch_function_impl,
    )

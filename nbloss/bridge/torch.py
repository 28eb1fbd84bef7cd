"""Torch tensors for the builders and the engine.

What has no kernel (a dtype, a device, a subclass, a transform in progress) is handed to torch's own
function of the same name, and so is every call whose arguments fail a check: torch then computes
the result, or says what is wrong in its own words.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from nbloss.bridge import composite
from nbloss.bridge.autograd import LossFunction
from nbloss.bridge.refusal import refuse
from nbloss.engine import threads as engine_threads
from nbloss.engine.evaluate import forward
from nbloss.engine.patterns.survey import survey as engine_survey
from nbloss.engine.problem import Problem
from nbloss.engine.registry import LOSSES

FLOATS = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
HALF = (torch.float16, torch.bfloat16)
# What torch computes in float32 under autocast. The others take the types that they are given.
AUTOCAST_TO_FLOAT32 = {
    "cross_entropy",
    "huber_loss",
    "margin_ranking_loss",
    "multilabel_margin_loss",
    "nll_loss",
    "triplet_margin_loss",
}
# What takes part in arithmetic as the number that it is; unsigned ones wrap when torch negates.
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)

# torch's own functions, as they are before anybody puts others in their place.
ORIGINALS = {
    name: getattr(torch.nn.functional, name)
    for name in LOSSES
    if hasattr(torch.nn.functional, name)
}

THIS = sys.modules[__name__]

# --- memory -----------------------------------------------------------------------------------


def dtype(x: Tensor) -> str:
    return FLOATS[x.dtype]


def address(x: Tensor) -> int:
    return x.data_ptr()


def strides(x: Tensor) -> tuple[int, ...]:
    """Steps along the dimensions, in elements."""
    return x.stride()


def is_contiguous(x: Tensor) -> bool:
    return x.is_contiguous()


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def size(x: Tensor) -> int:
    return x.numel()


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype)


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.zeros(shape, dtype=like.dtype)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.expand(shape)


def threads() -> int:
    """As many as torch may use."""
    return torch.get_num_threads()


@contextlib.contextmanager
def _thread_count_kept() -> Iterator[None]:
    """Put back torch's number of threads, which the start of an OpenMP layer changes."""
    count = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)


engine_threads.guard_start(_thread_count_kept)

# --- arguments --------------------------------------------------------------------------------


def _opaque() -> bool:
    """Whether torch looks at calls in a way that only its own functions bear."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
    )


def tensor(loss: str, argument: str, value: Any) -> Tensor:
    """Take an argument as a plain dense tensor on the CPU."""
    if type(value) is not Tensor and type(value) is not Parameter:
        message = (
            f"{loss}(): {argument} must be a tensor, like the first operand, got {value!r:.60}"
        )
        if not hasattr(type(value), "__torch_function__"):
            raise TypeError(message)
        refuse(TypeError(message))
    if value.layout != torch.strided or value.device.type != "cpu":
        refuse(NotImplementedError(f"{loss}(): {argument} is {value.layout} on {value.device}"))
    return value.resolve_neg() if value.is_neg() else value


def operands(loss: str, integers: bool = False, **named: Any) -> tuple[Tensor, ...]:
    """Bring operands to the one floating type that is among them.

    Parameters
    ----------
    loss : str
    integers : bool
        Whether the first operand may be of integers; all others may.
    **named
        The operands by the names of their arguments.
    """
    tensors = [tensor(loss, name, value) for name, value in named.items()]
    if _opaque():
        refuse(NotImplementedError(f"{loss}(): no kernel under a compiler or a mode of torch"))
    if loss in AUTOCAST_TO_FLOAT32 and torch.is_autocast_enabled("cpu"):
        tensors = [x.float() if x.dtype in HALF else x for x in tensors]
    first = tensors[0].dtype
    common = first
    if integers and first in INTEGERS:
        common = next((x.dtype for x in tensors if x.dtype in FLOATS), first)
    if common not in FLOATS:
        refuse(NotImplementedError(f"{loss}(): no kernel for {common}"))
    if all(x.dtype == common for x in tensors):
        return tuple(tensors)
    for x, name in zip(tensors, named, strict=True):
        if x.dtype != common and x.dtype not in INTEGERS:
            refuse(NotImplementedError(f"{loss}(): {name} is of {x.dtype} beside {common}"))
    return tuple(x.to(common) for x in tensors)


def expand(tensors: tuple[Tensor, ...], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Broadcast operands to a shape; autograd sums their gradients."""
    return tuple(x if x.shape == shape else x.expand(shape) for x in tensors)


def is_floating(x: Any) -> bool:
    """Whether something is a tensor of floating-point numbers."""
    return isinstance(x, Tensor) and x.is_floating_point()


def labels(loss: str, target: Any, dtypes: tuple[str, ...], message: str) -> Tensor:
    """Take a target of class indices, as contiguous int64.

    ``message`` is what to say of another type than those of ``dtypes``; the type follows it.
    """
    x = tensor(loss, "target", target)
    name = str(x.dtype).removeprefix("torch.")
    if name not in dtypes:
        refuse(RuntimeError(message + name))
    return x.to(torch.int64).contiguous()


def class_weight(loss: str, weight: Any, like: Tensor) -> Tensor:
    """Take the weights of classes, which must have the input's type, and get no gradient."""
    x = tensor(loss, "weight", weight)
    if torch.is_autocast_enabled("cpu") and x.dtype in HALF:
        x = x.to(like.dtype)
    if x.dtype != like.dtype:
        refuse(RuntimeError(f"{loss}(): weight is of {x.dtype}, input of {like.dtype}"))
    if x.requires_grad and torch.is_grad_enabled():
        refuse(RuntimeError(f"{loss}(): no kernel for the gradient by weight"))
    return x.detach().contiguous()


def survey(*arguments: Any) -> Any:
    """Walk over labels; see :func:`nbloss.engine.patterns.survey.survey`."""
    if composite.transforming():
        return composite.survey(*arguments)
    return engine_survey(THIS, *arguments)


def item(x: Tensor, index: int) -> int:
    """One number of a contiguous tensor, by its place in memory."""
    return int(x.view(-1)[index])


def measured(
    loss: str, function: Any, anchor: Tensor, positive: Tensor, negative: Tensor, swap: bool
) -> tuple[Tensor, ...]:
    """Let a user's function measure both distances; torch can differentiate it."""
    near, far = function(anchor, positive), function(anchor, negative)
    if swap:
        far = torch.minimum(far, function(positive, negative))
    if not (isinstance(near, Tensor) and isinstance(far, Tensor)):
        refuse(TypeError(f"{loss}(): distance_function must return a tensor"))
    return operands(loss, positive_distance=near, negative_distance=far)


# --- results ----------------------------------------------------------------------------------


def evaluate(problem: Problem) -> Tensor:
    """Give the loss, with a way back for autograd if any operand wants a gradient."""
    if composite.transforming():
        return composite.evaluate(problem)
    wanted = tuple(x.requires_grad for x in problem.operands)
    if any(wanted) and torch.is_grad_enabled():
        return LossFunction.apply(THIS, problem, wanted, *problem.operands)  # type: ignore[no-untyped-call]
    return forward(THIS, problem, (False,) * len(wanted))[0]


def unserved(name: str, error: Exception, arguments: tuple, named: dict[str, Any]) -> Any:
    """Ask torch itself; where it has no such function, raise the error."""
    original = ORIGINALS.get(name)
    if original is None:
        raise error from None
    return original(*arguments, **named)


# --- who wants to be asked first --------------------------------------------------------------


def overridden(arguments: tuple, named: dict[str, Any]) -> bool:
    """Whether a subclass among the arguments, or a mode, overrides torch's functions."""
    return torch.overrides.has_torch_function((*arguments, *named.values()))


def overriding(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Ask the overriding subclass or mode.

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

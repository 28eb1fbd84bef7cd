"""Torch tensors for the builders and the engine.

The names here are those that :mod:`nbloss.backends.numpy` has for arrays.
"""

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from nbloss.backends.unsupported import unsupported
from nbloss.engine import buffers, forks
from nbloss.engine.problem import Problem, present
from nbloss.formula.registry import LOSSES
from nbloss.losses.distances import lp

FLOATS = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
HALF = (torch.float16, torch.bfloat16)
# The types whose memory is as it seems. The stand-ins that compilers trace with are added by
# :mod:`nbloss.torch.operators`; they get no further than the checks.
PLAIN: set[type] = {Tensor, Parameter}
# What takes part in arithmetic as the number that it is; unsigned ones wrap when torch negates.
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)

# --- memory -----------------------------------------------------------------------------------


def dtype(x: Tensor) -> str:
    return FLOATS[x.dtype]


address = Tensor.data_ptr


def device(x: Tensor) -> int | None:
    """The number of the device whose memory it is; None for the processor."""
    return x.get_device() if x.is_cuda else None


def strides(x: Tensor) -> tuple[int, ...]:
    """Steps along the dimensions, in elements."""
    return x.stride()


def is_contiguous(x: Tensor) -> bool:
    return x.is_contiguous()


def contiguous(x: Tensor) -> Tensor:
    with serial():
        return x.contiguous()


def size(x: Tensor) -> int:
    return x.numel()


def empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_empty(shape)


def _users(owner: Tensor) -> tuple[int, int, bool, int]:
    """Who refers to a tensor's memory, in C++, in Python, in other processes; and its bytes."""
    storage = owner.untyped_storage()
    return (
        torch._C._storage_Use_Count(storage._cdata),
        sys.getrefcount(storage),
        storage.is_shared(),
        storage.nbytes(),  # another owner may have changed it
    )


# The quickest way to a new number is after another.
# They are real ones, whichever modes and transforms are in progress when this module is imported.
with torch._C._DisableTorchDispatch(), torch._C._DisableFuncTorch(), torch.inference_mode(False):
    NUMBERS = {name: torch.empty((), dtype=kind, device="cpu") for kind, name in FLOATS.items()}
    # Another object's tensor, array, capsule or storage makes it more.
    ALONE = _users(torch.empty(1, dtype=torch.uint8, device="cpu"))[:3]


# As much again, contiguous if it is.
empty_like = torch.empty_like


def large(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Make room for much; see :mod:`nbloss.engine.buffers`."""
    size = math.prod(shape) * like.element_size()

    def use(owner: Tensor) -> Tensor:
        return like.new_empty(0).set_(owner.untyped_storage(), 0, shape)  # type: ignore[call-overload]

    made = buffers.again(size, _is_free, use)
    if made is None:
        made = empty(shape, like)
        buffers.prefer_large_pages(address(made), size)
        owner = like.new_empty(0).set_(made.untyped_storage())
        buffers.keep(buffers.Buffer(owner, size, _is_free))
    return made


def _is_free(buffer: buffers.Buffer) -> bool:
    return _users(buffer.owner) == (*ALONE, buffer.size)


def scratch(size: int, like: Tensor) -> Tensor:
    """Bytes of memory of a device to work in; their next user waits on the same stream."""
    return torch.empty(size, dtype=torch.uint8, device=like.device)


def stream(x: Tensor) -> int:
    """The stream that torch uses on a tensor's device at this moment."""
    return torch._C._cuda_getCurrentRawStream(x.get_device())


def current(x: Tensor) -> Any:
    """A context in which a tensor's device is the current one."""
    return torch.cuda.device(x.device)


def is_capturing() -> bool:
    """Whether what is launched is recorded in a graph instead of run."""
    return torch.cuda.is_current_stream_capturing()


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return x.expand(shape)


threads = torch.get_num_threads  # as many as torch may use


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)


def serial() -> contextlib.AbstractContextManager[None]:
    """Keep torch to one thread, too, in a forked child, where its others are gone."""
    return _one_thread() if forks.forked else contextlib.nullcontext()


# --- arguments --------------------------------------------------------------------------------


def is_served(device: torch.device) -> bool:
    """Whether there are kernels for a device.

    Raises
    ------
    ImportError
        If there would be, and what compiles them is not installed.
    """
    if device.type == "cuda" and torch.version.hip is None:
        from nbloss.engine.cuda import compiler

        compiler.require((torch.version.cuda or "13").split(".")[0])
        return True
    return device.type == "cpu"


def goes_to_float32(loss: str, device: torch.device) -> bool:
    """Whether autocast, as it is at the moment, has a loss computed in float32."""
    kind = device.type
    return torch.is_autocast_enabled(kind) and kind in LOSSES[loss].autocast


def on_one_device(problem: Problem) -> Problem:
    """Check that the tensors of a problem lie together."""
    first, *rest = (*problem.operands, *present(problem.constants))
    for x in rest:
        if x.device != first.device:
            loss = problem.definition.name
            unsupported(
                RuntimeError(
                    f"{loss}(): all tensors must be on one device, got {first.device} "
                    f"and {x.device}"
                )
            )
    return problem


def tensor(loss: str, argument: str, value: Any) -> Tensor:
    """Take an argument as a plain dense tensor on a device that has kernels."""
    if type(value) not in PLAIN:
        message = (
            f"{loss}(): {argument} must be a tensor, like the first operand, got {value!r:.60}"
        )
        if not hasattr(type(value), "__torch_function__"):
            raise TypeError(message)
        unsupported(TypeError(message))
    if value.is_neg():
        value = value.resolve_neg()
    if not is_plain(value):
        unsupported(
            NotImplementedError(f"{loss}(): {argument} is {value.layout} on {value.device}")
        )
    return value


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
    if goes_to_float32(loss, tensors[0].device):
        with serial():
            tensors = [x.float() if x.dtype in HALF else x for x in tensors]
    first = tensors[0].dtype
    common = first
    if integers and first in INTEGERS:
        common = next((x.dtype for x in tensors if x.dtype in FLOATS), first)
    if common not in FLOATS:
        unsupported(NotImplementedError(f"{loss}(): no kernel for {common}"))
    if all(x.dtype == common for x in tensors):
        return tuple(tensors)
    for x, name in zip(tensors, named, strict=True):
        if x.dtype != common and x.dtype not in INTEGERS:
            unsupported(NotImplementedError(f"{loss}(): {name} is of {x.dtype} beside {common}"))
    with serial():
        return tuple(x.to(common) for x in tensors)


def expand(tensors: tuple[Tensor, ...], shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Broadcast operands to a shape; autograd sums their gradients."""
    # Sizes are compared in their own places alone: a compiler takes each comparison as a promise.
    rank = len(shape)
    return tuple(x if x.dim() == rank and x.shape == shape else x.expand(shape) for x in tensors)


def is_floating(x: Any) -> bool:
    """Whether something is a tensor of floating-point numbers."""
    return isinstance(x, Tensor) and x.is_floating_point()


def labels(loss: str, argument: str, value: Any, dtypes: tuple[str, ...], message: str) -> Tensor:
    """Take a target of class indices, as contiguous int64.

    ``message`` is what to say of another type than those of ``dtypes``; the type follows it.
    """
    x = tensor(loss, argument, value)
    name = str(x.dtype).removeprefix("torch.")
    if name not in dtypes:
        unsupported(RuntimeError(message + name))
    with serial():
        return x.to(torch.int64).contiguous()


def class_weight(loss: str, argument: str, value: Any, like: Tensor) -> Tensor:
    """Take the weights of classes, which must have the input's type, and get no gradient."""
    x = tensor(loss, argument, value)
    if goes_to_float32(loss, x.device) and x.dtype in HALF:
        x = x.to(like.dtype)
    if x.dtype != like.dtype:
        unsupported(RuntimeError(f"{loss}(): {argument} is of {x.dtype}, input of {like.dtype}"))
    if x.requires_grad and torch.is_grad_enabled():
        unsupported(RuntimeError(f"{loss}() has no gradient with respect to {argument}"))
    return (x.detach() if x.requires_grad else x).contiguous()


def item(x: Tensor, index: int) -> int:
    """One number of a contiguous tensor, by its place in memory."""
    return int(x.view(-1)[index])


def distance(function: Any) -> Any:
    """Give the definition of a distance function, where there is one; None is the default."""
    if function is None:
        return lp(2.0, eps=1e-6)
    return lp(function.norm, function.eps) if is_pairwise(function) else function


def is_pairwise(function: Any) -> bool:
    """Whether a distance is torch's module for the p-norm, as it was made."""
    return (
        type(function) is torch.nn.PairwiseDistance
        and not function.keepdim
        and not (function._forward_hooks or function._forward_pre_hooks)
        and not (function._backward_hooks or function._backward_pre_hooks)
    )


def is_plain(x: Tensor) -> bool:
    """Whether the memory of a tensor holds its numbers, where kernels can read them."""
    return (
        x.layout == torch.strided
        and is_served(x.device)
        and not x.is_neg()
        and not x._is_zerotensor()
    )


def measured(
    loss: str, function: Any, anchor: Tensor, positive: Tensor, negative: Tensor, swap: bool
) -> tuple[Tensor, ...]:
    """Let a user's function measure both distances; torch can differentiate it."""
    near, far = function(anchor, positive), function(anchor, negative)
    if swap:
        far = torch.minimum(far, function(positive, negative))
    if not (isinstance(near, Tensor) and isinstance(far, Tensor)):
        unsupported(TypeError(f"{loss}(): distance_function must return a tensor"))
    return operands(loss, positive_distance=near, negative_distance=far)

"""DTensors, whose parts lie on the ranks of a device mesh.

nbloss has no kernels for them. torch's own functions take them and communicate where they have to,
but some of what they compute is wrong, and such calls are refused. The rules below were measured
with torch 2.13 against the loss of the whole tensors, on meshes of one and of two dimensions, for
even and uneven shards. They look at placements, shapes and options, which all ranks have in common,
and never at data: either all ranks raise, or none does and none waits for another.
"""

import inspect
import sys
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction

from nbloss.formula.distance import Distance
from nbloss.formula.registry import LOSSES, built_in

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
MEASURED = (2, 13)

# The arguments of torch's functions in their order.
PARAMETERS = {
    name: tuple(inspect.signature(getattr(torch.nn.functional, name)).parameters)
    for name in built_in()
    if hasattr(torch.nn.functional, name)
}


def is_dtensor(x: Any) -> bool:
    """Whether something is a DTensor, be it below the wrappers of ``torch.func``."""
    # As long as nothing has imported the module, there are none; importing it takes long.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(unwrapped(x)[0], module.DTensor)


def unwrapped(x: Any) -> tuple[Any, bool]:
    """Give what lies below the wrappers of ``torch.func``, and whether ``vmap`` is among them."""
    batched = False
    # torch's compiler does not let us look below them.
    if isinstance(x, Tensor) and not torch.compiler.is_compiling():
        while torch._C._functorch.is_functorch_wrapped_tensor(x):
            batched = batched or torch._C._functorch.is_batchedtensor(x)
            x = torch._C._functorch.get_unwrapped(x)
    return x, batched


def among(arguments: tuple, named: dict[str, Any]) -> bool:
    """Whether a call has a DTensor among its arguments."""
    return any(is_dtensor(x) for x in (*arguments, *named.values()))


def check(name: str, arguments: tuple, named: dict[str, Any]) -> None:
    """Refuse a call with DTensors unless torch is known to compute it rightly."""
    words = PARAMETERS[name] if name in PARAMETERS else LOSSES[name].operands
    words = words[: len(arguments)]  # torch 2.6 compiles any zip as a strict one
    given = {**dict(zip(words, arguments, strict=False)), **named}
    dtensors = {word: unwrapped(x)[0] for word, x in given.items() if is_dtensor(x)}
    objection = objection_to(name, given, dtensors)
    if objection:
        placed = ", ".join(f"{word} with placements {x.placements}" for word, x in dtensors.items())
        raise NotImplementedError(f"{name}(): got the DTensors {placed}; {objection}")


WHOLE = "pass whole tensors: x.full_tensor()"
REPLICATED = f"redistribute them to Replicate(), or {WHOLE}"


def objection_to(name: str, given: dict[str, Any], dtensors: dict[str, Any]) -> str | None:
    """Say why torch's result would be wrong, or is not known, and what to do instead."""
    if name not in PARAMETERS or name == "multilabel_margin_loss":
        return f"neither nbloss nor torch computes this loss of DTensors; {WHOLE}"
    if TORCH < MEASURED:
        return (
            "nbloss leaves DTensors to torch, whose results are known from torch 2.13 on; with "
            f"torch {torch.__version__} {WHOLE}"
        )
    if any(unwrapped(x)[1] for x in given.values()):
        return f"torch.func.vmap of them is not supported; {WHOLE}"
    if isinstance(given.get("distance_function"), Distance):
        return f"distance_function is a distance of nbloss, which takes no DTensors; {WHOLE}"
    from torch.distributed.tensor import Partial, Replicate, Shard

    placements = [p for x in dtensors.values() for p in x.placements]
    # torch's compiler knows no `in` for these classes.
    if not all(type(p) is Shard or type(p) is Replicate or type(p) is Partial for p in placements):
        return f"placements must be Shard, Replicate or Partial; {REPLICATED}"
    if reduction_of(given) != "mean":
        return None
    # With a weight torch takes the mean of what reduction='none' gives, and that is right.
    weighted = given.get("weight") is not None
    if name == "huber_loss" and not weighted and any(type(p) is Shard for p in placements):
        return (
            "with reduction='mean' torch's gradient of sharded tensors is too large by about the "
            "number of shards, and its value is wrong if the shards are uneven; take "
            f"reduction='none' and the mean of what it gives, or {REPLICATED}"
        )
    if name in ("nll_loss", "cross_entropy") and "input" in dtensors:
        x = dtensors["input"]
        classes = 1 if x.ndim > 1 else 0
        split = any(type(p) is Shard and p.dim != classes for p in x.placements)
        # A mean over targets that are probabilities divides by the number of rows.
        if split and getattr(given.get("target"), "shape", None) != x.shape:
            return (
                "with reduction='mean' and targets of class indices torch takes the mean of the "
                "shards' own means, which is wrong if the shards differ in size, in the weights "
                "of their classes or in the number of ignored targets; take reduction='sum' and "
                "divide by the sum of the weights of all targets that are not ignored, or "
                f"{REPLICATED}"
            )
    return None


def reduction_of(given: dict[str, Any]) -> Any:
    """Find the reduction of a call, which may be given by two old arguments."""
    size_average, reduce = given.get("size_average"), given.get("reduce")
    if size_average is None and reduce is None:
        return given.get("reduction", "mean")
    return _reduction.legacy_get_string(size_average, reduce, emit_warning=False)

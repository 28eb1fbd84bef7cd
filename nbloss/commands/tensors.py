"""What the commands do with torch: the one file of theirs that imports it, and only where it is."""

from collections.abc import Callable
from typing import Any

import torch

from nbloss import functional
from nbloss.formula.registry import Definition
from nbloss.samples import Sample


def devices() -> str:
    """Name the CUDA devices that torch knows."""
    if not torch.cuda.is_available():
        return "no device"
    count = torch.cuda.device_count()
    return ", ".join(torch.cuda.get_device_name(index) for index in range(count))


def of(sample: Sample, dtype: str) -> list[Any]:
    """Make tensors of a sample's operands."""
    return [
        torch.tensor(x, dtype=getattr(torch, dtype) if x.dtype.kind == "f" else None)
        for x in sample.operands
    ]


def steps(definition: Definition, sample: Sample) -> tuple[list[Callable[[], Any]], float | None]:
    """Say how to go forward and backward, in float32, by nbloss and by torch if it has the loss.

    Returns
    -------
    tuple
        The steps, and the largest difference in value or gradient between them, relative to torch's
        largest number; None if there is one step alone.
    """
    operands = of(sample, "float32")
    leaves = [operands[k].requires_grad_() for k in sample.learning]

    def step_of(function: Callable) -> Callable[[], Any]:
        def step() -> Any:
            for leaf in leaves:
                leaf.grad = None
            value = function(*operands)
            value.backward()
            return value

        return step

    libraries = (functional, torch.nn.functional)
    made = [step_of(getattr(x, definition.name)) for x in libraries if hasattr(x, definition.name)]
    found = [[step().detach(), *(leaf.grad for leaf in leaves)] for step in made]
    if len(found) == 1:
        return made, None
    return made, max(
        float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))
        for a, b in zip(*found, strict=True)
    )


def call(function: Callable, operands: list[Any], reduction: str, needs_grad: int) -> None:
    """Call a loss with gradients by so many of its operands, the first of them."""
    leaves = [x.detach() for x in operands]
    for x in leaves[:needs_grad]:
        x.requires_grad_()
    value = function(*leaves, reduction=reduction).sum()
    if needs_grad:
        value.backward()

"""A loss of one's own, for tests of what users' losses have to be able to do.

It is defined while a test needs it, and taken off the list afterwards: other tests go through all
losses that are listed, and expect cases and pages of each.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import nbloss.nn
from nbloss.formula.registry import LOSSES, ON_REPLACEMENT


@contextlib.contextmanager
def own_losses() -> Iterator[None]:
    """Forget the losses that are defined meanwhile, their functions and modules."""
    known = dict(LOSSES)
    try:
        yield
    finally:
        for name in set(LOSSES) - set(known):
            definition = LOSSES.pop(name)
            for forget in ON_REPLACEMENT:
                forget(definition)


@contextlib.contextmanager
def own_loss() -> Iterator[Callable[..., Tensor]]:
    """Define ``quartic_loss`` and ``nbloss.nn.QuarticLoss``; give the function."""
    with own_losses():

        @nbloss.pointwise
        def quartic_loss(input, target, scale=1.0):
            """The fourth power of the error, in units of ``scale``."""
            return ((input - target) / scale) ** 4

        yield quartic_loss


def in_torch(input: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """The mean of the same loss in torch's own operations."""
    return ((input - target) / scale).pow(4).mean()


class InTorch(torch.nn.Module):
    """The same module in torch's own operations."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return in_torch(input, target, self.scale)

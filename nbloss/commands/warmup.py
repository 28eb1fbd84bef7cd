"""Kernels compiled ahead."""

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from nbloss import samples
from nbloss.commands.info import has_torch

if TYPE_CHECKING:
    from rich.console import Console

CLASSES = 16
FEW = 2  # rows


def run(console: "Console", options: argparse.Namespace) -> int:
    """Compile what training with the losses' default arguments needs."""
    from rich.progress import Progress

    from nbloss.engine import cache

    tasks = list(calls(options.dtypes))
    if not tasks:
        console.print("bfloat16 needs torch, which is not installed.")
        return 1
    with Progress(console=console) as progress:
        bar = progress.add_task("", total=len(tasks))
        for name, call in tasks:
            progress.update(bar, description=name)
            call()
            progress.advance(bar)
    path = cache.directory()
    if path is None:
        place = "nowhere: no directory that only this user can write"
    else:
        place = str(path) if os.access(path, os.W_OK) else f"nowhere: {path} is read-only"
    console.print(f"Compiled {len(tasks)} uses of the losses into {place}")
    return 0


def calls(dtypes: list[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Call every loss as it is called in training, in each type and with each reduction.

    A few rows will do: many are done by the same machine code.
    """
    from nbloss import functional, gradients
    from nbloss.formula.registry import LOSSES

    for dtype, reduction, (name, definition) in product(dtypes, ("mean", "none"), LOSSES.items()):
        chosen = samples.sample(definition, FEW, CLASSES)
        function = getattr(functional, name)
        title = f"{name} {dtype} {reduction}"
        if has_torch():
            yield title, _on_tensors(function, chosen, dtype, reduction)
        elif dtype != "bfloat16":
            arrays = samples.arrays(chosen, dtype)
            yield title, _on_arrays(gradients.value_and_grad(function), arrays, reduction)


def _on_arrays(function: Callable, arrays: list[Any], reduction: str) -> Callable[[], Any]:
    def call() -> None:
        function(*arrays, reduction=reduction)

    return call


def _on_tensors(
    function: Callable, chosen: samples.Sample, dtype: str, reduction: str
) -> Callable[[], Any]:
    from nbloss.commands import tensors

    operands = tensors.of(chosen, dtype)
    floating = sum(x.is_floating_point() for x in operands)

    def call() -> None:
        # Without a gradient, with that of the first operand, and with all.
        for needs_grad in sorted({0, 1, floating}):
            tensors.call(function, operands, reduction, needs_grad)

    return call

"""The command line: what there is on this machine, and kernels compiled ahead."""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from nbloss._version import __version__

if TYPE_CHECKING:
    from rich.console import Console

NEEDS_RICH = "python -m nbloss prints with rich: pip install 'nbloss[cli]'"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; give the status for the shell."""
    parser = argparse.ArgumentParser(prog="nbloss", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("info", info, "versions, threads, processor, cache, CUDA"),
        ("warmup", warmup, "compile the kernels of all losses ahead, into the cache on disk"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if run is warmup:
            command.add_argument(
                "--dtypes",
                nargs="+",
                default=["float32"],
                choices=["float16", "bfloat16", "float32", "float64"],
                help="number types to compile for (%(default)s)",
            )
    options = parser.parse_args(arguments)
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        print(NEEDS_RICH, file=sys.stderr)
        return 1
    return options.run(Console(), options)


# --- info -------------------------------------------------------------------------------------


def info(console: "Console", options: argparse.Namespace) -> int:
    """Print what nbloss finds on this machine."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in facts():
        table.add_row(f"[bold]{name}[/]", value)
    console.print(table)
    return 0


def facts() -> Iterator[tuple[str, str]]:
    """Name what a report of a problem should say about a machine."""
    from llvmlite import binding as llvm

    from nbloss.engine import cache, threads

    yield "nbloss", __version__
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for package in ("numba", "llvmlite", "numpy", "torch", "numba-cuda"):
        yield package, version(package)
    yield "Cores", str(os.cpu_count())
    yield "Threads", str(threads.available())
    yield "Threading layer", threads.layer()
    yield "Processor", llvm.get_host_cpu_name()
    features = llvm.get_host_cpu_features()
    yield "Features", ", ".join(sorted(name for name, there in features.items() if there))
    path = cache.directory()
    if path is None:
        yield "Cache", "none: no directory that only this user can write"
    else:
        files = [file for file in path.iterdir() if file.is_file()]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        yield "Cache", f"{path} ({len(files)} files, {megabytes:.1f} MB)"
    yield "CUDA", cuda()


def version(package: str) -> str:
    """Version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cuda() -> str:
    """Name the CUDA devices, as far as torch knows them."""
    if version("torch") == "not installed":
        return "unknown without torch"
    import torch

    if not torch.cuda.is_available():
        return "no device"
    count = torch.cuda.device_count()
    return ", ".join(torch.cuda.get_device_name(index) for index in range(count))


# --- warmup -----------------------------------------------------------------------------------


def warmup(console: "Console", options: argparse.Namespace) -> int:
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
    place = "nowhere: no directory that only this user can write" if path is None else str(path)
    console.print(f"Compiled {len(tasks)} uses of the losses into {place}")
    return 0


def calls(dtypes: list[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Call every loss as it is called in training, in each type and with each reduction.

    Each is called on a few rows and on so many that it runs in parallel, which takes two drivers.
    """
    import numpy as np

    from nbloss import functional, gradients
    from nbloss.engine.launch import PARALLEL_FROM
    from nbloss.engine.registry import LOSSES

    classes = 16
    rows = PARALLEL_FROM // classes + 1
    numbers = np.ones((rows, classes))
    labels = {"classes": np.zeros(rows, np.int64), "pairs": np.zeros((rows, classes), np.int64)}
    for dtype, reduction, (name, definition) in product(dtypes, ("mean", "none"), LOSSES.items()):
        operands: list[Any] = [numbers] * 3
        if definition.pattern in labels:
            operands = [numbers, labels[definition.pattern]]
        elif definition.pattern == "pointwise":
            operands = [numbers] * len(definition.operands)
        function = getattr(functional, name)
        title = f"{name} {dtype} {reduction}"
        if version("torch") != "not installed":
            yield title, _on_tensors(function, operands, dtype, reduction)
        elif dtype != "bfloat16":
            arrays = [x.astype(dtype) if x.dtype.kind == "f" else x for x in operands]
            yield title, _on_arrays(gradients.value_and_grad(function), arrays, reduction)


FEW = 2


def _on_arrays(function: Callable, arrays: list[Any], reduction: str) -> Callable[[], Any]:
    def call() -> None:
        for rows in (FEW, None):
            function(*(x[:rows] for x in arrays), reduction=reduction)

    return call


def _on_tensors(
    function: Callable, operands: list[Any], dtype: str, reduction: str
) -> Callable[[], Any]:
    import torch

    tensors = [
        torch.tensor(x, dtype=getattr(torch, dtype) if x.dtype.kind == "f" else None)
        for x in operands
    ]
    floating = sum(x.is_floating_point() for x in tensors)

    def call() -> None:
        # Without a gradient, with that of the first operand, and with all.
        for rows, wanted in product((FEW, None), sorted({0, 1, floating})):
            leaves = [x[:rows].detach() for x in tensors]
            for x in leaves[:wanted]:
                x.requires_grad_()
            value = function(*leaves, reduction=reduction).sum()
            if wanted:
                value.backward()

    return call


if __name__ == "__main__":
    sys.exit(main())

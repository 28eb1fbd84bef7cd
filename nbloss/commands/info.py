"""What there is on this machine."""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nbloss._version import __version__

if TYPE_CHECKING:
    from rich.console import Console


def run(console: "Console", options: argparse.Namespace) -> int:
    """Print what nbloss finds on this machine."""
    if options.json:
        console.print_json(data=dict(facts()))
        return 0
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
    for package in ("numba", "llvmlite", "numpy", "torch", "numba-cuda", "cuda-bindings"):
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
        files = [file for file in path.rglob("*") if file.is_file()]
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        yield "Cache", f"{path} ({len(files)} files, {megabytes:.1f} MB)"
    yield "CUDA", cuda()


def version(package: str) -> str:
    """Version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def has_torch() -> bool:
    """Whether torch is installed."""
    return version("torch") != "not installed"


def cuda() -> str:
    """Name the CUDA devices, as far as torch knows them."""
    if not has_torch():
        return "unknown without torch"
    from nbloss.commands import tensors

    return tensors.devices()

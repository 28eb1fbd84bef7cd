"""How fast the losses are on this machine, beside torch's own."""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import groupby, product
from typing import TYPE_CHECKING, Any, NamedTuple

from nbloss import samples
from nbloss.commands.info import has_torch
from nbloss.formula.registry import LOSSES, Definition

if TYPE_CHECKING:
    from rich.console import Console

SIZES = ((8, 10), (1000, 1000))
SECONDS = 1.0  # for each line of the table
ROUND = 2e-3  # seconds of the calls that are timed together, at least


class Row(NamedTuple):
    """What is found of a loss in a size; times in seconds, and no `theirs` where torch has none."""

    loss: str
    size: tuple[int, int]
    ours: float
    theirs: float | None
    deviation: float | None


def run(console: "Console", options: argparse.Namespace) -> int:
    """Time forward and backward of each loss."""
    from rich.progress import Progress

    rows = []
    with Progress(console=console, transient=True, disable=options.json) as progress:
        bar = progress.add_task("", total=len(LOSSES) * len(SIZES))
        for definition, size in product(LOSSES.values(), SIZES):
            progress.update(bar, description="{} {} × {}".format(definition.name, *size))
            rows.append(measured(definition, size))
            progress.advance(bar)
    if options.json:
        console.print_json(data=[row._asdict() for row in rows])
    else:
        console.print(table(rows))
    return 0


def table(rows: list[Row]) -> Any:
    """Lay out what was found."""
    from rich.box import SIMPLE
    from rich.table import Table

    both = any(row.theirs is not None for row in rows)
    made = Table(box=SIMPLE, pad_edge=False)
    made.add_column("forward and backward, float32", no_wrap=True)
    for title in ("nbloss", *(("torch", "speed-up", "deviation") if both else ())):
        made.add_column(title, justify="right")
    if both:
        made.caption = "deviation: the largest difference in value or gradient, relative to torch's"
    for loss, of_loss in groupby(rows, lambda row: row.loss):
        made.add_row(f"[bold]{loss}[/]")
        for row in of_loss:
            cells = ["  {} × {}".format(*row.size), readable(row.ours)]
            if row.theirs is not None:
                ratio = row.theirs / row.ours
                cells += [readable(row.theirs), f"{ratio:.2f}×", f"{row.deviation:.0e}"]
            made.add_row(*cells)
    return made


def readable(seconds: float) -> str:
    """Write a time in a unit that fits."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} µs"


def measured(definition: Definition, size: tuple[int, int]) -> Row:
    """Time a loss, beside torch's own where there is one; on arrays where there is no torch."""
    chosen = samples.sample(definition, *size)
    if has_torch():
        from nbloss.commands import tensors

        steps, deviation = tensors.steps(definition, chosen)
    else:
        from nbloss import functional, gradients

        operands = samples.arrays(chosen, "float32")
        function = gradients.value_and_grad(getattr(functional, definition.name), chosen.learning)
        steps, deviation = [lambda: function(*operands)], None
    ours, *theirs = in_turns(steps)
    return Row(definition.name, size, ours, theirs[0] if theirs else None, deviation)


def in_turns(calls: list[Callable[[], Any]]) -> list[float]:
    """Time calls in turns; give the median of each."""
    repeats = []
    for call in calls:
        call()  # compiled, and its memory warm
        repeats.append(max(1, int(ROUND / max(timed(call, 1), 1e-7))))
    found: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or not found[0]:
        for call, times, repeat in zip(calls, found, repeats, strict=True):
            call()  # what went cold while others had their turn
            times.append(timed(call, repeat))
    return [statistics.median(times) for times in found]


def timed(call: Callable[[], Any], repeat: int) -> float:
    """Give the seconds of a call."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat

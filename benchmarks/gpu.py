"""How fast it is on a CUDA device: measures, and writes docs/benchmarks/DEVICE.json and .md.

    python benchmarks/gpu.py              # `make bench-gpu`
    python benchmarks/gpu.py --report     # the pages anew, from the JSON as it is

The device's time is taken by CUDA events, with its cache cleared before each step; the contenders
take turns. On tiny input the processor's time counts: a few hundred steps in a row, and one wait.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from results import Results, by_workload, dump, rounded  # noqa: E402
from tables import name, size, table, times, two  # noqa: E402
from tables import time as in_words  # noqa: E402
from workloads import TINY, TYPICAL, WITH_DISTANCE, Workload, moved  # noqa: E402

FOLDER = ROOT / "docs" / "benchmarks"
CONTENDERS = ("eager", "compile", "nbloss")
TURNS = 3
TINY_STEPS = 500
COPY_SHARE = 0.8  # of a copy's speed, for what memory alone holds up


@dataclass(frozen=True)
class Target:
    """How much faster than eager and than torch.compile a workload should be, at least."""

    workload: Workload
    eager: float
    compile: float | None
    memory_bound: bool = True


def target(
    loss: str, case: str, rows: int, columns: int, eager: float, compile: float | None,
    memory_bound: bool = True,
) -> Target:  # fmt: skip
    return Target(Workload(loss, case, rows, columns), eager, compile, memory_bound)


TARGETS = [
    target("huber_loss", "plain", 4096, 8192, 2.0, 1.4),
    target("margin_ranking_loss", "2d", 4096, 8192, 4.0, 1.3),
    target("multilabel_soft_margin_loss", "2d", 4096, 8192, 10.0, 1.4),
    target("triplet_margin_loss", "2d", 131_072, 128, 4.0, 1.3),
    target("triplet_margin_loss", "p-1-swap", 32_768, 512, 4.0, 1.3),
    target(WITH_DISTANCE, "cosine", 131_072, 128, 4.0, 1.3),
    target("cross_entropy", "2d", 32_768, 1000, 2.7, 1.2),
    target("cross_entropy", "2d", 8192, 4096, 2.7, 1.2),
    target("cross_entropy", "2d", 2048, 32_000, 2.7, 1.2),
    target("cross_entropy", "2d", 512, 128_000, 2.5, 0.95),
    target("nll_loss", "2d", 32_768, 1000, 0.95, 0.95),
    target("multilabel_margin_loss", "32-targets", 4096, 1000, 20.0, None, False),
    target("multilabel_margin_loss", "300-targets", 512, 10_000, 20.0, None, False),
]
TINY_TARGET = 1 / 1.5  # of eager's speed


# --- measuring ------------------------------------------------------------------------------------


def steps(workload: Workload) -> dict[str, Callable[[], None]]:
    """A step of training for each contender, and a copy of as many bytes."""
    from contenders import FUNCTIONS, copy, function_of, on_tensors

    found = {}
    for who in FUNCTIONS:
        function = function_of(who, workload)
        if function is not None:
            run = on_tensors(function, workload, "cuda")
            run(3)  # compiles
            found[who] = lambda run=run: run(1)
    moving = copy(workload, "cuda")
    assert moving is not None, "forward and backward move something"
    found["copy"] = lambda: moving(1)
    return found


def measured(workload: Workload) -> dict[str, Any]:
    """Seconds of a step, a median for each turn."""
    from triton.testing import do_bench

    found = steps(workload)
    seconds: dict[str, list[float]] = {who: [] for who in found}
    for _ in range(TURNS):
        for who, step in found.items():
            seconds[who].append(rounded(1e-3 * do_bench(step, quantiles=[0.5])))
    return {**vars(workload), "moved": moved(workload), "seconds": seconds}


def measured_tiny(workload: Workload) -> dict[str, Any]:
    """The same on tiny input, by the clock on the wall."""
    import torch

    found = steps(workload)
    del found["copy"]
    seconds: dict[str, list[float]] = {who: [] for who in found}
    for _ in range(TURNS):
        for who, step in found.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(TINY_STEPS):
                step()
            torch.cuda.synchronize()
            seconds[who].append(rounded((time.perf_counter() - start) / TINY_STEPS))
    return {**vars(workload), "moved": moved(workload), "seconds": seconds}


def machine() -> dict[str, Any]:
    import torch

    head = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    packages = ("torch", "triton", "numba", "numba-cuda", "numpy")
    return {
        "device": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        **{package: importlib.metadata.version(package) for package in packages},
        "commit": head.stdout.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def measure() -> Path:
    import torch
    from rich.progress import track

    made: dict[str, Any] = {"machine": machine(), "speed": [], "tiny": []}
    plans = [
        *(("speed", measured, one.workload) for one in TARGETS),
        *(("tiny", measured_tiny, Workload(loss, case, *TINY)) for loss, case in TYPICAL.items()),
    ]
    for kind, how, workload in track(plans, "Measuring"):
        made[kind].append(how(workload))
        gc.collect()
        torch.cuda.empty_cache()
    slug = re.sub(r"[^a-z0-9]+", "-", made["machine"]["device"].lower()).strip("-")
    path = FOLDER / f"{slug}.json"
    dump(made, path)
    return path


# --- the page -------------------------------------------------------------------------------------


def page(data: dict[str, Any]) -> str:
    """Write down what was measured on a device."""
    m = data["machine"]
    results = Results(m, *by_workload(data["speed"]), [], [], [])
    rows = []
    for one in TARGETS:
        w = one.workload
        if w not in results.seconds:
            continue
        to_eager, to_compile, share = (
            results.ratio(w, (other,)) for other in ("eager", "compile", "copy")
        )
        met = to_eager is not None and to_eager >= one.eager
        asked = f"{one.eager:g}×"
        if one.compile is not None:
            asked += f" / {one.compile:g}×"
            met = met and to_compile is not None and to_compile >= one.compile
        if one.memory_bound:
            asked += f" / {COPY_SHARE:.0%}"
            met = met and share is not None and share >= COPY_SHARE
        rows.append(
            [
                name(w),
                size(w.rows, w.columns),
                *(in_words(results.time(w, who)) for who in CONTENDERS),
                times(to_eager),
                times(to_compile),
                "–" if share is None else f"{share:.0%}",
                asked,
                "yes" if met else "no",
            ]
        )
    head = ["loss", "size", "eager", "compile", "nbloss", "to eager", "to compile", "of a copy"]
    results, tiny = Results(m, *by_workload(data["tiny"]), [], [], []), []
    for w in results.seconds:
        ratio = results.ratio(w, ("eager",))
        met = ratio is not None and ratio >= TINY_TARGET
        times_of_all = (in_words(results.time(w, who)) for who in CONTENDERS)
        tiny.append([name(w), *times_of_all, times(ratio), "yes" if met else "no"])
    return f"""# How fast it is on an {m["device"]}

Made by `make bench-gpu`. Forward and backward through the public interface, float32, fresh
gradients each time, as in training; the device's time by CUDA events, with its cache cleared before
each step. The contenders take turns, {TURNS} times; a ratio is the median of the ratios within a
turn. "Of a copy" is how near to a copy of as many bytes as have to be moved the step comes.

{m["device"]}; CUDA {m["cuda"]}, Python {m["python"]}, torch {m["torch"]}, Triton {m["triton"]},
Numba {m["numba"]}, numba-cuda {m["numba-cuda"]}, NumPy {m["numpy"]}; nbloss at {m["commit"]};
{m["date"]}.

## Sizes that fill the device

{table([*head, "aim", "met"], rows)}

## Tiny input

8 × 10, by the clock on the wall: {TINY_STEPS} steps in a row. The aim is {two(TINY_TARGET)}×.

{table(["loss", "eager", "compile", "nbloss", "to eager", "met"], tiny)}
"""


def reports() -> list[Path]:
    """The JSON of each device that was measured."""
    return [path for path in sorted(FOLDER.glob("*.json")) if path.name != "cpu.json"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--report", action="store_true", help="make the pages anew")
    if not parser.parse_args().report:
        measure()
    for path in reports():
        goal = path.with_suffix(".md")
        goal.write_text(page(json.loads(path.read_text())))
        print(f"The report is in {goal.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()

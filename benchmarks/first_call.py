"""What the first call of a process costs, forward and backward: with compiling, or from a cache.

    python benchmarks/first_call.py                             # prints a table, of new processes
    python benchmarks/first_call.py huber_loss nll_loss         # the same of some losses
    python benchmarks/first_call.py --once nbloss huber_loss    # prints the seconds of this process
    python benchmarks/first_call.py --once numpy huber_loss 8 10

The contenders are `nbloss` (on tensors), `numpy` (nbloss on arrays, in a process without torch) and
`compile`. Where the caches lie is for the environment to say: `NBLOSS_CACHE_DIR`,
`TORCHINDUCTOR_CACHE_DIR`. Numba is imported by the first call, and counts.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {"small": (8, 10), "large": (1000, 100)}  # one chunk, and enough for threads
LOSSES = ["huber_loss", "cross_entropy"]
ROUNDS = 3


def on_arrays(loss: str, rows: int, columns: int) -> Callable[[], Any]:
    import nbloss
    from nbloss.commands import samples
    from nbloss.formula.registry import LOSSES

    chosen = samples.sample(LOSSES[loss], rows, columns)
    operands = samples.arrays(chosen, "float32")
    function = nbloss.value_and_grad(getattr(nbloss, loss), chosen.learning)
    return lambda: function(*operands)


def on_tensors(contender: str, loss: str, rows: int, columns: int) -> Callable[[], Any]:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import torch

    if contender == "compile":
        import torch._dynamo  # loading what compiles is no part of a compilation

    from contenders import function_of, run_of
    from workloads import TYPICAL, Workload

    workload = Workload(loss, TYPICAL[loss], rows, columns)
    run: Any = run_of(contender, workload, function_of(contender, workload))
    torch.ones(1, requires_grad=True).sum().backward()  # nor is starting autograd
    return lambda: run(1)


def seconds(contender: str, loss: str, rows: str = "1000", columns: str = "100") -> float:
    """Time the first call of this process."""
    size = int(rows), int(columns)
    call = on_arrays(loss, *size) if contender == "numpy" else on_tensors(contender, loss, *size)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_new_process(cache: str, *arguments: object) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--once", *map(str, arguments)],
        env={**os.environ, "NBLOSS_CACHE_DIR": cache},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def table(losses: list[str]) -> None:
    print("| loss | on | size | cold, s | cached, s |\n|---|---|---|---:|---:|")
    for loss in losses:
        for contender, kind in {"nbloss": "tensors", "numpy": "arrays"}.items():
            for name, size in SIZES.items():
                cold, cached = [], []
                for _ in range(ROUNDS):
                    with tempfile.TemporaryDirectory() as cache:
                        for times in (cold, cached):
                            times.append(in_new_process(cache, contender, loss, *size))
                medians = " | ".join(f"{statistics.median(x):.2f}" for x in (cold, cached))
                print(f"| `{loss}` | {kind} | {name} | {medians} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("arguments", nargs="*", default=LOSSES)
    parser.add_argument("--once", action="store_true", help="time this process: contender, loss")
    options = parser.parse_args()
    if options.once:
        print(seconds(*options.arguments))
    else:
        table(options.arguments)

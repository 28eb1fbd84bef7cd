"""Times this version beside another one, such as a release, call by call in turn.

    git worktree add build/release v0.1.0
    python benchmarks/against_release.py build/release            # all workloads
    python benchmarks/against_release.py build/release nll huber  # those whose name has a word

Each version runs in a process of its own, and both are asked for one workload after the other, so
that what else the machine does meets both. Above 1 this version is the faster one; a ratio is the
median of ratios of neighbours in time. `torch` in the place of a path compares with torch eager.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROUNDS = 11
SECONDS = 0.02  # that a workload is repeated for, each time that it is asked for
GATE = 0.95


# --- what is timed --------------------------------------------------------------------------------


def workloads(library: Any) -> Iterator[tuple[str, Callable[[], None]]]:
    """Name calls, forward and backward, of the functions of a library."""
    import torch

    torch.manual_seed(0)
    shapes = [(8, 10), (255, 255), (1000, 1000), (10_000, 10), (10_000, 1000), (64, 128_000)]
    spatial = [(2, 21, 64, 65), (4, 21, 256, 256), (2, 150, 128, 128), (8, 1000, 7, 7)]
    reductions = ("mean", "none")
    for shape, dtype, reduction in itertools.product(
        shapes, (torch.float32, torch.float64, torch.bfloat16), reductions
    ):
        if dtype != torch.float32 and shape not in ((8, 10), (1000, 1000)):
            continue
        where = f"{shape} {str(dtype).removeprefix('torch.')} {reduction}"
        for name, given, options in dense(torch, shape, dtype):
            yield f"{name} {where}", call(library, name.split("/")[0], given, reduction, options)
    for shape, ignored, reduction in itertools.product(spatial, (False, True), reductions):
        scores = torch.randn(shape)
        target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        if ignored:
            target = torch.where(torch.rand(target.shape) < 0.1, -100, target)
        where = f"{shape} float32 {reduction}{' ignored' if ignored else ''}"
        for name in ("nll_loss", "cross_entropy"):
            yield f"{name} {where}", call(library, name, (scores, target), reduction, {})


def dense(torch: Any, shape: tuple[int, int], dtype: Any) -> Iterator[tuple[str, tuple, dict]]:
    """Make operands of rows and columns."""
    x, y, z = (torch.randn(shape, dtype=dtype) for _ in range(3))
    labels = torch.randint(0, shape[1], shape[:1])
    weight = torch.rand(shape[1], dtype=dtype)
    yield "huber_loss", (x, y), {}
    yield "margin_ranking_loss", (x, y, torch.sign(z)), {}
    yield "multilabel_soft_margin_loss", (x, (y > 0).to(dtype)), {}
    yield "multilabel_soft_margin_loss/weight", (x, (y > 0).to(dtype)), {"weight": weight}
    yield "nll_loss", (x, labels), {}
    yield "nll_loss/weight", (x, labels), {"weight": weight}
    yield "cross_entropy", (x, labels), {}
    yield "cross_entropy/smoothing", (x, labels), {"weight": weight, "label_smoothing": 0.1}
    yield "cross_entropy/probabilities", (x, torch.softmax(y, -1)), {}
    yield "triplet_margin_loss", (x, y, z), {}
    yield "triplet_margin_loss/p=1 swap", (x, y, z), {"p": 1, "swap": True}
    yield "triplet_margin_loss/p=3", (x, y, z), {"p": 3.0}
    few = torch.full(shape, -1)
    few[:, : min(4, shape[1] - 1)] = torch.arange(min(4, shape[1] - 1))
    yield "multilabel_margin_loss", (x, few), {}


def call(
    library: Any, name: str, given: tuple, reduction: str, options: dict
) -> Callable[[], None]:
    """Give a function that computes a loss and the gradients of its first operands."""
    import torch

    learning = 3 if "triplet" in name else 2 if "ranking" in name else 1
    operands = [
        x.detach().clone().requires_grad_() if k < learning else x for k, x in enumerate(given)
    ]
    function = getattr(library, name)

    def run() -> None:
        value = function(*operands, reduction=reduction, **options)
        value.backward(torch.ones_like(value) if reduction == "none" else None)
        for x in operands[:learning]:
            x.grad = None

    return run


# --- the processes --------------------------------------------------------------------------------


def serve(root: str) -> None:
    """Time what is asked for, a name a line."""
    import warnings

    warnings.simplefilter("ignore")
    if root == "torch":
        import torch.nn.functional as library
    else:
        sys.path.insert(0, root)
        import nbloss.functional as library

        found = Path(library.__file__ or "").resolve()
        assert found.is_relative_to(Path(root).resolve()), f"{found} is not in {root}"
    runs = dict(workloads(library))
    print(json.dumps(list(runs)), flush=True)
    for line in sys.stdin:
        run = runs[line.rstrip("\n")]
        try:
            run()
        except (NotImplementedError, RuntimeError):
            print("null", flush=True)
            continue
        begin = time.perf_counter()
        run()
        count = max(1, min(1000, int(SECONDS / (time.perf_counter() - begin))))
        begin = time.perf_counter()
        for _ in range(count):
            run()
        print((time.perf_counter() - begin) / count, flush=True)


class Server:
    """A process that times the calls of one version."""

    def __init__(self, root: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": "" if root == "torch" else root},
        )
        self.names = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def seconds(self, name: str) -> float | None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self.answer()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("other", help="a checkout of another version, or torch")
    parser.add_argument("words", nargs="*", help="of the names of the workloads")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.other)
        return
    before, after = Server(options.other), Server(str(HERE))
    ratios = {}
    for name in after.names:
        if options.words and not any(word in name for word in options.words):
            continue
        pairs = [(before.seconds(name), after.seconds(name)) for _ in range(ROUNDS)]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not both:
            continue
        ratios[name] = statistics.median(a / b for a, b in both)
        times = [statistics.median(column) * 1e6 for column in zip(*both, strict=True)]
        mark = "" if ratios[name] >= GATE else f"  below {GATE}"
        row = f"{name:66s} {times[0]:9.1f} {times[1]:9.1f} µs {ratios[name]:6.2f}{mark}"
        print(row, flush=True)
    slow = [name for name, ratio in ratios.items() if ratio < GATE]
    typical = statistics.median(ratios.values())
    print(f"{len(ratios)} workloads, {len(slow)} below {GATE}; median {typical:.2f}")


if __name__ == "__main__":
    main()

"""Memory that a step takes on top of its operands: of torch's tensors, and of the process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.profiler import ProfilerActivity, profile

from contenders import FUNCTIONS, function_of, on_tensors
from nbloss.engine import buffers
from workloads import LARGE, TYPICAL, Workload

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def allocated(run: Callable[[int], None]) -> int:
    """The most bytes that torch had allocated at once, as its profiler saw it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(1)
    total = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


def resident(run: Callable[[int], None]) -> int | None:
    """By how many bytes the process grew at most; None where Linux does not say."""
    if not CLEAR.exists():
        return None

    def kilobytes(name: str) -> int:
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    CLEAR.write_text("5")  # the peak is from now on
    before = kilobytes("VmRSS")
    run(1)
    return (kilobytes("VmHWM") - before) * 1024


@pytest.mark.parametrize("contender", FUNCTIONS)
@pytest.mark.parametrize("loss", TYPICAL)
def test_memory(benchmark: BenchmarkFixture, loss: str, contender: str) -> None:
    workload = Workload(loss, TYPICAL[loss], *LARGE)
    function = function_of(contender, workload)
    if function is None:
        pytest.skip("takes no part")
    found = []
    for measure in (allocated, resident):
        on_tensors(function, workload)(1)  # compiled, and the threads started
        run = on_tensors(function, workload)
        buffers.forget()
        gc.collect()
        found.append(measure(run))
    benchmark.pedantic(run, args=(1,), rounds=1)
    benchmark.extra_info |= {
        "kind": "memory",
        "loss": loss,
        "contender": contender,
        "rows": LARGE[0],
        "columns": LARGE[1],
        "allocated": found[0],
        "resident": found[1],
    }
    torch._dynamo.reset()

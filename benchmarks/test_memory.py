"""Memory that a step takes on top of its operands: of torch's tensors, and of the process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from cases import split
from contenders import FUNCTIONS, function_of, on_tensors, tensors
from nbloss.engine import buffers
from workloads import HELD, LARGE, MANY, TYPICAL, Workload

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def allocations(run: Callable[[int], None]) -> list[int]:
    """The bytes that torch had allocated at each moment, as its profiler saw it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(1)
    events = profiler.profiler.kineto_results.events()
    return list(accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


def allocated(run: Callable[[int], None]) -> int:
    """The most bytes that torch had allocated at once."""
    return max(allocations(run), default=0)


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


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("contender", ["eager", "nbloss"])
@pytest.mark.parametrize("loss", TYPICAL)
def test_memory_of_many_losses(
    benchmark: BenchmarkFixture, loss: str, contender: str, checkpointed: bool
) -> None:
    """What losses of one prediction hold between their forward and their backward passes."""
    workload = Workload(loss, TYPICAL[loss], *HELD)
    function = function_of(contender, workload)
    assert function is not None
    operands, weight = split(tensors(workload))
    values: list[Tensor] = []

    def forward(times: int) -> None:
        for _ in range(times * MANY):
            if checkpointed:
                value = checkpoint(function, *operands, use_reentrant=False, **weight)
            else:
                value = function(*operands, **weight)
            values.append(value)

    def both() -> None:
        forward(1)
        torch.stack(values).sum().backward()
        values.clear()

    both()
    buffers.forget()
    gc.collect()
    held = allocations(forward)
    values.clear()
    benchmark.pedantic(both, rounds=1)
    benchmark.extra_info |= {
        "kind": "held",
        "loss": loss,
        "contender": contender,
        "checkpoint": checkpointed,
        "rows": HELD[0],
        "columns": HELD[1],
        "losses": MANY,
        "held": held[-1] if held else 0,
    }

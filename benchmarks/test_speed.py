"""Every loss × every contender × passes, sizes, types and threads.

The contenders take turns: each workload is timed a few rounds by one, a few by the next, and so on,
and that several times over, so that a machine that gets slower or faster favours none.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import Any

import numba
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from contenders import FUNCTIONS, NAMES, backward, function_of, run_of
from workloads import Workload, moved, workloads

TURNS = 5
ROUNDS = 4  # in a turn
ROUND = 5e-3  # seconds a round takes, at least
SLOW = 0.2  # seconds of a call from which one round is enough for a turn

State = dict[str, tuple[Callable | None, Any, int]]
_state: dict[Workload, State] = {}


def prepared(workload: Workload) -> State:
    """Each contender with its warmed-up function and how many calls make a round."""
    if workload not in _state:
        _state.clear()  # or the memory of all workloads would pile up
        gc.collect()
        made: State = {}
        for name in NAMES:
            function = function_of(name, workload) if name in FUNCTIONS else None
            run = run_of(name, workload, function)
            if run is not None:
                made[name] = (function, run, calls_of(run))
        _state[workload] = made
    return _state[workload]


def calls_of(run: Callable[[int], None]) -> int:
    """Warm up, and find how many calls fill a round."""
    run(1)
    run(1)
    best, calls = math.inf, 1
    for _ in range(3):
        start = time.perf_counter()
        run(calls)
        best = min(best, (time.perf_counter() - start) / calls)
        if best * calls > SLOW:
            break
        calls = max(1, math.ceil(ROUND / best))
    return calls


PLANS = [
    (workload, turn, name) for workload in workloads() for turn in range(TURNS) for name in NAMES
]


@pytest.mark.parametrize(
    ("workload", "turn", "contender"), PLANS, ids=[f"{w.id}-{t}-{c}" for w, t, c in PLANS]
)
@pytest.mark.benchmark(disable_gc=True)
def test_speed(benchmark: BenchmarkFixture, workload: Workload, turn: int, contender: str) -> None:
    torch.set_num_threads(workload.threads)
    numba.set_num_threads(workload.threads)
    found = prepared(workload).get(contender)
    if found is None:
        pytest.skip("takes no part")
    function, run, calls = found
    benchmark.extra_info |= {
        "kind": "speed",
        **vars(workload),
        "contender": contender,
        "calls": calls,
        "moved": moved(workload),
    }
    start = time.perf_counter()
    run(1)  # what was cold for lack of a turn
    rounds = 1 if time.perf_counter() - start > SLOW else ROUNDS
    if workload.part == "backward":

        def setup() -> tuple[tuple[Any, int], dict[str, Any]]:
            return (backward(function, workload, calls), calls), {}

        benchmark.pedantic(lambda run, calls: run(calls), setup=setup, rounds=rounds)
    else:
        benchmark.pedantic(run, args=(calls,), rounds=rounds)

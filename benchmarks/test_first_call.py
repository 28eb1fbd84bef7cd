"""The first call in a new process, from empty caches and from filled ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from workloads import TYPICAL

SCRIPT = Path(__file__).with_name("first_call.py")


@pytest.mark.parametrize("contender", ["nbloss", "compile"])
@pytest.mark.parametrize("loss", TYPICAL)
def test_first_call(benchmark: BenchmarkFixture, loss: str, contender: str, tmp_path: Path) -> None:
    if loss == "multilabel_margin_loss" and contender == "compile":
        pytest.skip("torch 2.13 compiles another loss")
    caches = {
        "NBLOSS_CACHE_DIR": str(tmp_path / "nbloss"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
    }

    def first_call() -> float:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "--once", contender, loss],
            env={**os.environ, **caches},
            check=True,
            capture_output=True,
            text=True,
        )
        return float(done.stdout)

    cold = first_call()
    cached = benchmark.pedantic(first_call, rounds=1)
    benchmark.extra_info |= {
        "kind": "first call",
        "loss": loss,
        "contender": contender,
        "cold": cold,
        "cached": cached,
    }

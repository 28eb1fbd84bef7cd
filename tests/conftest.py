"""Fixtures that every test runs under."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from nbloss.backends import numpy as numpy_backend
from nbloss.backends import torch as torch_backend
from nbloss.engine import driver, evaluate
from nbloss.engine.plan import Plan
from nbloss.torch import dispatch


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have random comparisons take longer; see ``test_random_comparison.py``."""
    parser.addoption("--random-calls", type=int, default=200, help="how many calls are drawn")
    parser.addoption("--random-seed", type=int, default=0, help="which calls are drawn")


@pytest.fixture(autouse=True)
def fresh_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill what the backends allocate with NaN, so that a place that was not written to shows."""
    for backend in (numpy_backend, torch_backend):
        for name in ("empty", "empty_like", "large"):
            make = getattr(backend, name)

            @functools.wraps(make)
            def empty(*arguments, make=make):
                made = make(*arguments)
                made[...] = float("nan")
                return made

            monkeypatch.setattr(backend, name, empty)
    yield


def forget() -> None:
    """Forget what is known of earlier calls."""
    evaluate.plan_for.cache_clear()
    dispatch.CALL_PLANS.clear()


@pytest.fixture
def tiny_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cut work so finely that small inputs cross the borders of segments and chunks."""
    monkeypatch.setattr("nbloss.codegen.chunks.SEGMENT", 3)
    monkeypatch.setattr("nbloss.codegen.chunks.CHUNK", 7)
    forget()
    yield
    forget()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, tuple[int, ...]]]:
    """What runs on kernels: the launches, and the addresses that they are given."""
    found: list[tuple[Plan, tuple[int, ...]]] = []
    run = driver.run

    def spy(launch: Plan, scale: float, addresses: tuple[int, ...], *rest: Any) -> int:
        found.append((launch, addresses))
        bad = run(launch, scale, addresses, *rest)
        launch.quick = None  # or the next call would pass by here
        return bad

    forget()
    monkeypatch.setattr(driver, "run", spy)
    return found


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Have torch ask for two threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many of torch's own cases passed; see ``test_torch_material.py``."""

    def cases(outcome: str) -> int:
        return sum(
            number
            for report in terminalreporter.stats.get(outcome, ())
            for name, number in getattr(report, "user_properties", ())
            if name == "torch_cases"
        )

    passed = cases("passed")
    total = passed + cases("failed") + cases("error")
    if total:
        terminalreporter.write_sep("-", f"torch's own cases passed: {passed} of {total}")

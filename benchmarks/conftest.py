"""What the machine is, for the JSON, and how far the run has come, for the person who waits."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numba
import pytest
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nbloss.engine import threads

PACKAGES = ("nbloss", "torch", "numba", "llvmlite", "numpy")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["packages"] = {name: importlib.metadata.version(name) for name in PACKAGES}
    machine_info["threads"] = torch.get_num_threads()
    machine_info["threading layer"] = threads.layer()


class Bar:
    """A bar instead of pytest's dots."""

    def __init__(self) -> None:
        self.progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.task = self.progress.add_task("", total=len(session.items))
        self.progress.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        name = nodeid.partition("[")[2].rstrip("]") or nodeid
        self.progress.update(self.task, description=name)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.progress.advance(self.task)

    def pytest_sessionfinish(self) -> None:
        self.progress.stop()

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Any:
        if report.when == "call" and report.passed:
            return "passed", "", ""
        if report.skipped:
            return "skipped", "", ""
        return None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Bar(), "bar")


@pytest.fixture(autouse=True)
def threads_put_back() -> Iterator[None]:
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])

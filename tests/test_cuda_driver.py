"""What reaches CUDA's driver, by the real bindings: a driver of our own writes it down."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from nbloss.codegen.blocks import INTEGERS
from nbloss.codegen.spec import FIRST_FIELD
from nbloss.engine.cuda import plan
from nbloss.engine.patterns.common import VALUE

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a driver for Linux"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler for C"),
    pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda"),
    pytest.mark.skipif(bool(numba.config.ENABLE_CUDASIM), reason="the simulator has no driver"),
]
BEGIN = """
import contextlib, torch, nbloss
from nbloss.backends import torch as backend
backend.device, backend.stream = lambda x: 0, lambda x: 0xABC
backend.current, backend.is_capturing = lambda x: contextlib.nullcontext(), lambda: False
x, y = torch.randn(300, 100, requires_grad=True), torch.randn(300, 100)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("cuda_driver.c")
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)]
    subprocess.run(command, check=True)
    return folder


def run(driver: Path, script: str, **more: str) -> list[list[str]]:
    """Run a script on the driver; give the words of its lines."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), **more}
    command = [sys.executable, "-c", BEGIN + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_a_loss_and_its_gradient(driver: Path) -> None:
    lines = run(
        driver, "value = nbloss.huber_loss(x, y)\n(2 * value).backward()\nprint(hex(id(x)))"
    )
    words = [line[0] for line in lines]
    # The first launch of a thread finds no context; nothing waits.
    assert words.count("context") == 1
    assert words.count("host") == 1
    assert words.count("synchronize") == 0
    forward, add_up, multiply = (line[1:] for line in lines if line[0] == "launch")
    name, blocks, threads, stream, *parameters = forward
    integers = [int(word) for word in parameters[:INTEGERS]]
    floats = [float(word) for word in parameters[INTEGERS:]]
    assert name.startswith("nbloss_huber_loss_")
    assert (int(threads), stream) == (256, "0xabc")
    assert integers[FIRST_FIELD] * integers[FIRST_FIELD + 1] == 30000  # rows, columns
    assert integers[plan.COUNT] == int(blocks) == -(-30000 // 1024)
    assert all(integers[at] for at in (VALUE, plan.PARTIALS_AT, plan.ERRORS, plan.SEEN))
    assert np.allclose(floats[:3], [1 / 30000, 1 / 30000, 1.0], rtol=1e-6)
    assert add_up[0].startswith("nbloss_add_up_float32")
    assert add_up[1] == "1"
    assert add_up[4:] == parameters
    assert multiply[0].startswith("nbloss_multiply_float32")


def test_torchs_own_switch_has_each_call_wait(driver: Path) -> None:
    script = "nbloss.huber_loss(x, y)\nnbloss.huber_loss(x, y)"
    words = [line[0] for line in run(driver, script, CUDA_LAUNCH_BLOCKING="1")]
    assert words.count("synchronize") == 2


def test_machine_code_is_loaded_once(driver: Path) -> None:
    script = "for _ in range(3): nbloss.huber_loss(x.detach(), y)"
    words = [line[0] for line in run(driver, script)]
    assert words.count("load") == 2
    assert words.count("launch") == 6


def test_a_file_that_is_damaged_is_made_anew(driver: Path, tmp_path: Path) -> None:
    script, where = "nbloss.huber_loss(x, y)", {"NBLOSS_CACHE_DIR": str(tmp_path)}
    first = [line[0] for line in run(driver, script, **where)]
    files = list(tmp_path.rglob("*.cubin"))
    assert len(files) == 2
    sizes = {file: file.stat().st_size for file in files}
    for file in files:
        file.write_bytes(b"cut short")
    assert [line[0] for line in run(driver, script, **where)] == first
    assert {file: file.stat().st_size for file in files} == sizes

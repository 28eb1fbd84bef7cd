"""The package as a whole: what importing it brings in, its commands, its examples, its modules."""

import doctest
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nbloss
import nbloss.nn
from nbloss.__main__ import main
from nbloss.commands import bench, info
from nbloss.engine.registry import LOSSES
from test_docs import blocks

ROOT = Path(__file__).parent.parent
SOURCES = Path(nbloss.__file__).parent  # also where the package is installed


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_importing_brings_in_nothing_heavy() -> None:
    heavy = run(
        "-c", "import sys, nbloss; print(sorted({'torch', 'numba', 'rich'} & {*sys.modules}))"
    )
    assert heavy.strip() == "[]"


def test_arrays_need_no_torch() -> None:
    script = """
import sys
sys.modules["torch"] = None  # what is not installed
import numpy as np, nbloss
value, gradient = nbloss.value_and_grad(nbloss.cross_entropy)(np.eye(3), np.arange(3))
assert 0.55 < value < 0.56 and gradient.shape == (3, 3)
try:
    nbloss.nn
except ModuleNotFoundError as error:
    print(error.name.split('.')[0])
"""
    assert run("-c", script).strip() == "torch"


# One module needs what takes a device to be installed.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(nbloss.__path__, "nbloss.")
    if module.name != "nbloss.bridge.cupy" or importlib.util.find_spec("cupy") is not None
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", LOSSES)
def test_examples_of_the_losses(name: str) -> None:
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    examples = finder.find(getattr(nbloss, name), name, globs={})
    assert any(test.examples for test in examples)
    for test in examples:
        assert runner.run(test).failed == 0


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_loss'"):
        _ = nbloss.no_such_loss


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", LOSSES.values(), ids=repr)
def test_modules_are_torchs(definition: object) -> None:
    module = getattr(nbloss.nn, definition.module)
    assert issubclass(module, getattr(torch.nn, definition.module))
    assert definition.module in nbloss.nn.__all__
    assert module.__module__ == "nbloss.nn"
    assert definition.name in module.__doc__


@pytest.mark.parametrize("definition", LOSSES.values(), ids=repr)
def test_editors_know_the_modules(definition: object) -> None:
    """They read the source, and see nothing of what is made when it runs."""
    name = definition.module
    assert f"import {name} as {name}\n" in inspect.getsource(nbloss.nn)


# --- commands -------------------------------------------------------------------------------------


def test_info(capsys: pytest.CaptureFixture) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("nbloss", "numba", "Threading layer", "Features", "Cache", "CUDA"):
        assert word in text
    assert np.__version__ in text


def test_warmup(capsys: pytest.CaptureFixture) -> None:
    assert main(["warmup"]) == 0
    assert f"Compiled {2 * len(LOSSES)} uses" in capsys.readouterr().out


@pytest.mark.parametrize("torch_there", [True, False])
def test_bench(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, torch_there: bool
) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "SIZES", ((4, 9),))
    monkeypatch.setattr(bench, "has_torch", lambda: torch_there)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["bench"]) == 0
    text = capsys.readouterr().out
    for loss in LOSSES:
        assert f"{loss} " in text
    assert text.count("4 × 9") == len(LOSSES)
    assert ("deviation:" in text) == (" deviation " in text) == torch_there
    if torch_there:
        assert all(bench.measured(one, (4, 9)).deviation < 1e-6 for one in LOSSES.values())


def test_json_for_machines(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "SIZES", ((4, 9),))
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nbloss"] == nbloss.__version__
    assert main(["bench", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["loss"] for row in rows] == list(LOSSES)
    assert all(row["ours"] > 0 and row["size"] == [4, 9] for row in rows)


def test_unknown_commands(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["polish"])
    assert "invalid choice" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"nbloss {nbloss.__version__}\n"


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "facts", interrupt)
    assert main(["info"]) == 130


def test_commands_need_rich(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["info"]) == 1
    assert "pip install" in capsys.readouterr().err


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "line"), [("CITATION.cff", "version: {}\n"), ("CHANGELOG.md", "## {} (")]
)
def test_the_version_is_told_everywhere(document: str, line: str) -> None:
    assert line.format(nbloss.__version__) in (ROOT / document).read_text()


def python_blocks(document: str) -> list[str]:
    return blocks((ROOT / document).read_text())


def test_a_loss_is_added_by_touching_two_files(tmp_path: Path) -> None:
    """Do to a copy of the sources what CONTRIBUTING says, and run the copy's tests of the loss."""
    definition, rows = python_blocks("CONTRIBUTING.md")
    shutil.copytree(SOURCES, tmp_path / "nbloss")
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    family = tmp_path / "nbloss" / "losses" / "regression.py"
    family.write_text(family.read_text() + "\n\n" + definition)
    cases = tmp_path / "tests" / "cases.py"
    cases.write_text(cases.read_text() + "\n\n" + rows)
    module = tmp_path / "tests" / "test_of_the_copy.py"
    module.write_text(
        "import nbloss, torch, nbloss.nn\n"
        "def test_copy():\n"
        f"    assert nbloss.__file__.startswith({str(tmp_path)!r})\n"
        "    module = nbloss.nn.LogCoshLoss(scale=2.0, reduction='sum')\n"
        "    x = torch.ones(3, requires_grad=True)\n"
        "    module(x, torch.zeros(3)).backward()\n"
        "    torch.testing.assert_close(x.grad, torch.full((3,), 0.5).tanh() / 2)\n"
        "def test_commands():\n"
        "    from nbloss.commands import bench\n"
        "    bench.SECONDS = 0.0\n"
        "    row = bench.measured(nbloss.engine.registry.LOSSES['log_cosh_loss'], (3, 4))\n"
        "    assert row.ours > 0.0 and row.theirs is row.deviation is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k",
         "log_cosh_loss or test_copy or test_commands",
         "tests/test_losses.py", "tests/test_definitions.py",
         "tests/test_bridge.py", "tests/test_of_the_copy.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_the_readme_shows_the_real_definition() -> None:
    shown = next(block for block in python_blocks("README.md") if "@pointwise" in block)
    assert shown in (SOURCES / "losses" / "regression.py").read_text()

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
from nbloss.formula.registry import LOSSES, Definition
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
    if module.name != "nbloss.backends.cupy" or importlib.util.find_spec("cupy") is not None
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", LOSSES)
def test_examples_of_the_losses(name: str) -> None:
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    examples = finder.find(getattr(nbloss, name), name, globs={})
    # Those of other losses have a docstring that is made from the definition.
    assert any(test.examples for test in examples) or not hasattr(torch.nn.functional, name)
    for test in examples:
        assert runner.run(test).failed == 0


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_loss'"):
        _ = nbloss.no_such_loss


# --- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("definition", LOSSES.values(), ids=repr)
def test_modules_are_torchs(definition: Definition) -> None:
    module = getattr(nbloss.nn, definition.module)
    assert issubclass(module, getattr(torch.nn, definition.module, torch.nn.Module))
    assert definition.module in nbloss.nn.__all__
    assert module.__module__ == "nbloss.nn"
    assert definition.name in module.__doc__


@pytest.mark.parametrize("definition", LOSSES.values(), ids=repr)
def test_editors_know_the_modules(definition: Definition) -> None:
    """Editors read the source, and see nothing of what is made when it runs."""
    name = definition.module
    if hasattr(torch.nn, name):  # a class of any other loss is a `torch.nn.Module` to them
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
        for name, definition in LOSSES.items():
            if hasattr(torch.nn.functional, name):
                assert bench.measured(definition, (4, 9)).deviation < 1e-6


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


# Keeps the tests that have the new loss in their name, and those that go through all losses.
OF_THE_NEW_LOSS = """
import inspect
from nbloss.formula.registry import LOSSES

def goes_through_all(test):
    # It, or a function that it calls, names the registry.
    called = map(test.__globals__.get, test.__code__.co_names)
    functions = [test, *filter(inspect.isfunction, called)]
    return any("LOSSES" in function.__code__.co_names for function in functions)

def pytest_collection_modifyitems(items):
    others = set(LOSSES) - {"log_cosh_loss"}
    items[:] = [
        item
        for item in items
        if "log_cosh_loss" in item.name
        or goes_through_all(item.function) and not any(name in item.name for name in others)
        or "own_may_come_late" in item.name
    ]
"""
IN_THE_COPY = """
import nbloss, pathlib, torch, nbloss.nn

def test_log_cosh_loss_as_a_module():
    assert pathlib.Path(nbloss.__file__).parents[1] == pathlib.Path(__file__).parents[1]
    module = nbloss.nn.LogCoshLoss(scale=2.0, reduction="sum")
    x = torch.ones(3, requires_grad=True)
    module(x, torch.zeros(3)).backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 0.5).tanh() / 2)
"""


def test_a_loss_is_added_by_touching_two_files(tmp_path: Path) -> None:
    """Do to a copy what CONTRIBUTING says, and run all tests that concern the new loss."""
    definition, rows = python_blocks("CONTRIBUTING.md")
    own_import, definition = definition.split("\n\n\n", 1)
    ignored = shutil.ignore_patterns("__pycache__", "auto_examples")
    shutil.copytree(SOURCES, tmp_path / "nbloss", ignore=ignored)
    for name in ("tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    family = tmp_path / "nbloss" / "losses" / "regression.py"
    text = family.read_text()
    assert "\n\nfrom " in text
    text = text.replace("\n\nfrom ", f"\n\n{own_import}\nfrom ", 1)
    family.write_text(f"{text}\n\n{definition}")
    cases = tmp_path / "tests" / "cases.py"
    cases.write_text(f"{cases.read_text()}\n\n{rows}")

    def copy(module: str, *arguments: str, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    touched = (str(family), str(cases))
    copy("ruff", "check", "--no-cache", "--fix", *touched)
    copy("ruff", "format", "--no-cache", *touched)
    copy("ruff", "check", "--no-cache", *touched)
    (tmp_path / "of_the_new_loss.py").write_text(OF_THE_NEW_LOSS)
    (tmp_path / "tests" / "test_in_the_copy.py").write_text(IN_THE_COPY)
    quietly = ("-q", "-p", "no:cacheprovider")
    copy("pytest", *quietly, "-p", "of_the_new_loss")
    if importlib.util.find_spec("numba_cuda") is not None:  # which has the simulator
        simulated = {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}
        copy("pytest", *quietly, "-k", "log_cosh_loss", "tests/test_cuda_simulator.py", **simulated)


def test_the_readme_shows_the_real_definition() -> None:
    shown = next(block for block in python_blocks("README.md") if "@pointwise" in block)
    assert shown in (SOURCES / "losses" / "regression.py").read_text()

"""Compiled kernels on disk: found again, made anew after a change, never read from strangers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbloss.engine import binding, cache

CALL = """
import numpy as np
import nbloss
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, happened): compiled.append(happened)
    def on_end(self, happened): pass
event.register("numba:compile", Listener())
print(float(nbloss.huber_loss(np.zeros(3), np.full(3, 0.5))), len(compiled))
"""


def call(**environment: str) -> tuple[float, int]:
    """Call a loss in a fresh process; give its value and how much was compiled."""
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    value, compiled = done.stdout.split()
    return float(value), int(compiled)


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "kernels"
    value, compiled = call(NBLOSS_CACHE_DIR=str(directory))
    assert value == 0.125
    assert compiled > 0
    before = {file: file.stat().st_mtime_ns for file in directory.rglob("*")}
    assert len(before) > 2
    assert call(NBLOSS_CACHE_DIR=str(directory)) == (0.125, 0)
    assert before == {file: file.stat().st_mtime_ns for file in directory.rglob("*")}


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    call(NBLOSS_CACHE_DIR=str(tmp_path / "kernels"))
    for file in (tmp_path / "kernels").rglob("*.nb*"):
        file.write_bytes(file.read_bytes()[:100])
    value, compiled = call(NBLOSS_CACHE_DIR=str(tmp_path / "kernels"))
    assert (value, compiled > 0) == (0.125, True)
    assert call(NBLOSS_CACHE_DIR=str(tmp_path / "kernels")) == (0.125, 0)


def test_without_a_directory_nothing_is_kept(tmp_path: Path) -> None:
    """A file stands where the directory should be: no cache, and no error."""
    (tmp_path / "file").write_text("in the way")
    value, compiled = call(NBLOSS_CACHE_DIR=str(tmp_path / "file"))
    assert (value, compiled > 0) == (0.125, True)


def test_the_directory_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBLOSS_CACHE_DIR", str(tmp_path / "kernels"))
    path = cache.directory()
    assert path is not None
    assert path.stat().st_mode & 0o077 == 0
    for open_to_all in (path, path.parent):
        mode = open_to_all.stat().st_mode
        open_to_all.chmod(0o777)
        assert cache.directory() is None
        open_to_all.chmod(mode)
    assert cache.directory() == path


def test_the_user_cache_is_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NBLOSS_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    path = cache.directory()
    assert path is not None
    assert path.parent == tmp_path / "nbloss"


# --- what makes a kernel another one ------------------------------------------------------------

SOURCE = """
from nbloss.engine.primitives import absolute, maximum
FACTOR = {factor}
def helper(x):
    return {helper}
def make(inner):
    def formula(x, y, margin={default}):
        return maximum(helper(x - y) * FACTOR, {number}) + inner, 1.0
    return formula
formula = make({inner})
"""
USUAL = {
    "factor": "2.0",
    "helper": "absolute(x)",
    "default": "1.0",
    "number": "0.5",
    "inner": "3.0",
}


def digest(**changes: str) -> str:
    namespace: dict[str, Any] = {}
    exec(SOURCE.format(**{**USUAL, **changes}), namespace)
    return binding.digest(namespace["formula"], "flags")


def test_the_same_definition_has_the_same_digest() -> None:
    assert digest() == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"factor": "2.5"},
        {"factor": "2"},
        {"helper": "absolute(x) + 1.0"},
        {"helper": "maximum(x, 0.0)"},
        {"number": "0.25"},
        {"inner": "4.0"},
    ],
    ids=str,
)
def test_any_change_gives_another_digest(change: dict[str, str]) -> None:
    assert digest(**change) != digest()


def test_the_stamp_covers_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A helper of all kernels that is edited makes all of them anew."""
    before = cache.source_digest()
    for file in Path(cache.__file__).parent.rglob("*.py"):
        place = tmp_path / file.relative_to(Path(cache.__file__).parent)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(file.read_bytes())
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    cache.source_digest.cache_clear()
    try:
        assert cache.source_digest() == before
        with (tmp_path / "memory.py").open("a") as file:
            file.write("# a change\n")
        cache.source_digest.cache_clear()
        assert cache.source_digest() != before
    finally:
        cache.source_digest.cache_clear()


SUM = """
import sys
import numpy as np
import nbloss
from nbloss.primitives import absolute, maximum, power, sign

DEFINITION
a, p, n = np.full((3, 1, 64), [[[0.5]], [[1.0]], [[3.0]]])
for distance in sys.argv[1:]:
    loss = nbloss.triplet_margin_with_distance_loss
    value, gradient = nbloss.value_and_grad(loss)(
        a, p, n, distance_function=globals()[distance], margin=1e4
    )
    print(float(value), gradient.ravel()[0], end=" ")
"""
POWERS = [
    f"""
@nbloss.distance
def mine(x, y, scale=1.0):
    total = power(absolute(x - y), {power}) * scale
    slope = {power} * power(absolute(x - y), {power - 1.0}) * sign(x - y) * scale
    return total, slope, -slope
{name} = mine
"""
    for name, power in (("square", 2.0), ("cube", 3.0))
]


def test_kernels_of_two_processes_live_in_a_third(tmp_path: Path) -> None:
    """Helpers of one name, compiled apart, are still two when their kernels are loaded together."""

    def run(directory: Path, *chosen: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, "-c", SUM.replace("DEFINITION", "".join(POWERS)), *chosen],
            env={
                **os.environ,
                "NBLOSS_CACHE_DIR": str(directory),
                "PYTHONHASHSEED": "0",  # Numba's names of machine code depend on it
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return [float(word) for word in done.stdout.split()]

    expected = [*run(tmp_path / "one", "square"), *run(tmp_path / "two", "cube")]
    for file in (tmp_path / "one").rglob("*.nb*"):
        shutil.copy(file, tmp_path / "two" / file.parent.name)
    assert run(tmp_path / "two", "square", "cube") == expected
    assert expected[0] == 1e4 + 64 * (0.25 - 6.25)
    assert expected[2] == 1e4 + 64 * (0.125 - 15.625)

"""Compiled kernels on disk: found again, made anew after a change, never read from strangers."""

import compileall
import importlib.util
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import nbloss
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
# Root reads and writes whatever the modes say, until it gives up CAP_DAC_OVERRIDE and
# CAP_DAC_READ_SEARCH, which takes a new program.
OBEY_MODES = """
import ctypes, os, sys
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
ANOTHER = 65534
posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are not Windows's")
is_root = sys.platform != "win32" and os.geteuid() == 0


class Done(NamedTuple):
    """What became of a call in a fresh process."""

    value: float
    compiled: int
    warnings: int
    stderr: str


def call(
    directory: Path, *, before: str = "", umask: int = -1, obey_modes: bool = False, **more: str
) -> Done:
    """Call a loss in a fresh process."""
    command = [sys.executable, "-c", before + CALL]
    if obey_modes and is_root:
        command[1:1] = ["-c", OBEY_MODES]
    done = subprocess.run(
        command,
        env={**os.environ, "NBLOSS_CACHE_DIR": str(directory), **more},
        capture_output=True,
        text=True,
        umask=umask,
        timeout=500,  # a pipe among the files must not have it wait for ever
    )
    assert done.returncode == 0, done.stderr
    value, compiled = done.stdout.split()
    return Done(float(value), int(compiled), done.stderr.count("Warning: nbloss"), done.stderr)


def files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.nb?"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the kernels of the call in it."""
    directory = tmp_path_factory.mktemp("warm") / "kernels"
    done = call(directory)
    assert (done.value, done.compiled > 0, done.warnings) == (0.125, True, 0)
    assert len(files(directory)) > 2
    return directory


@pytest.fixture
def kernels(warm: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return shutil.copytree(warm, tmp_path / "kernels")


def harmed(directory: Path) -> list[Path]:
    """Choose the index of one kernel, the data of another, and both of all the others."""
    found = files(directory)
    data = [file for file in found if file.suffix == ".nbc"]
    index = [file for file in found if file.suffix == ".nbi"]
    return index[:1] + data[1:2] + index[2:] + data[2:]


def test_a_second_process_compiles_nothing(kernels: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in kernels.rglob("*")}
    assert call(kernels)[:3] == (0.125, 0, 0)
    assert before == {file: file.stat().st_mtime_ns for file in kernels.rglob("*")}


# --- damage -------------------------------------------------------------------------------------


class Bomb:
    """Does not go unnoticed when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return exec, ("import os; os.write(2, b'unpickled')",)


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[:100],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(range(256)) * 8,
    "a flipped bit": flipped,
    "another pickle": lambda content: pickle.dumps(Bomb()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_replaced(damage: str, kernels: Path) -> None:
    changed = {}
    for file in harmed(kernels):
        changed[file] = DAMAGE[damage](file.read_bytes())
        file.write_bytes(changed[file])
    done = call(kernels)
    assert (done.value, done.compiled > 0, done.stderr) == (0.125, True, "")
    assert [file.name for file in changed if file.read_bytes() == changed[file]] == []
    assert call(kernels)[:3] == (0.125, 0, 0)


def test_files_that_have_changed_places_are_replaced(kernels: Path) -> None:
    data = list(kernels.rglob("*.nbc"))
    contents = [file.read_bytes() for file in data]
    for file, content in zip(data, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    done = call(kernels)
    assert (done.value, done.compiled > 0) == (0.125, True)
    assert call(kernels)[:3] == (0.125, 0, 0)


# --- files of others ----------------------------------------------------------------------------


def to_a_link(file: Path) -> None:
    away = file.parents[2] / "away"
    away.mkdir(exist_ok=True)
    away.chmod(0o777)
    shutil.move(file, away / file.name)
    file.symlink_to(away / file.name)


def to_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


OPENED: dict[str, Callable[[Path], None]] = {
    "its group may write to it": lambda file: file.chmod(0o660),
    "everybody may write to it": lambda file: file.chmod(0o606),
    "it is a link": to_a_link,
    "it is a pipe": to_a_pipe,
}
if is_root:
    OPENED["it is another user's"] = lambda file: os.chown(file, ANOTHER, -1)


@posix
@pytest.mark.parametrize("reason", OPENED)
def test_a_file_that_others_may_have_changed_is_replaced(reason: str, kernels: Path) -> None:
    changed = harmed(kernels)
    for file in changed:
        OPENED[reason](file)
    done = call(kernels)
    assert (done.value, done.compiled > 0) == (0.125, True)
    assert done.warnings == 1
    assert any(str(file) in done.stderr for file in changed)
    for file in changed:
        status = file.lstat()
        assert (status.st_mode, status.st_uid) == (stat.S_IFREG | 0o600, os.geteuid())
    assert call(kernels)[:3] == (0.125, 0, 0)


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002], ids=oct)
def test_what_is_written_is_private_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    made = tmp_path / "made"
    directory = made / "by" / "nbloss"
    assert call(directory, umask=umask).warnings == 0
    assert len(files(made)) > 2
    for place in (made, *made.rglob("*")):
        expected = stat.S_IFDIR | 0o700 if place.is_dir() else stat.S_IFREG | 0o600
        assert place.lstat().st_mode == expected, place
    assert call(directory, umask=umask)[:3] == (0.125, 0, 0)


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda")
@posix
def test_machine_code_that_others_may_have_changed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbloss.engine.cuda import compiler

    linked = []
    monkeypatch.setenv("NBLOSS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiler, "ptx", lambda kernel, capability: "assembly")
    monkeypatch.setattr(
        compiler, "link", lambda text, capability: (linked.append(text) or b"code", "")
    )

    def times_linked() -> int:
        assert compiler.machine_code(SimpleNamespace(name="kernel"), (9, 0)) == b"code"
        return len(linked)

    assert [times_linked(), times_linked()] == [1, 1]
    (file,) = tmp_path.rglob("*.cubin")
    file.chmod(0o666)
    with pytest.warns(RuntimeWarning, match=r"\.cubin"):
        assert times_linked() == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert times_linked() == 2


# --- directories --------------------------------------------------------------------------------


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that the user has chosen, not yet made."""
    directory = tmp_path / "chosen"
    monkeypatch.setenv("NBLOSS_CACHE_DIR", str(directory))
    return directory


def refused(match: str) -> None:
    with pytest.warns(RuntimeWarning, match=match) as warned:
        assert cache.directory() is None
        assert cache.directory() is None
    assert len(warned) == 1


def test_without_a_directory_nothing_is_kept(tmp_path: Path) -> None:
    """A file stands where the directory should be: no cache, and no error."""
    (tmp_path / "file").write_text("in the way")
    done = call(tmp_path / "file")
    assert (done.value, done.compiled > 0) == (0.125, True)
    assert done.warnings == 1


@posix
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077], ids=oct)
def test_the_directory_is_private(umask: int, chosen: Path) -> None:
    before = os.umask(umask)
    try:
        path = cache.directory()
    finally:
        os.umask(before)
    assert path is not None
    assert [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent)] == [0o700] * 2
    assert path.parent == chosen


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777], ids=oct)
@pytest.mark.parametrize("which", ["the one chosen", "the version's"])
def test_a_directory_that_others_may_write_to_is_refused(
    mode: int, which: str, chosen: Path
) -> None:
    path = cache.directory()
    assert path is not None
    (chosen if which == "the one chosen" else path).chmod(mode)
    refused("can be written to by other users")


@posix
def test_a_directory_of_another_user_is_refused(
    chosen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen.mkdir(mode=0o755)
    if is_root:
        os.chown(chosen, ANOTHER, -1)
    else:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    refused("belongs to another user")


@posix
def test_a_directory_that_others_can_exchange_is_refused(chosen: Path, tmp_path: Path) -> None:
    """The link is safe and so is what it leads to, but not the directory that this lies in."""
    exposed = tmp_path / "exposed"
    (exposed / "private").mkdir(mode=0o700, parents=True)
    chosen.symlink_to(exposed / "private")
    exposed.chmod(0o1777)  # as /tmp: each user's entries are the user's
    assert cache.directory() == exposed / "private" / nbloss.__version__
    exposed.chmod(0o777)
    refused("exposed")


@posix
def test_a_parent_may_be_open_to_the_users_group(chosen: Path, tmp_path: Path) -> None:
    """As ~/.cache is, where the umask is 002."""
    tmp_path.chmod(0o775)
    assert cache.directory() is not None


@posix
def test_a_home_that_cannot_be_written_to_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NBLOSS_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.write_text("nothing can be made in it")
    monkeypatch.setenv("HOME", str(home))
    assert cache.directory() is None


def test_the_user_cache_is_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NBLOSS_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    path = cache.directory()
    assert path is not None
    assert path.parent == tmp_path / "nbloss"


@pytest.fixture
def read_only(kernels: Path) -> Iterator[Path]:
    """The kernels as a container's image may hold them."""
    places = [kernels, *kernels.rglob("*")]
    for place in places:
        place.chmod(0o500 if place.is_dir() else 0o400)
    yield kernels
    for place in places:
        place.chmod(0o700)


@posix
@pytest.mark.skipif(is_root and sys.platform != "linux", reason="root writes to it all the same")
def test_a_read_only_directory_is_read(read_only: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in read_only.rglob("*")}
    assert call(read_only, obey_modes=True)[:3] == (0.125, 0, 0)
    # Of another make, they cannot be used; nothing can be kept, and nothing is said.
    done = call(read_only, obey_modes=True, NUMBA_CPU_NAME="generic")
    assert (done.value, done.compiled > 0, done.warnings) == (0.125, True, 0)
    assert before == {file: file.stat().st_mtime_ns for file in read_only.rglob("*")}


@pytest.mark.skipif(not is_root, reason="only root can make root's files")
def test_a_directory_of_roots_is_read(kernels: Path) -> None:
    another = "import os; os.geteuid = lambda: 12345"
    assert call(kernels, before=another)[:3] == (0.125, 0, 0)


# --- nbloss without its source ------------------------------------------------------------------

ERROR = """
try:
    import nbloss
    print("imported")
    import ARRAYS as np
    nbloss.huber_loss(np.zeros(3), np.zeros(3))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a copy of nbloss in it."""
    package = Path(nbloss.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, tmp_path / "site" / "nbloss", ignore=ignored)
    return tmp_path / "site"


def run_in(site: Path, script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(site), "NBLOSS_CACHE_DIR": str(site.parent / "new")},
        cwd=site.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
def test_bytecode_alone_is_said_to_be_too_little(arrays: str, site: Path) -> None:
    compileall.compile_dir(site, quiet=1, legacy=True)
    for file in site.rglob("*.py"):
        file.unlink()
    imported, error = run_in(site, ERROR.replace("ARRAYS", arrays))
    assert imported == "imported"
    assert "RuntimeError" in error
    assert "(.py)" in error
    assert "source" in error


DIGEST = """
from nbloss.engine import cache
print(cache.__file__, cache.source_digest())
"""


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_the_stamp_covers_the_engine(packed: bool, site: Path) -> None:
    """A helper of all kernels that is edited makes all of them anew."""

    def digest() -> str:
        place = site
        if packed:
            place = site.with_suffix(".zip")
            with zipfile.ZipFile(place, "w") as archive:
                for source in site.rglob("*.py"):
                    archive.write(source, source.relative_to(site))
        ((path, found),) = (line.split() for line in run_in(place, DIGEST))
        assert path.startswith(str(place))
        return found

    before = digest()
    assert digest() == before
    with (site / "nbloss" / "engine" / "memory.py").open("a") as file:
        file.write("# a change\n")
    assert digest() != before


# --- what makes a kernel another one ------------------------------------------------------------

SOURCE = """
from numpy import absolute, maximum
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


SUM = """
import sys
import numpy as np
import nbloss
from nbloss.primitives import absolute, power, sum

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
    return sum(power(absolute(x - y), {power}) * scale)
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

"""Compiled kernels on disk, in a directory that only this user can write to.

Numba's cache files are pickles, which run code when they are read. They are read and written only
where no other user could have put or changed them; where there is no such place, nothing is cached.
Root counts as this user: it can change the interpreter as well, and a container's image may hold
kernels that root has compiled.
"""

import contextlib
import functools
import hashlib
import importlib.resources
import io
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numba
from numba.core import caching
from numba.core.runtime import rtsys

from nbloss._version import __version__

_CHECKSUM = hashlib.sha256
# A link may lead to another user's file, and a pipe would block; Windows has neither flag, but
# translates line ends unless it is told not to.
_READ = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
    _READ |= getattr(os, _flag, 0)
_warned: set[Path] = set()


def directory() -> Path | None:
    """The directory for compiled kernels, made if it is not there.

    ``NBLOSS_CACHE_DIR`` names it; otherwise it lies in the user's cache directory. It is a
    directory per version of nbloss. It may be read-only. A directory that others may write to is
    not used, with one warning; so is one that was asked for and cannot be had. Without a usual
    place, as in many containers, there is no cache and no warning.

    Returns
    -------
    Path or None
        None if no such directory can be made, or if another user may write to it.
    """
    chosen = os.environ.get("NBLOSS_CACHE_DIR")
    try:
        base = (Path(chosen).expanduser() if chosen else _user_cache() / "nbloss").absolute()
        path = base / __version__
        _make(path)
        os.scandir(path).close()  # raises if it cannot be read
        # What is used is what was looked at, wherever a link leads by then. (On Windows, a resolved
        # path is another way of writing it, say that of a share.)
        real = path if sys.platform == "win32" else path.resolve()
        weakness = _directory_weakness(path, real)
        if weakness is None:
            return real
    except (OSError, RuntimeError) as error:  # no home, no permission, no room
        if not chosen:
            return None
        base, weakness = Path(chosen), str(error)
    _warn_once(
        base,
        f"nbloss does not keep compiled kernels in {base}, and compiles them in every process: "
        f"{weakness}. NBLOSS_CACHE_DIR can name a directory that only you can write to.",
    )
    return None


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _make(path: Path) -> None:
    """Make a directory, and those above it, for this user alone, whatever the umask is."""
    for place in reversed((path, *path.parents)):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)  # its `parents` would have the umask's mode


def _weakness(status: os.stat_result) -> str | None:
    """Say what lets other users change a file or a directory; None if they cannot."""
    if sys.platform == "win32":
        return None  # a user's directories are the user's by default there
    if status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by other users"
    return None


def _directory_weakness(path: Path, real: Path) -> str | None:
    """Say the same of the version's directory, and of those that it lies in."""
    for place in (path.parent, real):
        weakness = _weakness(place.stat())
        if weakness is not None:
            return f"{place} {weakness}"
    if sys.platform == "win32":
        return None
    # Where everybody can rename what is there, another directory can take the place of this one.
    # A group is let pass: under umask 002 the user's own ~/.cache is open to the user's own group,
    # and the files of another directory would still be another user's, which are not read.
    for place in (*path.parents, *real.parents):
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"everybody can rename what lies in {place}"
    return None


def _warn_once(place: Path, message: str) -> None:
    if place not in _warned:
        _warned.add(place)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def read(path: Path) -> bytes | None:
    """Read what :func:`write` has put on disk.

    Returns
    -------
    bytes or None
        None if it is not there or damaged, or if other users could have put it there or changed
        it. A warning tells of the first such file in a directory.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    except OSError as error:
        if sys.platform != "win32":  # there, another process may just be replacing it
            _warn_of(path, "is a link" if path.is_symlink() else f"cannot be read ({error})")
        return None
    try:
        # The file that is open, since another can be at its path by now.
        status = os.fstat(descriptor)
        weakness = _weakness(status) if stat.S_ISREG(status.st_mode) else "is not a regular file"
        if weakness is not None:
            _warn_of(path, weakness)
            return None
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read()
    finally:
        os.close(descriptor)
    size = _CHECKSUM().digest_size
    data = content[size:]
    return data if content[:size] == _checksum(path, data) else None


def _warn_of(path: Path, weakness: str) -> None:
    _warn_once(
        path.parent,
        f"nbloss does not read {path}, a compiled kernel, which {weakness}; it compiles the kernel "
        "again. Further files in this directory are left out without a warning.",
    )


def write(path: Path, data: bytes) -> None:
    """Put a file in its place in one piece, for this user alone whatever the umask is."""
    _make(path.parent)
    descriptor, name = tempfile.mkstemp(suffix=".tmp", dir=path.parent)  # its mode is 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(_checksum(path, data) + data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _checksum(path: Path, data: bytes) -> bytes:
    """Tell damage, and a file under the name of another; it is no defence against anybody."""
    return _CHECKSUM(os.fsencode(path.name) + b"\0" + data).digest()


def missing_source(module: str) -> RuntimeError:
    """Make the error that an installation of nbloss without its source gives."""
    return RuntimeError(
        f"nbloss makes its kernels from its own source files, and finds none for {module}: "
        "install it with its source (.py), not with the bytecode (.pyc) alone"
    )


@functools.cache
def source_digest() -> str:
    """Hash of all that turns a formula into machine code: the compiler's sources and Numba."""
    packages = (__package__, "nbloss.codegen")
    sources = [x for name in packages for x in _sources(importlib.resources.files(name))]
    if not sources:
        raise missing_source(__package__)
    hasher = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for source in sources:
        hasher.update(source.read_bytes())
    return hasher.hexdigest()[:24]


def _sources(folder: Traversable) -> Iterator[Traversable]:
    """Find source files, in a directory or in an archive."""
    for place in sorted(folder.iterdir(), key=lambda place: place.name):
        if place.is_dir():
            yield from _sources(place)
        elif place.name.endswith(".py"):
            yield place


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Tells Numba where the files go and what they depend on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ensure_cache_path(self) -> None:
        pass  # whatever writes a file makes its directory

    def get_cache_path(self) -> str:
        return str(self._path)

    def get_source_stamp(self) -> str:
        return source_digest()

    def get_disambiguator(self) -> str:
        return source_digest()[:8]

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> "_Locator | None":
        path = directory()
        return None if path is None else cls(path)


class _Implementation(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Files(caching.IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index and data files, read and written by this module's functions."""

    def _load_index(self) -> dict:
        data = read(Path(self._index_path))
        if data is None:
            return {}
        stream = io.BytesIO(data)
        if pickle.load(stream) != self._version:
            return {}
        stamp, overloads = pickle.load(stream)
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        data = read(Path(self._data_path(name)))
        return None if data is None else pickle.loads(data)

    @contextlib.contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        write(Path(filepath), content.getvalue())


class _KernelCache(caching.Cache):  # type: ignore[misc]
    _impl_class = _Implementation

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        self._cache_file = _Files(
            self.cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            # Machine code needs Numba's runtime, and not all that Numba knows how to compile, which
            # the method of the base class imports first.
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except Exception:  # a file cut short or of another make: compile again, and replace it
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk must not cost the user the result
            super().save_overload(sig, data)


def kernel_cache(function: Callable) -> Any:
    """Numba's cache object for one function, whose name must be unique to what it does."""
    chosen = getattr(numba.config, "CACHE_LOCATOR_CLASSES", "")  # Numba 0.61 has no such setting
    if chosen or directory() is None:
        return caching.NullCache()
    return _KernelCache(function)

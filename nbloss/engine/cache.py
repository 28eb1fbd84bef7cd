"""Compiled kernels on disk, in a directory that only this user can write.

Numba's cache files are pickles, which run code when they are read. They are read and written only
where nobody else could have put them; where there is no such place, nothing is cached.
"""

import contextlib
import functools
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

from nbloss._version import __version__


def directory() -> Path | None:
    """The directory for compiled kernels, made if it is not there.

    ``NBLOSS_CACHE_DIR`` names it; otherwise it lies in the user's cache directory. It is a
    directory per version of nbloss.

    Returns
    -------
    Path or None
        None if no such directory can be made, or if somebody else may write to it.
    """
    chosen = os.environ.get("NBLOSS_CACHE_DIR")
    with contextlib.suppress(OSError, RuntimeError):  # no home, no permission, no room
        base = Path(chosen).expanduser() if chosen else _user_cache() / "nbloss"
        path = base / __version__
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _private(base) and _private(path) and os.access(path, os.W_OK | os.X_OK):
            return path
    return None


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _private(path: Path) -> bool:
    """Whether the directory is this user's and no other user can write to it."""
    if sys.platform == "win32":
        return True  # a user's directories are the user's by default there
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@functools.cache
def source_digest() -> str:
    """Hash of all that turns a definition into machine code: the engine's sources and Numba."""
    hasher = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()[:24]


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Tells Numba where the files go and what they depend on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ensure_cache_path(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)

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


class _KernelCache(caching.Cache):  # type: ignore[misc]
    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
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

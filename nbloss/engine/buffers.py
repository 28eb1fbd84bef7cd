"""Large buffers: on large pages, and used again where fresh ones are dear.

Most of the time that it takes to fill fresh memory of many megabytes goes into making its pages,
when each is first written to. Linux makes pages of 2 MB instead of 4 kB where it is asked to.

The C library keeps memory that was let go (see :func:`let_freed_memory_be_kept`) and hands it out
again, still warm from its last use, but nothing of 32 MB or more, and little that comes near: the
next step of training has all pages made anew. So the latest of such buffers are remembered, and one
that no other object refers to any more is used again.
"""

import contextlib
import ctypes
import functools
import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nbloss.engine import forks

MAPPED = 1 << 17  # bytes from which the C library may give memory back
LARGE = 1 << 22  # bytes from which to ask for large pages
REUSED = 1 << 24  # bytes from which buffers are remembered
MOST_KEPT = 1 << 25  # bytes from which the C library keeps nothing
REMEMBERED = 1 << 28  # bytes of all buffers that are remembered
MADV_HUGEPAGE = 14


class Buffer(NamedTuple):
    """Memory that is remembered."""

    owner: Any
    size: int
    is_free: Callable[["Buffer"], bool]


_buffers: list[Buffer] = []
# It is never waited for. A signal handler or finalizer that computes a loss may come while its own
# thread holds the lock, which it can only let go of afterwards; and no buffer is worth a wait.
_lock = threading.Lock()
forks.renew(sys.modules[__name__], "_lock", threading.Lock)


@contextlib.contextmanager
def _alone() -> Iterator[bool]:
    """Tell whether the buffers are this caller's alone, and keep them so."""
    lock = _lock  # a child that is forked meanwhile has another
    taken = lock.acquire(blocking=False)
    try:
        yield taken
    finally:
        if taken:
            lock.release()


def again(size: int, is_free: Callable[[Buffer], bool], use: Callable[[Any], Any]) -> Any:
    """Use a buffer again.

    Parameters
    ----------
    size : int
        How many bytes it has.
    is_free : function
        The one that it was remembered with.
    use : function
        Makes of the buffer's owner what is to be handed out, and what keeps it from being free.

    Returns
    -------
    Any
        What ``use`` returned; None if there is no such buffer that is free, or if another call is
        looking for one at this moment.
    """
    if size < REUSED:
        return None
    with _alone() as alone:  # or two callers might find the same one
        for buffer in _buffers if alone else ():
            if buffer.size == size and buffer.is_free is is_free and is_free(buffer):
                return use(buffer.owner)
    return None


def keep(buffer: Buffer) -> None:
    """Remember a buffer if it is worth it, and forget the oldest if they are too many."""
    if REUSED <= buffer.size <= REMEMBERED:
        with _alone() as alone:
            if alone:
                kept = _buffers
                kept.append(buffer)
                while sum(other.size for other in kept) > REMEMBERED:
                    del kept[0]


def forget() -> None:
    """Forget all buffers; those that are not in use go back to the system."""
    global _buffers
    _buffers = []  # who looks through the old list at this moment may go on


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C library, on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        library.malloc.argtypes = (ctypes.c_size_t,)
        library.malloc.restype = ctypes.c_void_p
        library.free.argtypes = (ctypes.c_void_p,)
        library.free.restype = None
    except (OSError, AttributeError):
        return None
    return library


def prefer_large_pages(address: int, size: int) -> None:
    """Ask for large pages behind a buffer that has not been written to yet."""
    library = _library()
    if library is not None and size >= LARGE:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            library.madvise(start, end - start, MADV_HUGEPAGE)


@functools.cache
def let_freed_memory_be_kept() -> None:
    """Have the C library keep freed memory for the next step.

    glibc gives memory back when more than a certain amount of it lies free, so that a loop over a
    step that takes several buffers may have their pages made anew each time. The amount it learns
    from the largest piece that was freed so far: here is one of the largest that it learns from,
    which is never written to. An amount that the user has set (``MALLOC_TRIM_THRESHOLD_``) is kept.
    """
    library = _library()
    if library is not None:
        library.free(library.malloc(MOST_KEPT - (1 << 16)))

"""Large pages for large buffers.

Most of the time that it takes to fill fresh memory of many megabytes goes into making its pages,
one at a time, when each is first written to. Linux makes pages of 2 MB instead of 4 kB where it is
asked to; where it can't, or where the memory has been in use before, nothing changes.
"""

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

LARGE = 1 << 22  # bytes from which asking pays
MADV_HUGEPAGE = 14


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def prefer_large(address: int, size: int) -> None:
    """Ask for large pages behind a buffer that nobody has written to yet."""
    madvise = _madvise()
    if madvise is not None:
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:
            madvise(start, end - start, MADV_HUGEPAGE)

"""How many threads there are, and what it takes to start them without harm.

Numba has three threading layers. `workqueue` aborts the process when two Python threads enter it at
once, so that a lock stands before it. A forked child works in one thread, see
:mod:`nbloss.engine.forks`.
"""

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from llvmlite.binding import address_of_symbol
from numba.np.ufunc import parallel as numba_parallel

from nbloss.engine import forks

_lock = threading.RLock()
forks.renew(sys.modules[__name__], "_lock", threading.RLock)
_state = {"started": False, "exclusive": False}


def torch_count() -> int | None:
    """How many threads torch would use; None where it is not loaded."""
    torch: Any = sys.modules.get("torch")
    ask = getattr(torch, "get_num_threads", None)  # not there yet while torch is being imported
    return None if ask is None else ask()


def available() -> int:
    """How many threads Numba would use for this Python thread."""
    if forks.forked or numba.config.DISABLE_JIT:
        return 1
    # Others may have started Numba's threads, and chosen a number.
    started = _state["started"] or numba_parallel._is_initialized
    return numba.get_num_threads() if started else numba.config.NUMBA_NUM_THREADS


def arranged() -> bool:
    """Whether a parallel region of all available threads can be entered as things are."""
    return _state["started"] and not _state["exclusive"]


@contextlib.contextmanager
def launch(count: int) -> Iterator[None]:
    """Make a parallel region of so many threads safe to enter."""
    start()
    before = numba.get_num_threads()
    if count != before:
        numba.set_num_threads(count)
    try:
        if _state["exclusive"]:
            with _lock:
                yield
        else:
            yield
    finally:
        if count != before:
            numba.set_num_threads(before)


def layer() -> str:
    """Start the threads, if need be, and name the layer that they run on."""
    start()
    return numba.threading_layer()


def pool() -> int:
    """Start the threads, if need be, and tell where the addresses of the layer's functions lie.

    They are the two that Numba's own code calls: the one runs parts on threads, and the other says
    how many threads there are.
    """
    start()
    return _functions().ctypes.data


@functools.cache
def _functions() -> np.ndarray:
    return np.array([address_of_symbol(x) for x in ("numba_parallel_for", "get_num_threads")])


def start() -> None:
    """Start the threads, if need be."""
    if _state["started"]:
        return
    with _lock:
        if _state["started"]:
            return
        count = torch_count()
        numba_parallel._launch_threads()
        if count is not None and torch_count() != count:
            # An OpenMP layer that starts changes it where torch has the same OpenMP.
            sys.modules["torch"].set_num_threads(count)
        _state["exclusive"] = numba.threading_layer() == "workqueue"
        _state["started"] = True

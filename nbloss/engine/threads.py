"""How many threads there are, and what it takes to start them without harm.

Numba has three threading layers. `workqueue` aborts the process when two Python threads enter it at
once, so that a lock stands before it. After a fork the OpenMP layer kills the child that enters it,
and the others are of no use there: a child of a process that ran in parallel works alone.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import numba
from numba.np.ufunc import parallel as numba_parallel

_lock = threading.RLock()
_guards: list[Callable[[], contextlib.AbstractContextManager]] = []
_state = {"started": False, "orphan": False, "exclusive": False}


def _after_fork() -> None:
    _state["orphan"] = _state["started"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def guard_start(guard: Callable[[], contextlib.AbstractContextManager]) -> None:
    """Register a context to start the threads in; it puts back what starting them upsets."""
    _guards.append(guard)


def available() -> int:
    """How many threads Numba would use for this Python thread."""
    if _state["orphan"] or numba.config.DISABLE_JIT:
        return 1
    return numba.get_num_threads() if _state["started"] else numba.config.NUMBA_NUM_THREADS


def arranged() -> bool:
    """Whether a parallel region of all available threads can be entered as things are."""
    return _state["started"] and not _state["exclusive"]


@contextlib.contextmanager
def launch(count: int) -> Iterator[None]:
    """Make a parallel region of so many threads safe to enter."""
    if not _state["started"]:
        _start()
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
    if not _state["started"]:
        _start()
    return numba.threading_layer()


def _start() -> None:
    with _lock, contextlib.ExitStack() as stack:
        if _state["started"]:
            return
        for guard in _guards:
            stack.enter_context(guard())
        numba_parallel._launch_threads()
        _state["exclusive"] = numba.threading_layer() == "workqueue"
        _state["started"] = True

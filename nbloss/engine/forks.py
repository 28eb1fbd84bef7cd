"""Forks: how a process knows that it is a forked child, and which locks a child must find free.

Of a process's threads, a child has only the one that forked. The threads of OpenMP, torch's and
Numba's, are gone, and to enter a parallel region without them hangs or kills the child: a forked
child works in one thread. Locks stay as they were, held by threads that no longer exist.

``import nbloss`` imports this module, which is why it imports neither torch nor Numba.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Linux marks a process that was forked and has not executed a program since (PF_FORKNOEXEC).
FORKED_WITHOUT_EXEC = 0x40
FLAGS = 6  # their place in /proc/self/stat, counted from behind the name of the program
# Seconds that a fork waits for another thread's compilation. One takes a few; should that thread in
# turn wait for the one that forks, the fork has to go on.
LONGEST_WAIT = 30.0


def _was_forked() -> bool:
    """Whether this process was forked before this module was imported."""
    try:
        stat = Path("/proc/self/stat").read_text(errors="replace")
        if int(stat.rpartition(")")[2].split()[FLAGS]) & FORKED_WITHOUT_EXEC:
            return True
    except (OSError, ValueError, IndexError):
        pass  # not Linux
    # multiprocessing imports this in the processes that it starts.
    processes: Any = sys.modules.get("multiprocessing.process")
    if processes is None or processes.parent_process() is None:
        return False
    import multiprocessing

    # A process of the default context does not know its method.
    method = getattr(processes.current_process(), "_start_method", None)
    return (method or multiprocessing.get_start_method()) in ("fork", "forkserver")


forked = _was_forked()

_renewed: list[tuple[Any, str, Callable[[], Any]]] = []
_awaited: list[tuple[Any, str]] = []
_fork = threading.local()  # `locks`: those, and which of them the thread that forks has got


def renew(owner: Any, name: str, make: Callable[[], Any]) -> None:
    """Give a forked child a new lock, whether or not a thread held the old one.

    Parameters
    ----------
    owner : module or object
        What has the lock as an attribute.
    name : str
        The attribute.
    make : function
        Makes the lock.
    """
    _renewed.append((owner, name, make))


def wait_for(owner: Any, name: str) -> None:
    """Have a fork wait until no other thread holds a lock, which the child then finds free.

    That is for what must not be left half done, as a compilation. Locks are to be registered in the
    order in which they are taken.

    Parameters
    ----------
    owner : module or object
        What has the lock, a :class:`threading.RLock`, as an attribute. An object of another library
        that has no such attribute any more is left alone.
    name : str
        The attribute.
    """
    if not hasattr(owner, name):
        return
    if not _awaited and hasattr(os, "register_at_fork"):
        # What was registered last is called first. Numba, which has been imported by now, brings in
        # logging, whose own lock must not be held here: compiling takes it.
        os.register_at_fork(
            before=_acquire, after_in_parent=_release_in_parent, after_in_child=_release_in_child
        )
    _awaited.append((owner, name))


def _acquire() -> None:
    end = time.monotonic() + LONGEST_WAIT
    _fork.locks = [
        (owner, name, getattr(owner, name).acquire(timeout=max(end - time.monotonic(), 0.0)))
        for owner, name in _awaited
    ]


def _release_in_parent() -> None:
    for owner, name, acquired in _fork.locks:
        if acquired:
            getattr(owner, name).release()


def _release_in_child() -> None:
    for owner, name, acquired in _fork.locks:
        if acquired:  # and perhaps not for the first time: this thread may be compiling itself
            getattr(owner, name).release()
        else:
            setattr(owner, name, threading.RLock())


def _after_in_child() -> None:
    global forked
    forked = True
    for owner, name, make in _renewed:
        setattr(owner, name, make())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)

"""What goes wrong on a device, and how a later call tells of it.

A kernel that meets a label out of range touches nothing there, makes the row NaN, and leaves word
in memory of the host. The next call finds it, without having to wait for the device.
"""

import ctypes
import functools
import importlib
import os
import sys
import threading

from nbloss.engine import forks
from nbloss.engine.cuda import driver
from nbloss.formula.registry import LOSSES

WORDS = 512  # one that says that there is something, and then two for each loss
PAIR = 2
# torch's own switch for those who look for the source of an error: each call waits for its end.
BLOCKING = os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")

_lock = threading.RLock()
forks.renew(sys.modules[__name__], "_lock", threading.RLock)
_losses: list[str] = []
_words: list[ctypes.Array] = []


def memory(index: int) -> ctypes.Array:
    """The words, in memory of the host that all devices write to; a device has to be at hand."""
    with _lock:
        if not _words:
            _words.append(
                (ctypes.c_int64 * WORDS).from_address(driver.host_memory(8 * WORDS, index))
            )
        return _words[0]


@functools.cache
def places(loss: str, index: int) -> tuple[int, int]:
    """Addresses of a loss's words, and of the word that says that there is something.

    A loss's words are whether there is something, and the label.
    """
    with _lock:
        if loss not in _losses and 1 + PAIR * (len(_losses) + 1) <= WORDS:
            _losses.append(loss)
        number = _losses.index(loss) if loss in _losses else len(_losses) - 1
        seen = ctypes.addressof(memory(index))
        return seen + 8 * (1 + PAIR * number), seen


def raise_found() -> None:
    """Raise what kernels left word of, and forget it.

    Raises
    ------
    IndexError, RuntimeError
        The same that a call on the processor ends in; it names the loss and the label. What others
        left is told along with it.
    """
    if not _words or not _words[0][0]:
        return
    words = _words[0]
    found = []
    with _lock:
        words[0] = 0
        for number, loss in enumerate(_losses):
            at = 1 + PAIR * number
            if words[at]:
                words[at] = 0
                pattern = importlib.import_module(f"nbloss.engine.patterns.{LOSSES[loss].pattern}")
                error = pattern.out_of_range(words[at + 1])
                text = f"{loss}(): {error} An earlier call on the device met it."
                found.append(type(error)(text))
    if found:
        first, *others = found
        for other in others:
            first.add_note(str(other))
        raise first

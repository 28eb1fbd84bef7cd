"""What goes wrong on a device, and how a later call tells of it.

A kernel that meets a label out of range touches nothing there, makes the row NaN, and leaves word
in memory of the host. The next call finds it, without having to wait for the device.
"""

import ctypes
import functools
import importlib
import os

from nbloss.engine.cuda import driver
from nbloss.engine.registry import LOSSES

WORDS = 512  # one that says that there is something, and then two for each loss
PAIR = 2
# torch's own switch for those who look for the source of an error: each call waits for its end.
BLOCKING = os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")

_losses: list[str] = []


@functools.cache
def memory() -> ctypes.Array:
    """The words, in memory of the host that all devices write to."""
    return (ctypes.c_int64 * WORDS).from_address(driver.host_memory(8 * WORDS))


def seen() -> int:
    """Address of the word that says that there is something."""
    return ctypes.addressof(memory())


@functools.cache
def place(loss: str) -> int:
    """Address of a loss's words: whether there is something, and the label."""
    if 1 + PAIR * len(_losses) + PAIR > WORDS:
        return place(_losses[-1])
    _losses.append(loss)
    return seen() + 8 * (1 + PAIR * (len(_losses) - 1))


def raise_found() -> None:
    """Raise what a kernel left word of, and forget it.

    Raises
    ------
    IndexError, RuntimeError
        The same that a call on the processor ends in; it names the loss and the label.
    """
    words = memory()
    if not words[0]:
        return
    words[0] = 0
    for number, loss in enumerate(_losses):
        at = 1 + PAIR * number
        if words[at]:
            words[at] = 0
            pattern = LOSSES[loss].pattern
            error = importlib.import_module(f"nbloss.engine.patterns.{pattern}").out_of_range(
                words[at + 1]
            )
            raise type(error)(f"{loss}(): {error} An earlier call on the device met it.")

"""Puts nbloss into torch, so that scripts and modules run on it unchanged."""

import sys
import threading
from typing import Any

from nbloss.engine import forks

_lock = threading.RLock()  # a signal handler may come in between
forks.renew(sys.modules[__name__], "_lock", threading.RLock)
_replaced: dict[str, Any] = {}
_in_force: set["Patch"] = set()


class Patch:
    """What :func:`patch_torch` returns; as a context manager it undoes at the end what it did.

    Patches may be nested, overlap in several threads, and be entered again: torch has its own
    functions back when none is in force any more.
    """

    def __init__(self) -> None:
        self._install()

    def _install(self) -> None:
        with _lock:
            if not _in_force:
                _put_in()
            _in_force.add(self)

    def __enter__(self) -> "Patch":
        self._install()
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            if self in _in_force:
                _in_force.remove(self)
                if not _in_force:
                    _take_out()

    def __repr__(self) -> str:
        return "<nbloss in torch.nn.functional>" if self in _in_force else "<nbloss, taken back>"


def patch_torch() -> Patch:
    """Put the losses that nbloss has with torch's contract into ``torch.nn.functional``.

    The modules of ``torch.nn`` use them, too. What nbloss has no kernel for goes on to torch's own
    functions. Losses of one's own are not put there, whatever their names.

    Returns
    -------
    Patch
        A context manager that takes the losses back at its end, unless another patch is in force.

    Examples
    --------
    >>> import nbloss, torch
    >>> with nbloss.patch_torch():
    ...     loss = torch.nn.HuberLoss()(torch.zeros(3), torch.ones(3))
    >>> loss
    tensor(0.5000)
    """
    return Patch()


def unpatch_torch() -> None:
    """Take back what all calls of :func:`patch_torch` did; without one, do nothing."""
    with _lock:
        if _in_force:
            _in_force.clear()
            _take_out()


def _put_in() -> None:
    import torch.nn.functional

    from nbloss import functional
    from nbloss.torch.fallback import TORCH_FUNCTIONS

    for name in TORCH_FUNCTIONS:
        _replaced[name] = getattr(torch.nn.functional, name)
        setattr(torch.nn.functional, name, getattr(functional, name))


def _take_out() -> None:
    import torch.nn.functional

    for name, theirs in _replaced.items():
        setattr(torch.nn.functional, name, theirs)
    _replaced.clear()

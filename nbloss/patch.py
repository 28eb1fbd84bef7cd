"""Puts nbloss into torch, so that scripts and modules run on it unchanged."""

import threading
from typing import Any

_lock = threading.Lock()
_replaced: dict[str, Any] = {}


class Patch:
    """What :func:`patch_torch` returns; as a context manager it undoes at the end what it did."""

    def __init__(self, effective: bool) -> None:
        self._effective = effective

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._effective:
            unpatch_torch()

    def __repr__(self) -> str:
        return "<nbloss in torch.nn.functional>" if _replaced else "<nbloss, taken back>"


def patch_torch() -> Patch:
    """Put every loss that nbloss has into ``torch.nn.functional``.

    The modules of ``torch.nn`` use them, too. What nbloss has no kernel for goes on to torch's own
    functions. Patching twice is patching once.

    Returns
    -------
    Patch
        A context manager that takes the losses back at its end, unless they were there already.

    Examples
    --------
    >>> import nbloss, torch
    >>> with nbloss.patch_torch():
    ...     loss = torch.nn.HuberLoss()(torch.zeros(3), torch.ones(3))
    >>> loss
    tensor(0.5000)
    """
    import torch.nn.functional

    from nbloss import functional
    from nbloss.bridge.originals import ORIGINALS

    with _lock:
        if _replaced:
            return Patch(effective=False)
        for name in ORIGINALS:
            _replaced[name] = getattr(torch.nn.functional, name)
            setattr(torch.nn.functional, name, getattr(functional, name))
        return Patch(effective=True)


def unpatch_torch() -> None:
    """Take back what :func:`patch_torch` did; without it, do nothing."""
    with _lock:
        if not _replaced:
            return
        import torch.nn.functional

        for name, theirs in _replaced.items():
            setattr(torch.nn.functional, name, theirs)
        _replaced.clear()

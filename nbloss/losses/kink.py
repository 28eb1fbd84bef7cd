"""The slope of ``max(0, x)`` at 0, which is a choice."""

import importlib.metadata
import re


def at_kink() -> float:
    """Give the installed torch's choice, which was 1 before torch 2.14.

    It does not import torch, so that a loss of arrays is the same whether or not that happened.
    """
    try:
        release = re.findall(r"\d+", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return 0.0
    return 1.0 if tuple(map(int, release[:2])) < (2, 14) else 0.0


AT_KINK = at_kink()

"""What depends on the torch that is installed."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import pytest

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])

# The slope of max(0, x) at 0.
AT_KINK = 1.0 if TORCH < (2, 14) else 0.0


def since(*release: int) -> "pytest.MarkDecorator":
    """Mark what torch itself does, or says, in another way before a release."""
    import pytest  # not above: the documentation reads the registry of cases, and has no pytest

    number = ".".join(map(str, release))
    return pytest.mark.skipif(release > TORCH, reason=f"torch is another before {number}")

"""PyTorch's losses, each with its formula in a few lines of Python, compiled by Numba.

The functions take torch tensors, and NumPy arrays without torch being installed. Importing this
package brings in neither torch nor Numba; both come with the first call that needs them.
"""

import importlib
from types import ModuleType

from nbloss import distances, functional, primitives
from nbloss._version import __version__
from nbloss.define import pointwise, rowwise
from nbloss.formula.distance import Distance, distance
from nbloss.formula.expression import FormulaError
from nbloss.formula.trace import Index, PerColumn, PerRow
from nbloss.functional import *  # noqa: F403
from nbloss.gradients import value_and_grad, value_grad_hess
from nbloss.patch import patch_torch, unpatch_torch
from nbloss.sources import source

__all__ = [
    "Distance",
    "FormulaError",
    "Index",
    "PerColumn",
    "PerRow",
    "__version__",
    "distance",
    "distances",
    "functional",
    "nn",  # noqa: F405 (comes by __getattr__)
    "patch_torch",
    "pointwise",
    "primitives",
    "rowwise",
    "source",
    "unpatch_torch",
    "value_and_grad",
    "value_grad_hess",
    *functional.__all__,
]


def __getattr__(name: str) -> ModuleType:
    """Import ``nbloss.nn``, and with it torch, when it is first asked for."""
    if name == "nn":
        return importlib.import_module("nbloss.nn")
    raise AttributeError(f"module 'nbloss' has no attribute {name!r}")

"""What formulas of one's own losses and distances are written in, beside arithmetic and NumPy."""

from nbloss.formula.primitives import *  # noqa: F403
from nbloss.formula.primitives import __all__ as __all__

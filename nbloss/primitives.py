"""The words that definitions are written in, for one's own losses and distances."""

from nbloss.engine.primitives import *  # noqa: F403
from nbloss.engine.primitives import __all__ as __all__

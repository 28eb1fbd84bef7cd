"""The words that definitions are written in.

Called as they stand they are NumPy's functions, so that every definition runs on Python numbers
and on whole arrays. When a definition becomes a kernel, :mod:`nbloss.engine.binding` puts the
scalar of the same name from :mod:`nbloss.engine.scalars` in the place of each.
"""

import numpy as np

where = np.where
maximum = np.maximum
minimum = np.minimum
absolute = np.absolute
exp = np.exp
log = np.log
log1p = np.log1p
sqrt = np.sqrt
power = np.power
sign = np.sign

__all__ = [
    "absolute",
    "exp",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "power",
    "sign",
    "sqrt",
    "where",
]

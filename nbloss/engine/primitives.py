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
expm1 = np.expm1
log1p = np.log1p
sqrt = np.sqrt
power = np.power
sign = np.sign
tanh = np.tanh
logical_and = np.logical_and
logical_or = np.logical_or
logical_not = np.logical_not

__all__ = [
    "absolute",
    "exp",
    "expm1",
    "log",
    "log1p",
    "logical_and",
    "logical_not",
    "logical_or",
    "maximum",
    "minimum",
    "power",
    "sign",
    "sqrt",
    "tanh",
    "where",
]

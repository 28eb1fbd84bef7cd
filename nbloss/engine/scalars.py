"""The primitives as scalar functions, which Numba inlines into the loops of the kernels.

A NaN goes through each of them, as it does through NumPy's functions of the same names. The
number constants take the computing type when :mod:`nbloss.engine.binding` binds them.
"""

import math

import numba
import numpy as np

# Compiled, the functions of `math` follow IEEE 754. Python's own raise on log(0) or exp(1000), so
# that NumPy's serve when Numba is switched off (NUMBA_DISABLE_JIT).
library = np if numba.config.DISABLE_JIT else math


def where(condition, x, y):
    return x if condition else y


def maximum(x, y):
    # x >= y is false for a NaN on either side: the second test keeps x's, the last branch y's.
    return x if x >= y or x != x else y


def minimum(x, y):
    return x if x <= y or x != x else y


def absolute(x):
    return abs(x)


def sign(x):
    # What is neither above nor below zero is a zero or a NaN, and its own sign.
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else x)


def exp(x):
    return library.exp(x)


def log(x):
    return library.log(x)


def log1p(x):
    return library.log1p(x)


def sqrt(x):
    return library.sqrt(x)


def power(x, y):
    return x**y


def expm1(x):
    return library.expm1(x)


def tanh(x):
    return library.tanh(x)


def logical_and(x, y):
    return x and y


def logical_or(x, y):
    return x or y


def logical_not(x):
    return not x

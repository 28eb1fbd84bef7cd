"""NumPy arrays for the engine."""

import numpy as np


def dtype(x):
    return x.dtype.name


def address(x):
    return x.__array_interface__["data"][0]


def strides(x):
    return tuple(s // x.itemsize for s in x.strides)


def is_contiguous(x):
    return x.flags.c_contiguous


def contiguous(x):
    return np.ascontiguousarray(x)


def size(x):
    return x.size


def empty(shape, like):
    return np.empty(shape, like.dtype)


def broadcast_to(x, shape):
    return np.broadcast_to(x, shape)


def threads():
    return 1 << 30

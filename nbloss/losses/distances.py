"""Distances between two rows, for the triplet losses."""

import functools
import math

from nbloss.formula import primitives as nb
from nbloss.formula.distance import Distance, distance
from nbloss.formula.primitives import absolute, clamp_min, power, sqrt, where


@distance
def euclidean(x, y, eps=0.0):
    """Take the root of the sum of squares."""
    return sqrt(nb.sum((x - y + eps) ** 2))


@distance
def squared_euclidean(x, y):
    """Add up squares."""
    return nb.sum((x - y) ** 2)


@distance
def manhattan(x, y, eps=0.0):
    """Add up the sizes of the differences."""
    return nb.sum(absolute(x - y + eps))


@distance
def chebyshev(x, y, eps=0.0):
    """Take the largest difference."""
    return nb.max(absolute(x - y + eps))


@distance
def closest_coordinate(x, y, eps=0.0):
    """Take the smallest difference."""
    return nb.min(absolute(x - y + eps))


@distance
def hamming(x, y, eps=0.0):
    """Count the coordinates that differ."""
    return nb.sum(where(x - y + eps != 0.0, 1.0, 0.0))


@distance
def minkowski(x, y, eps=0.0, p=3.0):
    """Take the root of the sum of powers of the differences."""
    # At zero a power below 1 has no finite derivative, and neither has the root; torch takes 0.
    total = nb.sum(power(absolute(x - y + eps), p, slope_at_zero=0.0))
    return power(total, 1.0 / p, slope_at_zero=0.0)


@distance
def cosine(x, y, eps=1e-8):
    """Measure the angle: 1 minus its cosine. A row shorter than ``eps`` counts as that long."""
    # Such a row's length does not change with its coordinates.
    length_x = clamp_min(sqrt(nb.sum(x * x)), eps, at=0.0)
    length_y = clamp_min(sqrt(nb.sum(y * y)), eps, at=0.0)
    return 1.0 - nb.sum(x * y) / (length_x * length_y)


@functools.lru_cache(maxsize=256)
def lp(p: float = 2.0, eps: float = 0.0) -> Distance:
    """The p-norm of ``x - y + eps``.

    Parameters
    ----------
    p : float, optional
        Any number, or an infinity; 0 counts the coordinates that differ.
    eps : float, optional
        Added to each difference; ``torch.nn.functional.pairwise_distance`` has 1e-6.

    Returns
    -------
    Distance
    """
    named = {0.0: hamming, 1.0: manhattan, 2.0: euclidean, math.inf: chebyshev}
    named[-math.inf] = closest_coordinate
    p = float(p)
    if p in named:
        return named[p].with_parameters(eps=eps)
    return minkowski.with_parameters(eps=eps, p=p)


__all__ = [
    "Distance",
    "chebyshev",
    "closest_coordinate",
    "cosine",
    "distance",
    "euclidean",
    "hamming",
    "lp",
    "manhattan",
    "minkowski",
    "squared_euclidean",
]

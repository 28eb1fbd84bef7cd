"""Distances between two rows, for the triplet losses.

A formula gives what one coordinate adds to a sum, and the derivatives of that by both coordinates;
``finish`` makes the distance of the sum, and its derivative. The engine applies the chain rule.
"""

import functools
import math

from nbloss.engine.distance import Distance, distance
from nbloss.engine.primitives import absolute, maximum, power, sign, sqrt, where


def root(total, *parameters):
    # At zero, where the root has no derivative, torch takes 0. A NaN goes on.
    size = sqrt(total)
    return size, where(total == 0.0, 0.0, 0.5 / where(total == 0.0, 1.0, size))


@distance(finish=root)
def euclidean(x, y, eps=0.0):
    """Add up squares; the distance is the root of the sum."""
    difference = x - y + eps
    return difference * difference, 2.0 * difference, -2.0 * difference


@distance
def squared_euclidean(x, y):
    """Add up squares."""
    difference = x - y
    return difference * difference, 2.0 * difference, -2.0 * difference


@distance
def manhattan(x, y, eps=0.0):
    """Add up the sizes of the differences."""
    difference = x - y + eps
    # Where the difference is NaN torch's slope is 0; the primitive `sign` would be NaN.
    slope = where(difference > 0.0, 1.0, where(difference < 0.0, -1.0, 0.0))
    return absolute(difference), slope, -slope


@distance(reduce="max")
def chebyshev(x, y, eps=0.0):
    """Take the largest difference."""
    difference = x - y + eps
    return absolute(difference), sign(difference), -sign(difference)


@distance(reduce="min")
def closest_coordinate(x, y, eps=0.0):
    """Take the smallest difference."""
    difference = x - y + eps
    return absolute(difference), sign(difference), -sign(difference)


@distance
def hamming(x, y, eps=0.0):
    """Count the coordinates that differ."""
    differs = where(x - y + eps != 0.0, 1.0, 0.0)
    return differs, 0.0 * differs, 0.0 * differs


def p_root(total, eps, p):
    slope = where(total == 0.0, 0.0, power(where(total == 0.0, 1.0, total), 1.0 / p - 1.0) / p)
    return power(total, 1.0 / p), slope


@distance(finish=p_root)
def minkowski(x, y, eps=0.0, p=3.0):
    """Add up powers of the differences; the distance is the root of the sum."""
    difference = x - y + eps
    size = absolute(difference)
    # At zero |z|^p has no finite derivative for p < 1; torch takes 0.
    slope = p * power(where(size > 0.0, size, 1.0), p - 1.0) * sign(difference)
    return power(size, p), slope, -slope


@distance
def single_coordinate(x, y, eps=0.0):
    """Take the size of the difference: the p-norm of a single number for any p but 0."""
    difference = x - y + eps
    size = absolute(difference)
    # NaN where the difference is infinite, as the derivatives of powers and roots are.
    slope = where(size == 0.0, 0.0, difference / where(size == 0.0, 1.0, size))
    return size, slope, -slope


def one_minus_cosine(dot, square_x, square_y, eps):
    length_x, length_y = sqrt(square_x), sqrt(square_y)
    floor_x, floor_y = maximum(length_x, eps), maximum(length_y, eps)
    product = floor_x * floor_y
    cosine = dot / product
    # A length below eps counts as eps, and does not change with the coordinates.
    by_square_x = where(length_x > eps, 0.5 * cosine / (floor_x * floor_x), 0.0)
    by_square_y = where(length_y > eps, 0.5 * cosine / (floor_y * floor_y), 0.0)
    return 1.0 - cosine, -1.0 / product, by_square_x, by_square_y


@distance(finish=one_minus_cosine)
def cosine(x, y, eps=1e-8):
    """Measure the angle: 1 minus its cosine. A row shorter than ``eps`` counts as that long."""
    return (x * y, y, x), (x * x, 2.0 * x, 0.0 * y), (y * y, 0.0 * x, 2.0 * y)


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


_of_one_coordinate = functools.lru_cache(maxsize=256)(single_coordinate.with_parameters)


def of_one_coordinate(distance: Distance) -> Distance:
    """Give what a distance comes to for rows of one coordinate.

    The p-norms need no power and no root then, which would overflow, or lose small numbers.
    """
    if distance.formula in (euclidean.formula, minkowski.formula):
        return _of_one_coordinate(eps=distance.parameters["eps"])
    return distance


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

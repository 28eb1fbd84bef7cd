"""Distances between rows, for :func:`nbloss.triplet_margin_with_distance_loss`.

Each is a definition that is compiled into the loss. Called on arrays it measures the distance
between rows. One's own are made by :func:`nbloss.distance`.
"""

from nbloss.losses.distances import (
    chebyshev,
    closest_coordinate,
    cosine,
    euclidean,
    hamming,
    lp,
    manhattan,
    minkowski,
    squared_euclidean,
)

__all__ = [
    "chebyshev",
    "closest_coordinate",
    "cosine",
    "euclidean",
    "hamming",
    "lp",
    "manhattan",
    "minkowski",
    "squared_euclidean",
]

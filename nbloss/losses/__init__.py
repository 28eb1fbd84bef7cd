"""The definitions: the formula of each loss, and nothing of how it is computed.

A definition is a formula over :mod:`nbloss.primitives`, without branches on its data, casts or
anything of a device. It gives the value, and its derivatives are derived from it.
"""

from nbloss.losses import classification, distances, multilabel, ranking, regression, triplet

__all__ = ["classification", "distances", "multilabel", "ranking", "regression", "triplet"]

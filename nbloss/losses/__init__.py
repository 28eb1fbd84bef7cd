"""The definitions: what each loss is, and nothing of how it is computed.

A definition is a formula over the words of :mod:`nbloss.engine.primitives`, without branches, casts
or words of a device. It returns the value and then its derivatives.
"""

from nbloss.losses import classification, distances, multilabel, ranking, regression, triplet

__all__ = ["classification", "distances", "multilabel", "ranking", "regression", "triplet"]

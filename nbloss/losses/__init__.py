"""The definitions: the formula of each loss, and nothing of how it is computed.

A definition is a formula over :mod:`nbloss.primitives`, without branches on its data, casts or
anything of a device. It returns the value, and its derivatives are derived from it. The functions
at the end of :mod:`nbloss.losses.classification` return a value and derivatives; they serve CUDA
alone, until its kernels are emitted as well.
"""

from nbloss.losses import classification, distances, multilabel, ranking, regression, triplet

__all__ = ["classification", "distances", "multilabel", "ranking", "regression", "triplet"]

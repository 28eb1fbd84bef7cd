"""The definitions: the formula of each loss, and nothing of how it is computed.

A definition is a formula over the words of :mod:`nbloss.engine.primitives`, without branches, casts
or words of a device. It returns the value and then its derivatives. A pointwise definition is the
whole loss. The formula of a row leaves a part to the pattern's loops: of cross entropy the
log-sum-exp, the class weights and the label smoothing.
"""

from nbloss.losses import classification, distances, multilabel, ranking, regression, triplet

__all__ = ["classification", "distances", "multilabel", "ranking", "regression", "triplet"]

"""The losses as functions, drop-ins for those of ``torch.nn.functional`` of the same names.

A module here holds the faces of a family: each checks its arguments as torch does, and makes a
problem of them for the engine. A pointwise loss that needs no more than broadcasting has no face of
its own; :func:`nbloss.functional.face.default` makes it.
"""

import nbloss.losses  # noqa: F401 (fills the registry)
from nbloss.engine.registry import LOSSES
from nbloss.functional import face
from nbloss.functional.classification import cross_entropy, nll_loss
from nbloss.functional.multilabel import multilabel_margin_loss, multilabel_soft_margin_loss
from nbloss.functional.ranking import margin_ranking_loss
from nbloss.functional.regression import huber_loss
from nbloss.functional.triplet import triplet_margin_loss, triplet_margin_with_distance_loss

__all__ = [
    "cross_entropy",
    "huber_loss",
    "margin_ranking_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]

for _name, _definition in LOSSES.items():
    if _name not in globals():
        globals()[_name] = face.default(_definition)
        __all__ += [_name]

"""The losses as functions, drop-ins for those of ``torch.nn.functional`` of the same names.

A module here has the functions of a family: each validates its arguments as torch does, and makes
a problem of them for the engine. A loss that needs no more than broadcasting has no function of its
own here; :func:`nbloss.functional.public.default` makes it.
"""

import sys
from collections.abc import Callable
from typing import Any

import nbloss.losses  # noqa: F401 (fills the registry)
from nbloss.formula.distance import MEASURE_TENSORS, Distance
from nbloss.formula.registry import FUNCTIONS, LOSSES, ON_REPLACEMENT, Definition
from nbloss.functional import public
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


def __getattr__(name: str) -> Callable[..., Any]:
    """Make the function of a loss that has been defined elsewhere, when it is first asked for."""
    if name not in LOSSES:
        raise AttributeError(f"module 'nbloss.functional' has no attribute {name!r}")
    function = globals()[name] = public.default(LOSSES[name])
    operators = sys.modules.get("nbloss.torch.operators")
    if operators is not None:
        operators.define(function)  # the others were when it was imported
    return function


def _forget(definition: Definition) -> None:
    globals().pop(definition.name, None)
    FUNCTIONS.pop(definition.name, None)


def _measure_tensors(distance: Distance, x: Any, y: Any) -> Any:
    from nbloss.torch.composite import measured  # and torch with it

    return measured(distance, x, y)


ON_REPLACEMENT.append(_forget)
MEASURE_TENSORS[:] = [_measure_tensors]
for _name in LOSSES:
    if _name not in globals():
        globals()[_name] = public.default(LOSSES[_name])
        __all__ += [_name]

"""The patterns' modules, by name; see :data:`nbloss.engine.evaluate.PATTERNS`."""

from nbloss.engine.cuda import classes, pairs, pointwise, triplets

PATTERNS = {"pointwise": pointwise, "classes": classes, "pairs": pairs, "rows": triplets}

"""Losses of an anchor, a positive example like it and a negative example unlike it."""

from nbloss.formula.expression import single_column
from nbloss.formula.primitives import hinge, minimum
from nbloss.formula.registry import triplet, variant
from nbloss.losses.distances import euclidean
from nbloss.losses.kink import AT_KINK


def margin_of_distances(positive_distance, negative_distance, margin=1.0):
    """Give what is missing for the negative example to lie further away, by the margin."""
    return hinge(margin + positive_distance - negative_distance, at=AT_KINK)


@triplet(of_distances=margin_of_distances, saves_operands=False)
def triplet_margin_loss(
    anchor,
    positive,
    negative,
    margin=1.0,
    distance=euclidean,
    swap=False,
    single=(False, False, False),
):
    """Give what is missing for the negative example to lie further away, by the margin."""
    near = between(distance, anchor, positive, single[0])
    far = between(distance, anchor, negative, single[1])
    if swap:
        far = minimum(far, between(distance, positive, negative, single[2]))
    return margin_of_distances(near, far, margin)


def between(distance, x, y, single):
    """Measure a distance; of rows that a broadcast repeats a ``single`` column, by that column."""
    if not single:
        return distance(x, y)
    with single_column():
        return distance(x[0], y[0])


# The same of distances that the user chooses.
triplet_margin_with_distance_loss = variant(
    triplet_margin_loss,
    "triplet_margin_with_distance_loss",
    "TripletMarginWithDistanceLoss",
    autocast=("cuda",),
)

"""Losses of an anchor, a positive example like it and a negative example unlike it."""

from nbloss.engine.primitives import maximum, minimum, where
from nbloss.engine.registry import triplet, variant
from nbloss.losses.hinge import pulled


@triplet()
def triplet_margin_loss(positive_distance, negative_distance, margin=1.0, at_kink=0.0):
    """Give what is missing for the negative example to lie further away, by the margin."""
    violation = margin + positive_distance - negative_distance
    slope = pulled(violation, 1.0, at_kink)
    return maximum(violation, 0.0), slope, -slope


# The same of distances that the user chooses.
triplet_margin_with_distance_loss = variant(
    triplet_margin_loss, "triplet_margin_with_distance_loss", "TripletMarginWithDistanceLoss"
)


def nearer(first, second):
    """The smaller of two distances, and its derivatives; a tie is shared."""
    tie = where(first == second, 0.5, 0.0)
    return (
        minimum(first, second),
        tie + where(first < second, 1.0, 0.0),
        tie + where(second < first, 1.0, 0.0),
    )

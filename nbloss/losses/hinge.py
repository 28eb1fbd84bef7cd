"""What the losses have in common that are 0 once a margin is kept."""

from nbloss.engine.primitives import where


def pulled(violation, slope, at_kink):
    """Give a derivative where the margin is violated, the share ``at_kink`` of it at the margin."""
    return where(violation > 0.0, slope, where(violation == 0.0, at_kink * slope, 0.0))

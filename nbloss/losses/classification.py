"""Losses of samples that have one class each."""

from nbloss.engine.primitives import exp
from nbloss.engine.registry import normalized, picked


@picked(module="NLLLoss")
def nll_loss(log_probability, weight):
    """Give what the target class costs: nothing if it is certain."""
    return -weight * log_probability, -weight


@normalized(module="CrossEntropyLoss")
def cross_entropy(score, log_sum_exp, share, all_shares):
    """Give what one class costs by the share of the target that it has."""
    log_probability = score - log_sum_exp
    value = -share * log_probability
    return value, all_shares * exp(log_probability) - share, -log_probability

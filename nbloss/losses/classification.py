"""Losses of samples that have one class each."""

from nbloss.engine.primitives import exp
from nbloss.engine.registry import normalized, picked
from nbloss.formula import primitives as nb
from nbloss.formula.trace import Index, PerColumn, formula


def log_likelihood_of_label(input, target: Index, weight: PerColumn):
    """Give what the target class costs: nothing if it is certain."""
    own_weight = weight[target]
    return nb.weighted(-own_weight * input[target], own_weight)


def cross_entropy_of_label(
    input, target: Index, weight: PerColumn, label_smoothing=0.0, smoothed=False
):
    """Give what the target class costs, of which smoothing spreads a part over all classes."""
    log_prob = nb.log_softmax(input)
    own_weight = weight[target]
    loss = -own_weight * log_prob[target]
    if smoothed:
        evenly = -nb.sum(weight * log_prob) / nb.width
        loss = (1.0 - label_smoothing) * loss + label_smoothing * evenly
    return nb.weighted(loss, own_weight)


def cross_entropy_of_probabilities(
    input, target, weight: PerColumn, label_smoothing=0.0, smoothed=False
):
    """Give what the classes cost, each by its share of the target."""
    if smoothed:
        target = (1.0 - label_smoothing) * target + label_smoothing / nb.width
    return -nb.sum(weight * target * nb.log_softmax(input))


@picked(module="NLLLoss", row_formulas=(formula(log_likelihood_of_label, True),))
def nll_loss(log_probability, weight):
    """Give what the target class costs: nothing if it is certain."""
    return -weight * log_probability, -weight


@normalized(
    module="CrossEntropyLoss",
    row_formulas=(
        formula(cross_entropy_of_label, True),
        formula(cross_entropy_of_probabilities, True),
    ),
)
def cross_entropy(score, log_sum_exp, share, all_shares):
    """Give what one class costs by the share of the target that it has."""
    log_probability = score - log_sum_exp
    value = -share * log_probability
    return value, all_shares * exp(log_probability) - share, -log_probability

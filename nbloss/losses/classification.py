"""Losses of samples that have one class each."""

from nbloss.formula import primitives as nb
from nbloss.formula.registry import classes
from nbloss.formula.trace import Index, PerColumn


@classes(module="NLLLoss", sparse_gradient=True)
def nll_loss(input, target: Index, weight: PerColumn):
    """Give what the target class costs: nothing if it is certain."""
    own_weight = weight[target]
    return nb.weighted(-own_weight * input[target], own_weight)


def cross_entropy_of_probabilities(
    input, target, weight: PerColumn, label_smoothing=0.0, smoothed=False
):
    """Give what the classes cost, each by its share of the target."""
    if smoothed:
        target = (1.0 - label_smoothing) * target + label_smoothing / nb.width
    return -nb.sum(weight * target * nb.log_softmax(input))


@classes(
    module="CrossEntropyLoss",
    of_probabilities=cross_entropy_of_probabilities,
    saves_operands=False,
)
def cross_entropy(input, target: Index, weight: PerColumn, label_smoothing=0.0, smoothed=False):
    """Give what the target class costs, of which smoothing spreads a part over all classes."""
    log_prob = nb.log_softmax(input)
    own_weight = weight[target]
    loss = -own_weight * log_prob[target]
    if smoothed:
        evenly = -nb.sum(weight * log_prob) / nb.width
        loss = (1.0 - label_smoothing) * loss + label_smoothing * evenly
    return nb.weighted(loss, own_weight)

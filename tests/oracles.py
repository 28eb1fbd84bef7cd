"""Slow, obvious losses and gradients in float64, to hold every fast implementation against.

One function a loss, named and parametrised as in ``torch.nn.functional`` without the deprecated
``size_average`` and ``reduce``; beside each one ``<loss>_gradients``, which returns the gradient of
``sum(upstream * loss)`` with respect to everything that can have one. They loop over elements,
rows and pairs, and import neither torch nor the library under test.

At a kink the gradient is the one that torch chooses, not the same in each release. Two results
differ from torch on purpose: the mean of ``multilabel_margin_loss`` over an empty batch is NaN, and
so is the loss of a pair of classes when one of the two scores is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from versions import AT_KINK

Array = NDArray[np.float64]
Row = Array
Gradients = dict[str, Array]
DistanceFunction = Callable[[Row, Row], float]

# Infinities and NaN go through these functions on their way to a documented result.
quiet = np.errstate(all="ignore")


def value(
    loss: str | Callable[..., ArrayLike], operands: Mapping[str, Any], options: Mapping[str, Any]
) -> Array:
    """The loss of named operands; ``options`` holds the parameters and the reduction.

    A function in the place of the loss's name is an oracle of its own: it gets the operands in
    their order and the parameters by name, and returns the unreduced loss.
    """
    if isinstance(loss, str):
        return np.asarray(globals()[loss](**operands, **options))
    parameters = dict(options)
    reduction = parameters.pop("reduction", "mean")
    with np.errstate(all="ignore"):
        return np.asarray(reduce(real(loss(*operands.values(), **parameters)), reduction))


def gradients(
    loss: str | Callable[..., ArrayLike],
    operands: Mapping[str, Any],
    options: Mapping[str, Any],
    needs_grad: Sequence[str],
    grad_output: ArrayLike | None = None,
) -> Gradients:
    """The gradients of the ``needs_grad`` operands, by name.

    ``grad_output`` has the shape of the loss and is 1 everywhere when it is left out. The gradients
    of an oracle of one's own (see `value`) are central differences, good to about 8 digits.
    """
    if isinstance(loss, str):
        found = globals()[loss + "_gradients"](grad_output=grad_output, **operands, **options)
        return {name: found[name] for name in needs_grad}

    def loss_as_function_of(name: str) -> Callable[[Array], float]:
        def function(moved: Array) -> float:
            result = value(loss, {**operands, name: moved}, options)
            return float(np.sum(result if grad_output is None else real(grad_output) * result))

        return function

    return {
        name: central_differences(loss_as_function_of(name), operands[name]) for name in needs_grad
    }


def central_differences(
    function: Callable[[Array], float], point: ArrayLike, step: float = 1e-6
) -> Array:
    """The gradient of a scalar function, by moving one coordinate at a time both ways."""
    gradient = np.zeros(np.shape(point))
    for index in np.ndindex(gradient.shape):
        there, back = real(point).copy(), real(point).copy()
        there[index] += step
        back[index] -= step
        gradient[index] = (function(there) - function(back)) / (there[index] - back[index])
    return gradient


# What the losses share ------------------------------------------------------------------------


def real(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def reduce(losses: Array, reduction: str) -> Array:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / np.float64(losses.size)  # 0 / 0 is NaN, as it should be
    raise ValueError(f"{reduction} is not a valid value for reduction")


def spread(
    grad_output: ArrayLike | None,
    shape: tuple[int, ...],
    reduction: str,
    divisor: float | None = None,
) -> Array:
    """The part of the upstream gradient that reaches each element of the unreduced loss."""
    arriving = real(1.0 if grad_output is None else grad_output)
    if reduction == "mean":
        arriving = arriving / np.float64(np.prod(shape) if divisor is None else divisor)
    return np.broadcast_to(arriving, shape)


def source(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Where in an operand of ``shape`` the element is that broadcasting puts at ``index``."""
    tail = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else place for place, size in zip(tail, shape, strict=True))


def sign(x: float) -> float:
    """-1, 0 or 1; 0 for NaN too."""
    return float(x > 0) - float(x < 0)


def classes_last(array: Array) -> Array:
    """A view of scores (C) or (N, C, ...) with the classes in the last dimension."""
    return array if array.ndim == 1 else np.moveaxis(array, 1, -1)


# Classification -------------------------------------------------------------------------------


def class_weights(weight: ArrayLike | None, classes: int) -> Array:
    return np.ones(classes) if weight is None else real(weight)


def total_weight(target: ArrayLike, weights: Array, ignore_index: int) -> float:
    """The sum of the weights of all targets that are not ignored: what ``mean`` divides by."""
    total = np.float64(0.0)
    for label in np.ravel(target):
        if label != ignore_index:
            total += weights[checked(label, len(weights))]
    return total


def checked(label: int, classes: int) -> int:
    if not 0 <= label < classes:
        raise IndexError(f"Target {label} is out of bounds.")
    return int(label)


@quiet
def nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """-weight[label] * log-probability[label]; ``mean`` divides by the sum of the weights."""
    rows, labels = classes_last(real(input)), np.asarray(target)
    weights = class_weights(weight, rows.shape[-1])
    losses = np.zeros(labels.shape)
    for place in np.ndindex(labels.shape):
        if labels[place] != ignore_index:
            label = checked(labels[place], len(weights))
            losses[place] = -weights[label] * rows[place][label]
    if reduction == "mean":
        return losses.sum() / total_weight(labels, weights, ignore_index)
    return reduce(losses, reduction)


@quiet
def nll_loss_gradients(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
) -> Gradients:
    gradient, labels = np.zeros(np.shape(input)), np.asarray(target)
    rows = classes_last(gradient)
    weights = class_weights(weight, rows.shape[-1])
    total = total_weight(labels, weights, ignore_index)
    arriving = spread(grad_output, labels.shape, reduction, total)
    for place in np.ndindex(labels.shape):
        if labels[place] != ignore_index:
            label = checked(labels[place], len(weights))
            # A mean over weights of zero makes this one element NaN, and leaves the others zero.
            rows[(*place, label)] = -weights[label] * arriving[place]
    return {"input": gradient}


def log_softmax(row: Row) -> Row:
    shifted = row - np.max(row)
    return shifted - np.log(np.sum(np.exp(shifted)))


def is_class_index(target: ArrayLike) -> bool:
    return np.asarray(target).dtype.kind in "iu"


def smoothed(probabilities: Row, label_smoothing: float) -> Row:
    return probabilities * (1 - label_smoothing) + label_smoothing / len(probabilities)


@quiet
def cross_entropy(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """-sum(weight * smoothed target * log-softmax(scores)); the target is an index or shares."""
    rows = classes_last(real(input))
    classes = rows.shape[-1]
    weights = class_weights(weight, classes)
    losses = np.zeros(rows.shape[:-1])
    for place in np.ndindex(losses.shape):
        logs = log_softmax(rows[place])
        if not is_class_index(target):
            targets = smoothed(classes_last(real(target))[place], label_smoothing)
            losses[place] = -sum(targets[c] * weights[c] * logs[c] for c in range(classes))
        elif (label := np.asarray(target)[place]) != ignore_index:
            label = checked(label, classes)
            losses[place] = -(1 - label_smoothing) * weights[label] * logs[label]
            if label_smoothing > 0:
                everywhere = -sum(weights[c] * logs[c] for c in range(classes))
                losses[place] += label_smoothing / classes * everywhere
    if reduction == "mean" and is_class_index(target):
        return losses.sum() / total_weight(target, weights, ignore_index)
    return reduce(losses, reduction)


@quiet
def cross_entropy_gradients(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    grad_output: ArrayLike | None = None,
) -> Gradients:
    """Of the scores; with probabilities for targets also of these and of the weight."""
    rows = classes_last(real(input))
    classes = rows.shape[-1]
    weights = class_weights(weight, classes)
    indexed = is_class_index(target)
    total = total_weight(target, weights, ignore_index) if indexed else None
    arriving = spread(grad_output, rows.shape[:-1], reduction, total)
    of_input, of_target = np.zeros(np.shape(input)), np.zeros(np.shape(target))
    of_weight = np.zeros(classes)
    for place in np.ndindex(arriving.shape):
        logs = log_softmax(rows[place])
        of_logs = np.zeros(classes)
        if not indexed:
            targets = smoothed(classes_last(real(target))[place], label_smoothing)
            for c in range(classes):
                of_logs[c] = -arriving[place] * weights[c] * targets[c]
                of_term = -arriving[place] * logs[c]
                classes_last(of_target)[(*place, c)] = of_term * weights[c] * (1 - label_smoothing)
                of_weight[c] += of_term * targets[c]
        elif (label := np.asarray(target)[place]) != ignore_index:
            of_logs[label] = -(1 - label_smoothing) * weights[label] * arriving[place]
            for c in range(classes):
                of_logs[c] -= label_smoothing / classes * weights[c] * arriving[place]
        for c in range(classes):
            of_score = of_logs[c] - np.exp(logs[c]) * of_logs.sum()
            classes_last(of_input)[(*place, c)] = of_score
    found = {"input": of_input}
    return found if indexed else {**found, "target": of_target, "weight": of_weight}


# Regression -----------------------------------------------------------------------------------


@quiet
def huber_loss(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
) -> Array:
    """d²/2 where |d| < delta, delta * (|d| - delta / 2) elsewhere; then times the weight."""
    x, y = real(input), real(target)
    w = np.ones(x.shape) if weight is None else real(weight)
    losses = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for place in np.ndindex(losses.shape):
        difference = x[source(place, x.shape)] - y[source(place, y.shape)]
        losses[place] = w[source(place, w.shape)] * huber(difference, delta)
    return reduce(losses, reduction)


def huber(difference: float, delta: float) -> float:
    if abs(difference) < delta:
        return 0.5 * difference * difference
    return delta * (abs(difference) - 0.5 * delta)


def huber_slope(difference: float, delta: float) -> float:
    if difference <= -delta:
        return -delta
    if difference >= delta:
        return delta
    return difference  # NaN as well


@quiet
def huber_loss_gradients(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
    grad_output: ArrayLike | None = None,
) -> Gradients:
    x, y = real(input), real(target)
    w = np.ones(x.shape) if weight is None else real(weight)
    arriving = spread(grad_output, np.broadcast_shapes(x.shape, y.shape), reduction)
    found = {"input": np.zeros(x.shape), "target": np.zeros(y.shape), "weight": np.zeros(w.shape)}
    for place in np.ndindex(arriving.shape):
        at_x, at_y, at_w = (source(place, operand.shape) for operand in (x, y, w))
        slope = arriving[place] * w[at_w] * huber_slope(x[at_x] - y[at_y], delta)
        found["input"][at_x] += slope
        found["target"][at_y] -= slope
        found["weight"][at_w] += arriving[place] * huber(x[at_x] - y[at_y], delta)
    return found


# Multi-label ----------------------------------------------------------------------------------


def labels_of(row: NDArray[np.integer]) -> list[int]:
    """The labels before the first -1, duplicates included; all entries have to be in range."""
    if any(not -1 <= label < len(row) for label in row):
        raise ValueError("argument #2 'target' is out of range")
    labels: list[int] = []
    for label in row:
        if label == -1:
            break
        labels.append(int(label))
    return labels


def as_rows(operand: NDArray[Any]) -> NDArray[Any]:
    """A scalar, a row or rows, as rows; a view."""
    return operand.reshape(-1, operand.shape[-1] if operand.ndim else 1)


@quiet
def multilabel_margin_loss(input: ArrayLike, target: ArrayLike, reduction: str = "mean") -> Array:
    """sum over labels j and other classes i of max(0, 1 - (x[j] - x[i])), over C."""
    scores, labels = real(input), np.asarray(target)
    rows = as_rows(scores)
    losses = np.zeros(len(rows))
    for n, row in enumerate(rows):
        needs_grad = labels_of(as_rows(labels)[n])
        for j in needs_grad:
            for i in range(len(row)):
                if i in needs_grad:
                    continue
                margin = 1 - (row[j] - row[i])
                if margin > 0 or np.isnan(row[j]) or np.isnan(row[i]):
                    losses[n] += margin / len(row)
    return reduce(losses.reshape(scores.shape[:-1]), reduction)


@quiet
def multilabel_margin_loss_gradients(
    input: ArrayLike,
    target: ArrayLike,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
) -> Gradients:
    scores, labels = real(input), np.asarray(target)
    gradient = np.zeros(scores.shape)
    rows = as_rows(scores)
    arriving = spread(grad_output, scores.shape[:-1], reduction).reshape(len(rows))
    for n, row in enumerate(rows):
        needs_grad = labels_of(as_rows(labels)[n])
        for j in needs_grad:
            for i in range(len(row)):
                if i not in needs_grad and 1 - (row[j] - row[i]) > 0:
                    as_rows(gradient)[n, j] -= arriving[n] / len(row)
                    as_rows(gradient)[n, i] += arriving[n] / len(row)
    return {"input": gradient}


def log_sigmoid(x: float) -> float:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


@quiet
def multilabel_soft_margin_loss(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Array:
    """-weight * (y log sigmoid(x) + (1 - y) log sigmoid(-x)), averaged over the input's last
    dimension (which is not the last one of the result if the target has more dimensions)."""
    scores, targets, w = real(input), real(target), real(1.0 if weight is None else weight)
    terms = np.zeros(np.broadcast_shapes(scores.shape, targets.shape, w.shape))
    for place in np.ndindex(terms.shape):
        x = scores[source(place, scores.shape)]
        y = targets[source(place, targets.shape)]
        term = -(y * log_sigmoid(x) + (1 - y) * log_sigmoid(-x))
        terms[place] = w[source(place, w.shape)] * term
    losses = terms.sum(axis=scores.ndim - 1) / np.float64(scores.shape[-1])
    return reduce(losses, reduction)


@quiet
def multilabel_soft_margin_loss_gradients(
    input: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
) -> Gradients:
    scores, targets, w = real(input), real(target), real(1.0 if weight is None else weight)
    shape = np.broadcast_shapes(scores.shape, targets.shape, w.shape)
    axis = scores.ndim - 1
    arriving = spread(grad_output, shape[:axis] + shape[axis + 1 :], reduction)
    found = {
        "input": np.zeros(scores.shape),
        "target": np.zeros(targets.shape),
        "weight": np.zeros(w.shape),
    }
    for place in np.ndindex(shape):
        at_x, at_y, at_w = (source(place, operand.shape) for operand in (scores, targets, w))
        x, y = scores[at_x], targets[at_y]
        here = arriving[place[:axis] + place[axis + 1 :]] / scores.shape[-1]
        positive, negative = log_sigmoid(x), log_sigmoid(-x)
        found["input"][at_x] += here * w[at_w] * ((1 - y) * sigmoid(x) - y * sigmoid(-x))
        found["target"][at_y] += here * w[at_w] * (negative - positive)
        found["weight"][at_w] -= here * (y * positive + (1 - y) * negative)
    return found


# Ranking --------------------------------------------------------------------------------------


@quiet
def margin_ranking_loss(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """max(0, margin - y * (x1 - x2))."""
    x1, x2, y = real(input1), real(input2), real(target)
    losses = np.zeros(np.broadcast_shapes(x1.shape, x2.shape, y.shape))
    for place in np.ndindex(losses.shape):
        difference = x1[source(place, x1.shape)] - x2[source(place, x2.shape)]
        losses[place] = np.maximum(0, margin - y[source(place, y.shape)] * difference)
    return reduce(losses, reduction)


@quiet
def margin_ranking_loss_gradients(
    input1: ArrayLike,
    input2: ArrayLike,
    target: ArrayLike,
    margin: float = 0.0,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
) -> Gradients:
    x1, x2, y = real(input1), real(input2), real(target)
    arriving = spread(grad_output, np.broadcast_shapes(x1.shape, x2.shape, y.shape), reduction)
    found = {
        "input1": np.zeros(x1.shape),
        "input2": np.zeros(x2.shape),
        "target": np.zeros(y.shape),
    }
    for place in np.ndindex(arriving.shape):
        at_1, at_2, at_y = (source(place, operand.shape) for operand in (x1, x2, y))
        difference = x1[at_1] - x2[at_2]
        here = arriving[place] * hinge_slope(margin - y[at_y] * difference)
        found["input1"][at_1] -= here * y[at_y]
        found["input2"][at_2] += here * y[at_y]
        found["target"][at_y] -= here * difference
    return found


# Distances between two rows -------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    """A distance of two rows, and its gradients with respect to both."""

    function: DistanceFunction
    gradients: Callable[[Row, Row], tuple[Row, Row]]

    def __call__(self, x: Row, y: Row) -> float:
        return self.function(x, y)


def norm(row: Row, p: float) -> float:
    """(sum |x|^p)^(1/p) and its limits: the number of non-zeros, the maximum and the minimum."""
    sizes = np.abs(row)
    if p == 0:
        return np.sum(row != 0, dtype=np.float64)
    if p == np.inf:
        return np.max(sizes)
    if p == -np.inf:
        return np.min(sizes)
    return np.sum(sizes**p) ** (1 / p)


def norm_gradient(row: Row, p: float) -> Row:
    size = norm(row, p)
    gradient = np.zeros(len(row))
    if p == 0:
        return gradient
    if np.isinf(p):  # whoever ties for the extreme gets an equal share
        extreme = [abs(x) == size or np.isnan(x) for x in row]
        for k, x in enumerate(row):
            if extreme[k]:
                gradient[k] = sign(x) / sum(extreme)
        return gradient
    for k, x in enumerate(row):
        if p == 1:
            gradient[k] = sign(x)
        elif p < 1:  # infinitely steep at x = 0, but not counted
            steepness = 0.0 if x == 0 else sign(x) * abs(x) ** (p - 1)
            gradient[k] = steepness * size ** (1 - p)
        elif size != 0:
            gradient[k] = sign(x) * abs(x) ** (p - 1) / size ** (p - 1)
    return gradient


def lp(p: float, eps: float = 0.0) -> Distance:
    """The p-norm of x - y + eps: not symmetric when ``eps`` is not zero."""

    def both(x: Row, y: Row) -> tuple[Row, Row]:
        gradient = norm_gradient(x - y + eps, p)
        return gradient, -gradient

    return Distance(lambda x, y: norm(x - y + eps, p), both)


def squared_distance(x: Row, y: Row) -> float:
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def squared_distance_gradients(x: Row, y: Row) -> tuple[Row, Row]:
    return 2 * (x - y), -2 * (x - y)


COSINE_EPS = 1e-8


def cosine_distance(x: Row, y: Row) -> float:
    """1 - x·y / (|x| |y|), each norm at least ``COSINE_EPS``."""
    long_x, long_y = (np.maximum(norm(row, 2), COSINE_EPS) for row in (x, y))
    return 1 - sum(a / long_x * (b / long_y) for a, b in zip(x, y, strict=True))


def cosine_distance_gradients(x: Row, y: Row) -> tuple[Row, Row]:
    def of_first(x: Row, y: Row) -> Row:
        long_x, long_y = (np.maximum(norm(row, 2), COSINE_EPS) for row in (x, y))
        cosine = 1 - cosine_distance(x, y)
        # The floor under the norm does not stop the gradient through the norm.
        return -(y / long_y - cosine * norm_gradient(x, 2)) / long_x

    return of_first(x, y), of_first(y, x)


DISTANCES: dict[str, Distance] = {
    "euclidean": lp(2),
    "manhattan": lp(1),
    "chebyshev": lp(np.inf),
    "squared_euclidean": Distance(squared_distance, squared_distance_gradients),
    "cosine": Distance(cosine_distance, cosine_distance_gradients),
}


def distance_of(function: DistanceFunction | str | None) -> Distance:
    """None is torch's pairwise distance, a string one of `DISTANCES`; functions of two rows that
    come without gradients get central differences."""
    if function is None:
        return lp(2, 1e-6)
    if isinstance(function, str):
        return DISTANCES[function]
    if isinstance(function, Distance):
        return function

    def by_differences(x: Row, y: Row) -> tuple[Row, Row]:
        of_x = central_differences(lambda moved: function(moved, y), x)
        return of_x, central_differences(lambda moved: function(x, moved), y)

    return Distance(function, by_differences)


# Triplets -------------------------------------------------------------------------------------


def row_pair(x: Array, y: Array, place: tuple[int, ...]) -> tuple[Row, Row]:
    """The rows of two operands at a place, after these two (and no third) are broadcast."""
    return tuple(row[place] for row in np.broadcast_arrays(x, y))  # type: ignore[return-value]


def row_distances(distance: Distance, x: Array, y: Array) -> Array:
    distances = np.zeros(np.broadcast_shapes(x.shape, y.shape)[:-1])
    for place in np.ndindex(distances.shape):
        distances[place] = distance(*row_pair(x, y, place))
    return distances


def add_row(gradient: Array, place: tuple[int, ...], row: Row) -> None:
    """Add a row's gradient to where the row came from, which may be narrower."""
    for k, part in enumerate(row):
        gradient[source((*place, k), gradient.shape)] += part


def triplet(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    distance: Distance,
    margin: float,
    swap: bool,
    reduction: str,
) -> Array:
    """max(0, margin + d(a, p) - d(a, n)); with ``swap`` the smaller of d(a, n) and d(p, n)."""
    a, p, n = real(anchor), real(positive), real(negative)
    near, far = row_distances(distance, a, p), row_distances(distance, a, n)
    if swap:
        far = np.minimum(far, row_distances(distance, p, n))
    return reduce(np.maximum(0, margin + near - far), reduction)


def triplet_gradients(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    distance: Distance,
    margin: float,
    swap: bool,
    reduction: str,
    grad_output: ArrayLike | None,
) -> Gradients:
    operands = {"anchor": real(anchor), "positive": real(positive), "negative": real(negative)}
    pairs = [("anchor", "positive"), ("anchor", "negative")]
    if swap:
        pairs.append(("positive", "negative"))
    distances = [row_distances(distance, operands[x], operands[y]) for x, y in pairs]
    found = {name: np.zeros(operand.shape) for name, operand in operands.items()}
    shape = np.broadcast_shapes(*(each.shape for each in distances))
    arriving = spread(grad_output, shape, reduction)
    of_distances = [np.zeros(each.shape) for each in distances]

    for place in np.ndindex(shape):
        at = [source(place, each.shape) for each in distances]
        near, *fars = (each[where] for each, where in zip(distances, at, strict=True))
        here = arriving[place] * hinge_slope(margin + near - np.min(fars))
        of_distances[0][at[0]] += here
        for k, far in enumerate(fars):
            # The smaller one counts; both half when they tie.
            share = 1.0 if len(fars) == 1 else share_of_minimum(far, fars[1 - k])
            of_distances[1 + k][at[1 + k]] -= here * share

    for (x, y), of_distance in zip(pairs, of_distances, strict=True):
        for place in np.ndindex(of_distance.shape):
            of_x, of_y = distance.gradients(*row_pair(operands[x], operands[y], place))
            add_row(found[x], place, of_distance[place] * of_x)
            add_row(found[y], place, of_distance[place] * of_y)
    return found


def hinge_slope(violation: float) -> float:
    """Slope of max(0, violation)."""
    if violation == 0:
        return AT_KINK
    return 1.0 if violation > 0 else 0.0


def share_of_minimum(mine: float, other: float) -> float:
    if mine > other:
        return 0.0
    return 0.5 if mine == other else 1.0


@quiet
def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """The triplet loss with the p-norm of x - y + eps for a distance."""
    return triplet(anchor, positive, negative, lp(p, eps), margin, swap, reduction)


@quiet
def triplet_margin_loss_gradients(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
) -> Gradients:
    distance = lp(p, eps)
    return triplet_gradients(
        anchor, positive, negative, distance, margin, swap, reduction, grad_output
    )


@quiet
def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: DistanceFunction | str | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Array:
    """The triplet loss with any distance of two rows (see `distance_of`)."""
    distance = distance_of(distance_function)
    return triplet(anchor, positive, negative, distance, margin, swap, reduction)


@quiet
def triplet_margin_with_distance_loss_gradients(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: DistanceFunction | str | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    grad_output: ArrayLike | None = None,
) -> Gradients:
    distance = distance_of(distance_function)
    return triplet_gradients(
        anchor, positive, negative, distance, margin, swap, reduction, grad_output
    )

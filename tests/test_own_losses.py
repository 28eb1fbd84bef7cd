"""Losses that a user defines: what is checked, what they have, and what they do not touch."""

import copy
import functools
import inspect
import math
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpydoc.validate import validate
from torch import Tensor

import nbloss
from nbloss import primitives as nb
from nbloss.formula.registry import LOSSES
from nbloss.primitives import absolute, detach, log, log_softmax, sign, weighted, where
from own_loss import own_losses
from test_losses import ROUNDINGS, error


@pytest.fixture(autouse=True)
def only_the_losses_of_nbloss_are_left() -> Iterator[None]:
    with own_losses():
        yield


def one_sided() -> Callable[..., Any]:
    """A loss whose target has no derivative, though the value depends on it."""

    @nbloss.pointwise
    def one_sided_loss(input, target):
        """Square the error."""
        error = input - detach(target)
        return error * error

    return one_sided_loss


REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


# --- operands without a derivative ----------------------------------------------------------------


@REDUCTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_operand_without_a_derivative_gets_no_gradient(
    reduction: str, dtype: torch.dtype
) -> None:
    loss = one_sided()
    x = torch.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    y = torch.tensor([3.0, 0.5], dtype=dtype, requires_grad=True)
    loss(x, y, reduction=reduction).sum().backward()
    count = 2 if reduction == "mean" else 1
    assert x.grad.tolist() == [-4.0 / count, 3.0 / count]
    assert y.grad is None


@REDUCTIONS
def test_a_value_has_no_graph_if_no_gradient_can_come_of_it(reduction: str) -> None:
    y = torch.tensor([3.0, 0.5], requires_grad=True)
    assert not one_sided()(torch.ones(2), y, reduction=reduction).requires_grad


def test_an_operand_without_a_derivative_in_transforms_and_graphs() -> None:
    loss = one_sided()
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])
    first, second = torch.func.grad(loss, argnums=(0, 1))(x, y)
    assert first.tolist() == [-2.0, 1.5]
    assert second.tolist() == [0.0, 0.0]
    x.requires_grad_()
    y.requires_grad_()
    (again,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
    again.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [t.detach().clone().requires_grad_() for t in (x, y)]
    compiled(*leaves).backward()
    assert leaves[0].grad.tolist() == [-2.0, 1.5]
    assert leaves[1].grad is None or leaves[1].grad.tolist() == [0.0, 0.0]


def test_arrays_say_which_operand_has_no_derivative() -> None:
    x, y = np.array([1.0, 2.0]), np.array([3.0, 0.5])
    loss = one_sided()
    assert nbloss.value_and_grad(loss)(x, y)[1].tolist() == [-2.0, 1.5]
    for argnums in (1, (0, 1)):
        with pytest.raises(ValueError, match="no gradient with respect to target"):
            nbloss.value_and_grad(loss, argnums)(x, y)


def test_an_operand_that_only_a_condition_takes_has_no_derivative() -> None:
    @nbloss.pointwise
    def log_score_loss(input, target):
        """Score a probability, of targets that are 0 or 1."""
        return where(target > 0.0, 1.0, 0.0) * log(input)

    x, y = np.array([0.5, 0.25]), np.array([1.0, 0.0])
    value, gradient = nbloss.value_and_grad(log_score_loss)(x, y)
    assert np.isclose(value, np.log(0.5) / 2)
    assert gradient.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="no gradient with respect to target"):
        nbloss.value_and_grad(log_score_loss, 1)(x, y)
    x, y = (torch.from_numpy(operand).requires_grad_() for operand in (x, y))
    log_score_loss(x, y).backward()
    assert x.grad.tolist() == [1.0, 0.0]
    assert y.grad is None


# --- definitions are checked ----------------------------------------------------------------------


def with_slopes(input, target):
    error = input - target
    return error * error, 2.0 * error


def without_result(input, target):
    assert input is not target


def branching(input, target):
    error = input - target
    if error > 0.0:
        error = 2.0 * error
    return error


def in_math(input, target):
    return math.exp(input - target)


def in_torch(input, target):
    return torch.exp(input - target)


def with_an_array(input, target):
    return np.array([1.0, 2.0]) * (input - target)


def multiplying_matrices(input, target):
    return input @ target


def summing(input, target):
    return nb.sum(input - target)


def with_a_list(input, target, weights=(1.0, 2.0)):
    return weights[0] * (input - target)


def sorting(input, target):
    return np.sort(input) - target


def arcus(input, target):
    return np.arctan(input - target)


def without_target(input, target):
    return input * input


def constant(input, target):
    return 3.0


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (with_slopes, "with_slopes returns 2 values, but a formula states the value alone"),
        (without_result, "without_result returns nothing"),
        (branching, r"cannot branch on its data .* use where\(condition, x, y\)"),
        (in_math, "use the functions of nbloss.primitives or NumPy instead of those of math"),
        (in_torch, "in_torch calls a function that does not know a formula's data"),
        (with_an_array, "got an array: make it an operand"),
        (multiplying_matrices, "cannot multiply matrices"),
        (summing, "has no row to take the sum of: define it with @rowwise"),
        (sorting, "numpy.sort is not among .*: sort the rows before the call"),
        (arcus, "numpy.arctan is not among .*: they know absolute, add, .*, where"),
        (without_target, r"without_target does not depend on target: leave the argument out"),
        (constant, r"constant does not depend on input and target"),
        (with_a_list, "the default of weights must be a float, .* or a bool, int or str"),
    ],
)
def test_what_is_no_formula_is_refused(formula: Callable[..., Any], message: str) -> None:
    with pytest.raises(nbloss.FormulaError, match=message):
        nbloss.pointwise(formula)
    assert formula.__name__ not in LOSSES


def test_a_refusal_names_the_line() -> None:
    line = branching.__code__.co_firstlineno + 2
    with pytest.raises(nbloss.FormulaError, match=rf'in ".*test_own_losses\.py", line {line}\)'):
        nbloss.pointwise(branching)


def columns_left(scores):
    return scores * scores


def label_as_a_number(scores, label: nbloss.Index):
    return nb.sum(scores) * label


def label_of_no_label(scores, target):
    return scores[target]


def number_first(center: nbloss.PerRow, scores):
    return nb.sum(scores - center)


def weighted_inside(scores, weight: nbloss.PerRow):
    return 2.0 * weighted(nb.sum(scores), weight)


def weighted_by_column(scores, weight: nbloss.PerColumn):
    return weighted(nb.sum(scores), weight)


def along_another_axis(scores):
    return nb.sum(scores, axis=0)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (along_another_axis, r"sum\(x\) is taken along it: there is no other axis"),
        (columns_left, "gives a number for each column, but must give one for the row"),
        (label_as_a_number, "can only index a row or be compared .* annotate it nbloss.PerRow"),
        (label_of_no_label, "indexed by a label, an operand that is annotated nbloss.Index"),
        (number_first, "the first operand must be a row"),
        (weighted_inside, r"weighted\(value, weight\) must be what the formula returns"),
        (weighted_by_column, "the weight of a row must be one number"),
    ],
)
def test_what_is_no_formula_of_a_row_is_refused(formula: Callable[..., Any], message: str) -> None:
    with pytest.raises(nbloss.FormulaError, match=message):
        nbloss.rowwise(formula)
    assert formula.__name__ not in LOSSES


@pytest.mark.parametrize("decorator", [nbloss.pointwise, nbloss.rowwise])
@pytest.mark.parametrize("old", ["differentiable", "finish", "reduce", "mean_over_classes"])
def test_arguments_that_there_are_not(decorator: Callable[..., Any], old: str) -> None:
    message = rf'{decorator.__name__}\(\) takes no {old}: .* \(in ".*test_own_losses.py", line'
    with pytest.raises(nbloss.FormulaError, match=message):

        @decorator(**{old: ("input",)})
        def old_loss(input, target):
            return nb.sum(input - target)

    assert "old_loss" not in LOSSES


# --- derivatives that are stated ------------------------------------------------------------------


def square_loss(input, target):
    """Square the error."""
    error = input - target
    return error * error


def half(input, target):
    return input - target


def another(input, target):
    return square_loss(input, target)


def right_near_the_target(input, target):
    """As an example on paper is."""
    error = input - target
    return where(absolute(error) > 1.0, sign(error), 2.0 * error)


@pytest.mark.parametrize(
    ("slope", "message"),
    [
        (half, "with respect to input at input=.*, target=.* is stated as .* give"),
        (another, "with respect to input .* finite differences"),
        (right_near_the_target, "with respect to input"),
    ],
)
def test_a_wrong_derivative_is_refused(slope: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"loss square_loss: .*{message}"):
        nbloss.pointwise(derivatives={"input": slope})(square_loss)
    assert "square_loss" not in LOSSES


def sum_of_squares(scores, label: nbloss.Index, center: nbloss.PerRow):
    """Add up squares, and take off one score."""
    return nb.sum((scores - center) ** 2) - scores[label]


def without_the_label(scores, label, center):
    return 2.0 * (scores - center)


def with_the_label(scores, label, center):
    return 2.0 * (scores - center) - where(nb.column == label, 1.0, 0.0)


def test_derivatives_of_rows_are_compared_as_well() -> None:
    define = nbloss.rowwise(derivatives={"scores": without_the_label})
    with pytest.raises(ValueError, match=r"with respect to column . of scores at scores=\["):
        define(sum_of_squares)
    assert "sum_of_squares" not in LOSSES
    nbloss.rowwise(derivatives={"scores": without_the_label}, check=False)(sum_of_squares)
    loss = nbloss.rowwise(derivatives={"scores": with_the_label})(sum_of_squares)
    rows, labels = np.arange(6.0).reshape(2, 3), np.array([2, 0])
    _, slope = nbloss.value_and_grad(loss)(rows, labels, np.zeros(2), reduction="sum")
    assert slope.tolist() == [[0.0, 2.0, 3.0], [5.0, 8.0, 10.0]]


def test_a_derivative_that_is_stated_is_taken() -> None:
    """In kernels and in torch's operations, and that it be another is said by ``check``."""
    loss = nbloss.pointwise(derivatives={"input": half}, check=False)(square_loss)
    x, y = np.array([3.0, 1.0]), np.array([1.0, 2.0])
    value, (by_input, by_target) = nbloss.value_and_grad(loss, (0, 1))(x, y, reduction="sum")
    assert value == 5.0
    assert by_input.tolist() == [2.0, -1.0]
    assert by_target.tolist() == [-4.0, 2.0]
    tensors = [torch.from_numpy(operand).requires_grad_() for operand in (x, y)]
    loss(*tensors, reduction="sum").backward()
    assert [t.grad.tolist() for t in tensors] == [[2.0, -1.0], [-4.0, 2.0]]
    (slope,) = torch.autograd.grad(loss(*tensors, reduction="sum"), tensors[0], create_graph=True)
    assert slope.tolist() == [2.0, -1.0]
    (curvature,) = torch.autograd.grad(slope.sum(), tensors[0])
    assert curvature.tolist() == [1.0, 1.0]
    by_input = torch.func.grad(loss)(*(t.detach() for t in tensors), reduction="sum")
    assert by_input.tolist() == [2.0, -1.0]


def test_what_is_not_finite_is_not_compared() -> None:
    """Logarithms of targets that are probabilities, kinks at the targets that occur."""

    @nbloss.pointwise(derivatives={"input": lambda input, target: where(target > 0, 1 / input, 0)})
    def log_score_loss(input, target):
        """Score a log-probability, of targets that are 0 or 1."""
        return where(target > 0.0, 1.0, 0.0) * log(input)

    value = log_score_loss(np.array([0.5, 0.25]), np.array([1.0, 0.0]))
    assert np.isclose(value, np.log(0.5) / 2)


# --- defined again --------------------------------------------------------------------------------


def scaled(factor: float, **more: float) -> None:
    if more:

        @nbloss.pointwise
        def again_loss(input, target, scale=3.0):
            """Scale the error by a parameter."""
            return scale * (input - target)

    else:

        @nbloss.pointwise
        def again_loss(input, target):
            """Scale the error by a constant."""
            return factor * (input - target)


def test_errors_name_the_argument_that_was_given() -> None:
    """Whatever the formula calls it."""

    @nbloss.rowwise
    def priced_loss(scores, answer: nbloss.Index, price: nbloss.PerColumn):
        return -price[answer] * nb.log_softmax(scores)[answer]

    scores, answer, price = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), torch.ones(3)
    with pytest.raises(RuntimeError, match="no gradient with respect to price"):
        priced_loss(scores, answer, price.requires_grad_())
    with pytest.raises(RuntimeError, match=r"price is of torch\.float64, input of torch\.float32"):
        priced_loss(scores, answer, price.double())
    with pytest.raises(RuntimeError, match="expected price of dtype float32 like input"):
        priced_loss(scores.numpy(), answer.numpy(), np.ones(3))
    with pytest.raises(TypeError, match="answer"):
        priced_loss(scores, [0, 1], price)
    with pytest.raises(RuntimeError, match="answer must be of int64, int32 or uint8, got float32"):
        priced_loss(scores, answer.float(), price)


def test_a_loss_can_be_defined_again() -> None:
    x = torch.ones(2, requires_grad=True)
    for factor in (2.0, 5.0):
        scaled(factor)
        loss = nbloss.functional.again_loss
        assert loss(np.ones(2), np.zeros(2)) == factor
        assert loss(x, torch.zeros(2)).item() == factor
        assert nbloss.nn.AgainLoss()(x, torch.zeros(2)).item() == factor
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        assert compiled(x, torch.zeros(2)).item() == factor
        (gradient,) = torch.autograd.grad(compiled(x, torch.zeros(2), reduction="sum"), x)
        assert gradient.tolist() == [factor, factor]
        torch._dynamo.reset()


def test_a_loss_can_be_defined_again_with_other_arguments() -> None:
    x = torch.ones(2, requires_grad=True)
    scaled(2.0)
    before = nbloss.functional.again_loss
    compiled = torch.compile(before, fullgraph=True, backend="aot_eager")
    assert compiled(x, torch.zeros(2)).item() == 2.0
    scaled(2.0, parameter=3.0)
    after = nbloss.functional.again_loss
    compiled = torch.compile(
        lambda x, y: after(x, y, scale=7.0), fullgraph=True, backend="aot_eager"
    )
    assert compiled(x, torch.zeros(2)).item() == 7.0
    assert nbloss.nn.AgainLoss(scale=4.0)(x, torch.zeros(2)).item() == 4.0
    assert before(x, torch.zeros(2)).item() == 2.0  # the function that is there goes on as it was


def test_a_loss_of_nbloss_cannot_be_defined_again() -> None:
    def huber_loss(input, target):
        return input - target

    with pytest.raises(ValueError, match=r"huber_loss is a loss of nbloss.* needs another name"):
        nbloss.pointwise(huber_loss)

    def nll_loss(scores, label: nbloss.Index):
        return -scores[label]

    with pytest.raises(ValueError, match=r"nll_loss is a loss of nbloss.* needs another name"):
        nbloss.rowwise(nll_loss)
    assert nbloss.huber_loss(np.ones(1), np.zeros(1)) == 0.5


# --- names that are torch's -----------------------------------------------------------------------


def named_like_torchs() -> None:
    @nbloss.pointwise
    def l1_loss(input, target, scale=1.0):
        """Scale the absolute error."""
        return scale * absolute(input - target)


def test_only_losses_with_torchs_contract_are_patched() -> None:
    named_like_torchs()
    theirs = F.l1_loss
    with nbloss.patch_torch():
        assert F.huber_loss is nbloss.huber_loss
        assert F.l1_loss is theirs
        assert torch.nn.L1Loss()(torch.ones(2), torch.zeros(2)).item() == 1.0


def test_a_loss_with_a_name_of_torchs_is_ones_own() -> None:
    """It has no fallback to torch's function, and its module is not torch's."""
    named_like_torchs()
    x, y = torch.tensor([1.0, -3.0]), torch.zeros(2)
    assert nbloss.functional.l1_loss(x, y, scale=2.0).item() == 4.0
    assert nbloss.nn.L1Loss(scale=2.0)(x, y).item() == 4.0
    with pytest.raises(NotImplementedError, match=r"l1_loss\(\): no kernel for torch.complex64"):
        nbloss.functional.l1_loss(x + 0j, y + 0j)

    class Tagged(torch.Tensor):
        pass

    with pytest.raises(TypeError, match=r"l1_loss\(\): input must be a tensor"):
        nbloss.functional.l1_loss(x.as_subclass(Tagged), y, scale=2.0)


# --- rows -----------------------------------------------------------------------------------------


def focal_loss(scores, label: nbloss.Index, gamma=2.0):
    """What the labelled class costs; less if it is likely."""
    log_prob = log_softmax(scores)[label]
    return -((1.0 - nb.exp(log_prob)) ** gamma) * log_prob


def distillation_loss(student, teacher, temperature=2.0):
    """The divergence of two softmaxes."""
    log_prob = log_softmax(student / temperature)
    target = log_softmax(teacher / temperature)
    return temperature**2 * nb.sum(nb.exp(target) * (target - log_prob))


def dice_loss(input, target, smooth=1.0):
    """How little two sets overlap."""
    prob = nb.sigmoid(input)
    overlap = (prob * target).sum()
    return 1.0 - (2.0 * overlap + smooth) / (prob.sum() + target.sum() + smooth)


def contrastive_loss(similarity, own: nbloss.Index, temperature=0.25):
    """InfoNCE: the row's own example among all others."""
    logits = similarity / temperature
    return nb.logsumexp(logits) - logits[own]


def weighted_square_loss(input, target, row: nbloss.PerRow, column: nbloss.PerColumn):
    """A mean in which rows count by their weight."""
    return weighted(row * nb.mean(column * (input - target) ** 2), row)


def around_center_loss(input, center: nbloss.PerRow, squared=False):
    """How far a row lies from a number of its own."""
    error = input - center
    return nb.sum(error * error) if squared else nb.sum(absolute(error))


def spread_loss(input):
    """From the smallest to the largest."""
    return np.max(input) - np.min(input)


def from_first_loss(input):
    """How far all are from the first."""
    return nb.mean((input - input[0]) ** 2)


def rows_of(x: Tensor, label: Tensor) -> Tensor:
    return x.gather(-1, label[..., None]).squeeze(-1)


def focal_in_torch(scores: Tensor, label: Tensor, gamma: float = 2.0) -> Tensor:
    log_prob = rows_of(scores.log_softmax(-1), label)
    return -((1.0 - log_prob.exp()) ** gamma) * log_prob


def distillation_in_torch(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    log_prob, target = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    divergence = F.kl_div(log_prob, target, log_target=True, reduction="none")
    return temperature**2 * divergence.sum(-1)


def dice_in_torch(input: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    prob = input.sigmoid()
    both = prob.sum(-1) + target.sum(-1)
    return 1.0 - (2.0 * (prob * target).sum(-1) + smooth) / (both + smooth)


def contrastive_in_torch(similarity: Tensor, own: Tensor, temperature: float = 0.25) -> Tensor:
    logits = similarity / temperature
    return logits.logsumexp(-1) - rows_of(logits, own)


def weighted_square_in_torch(input: Tensor, target: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return row * (column * (input - target) ** 2).mean(-1)


def around_center_in_torch(input: Tensor, center: Tensor, squared: bool = False) -> Tensor:
    error = input - center[..., None]
    return (error.square() if squared else error.abs()).sum(-1)


class Row(NamedTuple):
    """A formula of a row, the same in torch, and what it is called with."""

    formula: Callable[..., Any]
    in_torch: Callable[..., Tensor]
    kinds: str
    """Of the operands: a row, a number a row, a number a column, a label."""
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    ties: bool = False
    """Whether numbers are rounded, so that several of a row are the same."""

    def operands(self, shape: tuple[int, ...] = (5, 4), seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        make = {
            "r": lambda: rng.normal(size=shape),
            "n": lambda: rng.uniform(0.5, 2.0, shape[:-1]),
            "c": lambda: rng.uniform(0.5, 2.0, shape[-1:]),
            "l": lambda: rng.integers(0, shape[-1], shape[:-1]),
        }
        made = [make[kind]() for kind in self.kinds]
        return [np.round(x) for x in made] if self.ties else made

    def losses(self, *operands: Tensor, **options: Any) -> Tensor:
        rows = iter(
            torch.broadcast_tensors(
                *(x for x, kind in zip(operands, self.kinds, strict=True) if kind == "r")
            )
        )
        given = [
            next(rows) if kind == "r" else x for x, kind in zip(operands, self.kinds, strict=True)
        ]
        return self.in_torch(*given, **{**self.options, **options})

    def mean(self, *operands: Tensor) -> Tensor:
        losses = self.losses(*operands)
        return losses.sum() / operands[2].sum() if self.weighs_rows else losses.mean()

    @property
    def weighs_rows(self) -> bool:
        return "n" in self.kinds and "c" in self.kinds

    @property
    def learning(self) -> list[int]:
        kinds = "r" if self.weighs_rows else "rn"
        return [place for place, kind in enumerate(self.kinds) if kind in kinds]


ROWS = {
    "label": Row(focal_loss, focal_in_torch, "rl"),
    "parameter": Row(focal_loss, focal_in_torch, "rl", {"gamma": 3.5}),
    "two-softmaxes": Row(distillation_loss, distillation_in_torch, "rr"),
    "sums": Row(dice_loss, dice_in_torch, "rr"),
    "logsumexp": Row(contrastive_loss, contrastive_in_torch, "rl"),
    "weighted-mean": Row(weighted_square_loss, weighted_square_in_torch, "rrnc"),
    "number-of-a-row": Row(around_center_loss, around_center_in_torch, "rn"),
    "option": Row(around_center_loss, around_center_in_torch, "rn", {"squared": True}),
    "ties": Row(spread_loss, lambda x: x.amax(-1) - x.amin(-1), "r", ties=True),
    "column": Row(from_first_loss, lambda x: (x - x[..., :1]).square().mean(-1), "r"),
}
OF_ROWS = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])


def cast(operands: list[np.ndarray], dtype: str) -> list[np.ndarray]:
    return [x.astype(dtype) if x.dtype.kind == "f" else x for x in operands]


def leaves(operands: list[np.ndarray], places: list[int]) -> list[Tensor]:
    return [
        torch.from_numpy(x.copy()).requires_grad_(place in places)
        for place, x in enumerate(operands)
    ]


def truth(row: Row, operands: list[np.ndarray], reduction: str) -> tuple[Tensor, list[Tensor]]:
    """What torch gives in float64; the gradients are of the sum of all values."""
    tensors = leaves(cast(operands, "float64"), row.learning)
    if reduction == "mean":
        value = row.mean(*tensors)
    else:
        value = row.losses(*tensors)
        value = value.sum() if reduction == "sum" else value
    value.sum().backward()
    return value.detach(), [tensors[place].grad for place in row.learning]


@OF_ROWS
@DTYPES
def test_rows_are_what_torch_makes_of_them(row: Row, dtype: str) -> None:
    """On tensors and on arrays, with all reductions."""
    loss = nbloss.rowwise(row.formula)
    operands = cast(row.operands(), dtype)
    for reduction in ("mean", "sum", "none"):
        expected, slopes = truth(row, operands, reduction)
        tensors = leaves(operands, row.learning)
        value = loss(*tensors, **row.options, reduction=reduction)
        value.sum().backward()
        assert value.dtype == getattr(torch, dtype)
        assert error(value.detach(), expected, dtype) <= ROUNDINGS
        array, gradients = nbloss.value_and_grad(loss, row.learning)(
            *operands, **row.options, reduction=reduction
        )
        assert array.dtype == dtype
        assert error(array, expected, dtype) <= ROUNDINGS
        for place, gradient, slope in zip(row.learning, gradients, slopes, strict=True):
            assert error(tensors[place].grad, slope, dtype) <= ROUNDINGS
            assert error(gradient, slope, dtype) <= ROUNDINGS
        for place in set(range(len(operands))) - set(row.learning):
            assert tensors[place].grad is None
        alone = loss(*operands, **row.options, reduction=reduction)
        assert error(alone, expected, dtype) <= ROUNDINGS


def batched(operands: list[Tensor], row: Row) -> tuple[list[Tensor], tuple[int | None, ...]]:
    """The operands, and once more in the opposite order; numbers of columns are shared."""
    dims = tuple(None if kind == "c" else 0 for kind in row.kinds)
    pairs = zip(operands, dims, strict=True)
    return [x if dim is None else torch.stack([x, x.flip(0)]) for x, dim in pairs], dims


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda f, row, x: torch.func.grad(f, tuple(row.learning))(*x),
    "hessian": lambda f, row, x: torch.func.hessian(f, tuple(row.learning))(*x),
    "jvp": lambda f, row, x: torch.func.jvp(lambda a: f(a, *x[1:]), (x[0],), (x[0].sin(),)),
    "vmap": lambda f, row, x: torch.vmap(f, batched(x, row)[1])(*batched(x, row)[0]),
    "vmap-of-grad": lambda f, row, x: torch.vmap(torch.func.grad(f), batched(x, row)[1])(
        *batched(x, row)[0]
    ),
}


@OF_ROWS
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_transforms_of_rows(row: Row) -> None:
    loss = functools.partial(nbloss.rowwise(row.formula), **row.options)
    operands = [torch.from_numpy(x) for x in row.operands()]
    for name, transform in TRANSFORMS.items():
        torch.testing.assert_close(
            transform(loss, row, operands),
            transform(row.mean, row, operands),
            msg=functools.partial("{}: {}".format, name),
        )


@OF_ROWS
def test_rows_are_differentiated_twice(row: Row) -> None:
    loss = functools.partial(nbloss.rowwise(row.formula), **row.options)

    def twice(function: Callable[..., Tensor]) -> list[Tensor]:
        tensors = leaves(row.operands(), row.learning)
        learning = [tensors[place] for place in row.learning]
        slopes = torch.autograd.grad(function(*tensors), learning, create_graph=True)
        total = sum((slope * slope).sum() for slope in slopes)
        if not total.requires_grad:
            return [torch.zeros_like(x) for x in learning]
        return list(torch.autograd.grad(total, learning, materialize_grads=True))

    for found, expected in zip(twice(loss), twice(row.mean), strict=True):
        torch.testing.assert_close(found, expected)


@OF_ROWS
def test_rows_in_compiled_graphs(row: Row) -> None:
    loss = functools.partial(nbloss.rowwise(row.formula), **row.options)

    def step(function: Callable[..., Tensor]) -> list[Tensor]:
        tensors = leaves(row.operands(), row.learning)
        value = function(*tensors)
        value.backward()
        return [value.detach(), *(tensors[place].grad for place in row.learning)]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled), step(row.mean))
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["weighted-mean", "label", "number-of-a-row"])
@DTYPES
def test_rows_of_any_strides(kind: str, dtype: str) -> None:
    """Rows that lie across the memory, backwards, or with gaps, and a batch of two dimensions."""
    row = ROWS[kind]
    loss = nbloss.rowwise(row.formula)
    whole = cast(row.operands((3, 2, 5), seed=1), dtype)
    ways: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, 0)[::2],
        lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1),
        lambda x: x[::-1],
    ]
    for way in ways:
        operands = [way(x) for x in whole]
        expected, slopes = truth(row, operands, "none")
        value, gradients = nbloss.value_and_grad(loss, row.learning)(*operands, reduction="none")
        assert error(value, expected, dtype) <= ROUNDINGS
        for gradient, slope in zip(gradients, slopes, strict=True):
            assert error(gradient, slope, dtype) <= ROUNDINGS
        if all(step >= 0 for x in operands for step in x.strides):  # torch has no others
            tensors = [torch.from_numpy(x) for x in operands]
            for place in row.learning:
                tensors[place].requires_grad_()
            assert tensors[0].stride() == tuple(
                s // operands[0].itemsize for s in operands[0].strides
            )
            loss(*tensors, reduction="none").sum().backward()
            for place, slope in zip(row.learning, slopes, strict=True):
                assert error(tensors[place].grad, slope, dtype) <= ROUNDINGS


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("sums", [(3, 2, 5), (5,)]),
        ("sums", [(5,), (3, 2, 5)]),
        ("two-softmaxes", [(3, 1, 5), (2, 5)]),
        ("two-softmaxes", [(3, 5), (3, 1)]),
        ("number-of-a-row", [(3, 2, 5), (2,)]),
        ("number-of-a-row", [(3, 2, 5), (3, 1)]),
        ("number-of-a-row", [(3, 2, 5), ()]),
        ("number-of-a-row", [(2, 5), (3, 2)]),
        ("weighted-mean", [(3, 2, 5), (2, 1), (3, 1), (5,)]),
    ],
    ids=str,
)
def test_operands_of_rows_broadcast(kind: str, shapes: list[tuple[int, ...]]) -> None:
    """As torch's operations would have it, and the gradients are summed again."""
    row = ROWS[kind]
    loss = nbloss.rowwise(row.formula)
    rng = np.random.default_rng(0)
    operands = [rng.uniform(0.5, 2.0, shape) for shape in shapes]
    for reduction in ("none", "sum"):
        expected, slopes = truth(row, operands, reduction)
        value, gradients = nbloss.value_and_grad(loss, row.learning)(*operands, reduction=reduction)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        tensors = leaves(operands, row.learning)
        loss(*tensors, reduction=reduction).sum().backward()
        for place, gradient, slope in zip(row.learning, gradients, slopes, strict=True):
            np.testing.assert_allclose(gradient, slope, rtol=1e-10, atol=1e-14)
            np.testing.assert_allclose(tensors[place].grad, slope, rtol=1e-10, atol=1e-14)


def test_operands_that_do_not_fit_rows() -> None:
    focal, center = nbloss.rowwise(focal_loss), nbloss.rowwise(around_center_loss)
    weighs = nbloss.rowwise(weighted_square_loss)
    x = np.ones((2, 3, 4))
    for make in (np.asarray, torch.from_numpy):
        with pytest.raises(RuntimeError, match=r"size of tensor a \(2\) .* tensor b \(3\)"):
            center(make(x), make(np.ones((2, 3, 4))))
        with pytest.raises(ValueError, match=r"label must have shape \[2, 3\] .* got \[3\]"):
            focal(make(x), make(np.zeros(3, int)))
        with pytest.raises(ValueError, match=r"column must have shape \[4\] .* got \[3\]"):
            weighs(make(x), make(x), make(np.ones((2, 3))), make(np.ones(3)))
        with pytest.raises(RuntimeError, match="scores needs a row, at least one dimension"):
            focal(make(np.ones(())), make(np.array(0)))
        with pytest.raises(RuntimeError, match="label must be of int64, int32 or uint8, got"):
            focal(make(x), make(np.zeros((2, 3))))


@OF_ROWS
def test_rows_of_an_empty_batch(row: Row) -> None:
    """As of torch's losses: a mean is NaN, a sum 0."""
    loss = functools.partial(nbloss.rowwise(row.formula), **row.options)
    operands = row.operands((0, 4))
    for reduction, expected in {"mean": np.nan, "sum": 0.0, "none": []}.items():
        value, gradients = nbloss.value_and_grad(loss, row.learning)(*operands, reduction=reduction)
        np.testing.assert_array_equal(value, expected)
        assert [gradient.shape for gradient in gradients] == [
            operands[place].shape for place in row.learning
        ]
        tensors = leaves(operands, row.learning)
        value = loss(*tensors, reduction=reduction)
        np.testing.assert_array_equal(value.detach(), expected)
        value.sum().backward()
        assert all(tensors[place].grad.shape == operands[place].shape for place in row.learning)


@OF_ROWS
def test_rows_without_columns(row: Row) -> None:
    """A sum of nothing is 0, and its mean NaN; no label is in range; nothing is the largest."""
    loss = functools.partial(nbloss.rowwise(row.formula), **row.options)
    made = {"r": (3, 0), "n": (3,), "c": (0,), "l": (3,)}
    operands = [
        np.zeros(made[kind], np.int64) if kind == "l" else np.ones(made[kind]) for kind in row.kinds
    ]
    for reduction in ("mean", "sum", "none"):
        given: list[list[Any]] = [operands, [torch.from_numpy(x) for x in operands]]
        for arguments in given:
            if "l" in row.kinds:
                with pytest.raises(IndexError, match="Target 0 is out of bounds"):
                    loss(*arguments, reduction=reduction)
            elif row.formula in (spread_loss, from_first_loss):
                with pytest.raises(ValueError, match="a row must have at least 1 column, got 0"):
                    loss(*arguments, reduction=reduction)
            else:
                expected = np.nan if row.weighs_rows else 0.0
                found = np.asarray(loss(*arguments, reduction=reduction))
                np.testing.assert_array_equal(found, [expected] * 3 if found.ndim else expected)


def test_a_row_has_the_columns_that_a_formula_names() -> None:
    @nbloss.rowwise
    def step_loss(scores):
        """From the first to the third."""
        return scores[2] - scores[0]

    assert step_loss(np.array([[1.0, 9.0, 4.0]])) == 3.0
    with pytest.raises(ValueError, match=r"step_loss\(\): .* at least 3 columns, got 2"):
        step_loss(np.ones((1, 2)))


@pytest.mark.parametrize("label", [4, -1, -100])
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_labels_out_of_range(label: int, dtype: str) -> None:
    """Are told before anything is computed, and never touched."""
    loss = nbloss.rowwise(focal_loss)
    scores, labels = np.zeros((3, 4)), np.array([1, label, 9], dtype)
    for reduction in ("mean", "sum", "none"):
        with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
            nbloss.value_and_grad(loss)(scores, labels, reduction=reduction)
        tensors = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)
        with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
            loss(*tensors, reduction=reduction)


def test_labels_of_small_integers() -> None:
    loss = nbloss.rowwise(focal_loss)
    scores = np.random.default_rng(0).normal(size=(3, 4))
    expected = loss(scores, np.array([3, 0, 1]))
    for dtype in ("int32", "uint8"):
        labels = np.array([3, 0, 1], dtype)
        assert loss(scores, labels) == expected
        assert loss(torch.from_numpy(scores), torch.from_numpy(labels)).item() == expected


def test_a_label_may_come_first() -> None:
    @nbloss.rowwise
    def label_first_loss(label: nbloss.Index, scores):
        """The opposite of the label's score."""
        return -scores[label]

    labels, scores = np.array([2, 0]), np.array([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0]], np.float32)
    value, gradient = nbloss.value_and_grad(label_first_loss, 1)(labels, scores)
    assert (value, value.dtype) == (-6.0, np.float32)
    assert gradient.tolist() == [[0.0, 0.0, -0.5], [-0.5, 0.0, 0.0]]
    tensor = torch.from_numpy(scores).requires_grad_()
    label_first_loss(torch.from_numpy(labels), tensor).backward()
    assert tensor.grad.tolist() == gradient.tolist()


# --- weights of rows ------------------------------------------------------------------------------


def test_weights_of_rows_have_no_gradient() -> None:
    """As weights of classes have none; in torch's operations either."""
    row = ROWS["weighted-mean"]
    loss = nbloss.rowwise(row.formula)
    tensors = leaves(row.operands(), [0, 2])
    loss(*tensors).backward()
    assert tensors[0].grad is not None
    assert tensors[2].grad is None
    x, y, weight, column = (t.detach() for t in tensors)
    by_weight = torch.func.jacrev(lambda weight: loss(x, y, weight, column))(weight)
    assert by_weight.tolist() == [0.0] * 5
    with pytest.raises(ValueError, match="no gradient with respect to row here"):
        nbloss.value_and_grad(loss, 2)(*row.operands())


def test_weights_that_add_up_to_nothing() -> None:
    loss = nbloss.rowwise(weighted_square_loss)
    operands = ROWS["weighted-mean"].operands()
    operands[2][:] = 0.0
    assert np.isnan(loss(*operands))
    assert loss(*operands, reduction="sum") == 0.0
    tensors = leaves(operands, [0])
    assert loss(*tensors).isnan()
    assert (
        torch.func.vmap(loss, (0, 0, 0, None))(*(t[None].detach() for t in tensors[:3]), tensors[3])
        .isnan()
        .all()
    )


# --- options and parameters -----------------------------------------------------------------------


def test_options_are_of_the_type_of_their_default() -> None:
    loss = nbloss.rowwise(around_center_loss)
    x, center = np.array([[1.0, 4.0]]), np.array([2.0])
    assert loss(x, center) == 3.0
    assert loss(x, center, squared=True) == 5.0
    for wrong in ("yes", 1, None):
        with pytest.raises(TypeError, match=r"around_center_loss\(\): squared must be a bool"):
            loss(x, center, squared=wrong)
    with pytest.raises(TypeError, match=r"focal_loss\(\): gamma must be a number, got str"):
        nbloss.rowwise(focal_loss)(x, np.array([0]), gamma="wide")
    with pytest.raises(ValueError, match="no is not a valid value for reduction"):
        loss(x, center, reduction="no")


def test_an_option_chooses_among_words() -> None:
    @nbloss.pointwise
    def error_loss(input, target, kind="absolute"):
        """One of two errors."""
        error = input - target
        if kind not in ("absolute", "squared"):
            raise ValueError(f"kind must be 'absolute' or 'squared', got {kind!r}")
        return absolute(error) if kind == "absolute" else error * error

    x, y = torch.tensor([3.0, 1.0], requires_grad=True), torch.zeros(2)
    for kind, expected in {"absolute": 4.0, "squared": 10.0}.items():
        assert error_loss(x, y, kind=kind, reduction="sum").item() == expected
        compiled = torch.compile(error_loss, fullgraph=True, backend="aot_eager")
        assert compiled(x, y, kind=kind, reduction="sum").item() == expected
        torch._dynamo.reset()
    assert nbloss.nn.ErrorLoss(kind="squared", reduction="sum")(x, y).item() == 10.0


# --- modules --------------------------------------------------------------------------------------


def test_a_module_of_rows() -> None:
    """With the parameters and options of the formula, and no state."""
    loss = nbloss.rowwise(module="AroundCenter")(around_center_loss)
    module = nbloss.nn.AroundCenter(squared=True, reduction="sum")
    assert repr(module) == "AroundCenter(squared=True, reduction='sum')"
    assert not module.state_dict()
    assert not list(module.parameters())
    tensors = [torch.from_numpy(x) for x in ROWS["option"].operands()]
    expected = loss(*tensors, squared=True, reduction="sum")
    assert module(*tensors) == expected
    assert module(input=tensors[0], center=tensors[1]) == expected
    copied = pickle.loads(pickle.dumps(module))
    assert type(copied) is type(module)
    assert (repr(copied), copied(*tensors)) == (repr(module), expected)
    assert copy.deepcopy(module)(*tensors) == expected
    with pytest.raises(TypeError, match=r"AroundCenter\(\) takes \['squared'\] and reduction"):
        nbloss.nn.AroundCenter(center=1.0)


def test_rows_can_be_defined_again() -> None:
    """Even as a loss of elements, or with other operands."""

    def define(factor: float) -> Callable[..., Any]:
        @nbloss.rowwise
        def again_loss(input, label: nbloss.Index):
            return factor * input[label]

        return again_loss

    x = np.array([[1.0, 2.0]])
    for factor in (2.0, 3.0):
        loss = define(factor)
        assert loss(x, np.array([1])) == 2.0 * factor
        assert loss is nbloss.functional.again_loss
        label = torch.tensor([1])
        assert nbloss.nn.AgainLoss()(torch.from_numpy(x), label).item() == 2.0 * factor
    before = loss
    scaled(5.0)
    assert nbloss.functional.again_loss(x, np.zeros((1, 2))) == 7.5
    assert nbloss.nn.AgainLoss()(torch.ones(1, 2), torch.zeros(1, 2)).item() == 5.0
    assert before(x, np.array([0])) == 3.0


def test_losses_of_ones_own_are_documented() -> None:
    """In numpydoc's form, of the formula's own docstring and signature."""
    taste = {"ES01", "SA01", "EX01", "GL01", "GL02", "GL03", "SS03", "SS05", "SS06"}
    taste |= {"PR06", "PR08", "PR09", "RT03", "RT04", "RT05"}

    @nbloss.pointwise
    def scaled_loss(input, target, scale=2.0, squared=False):
        """Scale the error."""
        return scale * (input - target)

    for loss in (scaled_loss, *(nbloss.rowwise(row.formula) for row in ROWS.values())):
        report = validate(f"nbloss.functional.{loss.__name__}")
        assert [error for error in report["errors"] if error[0] not in taste] == []
        for name in inspect.signature(loss).parameters:
            assert re.search(rf"^(\w+, )*{name}\b.* : ", loss.__doc__, re.MULTILINE)


def test_the_source_of_rows() -> None:
    """What is compiled can be read, in the formula's own words."""
    text = nbloss.source(nbloss.rowwise(focal_loss))
    assert text.startswith("def focal_loss(")
    for word in ("log_prob", "gamma", "label"):
        assert word in text

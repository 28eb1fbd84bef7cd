"""The compiler's front: graphs, derivatives, and what it says of mistakes."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import nbloss
from formulas import COLUMNS, PARAMETERS, formulas, operands
from nbloss.formula import derive, expression
from nbloss.formula import primitives as nb
from nbloss.formula.evaluate import evaluate
from nbloss.formula.lower import lower
from nbloss.formula.trace import Formula, formula

X, Y = (expression.operand(name) for name in "xy")
ROW = [expression.operand("x"), expression.operand("y"), expression.operand("s", "per_row")]
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


# --- derivatives of random formulas ---------------------------------------------------------------


def in_torch(node: Any, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    (value,) = evaluate([node], tensors, PARAMETERS, COLUMNS, torch)
    return value


def leaves() -> dict[str, torch.Tensor]:
    made = {name: torch.from_numpy(x) for name, x in operands().items()}
    return {n: x.requires_grad_() if n in ("x", "y", "s") else x for n, x in made.items()}


@given(formulas)
@EXAMPLES
def test_gradients_are_those_of_autograd(random: Formula) -> None:
    value = random.graph().value
    found = evaluate(derive.gradients(value, ROW, derive.ONE), operands(), PARAMETERS, COLUMNS)
    tensors = leaves()
    total = in_torch(value, tensors).sum()
    expected = torch.autograd.grad(
        total, [tensors[n] for n in ("x", "y", "s")], materialize_grads=True
    )
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            np.broadcast_to(mine, theirs.shape), theirs.numpy(), rtol=1e-8, atol=1e-9
        )


@given(formulas)
@settings(EXAMPLES, max_examples=25)
def test_a_gradient_can_be_differentiated_again(random: Formula) -> None:
    value = random.graph().value
    (slope,) = derive.gradients(value, [ROW[0]], derive.ONE)
    direction = expression.operand("y")
    along = expression.reduction("sum", slope * direction)
    (found,) = evaluate(
        derive.gradients(along, [ROW[0]], derive.ONE), operands(), PARAMETERS, COLUMNS
    )
    tensors = leaves()
    x, y = tensors["x"], tensors["y"].detach()
    total = in_torch(value, {**tensors, "y": y}).sum()
    (gradient,) = torch.autograd.grad(total, x, create_graph=True, materialize_grads=True)
    if gradient.requires_grad:
        (expected,) = torch.autograd.grad((gradient * y).sum(), x, materialize_grads=True)
        np.testing.assert_allclose(
            np.broadcast_to(found, x.shape), expected.numpy(force=True), rtol=1e-7, atol=1e-7
        )


@given(formulas)
@EXAMPLES
def test_composites_taken_apart_have_the_same_value(random: Formula) -> None:
    value = random.graph().value
    whole, apart = evaluate([value], operands(), PARAMETERS, COLUMNS), lower(value)
    # What is left of "shift" is the largest of the row.
    every = {x.op for x in expression.ancestors(apart)}
    assert not every & {"softmax", "log_softmax", "logsumexp", "sigmoid", "softplus", "clamp_min"}
    found = evaluate([as_max(apart)], operands(), PARAMETERS, COLUMNS)
    np.testing.assert_allclose(found[0], whole[0], rtol=1e-9, atol=1e-11)


def as_max(x: expression.Node) -> expression.Node:
    from nbloss.formula.lower import rebuilt

    return rebuilt(x, lambda n, args: expression.node("max", *args) if n.op == "shift" else None)


# --- kinks ----------------------------------------------------------------------------------------

KINKS: dict[str, tuple[Callable[[Any], Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "absolute": (nb.absolute, torch.abs),
    "maximum": (lambda x: nb.maximum(x, 0.0), lambda x: torch.maximum(x, torch.zeros(()))),
    "minimum": (lambda x: nb.minimum(x, 0.0), lambda x: torch.minimum(x, torch.zeros(()))),
    "where": (lambda x: nb.where(x > 0.0, x, 0.0), lambda x: torch.where(x > 0, x, 0.0)),
    "square": (lambda x: x**2, lambda x: x**2),
    "cube": (lambda x: x**3, lambda x: x**3),
    "power": (lambda x: nb.power(nb.absolute(x), 1.5), lambda x: x.abs() ** 1.5),
    "sigmoid": (nb.sigmoid, torch.sigmoid),
    "softplus": (nb.softplus, lambda x: torch.logaddexp(x, torch.zeros(()).double())),
    "tanh": (nb.tanh, torch.tanh),
    "expm1": (nb.expm1, torch.expm1),
    "xlogy": (lambda x: nb.xlogy(2.0, 1.0 + x * x), lambda x: torch.xlogy(2.0, 1.0 + x * x)),
    "clamp": (lambda x: nb.clamp(x, -2.0, 2.0), lambda x: x.clamp(-2.0, 2.0)),
}


@pytest.mark.parametrize("name", KINKS)
def test_derivatives_at_kinks_are_torchs(name: str) -> None:
    mine, theirs = KINKS[name]
    points = np.array([-3.0, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0, np.nan])
    x = torch.from_numpy(points).requires_grad_()
    (expected,) = torch.autograd.grad(theirs(x).sum(), x)
    slopes = derive.gradients(mine(X), [X], derive.ONE)
    (found,) = evaluate(slopes, {"x": points}, {}, 1)
    np.testing.assert_allclose(np.broadcast_to(found, points.shape), expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("at", "slopes"), [(1.0, [0, 1, 1]), (0.0, [0, 0, 1]), (0.5, [0, 0.5, 1])])
def test_the_slope_of_a_hinge_at_its_kink_is_chosen(at: float, slopes: list[float]) -> None:
    found = evaluate(
        derive.gradients(nb.hinge(X, at), [X], derive.ONE), {"x": np.array([-1.0, 0.0, 1.0])}, {}, 1
    )
    np.testing.assert_array_equal(found[0], slopes)


def test_the_root_and_flat_powers_have_no_slope_at_zero() -> None:
    for value in (nb.sqrt(X), nb.power(X, 0.5, slope_at_zero=0.0)):
        (found,) = evaluate(
            derive.gradients(value, [X], derive.ONE), {"x": np.array([0.0, 4.0])}, {}, 1
        )
        np.testing.assert_allclose(found, [0.0, 0.25])


def test_what_is_not_chosen_touches_nothing() -> None:
    """Not even if its derivative is infinite."""
    value = nb.where(X > 0.0, nb.log(X), 0.0)
    (found,) = evaluate(
        derive.gradients(value, [X], derive.ONE), {"x": np.array([-1.0, 0.0, 2.0])}, {}, 1
    )
    np.testing.assert_array_equal(found, [0.0, 0.0, 0.5])


@pytest.mark.parametrize("extreme", ["max", "min"])
def test_ties_of_a_row_share_the_derivative(extreme: str) -> None:
    row = np.array([[1.0, 3.0, 3.0, 1.0]])
    x = torch.from_numpy(row).requires_grad_()
    (expected,) = torch.autograd.grad(getattr(x, f"a{extreme}")(-1).sum(), x)
    value = getattr(nb, extreme)(X)
    (found,) = evaluate(derive.gradients(value, [X], derive.ONE), {"x": row}, {}, 4)
    np.testing.assert_array_equal(found, expected.numpy())


# --- the language ---------------------------------------------------------------------------------


def test_equal_nodes_are_one() -> None:
    assert nb.exp(X) + Y is nb.exp(X) + Y
    assert nb.exp(X) is not nb.exp(Y)


def test_numpys_functions_make_the_same_graph() -> None:
    assert np.exp(X) is nb.exp(X)
    assert np.where(X > 0.0, X, np.square(Y)) is nb.where(X > 0.0, X, Y * Y)
    assert np.sum(X) is X.sum() is np.add.reduce(X) is nb.sum(X)
    assert np.mean(X) is nb.mean(X)
    assert np.clip(X, 0.0, 1.0) is nb.minimum(nb.maximum(X, 0.0), 1.0)
    assert np.float64(2.0) * X is 2.0 * X


@pytest.mark.parametrize(
    "name", ["logsumexp", "log_softmax", "softmax", "sum", "mean", "max", "min"]
)
def test_primitives_take_arrays_as_well(name: str) -> None:
    row = operands()["x"]
    primitive = getattr(nb, name)
    (found,) = evaluate([primitive(X)], {"x": row}, {}, COLUMNS)
    np.testing.assert_allclose(primitive(row), found)


def test_a_formula_can_be_tried_on_arrays() -> None:
    row = np.linspace(-3.0, 3.0, 7)
    np.testing.assert_allclose(nb.sigmoid(row), 1.0 / (1.0 + np.exp(-row)))
    np.testing.assert_allclose(nb.hinge(row), np.maximum(row, 0.0))
    np.testing.assert_allclose(nb.softplus(row), np.log1p(np.exp(row)))


# --- mistakes -------------------------------------------------------------------------------------


def branching(x, y):
    return x - y if x > y else y - x


def python_max(x, y):
    return max(x, y)


def of_math(x, y):
    return math.exp(x) - y


def of_torch(x, y):
    return torch.exp(x) - y


def as_float(x, y):
    return float(x) - y


def matrices(x, y):
    return x @ y


def dot_product(x, y):
    return np.dot(x, y)


def captured(x, y):
    return x * np.arange(3.0) - y


def reducing(x, y):
    return nb.sum(x - y)


def several(x, y):
    return x - y, 1.0


def nothing(x, y):
    x - y


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (branching, r"cannot branch .* use where\(condition, x, y\)"),
        (python_max, r"Python's max and min\): use where"),
        (of_math, "not numbers yet: use the functions of nbloss.primitives or NumPy"),
        (of_torch, "calls a function that does not know a formula's data"),
        (as_float, "not numbers yet"),
        (matrices, "cannot multiply matrices"),
        (dot_product, "cannot multiply matrices"),
        (captured, "got an array: make it an operand"),
        (reducing, "has no row to take the sum of: define it with @rowwise"),
        (several, "returns 2 values, but a formula states the value alone"),
        (nothing, "returns nothing"),
    ],
)
def test_mistakes_in_a_formula_of_an_element(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(nbloss.FormulaError, match=message) as caught:
        nbloss.pointwise(function)
    lines, first = inspect.getsourcelines(function)
    told = int(str(caught.value).rpartition("line ")[2].rstrip(")"))
    assert first <= told < first + len(lines)
    assert f'in "{__file__}"' in str(caught.value)


def labels_without_annotation(scores, label):
    return scores[label]


def a_number_for_each_column(scores, label: nbloss.Index):
    return nb.log_softmax(scores) - scores[label]


def label_as_a_number(scores, label: nbloss.Index):
    return nb.sum(scores) * label


def python_sum(scores, label: nbloss.Index):
    return sum(scores) - scores[label]


def length(scores, label: nbloss.Index):
    return nb.sum(scores) / len(scores)


def softmax_of_a_number(scores, weight: nbloss.PerRow):
    return nb.sum(scores * nb.softmax(weight))


def weighted_within(scores, weight: nbloss.PerRow):
    return 2.0 * nb.weighted(nb.sum(scores), weight)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (labels_without_annotation, "annotated nbloss.Index"),
        (a_number_for_each_column, "must give one for the row: take the sum or the mean"),
        (label_as_a_number, "label label can only index a row"),
        (python_sum, "cannot loop over a row: use sum"),
        (length, "the length of a row is `width`"),
        (softmax_of_a_number, "softmax takes a row"),
        (weighted_within, "must be what the formula returns"),
    ],
)
def test_mistakes_in_a_formula_of_a_row(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(nbloss.FormulaError, match=message):
        nbloss.rowwise(function)


def test_an_operand_that_is_no_row_cannot_come_first() -> None:
    with pytest.raises(nbloss.FormulaError, match="first operand must be a row"):

        @nbloss.rowwise
        def backward_loss(weight: nbloss.PerRow, x):
            return weight * nb.sum(x)

    with pytest.raises(nbloss.FormulaError, match="default of mask must be a float"):

        @nbloss.rowwise
        def masked_loss(x, y, mask=None):
            return nb.sum(x - y)


def test_formulas_are_made_once() -> None:
    made = formula(lambda x, y: x - y, False)
    assert made.graph() is made.graph()

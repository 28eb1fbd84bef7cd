"""The definitions as plain Python: their derivatives, and the losses with Numba switched off.

This file runs once more under ``NUMBA_DISABLE_JIT=1``, where coverage sees into the definitions.
"""

import importlib.metadata
import inspect
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpydoc.validate import validate

import nbloss
from cases import CASES, Case, split
from nbloss import distances
from nbloss.codegen.emit_scalar import stated
from nbloss.formula import derive, expression
from nbloss.formula.distance import Distance
from nbloss.formula.evaluate import evaluate
from nbloss.formula.expression import Node
from nbloss.formula.registry import LOSSES, Definition
from nbloss.losses import kink

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")

DISTANCES = [getattr(distances, name) for name in distances.__all__ if name != "lp"]
DISTANCES = [distance for distance in DISTANCES if isinstance(distance, Distance)]
STEP = 1e-6
numbers = st.floats(-3.0, 3.0)


def assert_derivatives(
    function: Callable[..., Sequence[float]], point: list[float], places: Iterable[int]
) -> None:
    """Compare what a function gives after its value with the value's finite differences."""
    with np.errstate(all="ignore"):
        derived = function(*point)
        for k, place in enumerate(places):
            ends = []
            for step in (STEP, -STEP):
                ends.append(function(*(x + step * (i == place) for i, x in enumerate(point))))
            # The derivative jumps at a kink: there is nothing to compare between two sides of one.
            assume(math.isclose(ends[0][1 + k], ends[1][1 + k], abs_tol=1e-4))
            slope = (ends[0][0] - ends[1][0]) / (2 * STEP)
            assert math.isclose(derived[1 + k], slope, rel_tol=1e-4, abs_tol=1e-4)


def scalar(definition: Definition) -> Definition:
    """The definition whose formula is of numbers."""
    return definition.of_distances or definition


OF_NUMBERS = [d for d in LOSSES.values() if not d.symbolic.rowwise or d.of_distances is not None]


@pytest.mark.parametrize("definition", OF_NUMBERS, ids=repr)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_derivatives(definition: Definition, data: st.DataObject) -> None:
    """Away from kinks, those of the function of numbers that loops over pairs call are right."""
    definition = scalar(definition)
    point = [data.draw(numbers) for _ in definition.operands]
    parameters = [abs(data.draw(numbers)) + 0.1 for _ in definition.parameters]
    places = [definition.operands.index(name) for name in definition.differentiable]
    assert_derivatives(stated(definition), [*point, *parameters], places)


@pytest.mark.parametrize("definition", OF_NUMBERS, ids=repr)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_the_formula_takes_numbers(definition: Definition, data: st.DataObject) -> None:
    """As it stands, and gives the value that the function of numbers gives."""
    definition = scalar(definition)
    point = [data.draw(numbers) for _ in definition.operands]
    parameters = [abs(data.draw(numbers)) + 0.1 for _ in definition.parameters]
    absent = (1.0,) * (len(definition.symbolic.operands) - len(definition.operands))
    with np.errstate(all="ignore"):
        value, *_ = stated(definition)(*point, *parameters)
        found = definition(*point, *absent, *parameters)
    np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-15)


ROWS = {
    f"{formula.name}{'-' * bool(options)}{'-'.join(options)}": (formula, options)
    for formula in (
        *dict.fromkeys(d.symbolic for d in LOSSES.values() if d.symbolic.rowwise),
        *(formula for d in LOSSES.values() for formula in d.row_formulas[1:]),
        *(distance.formula for distance in DISTANCES),
    )
    for options in [
        {},
        *({name: True} for name, value in formula.options.items() if value is False),
    ]
}


@pytest.mark.parametrize("kind", ROWS)
def test_derivatives_of_rows(kind: str, rng: np.random.Generator) -> None:
    """Those that are derived of a row's formula are the value's."""
    formula, options = ROWS[kind]
    graph = formula.graph(**options)
    made = {
        "element": lambda: rng.normal(size=(3, 4)),
        "per_row": lambda: rng.normal(size=(3, 1)),
        "per_column": lambda: rng.uniform(0.5, 2.0, 4),
        "index": lambda: rng.integers(0, 4, (3, 1)),
    }
    operands = {name: made[varies]() for name, varies in formula.operands.items()}
    names = [n for n, varies in formula.operands.items() if varies in ("element", "per_row")]
    parameters = {name: value + 0.25 for name, value in formula.parameters.items()}
    for option in formula.options.values():
        parameters |= option.parameters if isinstance(option, Distance) else {}

    def evaluated(nodes: list[Node], **moved: np.ndarray) -> list[np.ndarray]:
        return evaluate(nodes, {**operands, **moved}, parameters, 4)

    nodes = [expression.operand(name, formula.operands[name]) for name in names]
    found = evaluated(derive.slopes(graph, nodes, derive.ONE))
    for name, slopes in zip(names, found, strict=True):
        slopes = np.broadcast_to(slopes, operands[name].shape)
        for column in range(operands[name].shape[-1]):
            step = STEP * (np.arange(operands[name].shape[-1]) == column)
            (above,) = evaluated([graph.value], **{name: operands[name] + step})
            (below,) = evaluated([graph.value], **{name: operands[name] - step})
            rise = np.broadcast_to((above - below) / (2 * STEP), (3, 1))[:, 0]
            np.testing.assert_allclose(slopes[:, column], rise, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("release", "slope"), [("2.6.0", 1.0), ("2.13.1+cpu", 1.0), ("2.14.0a0+git1", 0.0), (None, 0.0)]
)
def test_the_slope_at_a_kink_is_that_of_the_installed_torch(
    release: str | None, slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if release is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return release

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert kink.at_kink() == slope


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_loss_runs_interpreted_or_compiled(case: Case) -> None:
    made = case.make(size="tiny")
    operands, weight = split(made)
    places = [list(made).index(name) for name in case.differentiable if name != "weight"]
    function = nbloss.value_and_grad(getattr(nbloss, case.loss), places)
    value, gradients = function(*operands, **weight, **case.options(distances))
    np.testing.assert_allclose(value, case.value(made), rtol=1e-9)
    slopes = case.gradients(made)
    names = list(made)
    for place, gradient in zip(places, gradients, strict=True):
        np.testing.assert_allclose(gradient, slopes[names[place]], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("distance", DISTANCES, ids=repr)
def test_distances_measure_arrays(distance: Distance, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 3, 4))
    z = np.abs(x - y)
    expected = {
        "chebyshev": z.max(-1),
        "closest_coordinate": z.min(-1),
        "cosine": 1 - (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1),
        "euclidean": np.linalg.norm(z, axis=-1),
        "hamming": (z != 0).sum(-1),
        "manhattan": z.sum(-1),
        "minkowski": (z**3).sum(-1) ** (1 / 3),
        "squared_euclidean": (z**2).sum(-1),
    }
    np.testing.assert_allclose(distance(x, y), expected[distance.name])


@pytest.mark.parametrize("p", [-1.0, 0.5, 1.0, 2.0, 3.0, math.inf])
def test_norms_of_one_coordinate(p: float) -> None:
    """What they come to needs no power, which would overflow here, or lose what is small."""
    rows = [np.array([[row]]) for row in (3e200, -1e200, 3e200 + 5e198)]
    loss, gradients = nbloss.value_and_grad(nbloss.triplet_margin_loss, (0, 1, 2))(
        *rows, margin=1.0, p=p, eps=0.0
    )
    np.testing.assert_allclose(loss, 4e200 - 5e198)
    np.testing.assert_array_equal(np.ravel(gradients), [2.0, -1.0, -1.0])


# --- what every registered loss has ---------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_complete(name: str) -> None:
    """Cases, a docstring in numpydoc form, and a name in each of the places users look."""
    assert any(case.loss == name for case in CASES)
    function = getattr(nbloss.functional, name)
    assert getattr(nbloss, name) is function
    assert name in nbloss.functional.__all__
    assert LOSSES[name].formula.__doc__
    report = validate(f"nbloss.functional.{name}")
    # Left out: what is a matter of taste or does not apply to functions.
    taste = {"ES01", "SA01", "EX01", "GL01", "GL02", "GL03", "SS03", "SS05", "SS06"}
    taste |= {"PR06", "PR08", "PR09", "RT03", "RT04", "RT05"}
    assert [(code, text) for code, text in report["errors"] if code not in taste] == []
    sections = inspect.getdoc(function)
    for section in ("Parameters", "Returns", "Raises"):
        assert f"\n{section}\n---" in sections

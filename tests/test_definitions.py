"""The definitions as plain Python: their derivatives, and the losses with Numba switched off.

This file runs once more under ``NUMBA_DISABLE_JIT=1``, where coverage sees into the definitions.
"""

import inspect
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpydoc.validate import validate

import nbloss
from cases import CASES, Case, split
from nbloss import distances
from nbloss.engine.distance import Distance
from nbloss.engine.registry import LOSSES, Definition

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")

DISTANCES = [getattr(distances, name) for name in distances.__all__ if name != "lp"]
STEP = 1e-6
numbers = st.floats(-3.0, 3.0)


def derivatives(definition: Definition) -> list[int]:
    """The arguments that the formula has derivatives by, in the order of their return."""
    arguments = list(inspect.signature(definition.formula).parameters)
    if definition.name == "cross_entropy":
        return []  # of a row, not of one class: the oracle tests have it
    return [arguments.index(name) for name in definition.differentiable]


@pytest.mark.parametrize("definition", LOSSES.values(), ids=repr)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_derivatives(definition: Definition, data: st.DataObject) -> None:
    """Away from kinks the stated derivatives are those of the value."""
    point = [data.draw(numbers) for _ in definition.operands]
    parameters = [abs(data.draw(numbers)) + 0.1 for _ in definition.parameters]
    with np.errstate(all="ignore"):
        stated = definition(*point, *parameters)
    for k, place in enumerate(derivatives(definition)):
        ends = []
        for step in (STEP, -STEP):
            moved = [x + step * (i == place) for i, x in enumerate(point)]
            ends.append(definition(*moved, *parameters))
        # The derivative jumps at a kink: there is nothing to compare between two sides of one.
        assume(math.isclose(ends[0][1 + k], ends[1][1 + k], abs_tol=1e-4))
        slope = (ends[0][0] - ends[1][0]) / (2 * STEP)
        assert math.isclose(stated[1 + k], slope, rel_tol=1e-4, abs_tol=1e-4)


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

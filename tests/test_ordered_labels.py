"""Multi-label margin by the labels in order, as it is done where there are many of them.

Here it is done for every row that has a label, so that small inputs go that way.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbloss
from cases import by_loss
from conftest import forget
from nbloss.codegen.emit_scalar import stated
from nbloss.formula.registry import LOSSES
from test_losses import EPS, error, rounded

CASES = by_loss("multilabel_margin_loss")
# The oracle itself adds up hundreds of numbers in float64.
ROUNDINGS = {"float64": 64, "float32": 4, "float16": 4}


@pytest.fixture(scope="module", autouse=True)
def always_in_order() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbloss.engine.patterns.pairs.SEARCHING", 0)
        patch.setattr("nbloss.engine.patterns.pairs.SORTING", 0)
        forget()
        yield
    forget()


loss_and_gradient = nbloss.value_and_grad(nbloss.multilabel_margin_loss)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_the_oracle(case, dtype: str) -> None:
    for size in ("tiny", "medium"):
        made = rounded(case.make(size=size), dtype)
        x, target = made["input"].astype(dtype), made["target"]
        for reduction in ("none", "mean", "sum"):
            value, gradient = loss_and_gradient(x, target, reduction=reduction)
            assert error(value, case.value(made, reduction), dtype) <= ROUNDINGS[dtype]
            assert (
                error(gradient, case.gradients(made, reduction)["input"], dtype) <= ROUNDINGS[dtype]
            )


@given(
    rows=st.integers(1, 4), classes=st.integers(1, 40), seed=st.integers(0, 2**32 - 1),
    step=st.sampled_from([None, 0.5, 1.0]), offset=st.sampled_from([0.0, 100.0, -1e4]),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_agrees_with_the_pairs(rows: int, classes: int, seed: int, step, offset: float) -> None:
    """Ties, repeated labels, rows without labels or full of them, scores far from zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, classes)) + offset
    if step is not None:
        x = np.round(x / step) * step
    target = rng.integers(-1, classes, (rows, classes))
    if seed % 2:
        target = np.maximum(target, 0)
    case = CASES[0]
    made = {"input": x, "target": target}
    value, gradient = loss_and_gradient(x, target, reduction="none")
    tolerance = {"rtol": 1e-12, "atol": 64 * EPS["float64"] * max(1.0, abs(offset))}
    np.testing.assert_allclose(value, case.value(made, "none"), **tolerance)
    np.testing.assert_allclose(gradient, case.gradients(made, "none")["input"], rtol=1e-12)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 3])
def test_no_number_is_what_it_is_among_pairs(special: float, place: int) -> None:
    """As the score of a label (class 0), and as that of another class (3)."""
    x = np.linspace(-2.0, 2.0, 9)
    x[place] = special
    target = np.array([0, 5, 1, -1, 0, 0, 0, 0, 0])
    value, gradient = loss_and_gradient(x, target)
    with np.errstate(invalid="ignore"):
        expected = np.maximum(1.0 - x[[0, 5, 1], None] + x[[2, 3, 4, 6, 7, 8]], 0.0).sum() / 9
    np.testing.assert_allclose(value, expected)
    assert np.isfinite(gradient).all() or not np.isfinite(expected)


def test_the_pairwise_definitions_are_the_hinges_that_they_say() -> None:
    hinged = [definition for definition in LOSSES.values() if definition.hinge is not None]
    assert hinged
    rng = np.random.default_rng(0)
    labelled, other = rng.normal(scale=3.0, size=(2, 1000))
    for definition in hinged:
        found = [stated(definition)(*pair) for pair in zip(labelled, other, strict=True)]
        value, by_labelled, by_other = np.transpose(found)
        violation = definition.hinge(labelled) + other
        np.testing.assert_array_equal(value, np.maximum(violation, 0.0))
        np.testing.assert_array_equal(by_other, np.where(violation > 0.0, 1.0, 0.0))
        np.testing.assert_array_equal(by_labelled, -by_other)

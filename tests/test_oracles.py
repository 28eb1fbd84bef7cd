"""The oracles themselves: against torch in float64, and their gradients against differences."""

import numpy as np
import pytest
import torch

import oracles
from cases import CASES, Case
from test_losses import REDUCTIONS, on_tensors, rounded

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_torch_agrees(case: Case) -> None:
    if not hasattr(torch.nn.functional, case.loss):
        return  # nobody to ask
    made = rounded(case.make(rng=1), "float64")
    for reduction in REDUCTIONS:
        truth = case.value(made, reduction)
        grad_output = np.linspace(-1.0, 1.5, truth.size).reshape(truth.shape)
        value, gradients = on_tensors(
            torch.nn.functional, case, made, "float64", reduction, grad_output
        )
        np.testing.assert_allclose(value, truth, rtol=1e-9, atol=1e-12)
        slopes = case.gradients(made, reduction, grad_output)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, slopes[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradients_are_differences(case: Case) -> None:
    made = rounded(case.make(rng=2, size="tiny"), "float64")
    slopes = case.gradients(made, "sum")
    for name in case.differentiable:

        def moved(value: np.ndarray, name: str = name) -> float:
            return float(case.value({**made, name: value}, "sum"))

        measured = oracles.central_differences(moved, made[name])
        np.testing.assert_allclose(slopes[name], measured, rtol=1e-5, atol=1e-6)

"""Every case of every loss against the oracle: arrays and tensors, all types, all reductions.

This is the one full matrix; other tests pick from it. The rule for accuracy: no further from the
float64 oracle than torch is in the same type, or than a few roundings of that type.
"""

from typing import Any

import numpy as np
import pytest
import torch

import nbloss
from cases import CASES, KINKS, Case, Kink, split
from in_torch import options
from nbloss import distances

# Huber's operands may broadcast, but torch warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")

REDUCTIONS = ("none", "mean", "sum")
# A result may be as far off as this many roundings of the type, or as torch's times a little.
ROUNDINGS = 8
SLACK = 2.0
EPS = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}


def rounded(made: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Round the operands to a type, and hold them as float64 again: the oracle's view of them."""
    result = {}
    for name, value in made.items():
        tensor = torch.as_tensor(np.asarray(value))
        if tensor.is_floating_point():
            tensor = tensor.to(getattr(torch, dtype)).to(torch.float64)
        result[name] = tensor.numpy()
    return result


def error(result: Any, truth: Any, dtype: str) -> float:
    """Largest error, in roundings of the type, relative to the size of the largest element."""
    result = np.asarray(result, np.float64)
    truth = np.asarray(truth, np.float64)
    assert result.shape == truth.shape
    if not np.array_equal(np.isnan(result), np.isnan(truth)):
        return float("inf")
    with np.errstate(all="ignore"):
        off = np.where(result == truth, 0.0, np.abs(result - truth))
        off = off[~np.isnan(truth)]
        size = np.abs(truth[np.isfinite(truth)])
    if not off.size:
        return 0.0
    return float(off.max() / (EPS[dtype] * max(size.max(initial=0.0), 1e-3)))


def on_tensors(
    library: Any,
    case: Any,
    made: dict[str, Any],
    dtype: str,
    reduction: str,
    grad_output: Any,
    device: str = "cpu",
) -> tuple[Any, dict[str, Any]]:
    """Call a library's function on tensors, and go backward."""
    floating = getattr(torch, dtype)
    tensors = {
        name: torch.tensor(x, dtype=floating if x.dtype.kind == "f" else None, device=device)
        for name, x in made.items()
    }
    for name in wanted_of(case):
        tensors[name].requires_grad_()
    operands, weight = split(tensors)
    value = getattr(library, case.loss)(
        *operands, **weight, **options(case, library), reduction=reduction
    )
    gradients = {}
    if value.requires_grad:
        value.backward(torch.as_tensor(grad_output).to(value))
        gradients = {
            name: tensors[name].grad.double().cpu().numpy()
            for name in wanted_of(case)
            if tensors[name].grad is not None
        }
    return value.detach().double().cpu().numpy(), gradients


def wanted_of(case: Any) -> tuple[str, ...]:
    return case.differentiable if isinstance(case, Case) else tuple(case.gradients)


@pytest.fixture
def kernels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a call would be handed to torch."""

    def unsupported(name: str, error: Exception, *rest: Any) -> None:
        raise AssertionError(f"{name} was handed to torch: {error}") from error

    monkeypatch.setattr("nbloss.torch.fallback.fall_back", unsupported)


# All cases in float32; in the other types, which differ in how numbers are read and written, the
# first case of each loss, and in float64 all cases again in `test_arrays`.
FIRST = list({case.loss: case for case in reversed(CASES)}.values())
MATRIX = [
    *((case, "float32") for case in CASES),
    *((case, dtype) for case in FIRST for dtype in EPS if dtype != "float32"),
]


@pytest.mark.parametrize(("case", "dtype"), MATRIX, ids=lambda x: getattr(x, "id", x))
def test_tensors(case: Case, dtype: str, kernels_only: None, device: str = "cpu") -> None:
    made = rounded(case.make(), dtype)
    torch_can = hasattr(torch.nn.functional, case.loss) and (
        dtype in ("float32", "float64") or case.loss != "multilabel_margin_loss"
    )
    for reduction in REDUCTIONS:
        truth = case.value(made, reduction)
        grad_output = rounded({"u": np.linspace(0.5, 1.5, truth.size).reshape(truth.shape)}, dtype)[
            "u"
        ]
        slopes = case.gradients(made, reduction, grad_output)
        value, gradients = on_tensors(nbloss, case, made, dtype, reduction, grad_output, device)
        if torch_can:
            theirs, their_gradients = on_tensors(
                torch.nn.functional, case, made, dtype, reduction, grad_output
            )
        near = error(theirs, truth, dtype) if torch_can else 0.0
        assert error(value, truth, dtype) <= max(ROUNDINGS, SLACK * near), reduction
        for name, gradient in gradients.items():
            known = torch_can and name in their_gradients  # torch has none for p = 0
            near = error(their_gradients[name], slopes[name], dtype) if known else 0.0
            tolerance = max(ROUNDINGS, SLACK * near)
            if not case.exact:
                tolerance += 1e-7 / EPS[dtype]
            assert error(gradient, slopes[name], dtype) <= tolerance, (reduction, name)
        assert set(gradients) == set(case.differentiable)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, "float64") for case in CASES), *((case, "float16") for case in FIRST)],
    ids=lambda x: getattr(x, "id", x),
)
def test_arrays(case: Case, dtype: str, tiny_chunks: None) -> None:
    made = rounded(case.make(), dtype)
    arrays = {
        name: value.astype(dtype) if value.dtype.kind == "f" else value
        for name, value in made.items()
    }
    operands, weight = split(arrays)
    names = list(arrays)
    function = getattr(nbloss, case.loss)
    places = [names.index(name) for name in case.differentiable if name != "weight"]
    for reduction in REDUCTIONS:
        kwargs = {**weight, **case.options(distances), "reduction": reduction}
        truth = case.value(made, reduction)
        value = function(*operands, **kwargs)
        assert value.dtype == dtype
        assert error(value, truth, dtype) <= 2 * ROUNDINGS, reduction
        slopes = case.gradients(made, reduction)
        again, gradients = nbloss.value_and_grad(function, places)(*operands, **kwargs)
        # The kernel that gives the gradient as well may add in another order.
        assert error(again, value, dtype) <= ROUNDINGS
        for place, gradient in zip(places, gradients, strict=True):
            slope = slopes[names[place]]
            assert gradient.dtype == dtype
            tolerance = 4 * ROUNDINGS + (0 if case.exact else 1e-7 / EPS[dtype])
            assert error(gradient, slope, dtype) <= tolerance, (reduction, names[place])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kink", KINKS, ids=lambda kink: kink.id)
def test_kinks(kink: Kink, dtype: str, kernels_only: None, device: str = "cpu") -> None:
    made = kink.make()
    grad_output = np.ones(np.shape(kink.value))
    value, gradients = on_tensors(nbloss, kink, made, dtype, kink.reduction, grad_output, device)
    tolerance = {"rtol": 8 * EPS[dtype], "atol": 8 * EPS[dtype]}
    np.testing.assert_allclose(value, kink.value, **tolerance)
    for name, gradient in kink.gradients.items():
        given = gradients.get(name, np.zeros(np.shape(gradient)))
        np.testing.assert_allclose(given, gradient, **tolerance, err_msg=name)

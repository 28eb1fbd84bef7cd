"""The CUDA kernels in numba-cuda's simulator: tiny inputs and tiny blocks, against the oracles.

The simulator runs each thread of a block as a thread of Python, on memory of the processor. So the
tensors here lie there, and are taken for those of a device: everything is put to the test but the
driver. It has to be asked for before Numba is imported, as `make test` does::

    NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python -m pytest tests/test_cuda_simulator.py
"""

import contextlib
import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch

import nbloss
import test_losses
from cases import CASES, KINKS, Case, Kink, by_loss, split
from conftest import forget
from nbloss.backends import torch as torch_backend
from nbloss.codegen import runtime as sources
from nbloss.engine.cuda import emitted, errors, pairs, runtime
from nbloss.primitives import absolute, exp, log_softmax, power, softmax, weighted, where
from nbloss.primitives import max as largest
from nbloss.primitives import sum as total
from own_loss import in_torch, own_loss, own_losses
from test_losses import FIRST, kernels_only, on_tensors, rounded  # noqa: F401 (a fixture)

pytestmark = [
    pytest.mark.skipif(not numba.config.ENABLE_CUDASIM, reason="runs in the simulator alone"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
]


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all memory for that of a device."""
    monkeypatch.setattr(torch_backend, "device", lambda x: 0)
    monkeypatch.setattr(torch_backend, "stream", lambda x: 0)
    monkeypatch.setattr(torch_backend, "current", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(torch_backend, "is_capturing", lambda: False)


# Each case runs in float32; the other types differ in how numbers are read and written.
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "float32") for case in CASES),
        *((case, dtype) for case in FIRST for dtype in ("float64", "float16", "bfloat16")),
    ],
    ids=lambda x: getattr(x, "id", x),
)
def test_cases(case: Case, dtype: str, kernels_only: None) -> None:  # noqa: F811
    test_losses.test_tensors(case, dtype, kernels_only)


@pytest.mark.parametrize("kink", KINKS, ids=lambda kink: kink.id)
def test_kinks(kink: Kink, kernels_only: None) -> None:  # noqa: F811
    test_losses.test_kinks(kink, "float32", kernels_only)


@pytest.mark.parametrize("columns", [20, 40])
@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
def test_rows_that_take_a_block(
    case: Case,
    columns: int,
    kernels_only: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = case.make
    monkeypatch.setattr(Case, "make", lambda self: make(size=(3, columns)))
    test_losses.test_tensors(case, "float32", kernels_only)


# In shared memory, and for some in memory of the device.
IN_ORDER = [
    *((case, pairs.SHARED) for case in by_loss("multilabel_margin_loss")),
    *((case, 0) for case in by_loss("multilabel_margin_loss") if case.name == "duplicates"),
]


@pytest.mark.parametrize(("case", "shared"), IN_ORDER, ids=lambda x: getattr(x, "id", x))
def test_labels_in_order(
    case: Case,
    shared: int,
    kernels_only: None,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "SEARCHING", 0)
    monkeypatch.setattr(pairs, "SORTING", 0)
    monkeypatch.setattr(pairs, "SHARED", shared)
    forget()
    test_losses.test_tensors(case, "float32", kernels_only)
    forget()


@nbloss.distance
def canberra(x, y, eps=0.5):
    """A distance of the user's own, with a constant, a branch and a parameter."""
    difference = where(x > y, x - y, y - x)
    return total(difference / (absolute(x) + absolute(y) + eps))


@pytest.mark.parametrize("columns", [5, 40])
def test_a_distance_of_ones_own(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [torch.randn(3, columns, requires_grad=True) for _ in range(3)]

    def step() -> tuple[torch.Tensor, ...]:
        value = nbloss.triplet_margin_with_distance_loss(
            *rows, distance_function=canberra, swap=True, margin=3.0
        )
        return value, *torch.autograd.grad(value, rows)

    ours = step()
    monkeypatch.setattr(torch_backend, "device", lambda x: None)
    forget()
    for found, truth in zip(ours, step(), strict=True):
        torch.testing.assert_close(found, truth)
    forget()


def test_a_loss_of_ones_own() -> None:
    with own_loss() as quartic_loss:
        x, y = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0)).unbind()
        x.requires_grad_()
        value = quartic_loss(x, y, scale=2.0)
        value.backward()
        expected = in_torch(x, y, 2.0)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(x.grad, torch.autograd.grad(expected, x)[0])


@nbloss.distance
def shares(x, y):
    """A distance that takes several walks along a row."""
    return total(absolute(softmax(x) - softmax(y)))


def focal(scores, label: nbloss.Index, gamma=2.0):
    log_prob = log_softmax(scores)[label]
    return -((1.0 - exp(log_prob)) ** gamma) * log_prob


def priced(scores, label: nbloss.Index, price: nbloss.PerColumn):
    return weighted(-price[label] * log_softmax(scores)[label], price[label])


def centered(scores, center: nbloss.PerRow):
    return largest(absolute(scores - center)) + total(power(absolute(scores), 1.5))


OWN_ROWS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "label": (focal, ("row", "label")),
    "weights": (priced, ("row", "label", "columns")),
    "number-of-a-row": (centered, ("row", "number")),
}


def made_for(kind: str, columns: int) -> torch.Tensor:
    if kind == "label":
        return torch.tensor([columns - 1, 0, 2, 1, 1])
    return torch.rand({"row": (5, columns), "number": (5,), "columns": (columns,)}[kind])


@pytest.mark.parametrize("reduction", test_losses.REDUCTIONS)
@pytest.mark.parametrize("columns", [3, 9, 40])
@pytest.mark.parametrize("kind", [*OWN_ROWS, "distance"])
def test_rows_of_ones_own(
    kind: str, columns: int, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the processor computes them, whose kernels others look after."""
    torch.manual_seed(0)
    if kind == "distance":
        operands = [made_for("row", columns) for _ in range(3)]
        loss = functools.partial(
            nbloss.triplet_margin_with_distance_loss, distance_function=shares, swap=True
        )
        learning = operands
    else:
        formula, kinds = OWN_ROWS[kind]
        operands = [made_for(k, columns) for k in kinds]
        learning = [x for x, k in zip(operands, kinds, strict=True) if k in ("row", "number")]
    for x in learning:
        x.requires_grad_()
    with own_losses():
        if kind != "distance":
            loss = nbloss.rowwise(formula)

        def step() -> tuple[torch.Tensor, ...]:
            value = loss(*operands, reduction=reduction)
            return value, *torch.autograd.grad(value, learning, torch.ones_like(value))

        ours = step()
        monkeypatch.setattr(torch_backend, "device", lambda x: None)
        forget()
        for found, truth in zip(ours, step(), strict=True):
            torch.testing.assert_close(found, truth)
    forget()


# --- labels out of range --------------------------------------------------------------------------

BAD = {
    "nll_loss": (torch.tensor([2, 9, 0]), IndexError, "Target 9 is out of bounds"),
    "cross_entropy": (torch.tensor([-7, 1, 0]), IndexError, "Target -7 is out of bounds"),
    "multilabel_margin_loss": (
        torch.tensor([[1, -1, 0, 0], [0, 4, -1, 0], [3, -1, 0, 0]]),
        RuntimeError,
        "out of range",
    ),
}


@pytest.mark.parametrize("reduction", test_losses.REDUCTIONS)
@pytest.mark.parametrize("loss", BAD)
def test_the_next_call_tells_of_a_label_out_of_range(loss: str, reduction: str) -> None:
    labels, kind, message = BAD[loss]
    scores = torch.randn(3, 4, requires_grad=True)
    value = getattr(nbloss, loss)(scores, labels, reduction=reduction)
    assert value.isnan().any()
    with pytest.raises(kind, match=rf"{loss}\(\): .*{message}"):
        nbloss.huber_loss(torch.zeros(2), torch.ones(2))
    assert float(nbloss.huber_loss(torch.zeros(2), torch.ones(2))) == 0.5  # it is told once
    value.sum().backward()
    bad = (labels > 3) | (labels < -1)
    rows = bad.any(-1) if labels.dim() > 1 else bad
    assert scores.grad[rows].isnan().any()
    if reduction != "mean":
        assert not scores.grad[~rows].isnan().any()
    if reduction == "none":  # the way back met it as well
        with pytest.raises(kind):
            nbloss.huber_loss(torch.zeros(2), torch.ones(2))


def test_all_are_told_that_left_word() -> None:
    nbloss.nll_loss(torch.zeros(1, 4), torch.tensor([4]))
    words = errors.memory(0)
    nll, cross_entropy = (
        (errors.places(loss, 0)[0] - ctypes.addressof(words)) // 8
        for loss in ("nll_loss", "cross_entropy")
    )
    assert (words[nll], words[nll + 1]) == (1, 4)
    words[cross_entropy], words[cross_entropy + 1] = 1, 77
    with pytest.raises(IndexError, match="Target") as raised:
        errors.raise_found()
    told = str(raised.value) + "".join(raised.value.__notes__)
    assert "nll_loss(): Target 4" in told
    assert "cross_entropy(): Target 77" in told
    errors.raise_found()


def test_labels_of_no_classes() -> None:
    nbloss.cross_entropy(torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), reduction="sum")
    with pytest.raises(IndexError, match="Target 0"):
        errors.raise_found()


def test_in_blocking_mode_the_call_itself_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "BLOCKING", True)
    with pytest.raises(IndexError, match="Target 4 is out of bounds"):
        nbloss.cross_entropy(torch.zeros(1, 4), torch.tensor([4]))


# --- autograd -------------------------------------------------------------------------------------


def test_backward_twice_and_by_any_number() -> None:
    x, y = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    value = nbloss.huber_loss(x, y)
    (once,) = torch.autograd.grad(3 * value, x, retain_graph=True)
    (again,) = torch.autograd.grad(3 * value, x, retain_graph=True)
    (theirs,) = torch.autograd.grad(3 * torch.nn.functional.huber_loss(x, y), x)
    torch.testing.assert_close(once, theirs)
    torch.testing.assert_close(again, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_number_from_above_whose_sign_is_a_bit(dtype: torch.dtype) -> None:
    x, y = torch.randn(3, 5, dtype=dtype, requires_grad=True), torch.randn(3, 5, dtype=dtype)
    grad_output = torch._neg_view(torch.ones((), dtype=dtype))
    (ours,) = torch.autograd.grad(nbloss.huber_loss(x, y), x, grad_output)
    (theirs,) = torch.autograd.grad(torch.nn.functional.huber_loss(x, y), x, grad_output)
    torch.testing.assert_close(ours, theirs)


def test_a_label_far_off_costs_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEARCHING", "SORTING"):
        monkeypatch.setattr(pairs, name, 0)
    forget()
    scores, labels = torch.rand(1, 30), torch.full((1, 30), -1)
    labels[0, :20] = torch.arange(20)
    for far in (-1e4, 1e4):
        scores[0, 7] = far
        truth = torch.nn.functional.multilabel_margin_loss(scores.double(), labels)
        torch.testing.assert_close(
            nbloss.multilabel_margin_loss(scores, labels).double(), truth, rtol=1e-6, atol=0
        )
    forget()


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a number of a tensor would be to wait for it."""
    for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, None)
    x, y = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    nbloss.huber_loss(x, y).backward()
    nbloss.cross_entropy(x, torch.tensor([1, 2, 3])).backward()
    nbloss.multilabel_margin_loss(x, torch.tensor([[1, 2, -1, 0, 0]] * 3)).backward()
    nbloss.triplet_margin_loss(x, y, y + 1).backward()


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
def test_results_are_the_same_to_the_bit(case: Case) -> None:
    results = []
    for _ in range(2):
        made = rounded(case.make(), "float32")
        grad_output = np.ones(())
        results.append(on_tensors(nbloss, case, made, "float32", "mean", grad_output))
    (value, gradients), (again, gradients_again) = results
    assert np.array_equal(value, again)
    for name, gradient in gradients.items():
        assert np.array_equal(gradient, gradients_again[name])


# --- memory ---------------------------------------------------------------------------------------


class Traced(sources.Pointer):
    """Memory that writes down which thread comes where."""

    def __getitem__(self, place: int) -> Any:
        self.note(place)
        return super().__getitem__(place)

    def __setitem__(self, place: int, value: Any) -> None:
        self.note(place)
        super().__setitem__(place, value)

    def note(self, place: int) -> None:
        thread = threading.current_thread()
        at = self.address + int(place) * self.dtype.itemsize
        TRACE.setdefault((thread.blockIdx.x, thread.threadIdx.x), []).append(at)


TRACE: dict[tuple[int, int], list[int]] = {}
TARGETS = {
    "huber_loss": torch.randn(4, 32),
    "multilabel_soft_margin_loss": torch.ones(4, 32),
    "cross_entropy": torch.tensor([1, 5, 31, 0]),
    "nll_loss": torch.tensor([1, 5, 31, 0]),
}


@pytest.mark.parametrize("loss", TARGETS)
def test_neighbouring_threads_take_neighbouring_numbers(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renew() -> None:
        for known in (runtime.of_numbers, runtime.names, emitted.kernel_for):
            known.cache_clear()
        forget()

    monkeypatch.setitem(sources.INTERPRETED, "pointer", Traced)
    renew()
    TRACE.clear()
    x = torch.randn(4, 32, requires_grad=True)
    getattr(nbloss, loss)(x, TARGETS[loss]).backward()
    renew()
    # A score that a label names is read by all threads at once; the others lie side by side.
    sides = 0
    for tensor, once in ((x, list), (x.grad, dict.fromkeys)):
        first, end = tensor.data_ptr(), tensor.data_ptr() + 4 * tensor.numel()
        for block in {block for block, _ in TRACE}:
            threads = [
                # What a label names is stored once more, by the thread that has it.
                once(at for at in TRACE[key] if first <= at < end)
                for key in sorted(TRACE)
                if key[0] == block
            ]
            for together in zip(*threads, strict=True):
                steps = set(np.diff(together))
                assert steps in ({4}, {0})
                sides += steps == {4}
    assert sides >= 4 * 32 // 8  # of at most as many threads


# --- arrays without torch -------------------------------------------------------------------------


class Array(np.ndarray):
    """As much of an array of CuPy as the backend uses, in NumPy's memory."""

    device = SimpleNamespace(id=0)

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.ctypes.data)

    def __getitem__(self, place: Any) -> Any:
        return self if place == () else super().__getitem__(place)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class Foreign:
    """An array of some other library on the same device."""

    def __init__(self, array: Array) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.view(np.ndarray).__dlpack__()

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(from_dlpack=Foreign)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Stand in for CuPy, which can't be had without a device."""

    def on_device(make: Callable) -> Callable:
        return lambda *arguments, **named: np.asarray(make(*arguments, **named)).view(Array)

    module = ModuleType("cupy")
    stream = SimpleNamespace(ptr=0, is_capturing=lambda: False)
    for name, value in {
        "ndarray": Array,
        **{
            name: on_device(getattr(np, name))
            for name in ("empty", "ones", "ascontiguousarray", "broadcast_to")
        },
        "from_dlpack": lambda x: x.array,
        "asarray": on_device(np.asarray),
        "cuda": SimpleNamespace(
            get_current_stream=lambda: stream, Device=lambda number: contextlib.nullcontext()
        ),
    }.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "cupy", module)
    forget()
    yield module
    if sys.modules.pop("nbloss.backends.cupy", None):
        del nbloss.backends.cupy
    forget()


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
def test_arrays_of_cupy(case: Case, cupy: ModuleType) -> None:
    made = rounded(case.make(), "float32")
    arrays = {
        name: cupy.asarray(x.astype(np.float32) if x.dtype.kind == "f" else x)
        for name, x in made.items()
    }
    operands, weight = split(arrays)
    function = getattr(nbloss, case.loss)
    kwargs = {**weight, **case.options(nbloss.distances)}
    for reduction in ("mean", "none"):
        value = function(*operands, **kwargs, reduction=reduction)
        assert type(value) is Array
        assert test_losses.error(value, case.value(made, reduction), "float32") <= 16
        _, gradient = nbloss.value_and_grad(function)(*operands, **kwargs, reduction=reduction)
        assert type(gradient) is Array
        name = case.differentiable[0]
        truth = case.gradients(made, reduction)[name]
        assert test_losses.error(gradient, truth, "float32") <= 32


def test_arrays_of_others_by_dlpack(cupy: ModuleType) -> None:
    x, y = (Foreign(cupy.asarray(np.array(row, np.float32))) for row in ([0, 3], [0.5, 0]))
    value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(x, y)
    assert isinstance(value, Foreign)
    assert float(value.array) == 1.3125
    assert gradient.array.tolist() == [-0.25, 0.5]
    with pytest.raises(TypeError, match="target must be an array on the CUDA device, like the"):
        nbloss.huber_loss(x, np.zeros(2, np.float32))


def test_arrays_of_two_devices(cupy: ModuleType) -> None:
    class Elsewhere(Array):
        device = SimpleNamespace(id=1)

    x = cupy.asarray(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"on one device, got \[0, 1\]"):
        nbloss.huber_loss(x, x.view(Elsewhere))


def test_arrays_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    x = Foreign(np.zeros(2, np.float32).view(Array))
    with pytest.raises(ImportError, match="pip install cupy"):
        nbloss.huber_loss(x, x)

"""The CUDA kernels on a device, for machines that have one: `make test-gpu`.

What the simulator and the assembler can't tell: that it all runs, on torch's streams, in graphs and
compiled, on as much as does not fit 31 bits, and with labels that are out of range.
"""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import nbloss
import nbloss.nn
import test_losses
from cases import KINKS, Case, Kink, by_loss
from conftest import forget
from nbloss.engine.cuda import errors, pairs
from test_losses import FIRST, MATRIX, error, kernels_only, on_tensors  # noqa: F401 (a fixture)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # the environment is not ours
    pytest.mark.filterwarnings("ignore:Using a target size"),
]
GB = 1 << 30


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No error is left for the next test."""
    yield
    torch.cuda.synchronize()
    errors.raise_found()


def randn(*shape: int, **more: object) -> Tensor:
    return torch.randn(*shape, device="cuda", **more)  # type: ignore[call-overload]


# --- right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "dtype"), MATRIX, ids=lambda x: getattr(x, "id", x))
def test_cases(case: Case, dtype: str, kernels_only: None) -> None:  # noqa: F811
    test_losses.test_tensors(case, dtype, kernels_only, "cuda")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kink", KINKS, ids=lambda kink: kink.id)
def test_kinks(kink: Kink, dtype: str, kernels_only: None) -> None:  # noqa: F811
    test_losses.test_kinks(kink, dtype, kernels_only, "cuda")


@pytest.mark.parametrize("shape", [(3, 100), (70, 1000), (5, 3000), (3, 20_000), (2, 40_000)])
@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
def test_rows_of_any_width(case: Case, shape: tuple[int, int]) -> None:
    """Against the kernels of the processor, which have been held against the oracle."""
    made, one = case.make(size=shape), np.ones(())
    value, gradients = on_tensors(nbloss, case, made, "float32", "mean", one, "cuda")
    truth, slopes = on_tensors(nbloss, case, made, "float64", "mean", one)
    assert error(value, truth, "float32") < 64
    for name, slope in slopes.items():
        assert error(gradients[name], slope, "float32") < 64, name


@pytest.mark.parametrize("shared", [pairs.SHARED, 0])
@pytest.mark.parametrize("case", by_loss("multilabel_margin_loss"), ids=lambda case: case.id)
def test_labels_in_order(case: Case, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SEARCHING": 0, "SORTING": 0, "SHARED": shared}.items():
        monkeypatch.setattr(pairs, name, value)
    forget()
    for size in ("small", (3, 700), (2, 5000)):
        made, one = case.make(size=size), np.ones(())
        value, gradients = on_tensors(nbloss, case, made, "float32", "mean", one, "cuda")
        truth, slopes = on_tensors(nbloss, case, made, "float64", "mean", one)
        assert error(value, truth, "float32") < 64
        assert error(gradients["input"], slopes["input"], "float32") < 64
    forget()


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
def test_results_are_the_same_to_the_bit(case: Case) -> None:
    made, one = case.make(size=(300, 1000)), np.ones(())
    value, gradients = on_tensors(nbloss, case, made, "float32", "mean", one, "cuda")
    for _ in range(3):
        again, others = on_tensors(nbloss, case, made, "float32", "mean", one, "cuda")
        assert np.array_equal(value, again)
        for name, gradient in gradients.items():
            assert np.array_equal(gradient, others[name])


def test_more_elements_than_31_bits_count() -> None:
    size = 2**31 + 2**20
    if torch.cuda.mem_get_info()[0] < 24 * GB:
        pytest.skip("needs 24 GB")
    x = torch.zeros(size, dtype=torch.float16, device="cuda")
    y = torch.zeros_like(x)
    y[-1] = 2.0
    x.requires_grad_()
    value = nbloss.huber_loss(x, y, reduction="sum")
    value.backward()
    assert value.item() == 1.5
    assert x.grad[-1].item() == -1.0
    assert x.grad.count_nonzero().item() == 1
    del x, y, value
    scores = torch.zeros(size // 64, 64, dtype=torch.float16, device="cuda").requires_grad_()
    labels = torch.zeros(len(scores), dtype=torch.int64, device="cuda")
    labels[-1] = 63
    nbloss.nll_loss(scores, labels, reduction="sum").backward()
    assert scores.grad[-1].argmin().item() == 63
    assert scores.grad.count_nonzero().item() == len(scores)


def test_gradients_of_gradients() -> None:
    x, y = randn(4, 5, dtype=torch.float64, requires_grad=True), randn(4, 5, dtype=torch.float64)
    labels = torch.randint(5, (4,), device="cuda")
    assert torch.autograd.gradgradcheck(lambda x: nbloss.cross_entropy(x, labels), x)
    assert torch.autograd.gradcheck(lambda x: nbloss.triplet_margin_loss(x, y, -y, swap=True), x)
    hessian = torch.func.hessian(lambda x: nbloss.huber_loss(x, y, reduction="sum"))(x.detach())
    assert hessian.is_cuda


# --- a good citizen -------------------------------------------------------------------------------


def losses() -> dict[str, Callable[[Tensor], Tensor]]:
    """Each pattern of kernels once, as a function of scores of shape (64, 100)."""
    y, labels = randn(64, 100), torch.randint(100, (64,), device="cuda")
    sets = torch.full((64, 100), -1, device="cuda")
    sets[:, :5] = torch.randint(100, (64, 5), device="cuda")
    return {
        "huber_loss": lambda x: nbloss.huber_loss(x, y),
        "cross_entropy": lambda x: nbloss.cross_entropy(x, labels),
        "nll_loss": lambda x: nbloss.nll_loss(x, labels),
        "multilabel_margin_loss": lambda x: nbloss.multilabel_margin_loss(x, sets),
        "triplet_margin_loss": lambda x: nbloss.triplet_margin_loss(x, y, -y),
    }


NAMES = [
    "huber_loss", "cross_entropy", "nll_loss", "multilabel_margin_loss", "triplet_margin_loss"
]  # fmt: skip


def step(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name: str) -> None:
    loss, x = losses()[name], randn(64, 100, requires_grad=True)
    step(loss, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(loss, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_of_cuda_captures_it(name: str) -> None:
    loss, x = losses()[name], randn(64, 100, requires_grad=True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(loss, x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, gradient = step(loss, x)
    with torch.no_grad():
        x.copy_(randn(64, 100))
    graph.replay()
    torch.cuda.synchronize()
    truth, slope = step(loss, x)
    assert torch.equal(value, truth)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize("name", NAMES)
def test_torchs_current_stream_is_used(name: str) -> None:
    loss, x = losses()[name], randn(64, 100, requires_grad=True)
    truth, slope = step(loss, x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whoever runs on another stream reads what is not yet there
        late = torch.zeros_like(x).copy_(x.detach()).requires_grad_()
        value, gradient = step(loss, late)
    stream.synchronize()
    assert torch.equal(value, truth)
    assert torch.equal(gradient, slope)


@pytest.mark.parametrize("name", NAMES)
def test_compiled(name: str) -> None:
    loss, x = losses()[name], randn(64, 100, requires_grad=True)
    value, gradient = step(loss, x)
    again, slope = step(torch.compile(loss, fullgraph=True), x)
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(slope, gradient)


def test_autocast() -> None:
    x, labels = randn(8, 5, dtype=torch.float16), torch.randint(5, (8,), device="cuda")
    with torch.autocast("cuda"):
        ours, theirs = (f.cross_entropy(x, labels) for f in (nbloss, torch.nn.functional))
        assert ours.dtype == theirs.dtype == torch.float32
        ours, theirs = (
            f.triplet_margin_with_distance_loss(x, x + 1, x - 1)
            for f in (nbloss, torch.nn.functional)
        )
        assert ours.dtype == theirs.dtype == torch.float32


def test_modules_and_patched_torch() -> None:
    x, y = randn(8, 5), randn(8, 5)
    truth = torch.nn.HuberLoss()(x, y)
    torch.testing.assert_close(nbloss.nn.HuberLoss()(x, y), truth)
    with nbloss.patch_torch():
        torch.testing.assert_close(torch.nn.HuberLoss()(x, y), truth)


def test_threads_of_python() -> None:
    x, y = randn(100, 100, requires_grad=True), randn(100, 100)
    truth, slope = step(lambda x: nbloss.huber_loss(x, y), x)
    wrong = []

    def work() -> None:
        for _ in range(50):
            value, gradient = step(lambda x: nbloss.huber_loss(x, y), x)
            if not (torch.equal(value, truth) and torch.equal(gradient, slope)):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_memory_is_torchs() -> None:
    x, y = randn(1000, 1000, requires_grad=True), randn(1000, 1000)
    step(lambda x: nbloss.huber_loss(x, y), x)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value, gradient = step(lambda x: nbloss.huber_loss(x, y), x)
    # The gradient, the value, and what the blocks leave for others to add up.
    assert torch.cuda.max_memory_allocated() - before < 4_000_000 + 100_000
    del value, gradient
    assert torch.cuda.memory_allocated() == before


# --- labels out of range --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy", "multilabel_margin_loss"])
def test_labels_out_of_range(loss: str) -> None:
    x = randn(8, 100, requires_grad=True)
    labels = torch.zeros(8, dtype=torch.int64, device="cuda")
    if loss == "multilabel_margin_loss":
        labels = torch.full((8, 100), -1, device="cuda")
        labels[:, 0] = 0
        labels[3, 0] = 2**40
    else:
        labels[3] = 2**40
    value = getattr(nbloss, loss)(x, labels, reduction="sum")
    torch.cuda.synchronize()
    assert value.isnan().item()
    with pytest.raises((IndexError, RuntimeError), match=rf"{loss}\(\)"):
        nbloss.huber_loss(x, x.detach())
    value.backward()
    assert x.grad[3].isnan().any().item()
    assert not x.grad[[0, 1, 2, 4, 5, 6, 7]].isnan().any().item()
    assert (x + 1).sum().isfinite().item()  # the context is as it was


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays_of_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    x, y = cupy.asarray([0.5, 3.0], cupy.float32), cupy.zeros(2, cupy.float32)
    value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(x, y)
    assert isinstance(value, cupy.ndarray)
    assert float(value) == 1.3125
    assert gradient.tolist() == [0.25, 0.5]


def test_types_round_as_they_should() -> None:
    x = randn(1000, dtype=torch.float32) * 100
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype)
        value = nbloss.huber_loss(half, torch.zeros_like(half), reduction="none", delta=1e30)
        truth = (0.5 * half.float() * half.float()).to(dtype)
        assert torch.equal(value, truth)

"""Between arrays, tensors and kernels: nothing is copied, and autograd gets what it asked for."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nbloss
from cases import Case, split
from nbloss import distances
from nbloss.torch import dispatch
from test_losses import FIRST

CASE = pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)
LARGE = (600, 450)  # above the size where threads start


def addresses(launched: list) -> set[int]:
    """All addresses that kernels were given."""
    return {address for _, given in launched for address in given}


def arrays_of(case: Case, dtype: str = "float32", **size: Any) -> dict[str, np.ndarray]:
    made = case.make(**size)
    return {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in made.items()}


def tensors_of(case: Case, dtype: str = "float32", **size: Any) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in arrays_of(case, dtype, **size).items()}


def leaves_of(case: Case, needs_grad: Any = None, **size: Any) -> dict[str, Tensor]:
    tensors = tensors_of(case, **size)
    for name in case.differentiable if needs_grad is None else needs_grad:
        tensors[name].requires_grad_()
    return tensors


def loss(case: Case, operands: dict[str, Any], **more: Any) -> Any:
    positional, weight = split(operands)
    options = case.options(distances)
    return getattr(nbloss, case.loss)(*positional, **weight, **options, **more)


@CASE
@pytest.mark.parametrize("columns", [7, 40])
def test_results_are_the_same_wherever_memory_lies(case: Case, columns: int) -> None:
    sizes = np.random.default_rng(0)
    expected = None
    for _ in range(100):
        between = [torch.empty(int(size)) for size in sizes.integers(1, 100, 3)]
        leaves = leaves_of(case, size=(5, columns))
        value = loss(case, leaves)
        value.backward()
        found = [value.item(), *(leaves[name].grad.tolist() for name in case.differentiable)]
        expected = expected or found
        assert found == expected
        del between


# --- no copies --------------------------------------------------------------------------------


class Producer:
    """An array of some other library: it speaks DLPack, and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


@CASE
@pytest.mark.parametrize("kind", ["array", "producer", "tensor"])
def test_kernels_read_the_memory_of_the_caller(case: Case, kind: str, launched: list) -> None:
    arrays = arrays_of(case)
    places = {x.__array_interface__["data"][0] for x in arrays.values()}
    if kind == "tensor":
        tensors = {name: torch.from_numpy(x) for name, x in arrays.items()}
        value = loss(case, tensors, reduction="none")
        assert {x.data_ptr() for x in tensors.values()} == places
        assert value.data_ptr() in addresses(launched)
        shared = np.from_dlpack(value)
        assert shared.__array_interface__["data"][0] == value.data_ptr()
    else:
        given = {k: Producer(x) for k, x in arrays.items()} if kind == "producer" else arrays
        value = loss(case, given, reduction="none")
        np.testing.assert_array_equal(value, loss(case, arrays, reduction="none"))
        if value.ndim:
            shared = torch.from_dlpack(value)
            assert shared.data_ptr() == value.__array_interface__["data"][0]
            assert shared.data_ptr() in addresses(launched)
    assert places <= addresses(launched)


@CASE
def test_gradients_are_given_away_without_a_copy(case: Case, launched: list) -> None:
    leaves = leaves_of(case)
    loss(case, leaves).backward()
    for name in case.differentiable:
        assert leaves[name].grad.data_ptr() in addresses(launched)


@CASE
def test_memory_maps(case: Case, tmp_path: Any, launched: list) -> None:
    arrays = arrays_of(case)
    maps = {}
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    np.testing.assert_array_equal(loss(case, maps), loss(case, arrays))
    assert {x.__array_interface__["data"][0] for x in maps.values()} <= addresses(launched)


# --- what autograd asks for -------------------------------------------------------------------


@CASE
def test_no_step_in_the_graph_without_a_gradient(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise AssertionError("nobody asked for a gradient")

    monkeypatch.setattr(dispatch.LossFunction, "apply", unsupported)
    monkeypatch.setattr(dispatch, "apply", unsupported)
    assert loss(case, tensors_of(case)).grad_fn is None
    with torch.no_grad():
        assert loss(case, leaves_of(case)).grad_fn is None


@CASE
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_wanted_gradients_are_made(case: Case, reduction: str, launched: list) -> None:
    last = case.differentiable[-1]
    leaves = leaves_of(case, [last])
    loss(case, leaves, reduction=reduction).sum().backward()
    assert max(sum(launch.needs_grad) for launch, _ in launched) == 1
    assert [name for name, x in leaves.items() if x.grad is not None] == [last]


@CASE
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_backward_again_and_again(case: Case, reduction: str) -> None:
    leaves = leaves_of(case)
    value = loss(case, leaves, reduction=reduction)
    grad_output = torch.linspace(0.5, 1.5, value.numel()).view(value.shape)
    value.backward(grad_output, retain_graph=True)
    once = {name: leaves[name].grad.clone() for name in case.differentiable}
    value.backward(grad_output, retain_graph=True)
    value.backward(2 * grad_output)
    for name in case.differentiable:
        torch.testing.assert_close(leaves[name].grad, 4 * once[name])
    with pytest.raises(RuntimeError, match="second time"):
        value.backward(grad_output)


@CASE
def test_scaled_and_added_losses(case: Case) -> None:
    plain, scaled = leaves_of(case), leaves_of(case)
    loss(case, plain).backward()
    (3 * loss(case, scaled) - loss(case, scaled) / 2).backward()
    for name in case.differentiable:
        torch.testing.assert_close(scaled[name].grad, 2.5 * plain[name].grad)


# --- calls like one before --------------------------------------------------------------------


@CASE
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_batches_of_varying_length_are_remembered(
    case: Case, reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "distance_function" in case.kwargs:
        pytest.skip("a distance can be changed, and is looked at in each call")
    batches = [leaves_of(case, size=(rows, 7)) for rows in range(1, 60)]
    for batch in batches:
        loss(case, batch, reduction=reduction)

    def checked(*_: Any) -> None:
        raise AssertionError("a call like this one was made before")

    monkeypatch.setattr(dispatch, "checked", checked)
    for batch in batches * 2:
        assert loss(case, batch, reduction=reduction).requires_grad


def test_types_in_turns_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [
        (torch.zeros(3, dtype=dtype, requires_grad=grad), torch.ones(3, dtype=dtype))
        for dtype in (torch.float32, torch.float64, torch.float16)
        for grad in (True, False)
    ]
    for x, y in kinds:
        nbloss.huber_loss(x, y)
    monkeypatch.delattr(dispatch, "checked")
    for x, y in kinds * 2:
        value = nbloss.huber_loss(x, y)
        assert (value.dtype, value.requires_grad) == (x.dtype, x.requires_grad)


@CASE
def test_keyword_arguments_in_any_order(case: Case) -> None:
    """The first operand decides between arrays and tensors, and not whichever comes first."""
    options = {**case.options(distances), "reduction": "sum"}
    for operands in (arrays_of(case), tensors_of(case)):
        positional, weight = split(operands)
        expected = getattr(nbloss, case.loss)(*positional, **weight, **options)
        for named in ({**options, **operands}, dict(reversed([*operands.items()])) | options):
            found = getattr(nbloss, case.loss)(**named)
            np.testing.assert_array_equal(found, expected)
            partial = functools.partial(getattr(nbloss, case.loss), **options)
            np.testing.assert_array_equal(partial(**operands), expected)


# --- threads ----------------------------------------------------------------------------------


@CASE
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_as_many_threads_the_same_bits(case: Case, reduction: str) -> None:
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaves = leaves_of(case, size=LARGE)
            value = loss(case, leaves, reduction=reduction)
            value.sum().backward()
            results.append([value.detach(), *(leaves[n].grad for n in case.differentiable)])
    finally:
        torch.set_num_threads(before)
    for one, many in zip(*results, strict=True):
        assert torch.equal(one, many)


@CASE
def test_tiny_chunks_give_the_same(case: Case, tiny_chunks: None) -> None:
    leaves = leaves_of(case)
    value = loss(case, leaves)
    value.backward()
    made = {name: x.detach().double().numpy() for name, x in leaves.items()}
    made |= {name: x.numpy() for name, x in leaves.items() if not x.is_floating_point()}
    np.testing.assert_allclose(value.item(), case.value(made), rtol=1e-5)
    for name, gradient in case.gradients(made).items():
        np.testing.assert_allclose(leaves[name].grad, gradient, rtol=1e-4, atol=1e-6)

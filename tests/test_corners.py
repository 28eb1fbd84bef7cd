"""Corners of autograd and of the memory behind tensors, where little goes wrong visibly."""

import gc
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

import nbloss
from conftest import forget
from hostile import GOOD
from nbloss.formula.distance import NAMED

F = torch.nn.functional
NAME = pytest.mark.parametrize("name", GOOD)
LIBRARIES = (nbloss, F)


def leaf(name: str) -> tuple[Tensor, list[Tensor]]:
    first, *rest = GOOD[name]
    return first.clone().requires_grad_(), rest


# --- gradients that have a graph ------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.enable_grad, lambda: FlopCounterMode(display=False)])
def test_an_operand_that_depends_on_another(mode: Any) -> None:
    found = []
    for library in LIBRARIES:
        x = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
        with mode():
            value = library.margin_ranking_loss(x, x * 2, torch.ones(3, 4), 0.3)
            value = value + library.cross_entropy(x, x.softmax(1))
            found.append(torch.autograd.grad(value, x, create_graph=True)[0])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@NAME
def test_hooks_run_once(name: str) -> None:
    found = []
    for library in LIBRARIES:
        if library is F and name == "multilabel_margin_loss":
            library = nbloss  # torch has no second derivative to make
        x, rest = leaf(name)
        y = x * 1
        y.retain_grad()
        calls: list[int] = []
        y.register_hook(lambda g, calls=calls: calls.append(1) or 3 * g)
        getattr(library, name)(y, *rest).backward(create_graph=True)
        assert len(calls) == 1
        found.append((x.grad.detach(), y.grad.detach()))
        x.grad = None  # which is in a cycle with its graph
    torch.testing.assert_close(*found)


# --- gradients from above -------------------------------------------------------------------------


def conjugate_part(shape: tuple[int, ...]) -> Tensor:
    """Ones, as they stand nowhere in memory."""
    return torch.ones(shape, dtype=torch.cfloat).mul(-1j).conj().imag


@NAME
@pytest.mark.parametrize("make", [conjugate_part, torch._efficientzerotensor])
def test_what_comes_from_above_may_be_no_plain_numbers(name: str, make: Any) -> None:
    found = []
    for library in LIBRARIES:
        x, rest = leaf(name)
        value = getattr(library, name)(x, *rest, reduction="none")
        gradient = torch.autograd.grad(value, x, make(tuple(value.shape)))[0]
        found.append(gradient + torch.zeros_like(x))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("make", [conjugate_part, torch._efficientzerotensor])
def test_so_may_a_single_number(make: Any) -> None:
    x, target = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True), torch.tensor(1)
    found = []
    for library in LIBRARIES:
        value = library.nll_loss(x, target, reduction="none")
        found.append(torch.autograd.grad(value, x, make(()))[0] + torch.zeros(3))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("factor", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("name", ["nll_loss", "margin_ranking_loss", "triplet_margin_loss"])
def test_what_takes_no_part_has_gradient_0_whatever_grad_output(
    name: str, factor: float, reduction: str
) -> None:
    """Other classes than the target's, ignored rows and margins that are kept, as in torch."""
    operands = [x.clone().requires_grad_(x.is_floating_point()) for x in GOOD[name]]
    if name == "nll_loss":
        operands[1][2] = -100
    else:
        ranking = name == "margin_ranking_loss"
        with torch.no_grad():
            operands[0][1] = operands[1][1] + (operands[2][1] if ranking else 0.0)
            operands[2][1] *= 1.0 if ranking else 99.0
    leaves = [x for x in operands if x.requires_grad]
    found = []
    for library in LIBRARIES:
        value = getattr(library, name)(*operands, reduction=reduction)
        grad_output = torch.full_like(value, factor)
        for _ in range(2):  # the first time gradients may be there from the forward pass
            found.append(torch.autograd.grad(value, leaves, grad_output, retain_graph=True))
    *ours, theirs, _ = found
    assert any((x == 0).any() for x in theirs)
    for gradients in ours:
        for mine, other in zip(gradients, theirs, strict=True):
            # An infinite pull at an anchor from both sides is NaN, unless it was added up before.
            mine = torch.where(other.isnan() & ~mine.isfinite(), other, mine)
            torch.testing.assert_close(mine, other, equal_nan=True)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, np.inf])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_rows_with_odd_numbers_in_a_gradient_that_has_a_graph(
    odd: float, p: float, swap: bool
) -> None:
    for position in range(3):
        operands = [x.clone() for x in GOOD["triplet_margin_loss"]]
        operands[position][1, 2] = odd
        operands = [x.requires_grad_() for x in operands]
        found = []
        for library in LIBRARIES:
            value = library.triplet_margin_loss(*operands, p=p, swap=swap)
            gradients = torch.autograd.grad(value, operands, create_graph=True)
            found.append([x.detach() for x in gradients])
        torch.testing.assert_close(*found, equal_nan=True)


def test_second_derivatives_of_huber_loss_where_its_pieces_meet() -> None:
    found = []
    for library in LIBRARIES:
        x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
        value = library.huber_loss(x, torch.zeros(7), reduction="sum")
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        found.append((slope.detach(), torch.autograd.grad(slope.sum(), x)[0]))
    torch.testing.assert_close(*found)


# --- saved tensors that come back as others -------------------------------------------------------

CHANGES = {
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "negative": lambda x: torch._neg_view(-x) if x.is_floating_point() else x,
    "int": lambda x: x if x.is_floating_point() else x.int(),
    "double": lambda x: x.double() if x.is_floating_point() else x,
}


@NAME
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_saved_tensors_come_back_otherwise(name: str, change: str, reduction: str) -> None:
    expected, rest = leaf(name)
    getattr(nbloss, name)(expected, *rest, reduction=reduction).sum().backward()
    x, rest = leaf(name)
    with saved_tensors_hooks(lambda x: x, CHANGES[change]):
        value = getattr(nbloss, name)(x, *rest, reduction=reduction).sum()
    value.backward(retain_graph=True)
    torch.testing.assert_close(x.grad, expected.grad)
    x.grad = None
    value.backward()
    torch.testing.assert_close(x.grad, expected.grad)


def test_saved_tensors_of_another_shape_are_refused() -> None:
    x, rest = leaf("nll_loss")
    with saved_tensors_hooks(lambda x: x, lambda x: x[:1]):
        value = nbloss.nll_loss(x, *rest, reduction="none").sum()
    with pytest.raises(RuntimeError, match="came back with"):
        value.backward()


# --- options --------------------------------------------------------------------------------------


def test_gradients_of_memory_maps_are_arrays(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", np.linspace(0, 1, 5))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    _, gradient = nbloss.value_and_grad(nbloss.huber_loss)(x, np.zeros(5))
    assert type(gradient) is np.ndarray


def test_as_many_tensors_in_other_places() -> None:
    x, target = torch.randn(4, 5).log_softmax(1), torch.arange(4)
    weight = torch.arange(1.0, 6.0)
    for _ in range(3):
        for given in ((x, target), (x, target, weight), (x, target)):
            torch.testing.assert_close(nbloss.nll_loss(*given), F.nll_loss(*given))
    with pytest.raises(TypeError):
        nbloss.nll_loss(x)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("margin_ranking_loss", "margin"),
        ("huber_loss", "delta"),
        ("triplet_margin_loss", "p"),
        ("triplet_margin_loss", "eps"),
        ("cross_entropy", "label_smoothing"),
    ],
)
def test_an_option_that_wants_a_gradient_is_refused(name: str, option: str) -> None:
    given = {option: torch.tensor(0.5, requires_grad=True)}
    for library in LIBRARIES:
        with pytest.raises(TypeError):
            getattr(library, name)(*GOOD[name], **given)


def test_a_margin_that_wants_a_gradient_gets_it_from_torch() -> None:
    margin = torch.tensor(0.7, requires_grad=True)
    x, rest = leaf("triplet_margin_with_distance_loss")
    value = nbloss.triplet_margin_with_distance_loss(x, *rest, margin=margin)
    assert torch.autograd.grad(value, margin)[0] > 0


def test_an_option_that_changes_is_refused() -> None:
    class Changing:
        def __float__(self) -> float:
            return 1.0

    for library in LIBRARIES:
        with pytest.raises(TypeError):
            library.margin_ranking_loss(*GOOD["margin_ranking_loss"], margin=Changing())
    with pytest.raises(TypeError):
        nbloss.nll_loss(*GOOD["nll_loss"], ignore_index=True)
    with pytest.raises(TypeError):
        nbloss.triplet_margin_loss(*GOOD["triplet_margin_loss"], swap=1)


def test_weights_that_cancel_out() -> None:
    x = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, -4.0]], requires_grad=True)
    target, weight = torch.tensor([0, 1]), torch.tensor([1.0, -1.0, 0.0])
    found = []
    for library in LIBRARIES:
        value = library.nll_loss(x, target, weight)
        found.append((value, torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*found)


def test_warnings_name_the_callers_line() -> None:
    x, y = torch.randn(3, 4), torch.randn(4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nbloss.huber_loss(x, y)
        nbloss.huber_loss(x.numpy(), y.numpy())
        nbloss.nll_loss(x, torch.arange(3), size_average=True)
        nbloss.nll_loss(x.numpy(), torch.arange(3).numpy(), size_average=True)
    assert [warning.filename for warning in caught] == [__file__] * 4


def test_distances_are_let_go() -> None:
    before = len(NAMED)
    for k in range(1000):
        nbloss.triplet_margin_loss(*GOOD["triplet_margin_loss"], eps=1e-3 * k)
    forget()
    gc.collect()
    assert len(NAMED) < before + 300  # some are kept to be found again


# --- operators called by hand ---------------------------------------------------------------------


def test_operators_check_what_they_are_given() -> None:
    x, target = torch.randn(1000, 5).log_softmax(1), torch.zeros(1000, dtype=torch.int64)
    rest = (x, target, None, None, -100, None, "none")
    for grad_output in (torch.ones(1), torch.ones(1000, dtype=torch.float64), torch.ones(())):
        with pytest.raises(RuntimeError, match="upstream must be of"):
            torch.ops.nbloss.nll_loss_backward(grad_output, [True, False, False], *rest)
    with pytest.raises(RuntimeError, match="no gradient with respect to weight"):
        torch.ops.nbloss.nll_loss(x, target, torch.ones(5, requires_grad=True))


# --- the first call of a process ------------------------------------------------------------------

FIRST = """
import torch, nbloss
x, t = torch.randn(4), torch.randn(4)
"""
THEN = """
torch.testing.assert_close(nbloss.huber_loss(x, t), torch.nn.functional.huber_loss(x, t))
x.requires_grad_()
g, = torch.autograd.grad(nbloss.huber_loss(x, t), x, create_graph=True)
g.sum().backward()
"""
BEGINNINGS = {
    "device": "with torch.device('meta'): nbloss.huber_loss(x, t)",
    "default": (
        "torch.set_default_device('meta'); nbloss.huber_loss(x, t); torch.set_default_device('cpu')"
    ),
    "inference": """
with torch.inference_mode():
    torch.func.vmap(nbloss.huber_loss)(torch.randn(3, 4), torch.randn(3, 4))
""",
    "fake": """
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode() as mode: nbloss.huber_loss(mode.from_tensor(x), mode.from_tensor(t))
""",
    "export": """
class M(torch.nn.Module):
    def forward(self, a, b): return nbloss.huber_loss(a, b)
torch.export.export(M(), (x, t))
""",
    "transform": "torch.func.grad(nbloss.huber_loss)(x, t)",
    "compiled backward": """
x.requires_grad_()
for reduction in ("mean", "none"):
    value = nbloss.huber_loss(x, t, reduction=reduction).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        value.backward()
expected = torch.autograd.grad(torch.nn.functional.huber_loss(x, t, reduction="mean"), x)[0]
torch.testing.assert_close(x.grad, 5 * expected)
""",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_however_a_process_begins(beginning: str) -> None:
    """What a first call leaves behind serves all that come."""
    script = FIRST + BEGINNINGS[beginning] + THEN
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]

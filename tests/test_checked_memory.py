"""Every access of every call's kernels, one by one: it lies inside the arrays of the call.

Calls are planned by the library as always; then all stages of the plan run as plain Python in a
memory that is checked (see :mod:`checked_memory`), and what comes out is held against the oracle.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nbloss
from cases import CASES, Case, split
from checked_memory import Memory, Misplaced, interpreted
from conftest import forget
from in_torch import options
from nbloss.backends import numpy as numpy_backend
from nbloss.backends import torch as torch_backend
from nbloss.codegen import chunks
from nbloss.codegen.blocks import GRADIENT_SCALE, PARTIALS
from nbloss.codegen.spec import Spec, gradient
from nbloss.engine import binding, compiler, driver, plan
from nbloss.engine.patterns import common, labels, rows
from nbloss.engine.plan import Plan
from nbloss.formula.registry import LOSSES
from own_loss import own_losses
from test_losses import EPS, FIRST, error

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")
# How far off results may be, in roundings of their type at the size of the largest, or of 1.
ROUNDINGS = 32
TRUE_SIZES = {name: getattr(chunks, name) for name in ("SEGMENT", "CHUNK", "TILE")}


def is_close(result: Tensor, truth: Any, dtype: str, roundings: float) -> bool:
    off = error(result.detach().double(), truth, dtype)
    largest = np.nan_to_num(np.abs(truth), posinf=0.0).max(initial=0.0)
    return off * min(max(largest, 1e-3), 1.0) < roundings


class Calls:
    """Runs plans as plain Python, in the place of :mod:`nbloss.engine.driver`."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []  # the arrays of the call that is being made
        self.memory = Memory()
        self.ran: list[Spec] = []

    def address(self, x: Any) -> int:
        """Note an array of a call; tell which it is, from 1 on."""
        if isinstance(x, Tensor):
            x = x.detach()
            if x.dtype == torch.bfloat16:
                x = x.view(torch.int16)
            x = x.numpy()
        if x.dtype.itemsize == 2:
            x = x.view(np.uint16)  # as kernels hold half types
        self.given.append(x)
        return len(self.given)

    def kernel(self, spec: Spec) -> Callable[..., None]:
        @functools.wraps(interpreted)
        def worker(*arguments: Any) -> None:
            interpreted(spec, self.memory)(*arguments)

        worker.spec = spec
        return worker

    def worker(self, template: Callable, scalars: dict, dtype: type, **names: Any) -> Callable:
        """Bind a kernel that is written by hand."""

        def call(*arguments: Any) -> None:
            memory = {"array_at": self.memory.array_at, "label_at": self.memory.read_once}
            plain = binding.Target(binding.words, lambda function, math: function)
            bound = binding.specialize(template, scalars, dtype, (), {**names, **memory}, "", plain)
            bound(*arguments)

        return call

    def run(self, planned: Plan, scale: float, addresses: tuple[int, ...], threads: Any) -> int:
        given, self.given = self.given, []
        record, spec = planned.record, planned.main.worker.spec
        block = record[plan.FIRST_INTEGER : plan.FIRST_FLOAT].copy()
        slots = record[plan.FIRST_SLOT :][: 2 * record[plan.SLOTS]].reshape(-1, 2).tolist()
        stored = {"values", *map(gradient, spec.needs_grad)}
        places = {place for name, place in spec.fields.items() if name in stored}
        outputs = {addresses[which] for place, which in slots if place in places}
        self.memory = memory = Memory()
        made = {k: memory.add(x, k in outputs) for k, x in enumerate(given, 1)}
        for place, which in slots:
            block[place] = made[addresses[which]]
        block[PARTIALS] = memory.add(np.empty(record[plan.SUMS]), True)
        floats = record[plan.FIRST_FLOAT :].view(np.float64).copy()
        floats[GRADIENT_SCALE] *= scale
        with np.errstate(all="ignore"):
            for stage in (planned.validation, planned.main):
                for work, count in (
                    (stage.worker, stage.pieces),
                    (stage.combiner, stage.combinations),
                ):
                    memory.begin_stage()
                    for chunk in range(count):
                        memory.begin_chunk()
                        work(block, floats, chunk)
                if block[plan.FIRST_BAD] >= 0:
                    return int(block[plan.FIRST_BAD])
        for k in outputs:
            assert memory.arrays[k - 1].is_complete, "an element of a result was left out"
        self.ran.append(spec)
        return plan.NOTHING_BAD


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tiny_chunks: None) -> Iterator[Calls]:
    """Have all calls run as plain Python, and tell which kernels they took."""
    made = Calls()
    monkeypatch.setattr("nbloss.codegen.chunks.TILE", 2)
    for module in (common, rows):
        monkeypatch.setattr(module, "kernel", made.kernel)
    for backend in (numpy_backend, torch_backend):
        monkeypatch.setattr(backend, "address", made.address)
    monkeypatch.setattr(compiler, "worker", made.worker)
    monkeypatch.setattr(common, "combiner", common.combiner.__wrapped__)
    monkeypatch.setattr(labels, "kernels", labels.kernels.__wrapped__)
    monkeypatch.setattr(driver, "run", made.run)
    forget()
    yield made
    forget()


# --- operands that lie in one way or another ------------------------------------------------------


def gapped(x: Tensor) -> Tensor:
    """Rows that do not follow each other at once."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 2), 55, dtype=x.dtype)
    wide[..., 1:-1] = x
    return wide[..., 1:-1]


def strided(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 55, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def transposed(x: Tensor) -> Tensor:
    """The first two dimensions the other way round."""
    return x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x


def backwards(x: Tensor) -> Tensor:
    """All dimensions the other way round: classes last, as of images with channels last."""
    order = tuple(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order)


def repeated(x: Tensor) -> Tensor:
    """The first of the rows in the place of each."""
    return x[:1].expand_as(x) if x.dim() > 1 and x.dtype.is_floating_point else x


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gapped": gapped,
    "strided": strided,
    "transposed": transposed,
    "backwards": backwards,
    "repeated": repeated,
}


def laid(x: Tensor, layout: str, position: int) -> Tensor:
    """Lay an operand out; of "mixed" ones each lies in its own way."""
    if x.dim() == 0 or layout == "contiguous":
        return x
    chosen = list(LAYOUTS)[position % len(LAYOUTS)] if layout == "mixed" else layout
    return LAYOUTS[chosen](x)


# --- the library's own losses ---------------------------------------------------------------------


def upstreams(value: Tensor) -> list[Tensor]:
    """Gradients from above: a number for each value, and one number in the place of all."""
    each = torch.linspace(0.5, 1.5, value.numel()).to(value.dtype).reshape(value.shape)
    return [each, torch.tensor(0.75, dtype=value.dtype).expand(value.shape)]


def check(
    case: Case,
    made: dict[str, Any],
    dtype: str,
    layout: str,
    reductions: tuple[str, ...] = ("sum", "mean", "none"),
    roundings: int = ROUNDINGS,
) -> None:
    """Go forward and backward with each reduction, and compare with the oracle."""
    tensors = {}
    for position, (name, x) in enumerate(made.items()):
        kind = getattr(torch, dtype) if x.dtype.kind == "f" else None
        tensors[name] = laid(torch.tensor(x, dtype=kind), layout, position)
    made = {
        name: (x.double() if x.is_floating_point() else x).numpy() for name, x in tensors.items()
    }
    for reduction in reductions:
        for needed in ((), case.differentiable[:1], case.differentiable):
            for name, x in tensors.items():
                x.grad = None
                x.requires_grad_(name in needed)
            operands, weight = split(tensors)
            value = getattr(nbloss, case.loss)(
                *operands, **weight, **options(case, nbloss), reduction=reduction
            )
            assert is_close(value, case.value(made, reduction), dtype, roundings)
            for above in upstreams(value) if needed else ():
                found = torch.autograd.grad(
                    value, [tensors[name] for name in needed], above, retain_graph=True
                )
                truth = case.gradients(made, reduction, above.double().numpy())
                # What the oracle has by finite differences is good to eight digits or so.
                slack = roundings if case.exact else roundings + 1e-7 / EPS[dtype]
                for name, mine in zip(needed, found, strict=True):
                    assert is_close(mine, truth[name], dtype, slack)


EMITTED = [case for case in CASES if LOSSES[case.loss].pattern != "pairs"]
FLAT = [case for case in EMITTED if max(x.ndim for x in case.make().values()) > 1]
PLAINEST = [case for case in FLAT if case.exact and case.name in ("plain", "2d", "3d", "default")]
CHOSEN = [
    *((case, "float32", "contiguous") for case in EMITTED),
    *(
        (case, dtype, "contiguous")
        for case in FIRST
        for dtype in ("float64", "float16", "bfloat16")
        if case in EMITTED
    ),
    *((case, "float64", "mixed") for case in FLAT),
    *(
        (case, "float32", layout)
        for case in {case.loss: case for case in reversed(FLAT)}.values()
        for layout in LAYOUTS
    ),
]


@pytest.mark.parametrize(("case", "dtype", "layout"), CHOSEN, ids=lambda x: getattr(x, "id", x))
def test_a_call_touches_its_own_elements_alone(
    case: Case, dtype: str, layout: str, calls: Calls
) -> None:
    check(case, case.make(size="tiny"), dtype, layout)
    assert calls.ran


@pytest.mark.parametrize("case", EMITTED, ids=lambda case: case.id)
@pytest.mark.parametrize("size", [(0, 7), (3, 1)], ids=str)
def test_batches_without_rows_and_rows_of_one_column(
    case: Case, size: tuple[int, int], calls: Calls
) -> None:
    check(case, case.make(size=size), "float64", "contiguous")


@pytest.mark.parametrize("layout", ["contiguous", "gapped", "transposed"])
@pytest.mark.parametrize("case", PLAINEST, ids=lambda case: case.id)
def test_segments_and_tiles_of_their_true_sizes(
    case: Case, layout: str, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a segment and a bit; of rows that lie side by side, a tile and a bit."""
    for name, size in TRUE_SIZES.items():
        monkeypatch.setattr(chunks, name, size)
    is_tiled = case.name == "3d"
    made = case.make(size=(2, 3) if is_tiled else (2, chunks.SEGMENT + 5))
    if is_tiled:
        made = {name: np.repeat(x, chunks.TILE // 3 + 2, -1) for name, x in made.items()}
    check(case, made, "float64", layout, ("sum",), 1000)  # of long sums


@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (2, 3, 0), (2, 0, 4), (0,)], ids=str)
@pytest.mark.parametrize(
    "loss", ["huber_loss", "multilabel_soft_margin_loss", "cross_entropy", "triplet_margin_loss"]
)
def test_nothing_is_touched_where_there_is_nothing(
    loss: str, shape: tuple[int, ...], calls: Calls
) -> None:
    count = 3 if loss == "triplet_margin_loss" else 2
    for reduction in ("sum", "mean", "none"):
        operands = [torch.zeros(shape, requires_grad=True) for _ in range(count)]
        value = getattr(nbloss, loss)(*operands, reduction=reduction)
        value.backward(torch.ones(()).expand(value.shape))
    assert calls.ran


@pytest.mark.parametrize("layout", ["contiguous", *LAYOUTS])
@pytest.mark.parametrize(
    "case",
    [case for case in FLAT if case.exact and not case.loss.startswith(("nll", "triplet"))],
    ids=lambda case: case.id,
)
def test_diagonals_of_the_hessian(case: Case, layout: str, calls: Calls) -> None:
    made = {
        name: laid(torch.tensor(x), layout, 0).numpy() for name, x in case.make(size="tiny").items()
    }
    operands, weight = split(made)
    objective = nbloss.value_grad_hess(getattr(nbloss, case.loss))
    _, slope, curvature = objective(*operands, **weight, **case.options(), reduction="sum")
    first = next(iter(made))
    np.testing.assert_allclose(slope, case.gradients(made, "sum")[first], atol=1e-12)

    moved = np.array(made[first])
    for place in np.ndindex(moved.shape):
        slopes = []
        for step in (1e-6, -1e-6):
            moved[place] += step
            slopes.append(case.gradients({**made, first: moved}, "sum")[first][place])
            moved[place] = made[first][place]
        assert abs(curvature[place] - (slopes[0] - slopes[1]) / 2e-6) < 1e-7


# --- losses of rows of one's own ------------------------------------------------------------------


def priced(scores, label: nbloss.Index, price: nbloss.PerColumn, center: nbloss.PerRow):
    from nbloss.primitives import log_softmax, max, weighted

    cost = -price[label] * log_softmax(scores)[label] + max(abs(scores - center))
    return weighted(cost, price[label])


def priced_in_torch(x: Tensor, label: Tensor, price: Tensor, center: Tensor) -> Tensor:
    costs = -(price * x.log_softmax(-1)).gather(-1, label[..., None])[..., 0]
    return costs + (x - center[..., None]).abs().amax(-1)


@pytest.mark.parametrize("shape", [(5, 7), (0, 7), (2, 3, 4), (4, 1)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", *LAYOUTS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_of_ones_own(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, calls: Calls
) -> None:
    random = torch.Generator().manual_seed(0)
    scores = laid(torch.randn(shape, generator=random).to(dtype), layout, 0).requires_grad_()
    center = torch.randn(shape[:-1], generator=random).to(dtype).requires_grad_()
    label = torch.randint(0, shape[-1], shape[:-1], generator=random)
    price = torch.rand(shape[-1], generator=random).to(dtype)
    true = [x.detach().double().requires_grad_() for x in (scores, center)]
    each = priced_in_torch(true[0], label, price.double(), true[1])
    with own_losses():
        loss = nbloss.rowwise(priced)
        for reduction in ("sum", "mean", "none"):
            value = loss(scores, label, price, center, reduction=reduction)
            truth = each if reduction == "none" else each.sum()
            if reduction == "mean":
                truth = truth / price.double()[label].sum()
            for above in upstreams(value):
                pairs = [(value, truth)]
                pairs += zip(
                    torch.autograd.grad(value, [scores, center], above, retain_graph=True),
                    torch.autograd.grad(truth, true, above.double(), retain_graph=True),
                    strict=True,
                )
                for mine, other in pairs:
                    torch.testing.assert_close(
                        mine.double(),
                        other,
                        rtol=1e-9 if dtype == torch.float64 else 0.02,
                        atol=1e-12 if dtype == torch.float64 else 0.02,
                        equal_nan=True,
                    )
    assert {"priced"} == {spec.name for spec in calls.ran}


# --- what is checked ------------------------------------------------------------------------------


def test_what_is_no_element_is_out_of_reach() -> None:
    """Gaps, neighbours, other arrays, and numbers that are read as what they are not."""
    memory = Memory()
    address = memory.add(np.arange(8, dtype=np.float32)[:6:2])
    memory.add(np.zeros(8, np.float32))
    pointer = memory.pointer(address, np.float32)
    assert pointer[4] == 4.0
    for place in (-1, 1, 6, 8):
        with pytest.raises(Misplaced, match="no element lies"):
            pointer[place]
    with pytest.raises(Misplaced, match="stores to what it is given"):
        pointer[0] = 1.0
    with pytest.raises(Misplaced, match="is taken for"):
        memory.pointer(address, np.float64)
    with pytest.raises(Misplaced, match="no array lies"):
        memory.pointer(0, np.float32)


def test_chunks_keep_to_themselves() -> None:
    memory = Memory()
    pointer = memory.pointer(memory.add(np.zeros(3), True), np.float64)
    memory.begin_stage()
    memory.begin_chunk()
    with pytest.raises(Misplaced, match="nothing was stored yet"):
        pointer[0]
    pointer[0] = 2.0
    assert pointer[0] == 2.0
    memory.begin_chunk()
    with pytest.raises(Misplaced, match="another chunk"):
        pointer[0]
    with pytest.raises(Misplaced, match="another chunk"):
        pointer[0] = 1.0
    memory.begin_stage()
    assert pointer[0] == 2.0
    assert not memory.arrays[0].is_complete

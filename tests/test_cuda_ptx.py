"""The CUDA kernels as NVIDIA's assembly, for three generations of devices; it takes none of them.

Which kernels there are is found by calling the losses on tensors that are taken for those of a
device, and by writing down what would be launched.
"""

import functools
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numba
import pytest
import torch

import nbloss
import nbloss.primitives as nb
from cases import CASES, Case, split
from conftest import forget
from in_torch import options
from nbloss.backends import torch as torch_backend
from nbloss.engine.cuda import compiler, grid, plan
from nbloss.engine.cuda.compiler import Kernel
from nbloss.formula.registry import LOSSES
from own_loss import own_losses
from test_losses import FIRST

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None,
        reason="needs numba-cuda, as in nbloss[cuda13]",
    ),
    pytest.mark.skipif(bool(numba.config.ENABLE_CUDASIM), reason="the simulator compiles nothing"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
]

CAPABILITIES = [(9, 0), (8, 0), (10, 0)]
# The last is known from CUDA 12.8 on.
TOOLKIT = [d.version for d in importlib.metadata.distributions(name="cuda-toolkit")]
if TOOLKIT and tuple(map(int, TOOLKIT[0].split(".")[:2])) < (12, 8):
    CAPABILITIES.pop()
# Columns of rows that take a warp, and a block that keeps them or does not.
WIDTHS = (100, 3000, 40000)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Kernel]]:
    """What would be launched if all memory were a device's."""
    found: list[Kernel] = []

    def start(self: plan.Plan, xp: Any, arrays: list) -> None:
        found.extend(stage.kernel for stage in self.stages)

    monkeypatch.setattr(torch_backend, "device", lambda x: 0)
    monkeypatch.setattr(plan.Plan, "start", start)
    forget()
    yield found
    forget()  # or the next call of this kind would go to the device


def call(case: Case, dtype: str, columns: int | None = None) -> None:
    """Go forward and backward; the first case of each loss without a reduction as well."""
    made = case.make(size="small" if columns is None else (2, columns))
    for reduction in ("mean", "none") if case in FIRST else ("mean",):
        tensors = {
            name: torch.tensor(x, dtype=getattr(torch, dtype) if x.dtype.kind == "f" else None)
            for name, x in made.items()
        }
        for name in case.differentiable:
            tensors[name].requires_grad_()
        operands, weight = split(tensors)
        function = getattr(nbloss, case.loss)
        value = function(*operands, **weight, **options(case, nbloss), reduction=reduction)
        value.backward(torch.ones_like(value))


@functools.cache
def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """Compile a kernel. What comes before the assembly takes long, and is the same for all."""
    front = compiler.part("compiler")
    with mock.patch.object(front, FRONT, functools.partial(once, getattr(front, FRONT))):
        return compiler.ptx(kernel, capability)


FRONT = "_compile_pyfunc_with_fixup"
_libraries: dict[Any, Any] = {}


def once(compile: Callable, function: Callable, *rest: Any, **named: Any) -> Any:
    if function not in _libraries:
        _libraries[function] = compile(function, *rest, **named)
    return _libraries[function]


OTHERS = ("float64", "float16", "bfloat16")
# Each case in float32 and, in turn, in one of the other types; the first of each loss in all.
CHOSEN = [
    *((case, "float32") for case in CASES),
    *((case, dtype) for case in FIRST for dtype in OTHERS),
    *((case, OTHERS[k % 3]) for k, case in enumerate(CASES) if case not in FIRST),
]


@pytest.mark.parametrize(("case", "dtype"), CHOSEN, ids=lambda x: getattr(x, "id", x))
def test_kernels_compile(case: Case, dtype: str, launched: list[Kernel]) -> None:
    """For each generation in float32, and the first case of each loss; the others for one."""
    call(case, dtype)
    assert launched
    every = dtype == "float32" or case in FIRST
    for kernel in dict.fromkeys(launched):
        check(kernel, dtype, CAPABILITIES if every else CAPABILITIES[:1])


_checked: set[tuple[str, tuple[int, int]]] = set()


def check(kernel: Kernel, dtype: str, capabilities: Sequence = CAPABILITIES) -> None:
    for capability in capabilities:
        if (kernel.name, capability) in _checked:  # several cases may have one kernel
            continue
        _checked.add((kernel.name, capability))
        text = ptx(kernel, capability)
        assert f".target sm_{capability[0]}{capability[1]}" in text
        assert f".entry {kernel.name}(" in text
        if dtype != "float64":
            assert ".f64" not in text
        # Where what has no place in the registers lies, or no place that is known when compiling.
        assert not re.search(r"\.local\b", text)
        # NVVM has the power of float64 in a function of its own, which kernels call.
        calls = re.findall(r"\bcall\.[^;]*;", text)
        assert all(dtype == "float64" and "_pow" in target for target in calls), calls
        # Each access knows what kind of memory it goes to.
        assert not re.search(r"\b(ld|st)\.(volatile\.)?[busf]\d", text)
        code, log = compiler.link(text, capability)
        assert code.startswith(b"\x7fELF")
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log


ROWS = [case for case in FIRST if LOSSES[case.loss].pattern != "pointwise" and "1d" not in case.id]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.id)
def test_rows_of_any_width(case: Case, columns: int, launched: list[Kernel]) -> None:
    call(case, "float32", columns)
    for kernel in dict.fromkeys(launched):
        check(kernel, "float32", CAPABILITIES[:1])


def test_several_loads_are_under_way(launched: list[Kernel]) -> None:
    case = next(case for case in CASES if case.id == "huber_loss-plain")
    call(case, "float32")
    kernel = next(k for k in launched if "huber" in k.name)
    text = ptx(kernel, CAPABILITIES[0])
    loads_first = text[: text.index("st.global")].count("ld.global")
    assert loads_first == grid.STRIP * 2  # operands


def test_what_is_compiled_is_kept(
    launched: list[Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBLOSS_CACHE_DIR", str(tmp_path))
    call(FIRST[0], "float32")
    kernel = launched[0]
    code = compiler.machine_code(kernel, (9, 0))
    monkeypatch.setattr(compiler, "ptx", None)  # whoever compiles again fails
    assert compiler.machine_code(kernel, (9, 0)) == code
    with pytest.raises(TypeError):
        compiler.machine_code(kernel, (8, 0))


@nbloss.distance
def weighted(x, y, scale=2.0):
    """A distance of the user's own, whose constants must not make float64 of float32."""
    return scale * nb.sum(abs(x - y))


def test_a_distance_of_ones_own(launched: list[Kernel]) -> None:
    rows = [torch.randn(3, 5, requires_grad=True) for _ in range(3)]
    nbloss.triplet_margin_with_distance_loss(*rows, distance_function=weighted).backward()
    for kernel in dict.fromkeys(launched):
        check(kernel, "float32")


def focal(scores, label: nbloss.Index, gamma=2.0):
    log_prob = nb.log_softmax(scores)[label]
    return -((1.0 - nb.exp(log_prob)) ** gamma) * log_prob


def priced(scores, label: nbloss.Index, price: nbloss.PerColumn):
    return nb.weighted(-price[label] * nb.log_softmax(scores)[label], price[label])


def centered(scores, center: nbloss.PerRow):
    return nb.max(abs(scores - center)) + nb.sum(abs(scores) ** 1.5)


def shares(teacher, student):
    return nb.sum(nb.softmax(teacher) * (nb.log_softmax(teacher) - nb.log_softmax(student)))


@pytest.mark.parametrize("columns", [5, 3000])
@pytest.mark.parametrize("formula", [focal, priced, centered, shares])
def test_rows_of_ones_own(
    formula: Callable[..., Any], columns: int, launched: list[Kernel]
) -> None:
    scores = torch.randn(3, columns, requires_grad=True)
    others = {
        "label": torch.tensor([0, 1, 2]),
        "price": torch.rand(columns),
        "center": torch.randn(3, requires_grad=True),
        "student": torch.randn(3, columns, requires_grad=True),
    }
    names = list(inspect.signature(formula).parameters)[1:]
    given = [others[name] for name in names if name in others]
    with own_losses():
        loss = nbloss.rowwise(formula)
        loss(scores, *given).backward()
        loss(scores, *given, reduction="none").sum().backward()
    assert launched
    for kernel in dict.fromkeys(launched):
        check(kernel, "float32", CAPABILITIES[:1])


FORMULAS: dict[str, Callable[..., Any]] = {
    "exponentials": lambda x, y: nb.expm1(x) + nb.tanh(y) * nb.exp(x - y),
    "logarithms": lambda x, y: nb.log1p(abs(x)) + nb.xlogy(abs(y), abs(x)) + nb.log(1.0 + y * y),
    "softplus": lambda x, y: nb.softplus(x) * nb.sigmoid(y),
    "powers": lambda x, y: nb.power(abs(x), 2.5) + abs(x) ** abs(y) + nb.sqrt(abs(x * y)),
    "choices": lambda x, y: nb.where(x > y, nb.clamp(x, -1, 1), nb.maximum(x, nb.minimum(y, 0.5))),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_loss_of_ones_own(kind: str, launched: list[Kernel]) -> None:
    """Its constants must not make float64 of float32, and no primitive may be a call."""

    def own_loss(input, target):
        return FORMULAS[kind](input, target)

    with own_losses():
        loss = nbloss.pointwise(own_loss)
        x, y = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
        loss(x, y).backward()
        loss(x, y, reduction="none").sum().backward()
    for kernel in dict.fromkeys(launched):
        check(kernel, "float32", CAPABILITIES[:1])

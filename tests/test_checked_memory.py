"""Every access of every emitted kernel, one by one: it hits an element of the call's own arrays.

A call is run as usual, and then its kernel once more as plain Python, on pointers that know which
elements there are. What it stores must be what the machine code has stored.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nbloss
from cases import CASES, Case, split
from conftest import forget
from in_torch import options
from nbloss.backends import torch as torch_backend
from nbloss.codegen import emit_cpu, runtime
from nbloss.codegen.blocks import FLOATS, GRADIENT_SCALE, PARTIALS
from nbloss.codegen.spec import Spec
from nbloss.engine import driver, plan
from nbloss.engine.patterns import common, rows
from nbloss.engine.plan import Plan
from nbloss.formula.registry import LOSSES
from own_loss import own_losses
from test_losses import FIRST

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")


class Memory:
    """The elements of some arrays, by their addresses, and those that have been stored."""

    def __init__(self) -> None:
        self.readable: dict[int, int] = {}  # the bytes of each element
        self.writable: set[int] = set()
        self.written: set[int] = set()

    def add(self, start: int, shape: tuple, strides: tuple, size: int, writable: bool) -> None:
        """Add the elements of an array; strides are in elements."""
        places = np.zeros(shape, np.int64)
        for axis, (count, step) in enumerate(zip(shape, strides, strict=True)):
            steps = step * np.arange(count).reshape((-1,) + (1,) * (len(shape) - 1 - axis))
            places = places + steps
        addresses = (start + size * places.ravel()).tolist()
        self.readable.update(dict.fromkeys(addresses, size))
        if writable:
            self.writable.update(addresses)

    def pointer(self, address: int, dtype: Any) -> "Place":
        return Place(self, int(address), np.dtype(dtype))

    def read_once(self, address: int) -> int:
        return int(self.pointer(address, np.int64)[0])


class Place(runtime.Pointer):
    """A pointer that reaches elements alone, each as what it is."""

    def __init__(self, memory: Memory, address: int, dtype: Any) -> None:
        super().__init__(address, dtype)
        self.memory = memory

    def _at(self, place: int) -> int:
        address = self.address + int(place) * self.dtype.itemsize
        assert self.memory.readable.get(address) == self.dtype.itemsize, "no element lies there"
        return address

    def __getitem__(self, place: int) -> Any:
        self._at(place)
        return super().__getitem__(place)

    def __setitem__(self, place: int, value: Any) -> None:
        address = self._at(place)
        assert address in self.memory.writable, "the kernel writes to what it is given to read"
        self.memory.written.add(address)
        super().__setitem__(place, value)

    def offset(self, count: int) -> "Place":
        address = self.address + int(count) * self.dtype.itemsize
        return Place(self.memory, address, self.dtype)


def clear(pointer: Place, first: int, last: int) -> None:
    for place in range(first, last):
        pointer[place] = 0


def interpreted(spec: Spec, memory: Memory) -> Callable[[Any, Any, int], None]:
    scope = {
        **runtime.names(spec.dtype),
        **runtime.interpreted(spec.dtype),
        "pointer": memory.pointer,
        "read_once": memory.read_once,
        "offset": Place.offset,
        "clear": clear,
        "stack": lambda size, dtype: np.full(size, 77, dtype),
    }
    exec(emit_cpu.source(spec), scope)
    kernel = scope[spec.name]
    return lambda integers, floats, chunk: kernel(
        runtime.InterpretedFields(integers, spec.fields),
        runtime.InterpretedFields(floats, spec.numbers),
        chunk,
    )


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Check each kernel that is run; the list has their names."""
    specs: dict[int, Spec] = {}
    tensors: list[Tensor] = []
    found: list[str] = []
    run, address = driver.run, torch_backend.address

    def noting(make: Callable[[Spec], int]) -> Callable[[Spec], int]:
        def kernel(spec: Spec) -> int:
            made = make(spec)
            specs[made] = spec
            return made

        return kernel

    def noted(x: Tensor) -> int:
        tensors.append(x)
        return address(x)

    def spy(planned: Plan, scale: float, addresses: tuple[int, ...], *rest: Any) -> int:
        given = list(tensors)
        tensors.clear()
        bad = run(planned, scale, addresses, *rest)
        planned.quick = None  # or the next call would pass by here
        for stage in (planned.validation, planned.main):
            spec = specs.get(stage.worker)
            if spec is not None:
                found.append(spec.name)
                check(planned, stage, spec, scale, addresses, given)
        return bad

    for module in (common, rows):
        monkeypatch.setattr(module, "kernel", noting(module.kernel))
    monkeypatch.setattr(torch_backend, "address", noted)
    monkeypatch.setattr(driver, "run", spy)
    forget()
    yield found
    forget()


def check(
    planned: Plan, stage: Any, spec: Spec, scale: float, addresses: tuple, given: list[Tensor]
) -> None:
    record = planned.record
    integers = record[plan.FIRST_INTEGER : plan.FIRST_FLOAT].copy()
    slots = record[plan.FIRST_SLOT : plan.FIRST_SLOT + 2 * record[plan.SLOTS]]
    integers[slots[::2]] = np.take(addresses, slots[1::2])
    floats = record[plan.FIRST_FLOAT :].view(np.float64)[:FLOATS].copy()
    floats[GRADIENT_SCALE] *= scale
    sums = np.full(max(stage.partials, 1), np.nan)
    integers[PARTIALS] = sums.ctypes.data
    memory = Memory()
    memory.add(sums.ctypes.data, sums.shape, (1,), 8, True)
    fields = spec.fields.items()
    outputs = [
        x for n, x in fields if n.startswith("grad_") and n.removeprefix("grad_") != "output"
    ]
    written = {int(integers[place]) for place in outputs}
    written |= {int(integers[0])} if spec.value == "each" else set()
    stored = []
    for x in given:
        is_output = x.data_ptr() in written and x.numel() > 0
        memory.add(x.data_ptr(), tuple(x.shape), x.stride(), x.element_size(), is_output)
        if is_output:
            stored.append((x, x.clone()))
            x.fill_(77)
    kernel = interpreted(spec, memory)
    with np.errstate(all="ignore"):
        for chunk in range(stage.pieces):
            kernel(integers, floats, chunk)
    # A mean over weights has its factor from the validation, which is not repeated here.
    comparable = planned.validation.pieces == 0 or spec.value != ""
    for x, before in stored:
        size = x.element_size()
        every = {x.data_ptr() + size * k for k in range(x.numel())}
        assert every <= memory.written, "the kernel leaves elements as they were"
        if comparable and planned.validation.pieces == 0:
            torch.testing.assert_close(x, before, equal_nan=True)
        x.copy_(before)


def as_they_lie(x: Tensor, layout: str) -> Tensor:
    """Give the same numbers in other places."""
    if layout == "strided" and x.dim():
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 55, dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "transposed" and x.dim() > 1:
        return x.transpose(0, 1).contiguous().transpose(0, 1)
    return x


def step(case: Case, dtype: str, layout: str) -> None:
    """Go forward and backward without a gradient, with all, and with a gradient for each value."""
    made = case.make(size="tiny")
    for reduction in ("sum", "mean", "none"):
        for needs_grad in ((), case.differentiable):
            tensors = {
                name: as_they_lie(
                    torch.tensor(x, dtype=getattr(torch, dtype) if x.dtype.kind == "f" else None),
                    layout,
                )
                for name, x in made.items()
            }
            for name in needs_grad:
                tensors[name].requires_grad_()
            operands, weight = split(tensors)
            function = getattr(nbloss, case.loss)
            value = function(*operands, **weight, **options(case, nbloss), reduction=reduction)
            if needs_grad:
                value.backward(torch.linspace(0.5, 1.5, value.numel()).to(value).view_as(value))


EMITTED = [case for case in CASES if LOSSES[case.loss].pattern != "pairs"]
CHOSEN = [
    *((case, "float32", "contiguous") for case in EMITTED),
    *(
        (case, dtype, "contiguous")
        for case in FIRST
        for dtype in ("float64", "float16", "bfloat16")
        if case in EMITTED
    ),
    *(
        (case, "float32", layout)
        for case in EMITTED
        for layout in ("strided", "transposed")
        if "1d" not in case.id
        and case.name in ("plain", "2d", "weight", "2d-weight", "3d", "cosine")
    ),
]


@pytest.mark.parametrize(("case", "dtype", "layout"), CHOSEN, ids=lambda x: getattr(x, "id", x))
def test_kernels_touch_their_own_elements_alone(
    case: Case, dtype: str, layout: str, checked: list[str], tiny_chunks: None
) -> None:
    step(case, dtype, layout)
    assert checked


def priced(scores, label: nbloss.Index, price: nbloss.PerColumn, center: nbloss.PerRow):
    from nbloss.primitives import log_softmax, max, weighted

    cost = -price[label] * log_softmax(scores)[label] + max(abs(scores - center))
    return weighted(cost, price[label])


@pytest.mark.parametrize("shape", [(5, 7), (0, 7), (2, 3, 4), (4, 1)])
@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_rows_of_ones_own(
    shape: tuple[int, ...], layout: str, checked: list[str], tiny_chunks: None
) -> None:
    scores = as_they_lie(torch.randn(shape), layout).requires_grad_()
    center = torch.randn(shape[:-1], requires_grad=True)
    label = torch.randint(0, shape[-1], shape[:-1])
    with own_losses():
        loss = nbloss.rowwise(priced)
        for reduction in ("sum", "mean", "none"):
            value = loss(scores, label, torch.rand(shape[-1]), center, reduction=reduction)
            value.sum().backward()
    assert {"priced"} == set(checked)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0), (2, 3, 0), (2, 0, 4)])
@pytest.mark.parametrize("loss", ["huber_loss", "multilabel_soft_margin_loss", "cross_entropy"])
def test_nothing_is_touched_where_there_is_nothing(
    loss: str, shape: tuple[int, ...], checked: list[str]
) -> None:
    x = torch.zeros(shape, requires_grad=True)
    for reduction in ("sum", "none"):
        getattr(nbloss, loss)(x, torch.zeros(shape), reduction=reduction).sum().backward()


def test_what_is_checked() -> None:
    """Neighbours, gaps, operands that are written to, and numbers read as what they are not."""
    numbers = np.zeros(8, np.float32)
    memory = Memory()
    memory.add(numbers.ctypes.data, (3,), (2,), 4, False)
    pointer = memory.pointer(numbers.ctypes.data, np.float32)
    assert pointer[4] == 0.0
    for place in (-1, 1, 6, 8):
        with pytest.raises(AssertionError, match="no element lies there"):
            pointer[place]
    with pytest.raises(AssertionError, match="writes to what it is given to read"):
        pointer[0] = 1.0
    with pytest.raises(AssertionError, match="no element lies there"):
        memory.pointer(numbers.ctypes.data, np.float64)[0]

"""Large buffers are used again, but never one that somebody still has."""

import gc
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import nbloss
from nbloss.backends import numpy as numpy_backend
from nbloss.backends import torch as torch_backend
from nbloss.engine import buffers

COUNT = buffers.REUSED // 4


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    buffers.forget()
    yield
    buffers.forget()


def new_tensor() -> torch.Tensor:
    return torch_backend.large((COUNT,), torch.empty(0))


def new_array() -> np.ndarray:
    return numpy_backend.large((COUNT,), np.empty(0, np.float32))


NEW = {"tensor": new_tensor, "array": new_array}
HOLD: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "tensor": ("tensor", lambda x: x),
    "view of a tensor": ("tensor", lambda x: x[3:7]),
    "detached": ("tensor", torch.Tensor.detach),
    "array of a tensor": ("tensor", torch.Tensor.numpy),
    "storage": ("tensor", torch.Tensor.untyped_storage),
    "capsule": ("tensor", torch.utils.dlpack.to_dlpack),
    "graph": ("tensor", lambda x: (x * torch.ones(1, requires_grad=True)).grad_fn),
    "array": ("array", lambda x: x),
    "view of an array": ("array", lambda x: x[3:7]),
    "tensor of an array": ("array", torch.from_numpy),
    "memory view": ("array", memoryview),
    "interface": ("array", lambda x: np.asarray(memoryview(x))),
}


@pytest.mark.parametrize("kind", NEW)
def test_a_buffer_is_used_again(kind: str) -> None:
    new = NEW[kind]
    x = new()
    address = x.ctypes.data if kind == "array" else x.data_ptr()
    del x
    again = new()
    assert (again.ctypes.data if kind == "array" else again.data_ptr()) == address
    assert again.dtype == (np.float32 if kind == "array" else torch.float32)
    assert len(buffers._buffers) == 1


@pytest.mark.parametrize("holder", HOLD)
def test_but_not_while_somebody_has_it(holder: str) -> None:
    kind, hold = HOLD[holder]
    held = hold(NEW[kind]())
    gc.collect()
    other = NEW[kind]()
    other[...] = 1
    assert len(buffers._buffers) == 2
    del held, other
    gc.collect()
    rest = [NEW[kind]() for _ in range(2)]
    assert len(buffers._buffers) == 2
    del rest


def test_nor_when_its_size_has_changed() -> None:
    x = new_tensor()
    x.untyped_storage().resize_(0)
    del x
    assert new_tensor().fill_(1.0).sum() == COUNT
    assert len(buffers._buffers) == 2


def test_nor_when_other_processes_may_see_it() -> None:
    x = new_tensor()
    x.share_memory_()
    address = x.data_ptr()
    del x
    assert new_tensor().data_ptr() != address
    assert len(buffers._buffers) == 2


def test_modes_do_not_stick_to_a_buffer() -> None:
    x, y = torch.zeros(COUNT), torch.ones(COUNT)
    with torch.inference_mode():
        assert nbloss.huber_loss(x, y, reduction="none").is_inference()
    x.requires_grad_()
    value = nbloss.huber_loss(x, y, reduction="none")
    assert not value.is_inference()
    value.sum().backward()
    assert (x.grad == -1.0).all()
    x.grad.add_(1.0)
    assert len(buffers._buffers) == 2


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "REMEMBERED", 2 * buffers.REUSED)
    held = [new_tensor() for _ in range(3)]
    assert len(buffers._buffers) == 2
    assert torch_backend.large((3 * COUNT,), torch.empty(0)).numel() == 3 * COUNT
    assert len(buffers._buffers) == 2
    del held


def test_gradients_that_are_kept_stay_as_they_are() -> None:
    """Over steps in which some are kept and others not, in both kinds of arrays."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(COUNT, generator=generator).requires_grad_()
    zeros = torch.zeros(COUNT)
    kept, truth = [], []
    for step in range(6):
        x.grad = None
        nbloss.huber_loss(x, zeros + step, reduction="sum").backward()
        value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(
            x.detach().numpy(), zeros.numpy() + step, reduction="sum"
        )
        expected = (x.detach() - step).clamp(-1.0, 1.0)
        assert np.isfinite(value)
        torch.testing.assert_close(x.grad, expected)
        if step % 2:
            kept += [x.grad, torch.from_numpy(gradient)]
            truth += [expected, expected]
    for gradient, expected in zip(kept, truth, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("backend", [torch_backend, numpy_backend])
def test_smaller_ones_are_not_remembered(backend: Any) -> None:
    like = torch.empty(0) if backend is torch_backend else np.empty(0, np.float32)
    x = backend.large((3, COUNT // 4), like)
    assert tuple(x.shape) == (3, COUNT // 4)
    assert not buffers._buffers
    assert backend.large((0,), like).shape == (0,)


@pytest.mark.parametrize("kind", NEW)
def test_threads_do_not_get_the_same_one(kind: str) -> None:
    wrong = []

    def work(number: int) -> None:
        for _ in range(20):
            x = NEW[kind]()
            x[...] = number
            if not (x == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


STEPS = """
import resource, torch, nbloss
x = [torch.randn(4096, 128).requires_grad_() for _ in range(3)]
def step():
    for leaf in x:
        leaf.grad = None
    nbloss.triplet_margin_loss(*x).backward()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other libraries we don't know")
def test_steps_find_the_pages_of_the_step_before() -> None:
    """Three gradients of 2 MB are 1500 pages, hundreds of which glibc may have made each time."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200


INTERRUPTED = """
import sys
import numpy as np
import torch
import nbloss

count = 1 << 22  # of float32, 16 MB
x, y = {make}(count, dtype={module}.float32), {make}(1, dtype={module}.float32)
interruptions, kept, busy = 0, [], False

def loss(number):
    return nbloss.huber_loss(x, y + number, reduction="none")

def interrupt(frame, event, argument):
    "Compute a loss where a signal handler or a finalizer might: wherever nbloss calls something."
    global interruptions, busy
    if busy or event not in ("call", "c_call"):
        return
    caller = frame.f_back if event == "call" else frame
    if "nbloss" in caller.f_globals["__name__"]:
        busy = True
        interruptions += 1
        number = 1 + interruptions % 5
        kept.append((number, loss(number)))
        del kept[:-3]
        busy = False

for number in (7, 8):
    loss(number)  # leaves buffers that are free
sys.setprofile(interrupt)
held = [(number, loss(number)) for number in (7, 8)]
sys.setprofile(None)
assert interruptions > 10
for number, value in held + kept:
    assert (value == number - 0.5).all(), number
print("right")
"""


@pytest.mark.parametrize(("module", "make"), [("np", "np.zeros"), ("torch", "torch.zeros")])
def test_a_loss_in_the_middle_of_a_loss(module: str, make: str) -> None:
    """A signal handler's, say. It waits for nothing, and gets memory of its own."""
    script = INTERRUPTED.format(module=module, make=make)
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.strip() == "right", done.stdout + done.stderr[-3000:]

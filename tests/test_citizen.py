"""The corners of torch that a loss has to live in: patching, modes, checkpoints, processes."""

import copy
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import nbloss
import nbloss.nn
from hostile import GOOD
from nbloss.formula.registry import LOSSES
from nbloss.torch.fallback import TORCH_FUNCTIONS
from test_tensors import CASE, Case, leaves_of, loss, tensors_of
from versions import since

NAME = pytest.mark.parametrize("name", GOOD)
F = torch.nn.functional


@pytest.fixture
def patched() -> Iterator[None]:
    with nbloss.patch_torch():
        yield


def arguments(name: str) -> list[Tensor]:
    return [x.clone().requires_grad_(k == 0) for k, x in enumerate(GOOD[name])]


# --- patching -------------------------------------------------------------------------------------


def fallback() -> dict[str, Callable | None]:
    """What torch has by the names of all losses; None where it has nothing."""
    return {name: getattr(F, name, None) for name in LOSSES}


@NAME
def test_patched_functions_and_modules(name: str, launched: list) -> None:
    module = getattr(torch.nn, LOSSES[name].module)()
    expected = getattr(F, name)(*GOOD[name])
    assert launched == []
    with nbloss.patch_torch():
        assert getattr(F, name) is getattr(nbloss, name)
        torch.testing.assert_close(getattr(F, name)(*GOOD[name]), expected)
        torch.testing.assert_close(module(*GOOD[name]), expected)
    assert len(launched) == 2
    module(*GOOD[name])
    getattr(F, name)(*GOOD[name])
    assert len(launched) == 2


def test_patching_leaves_nothing_behind() -> None:
    before = fallback()
    nbloss.patch_torch()
    nbloss.patch_torch()  # twice is once
    nbloss.unpatch_torch()
    assert fallback() == before
    nbloss.unpatch_torch()
    assert fallback() == before
    with nbloss.patch_torch() as outer, nbloss.patch_torch():
        assert repr(outer) == "<nbloss in torch.nn.functional>"
    assert fallback() == before
    with pytest.raises(ZeroDivisionError), nbloss.patch_torch():
        _ = 1 / 0
    assert fallback() == before


def test_an_inner_context_leaves_the_outer_patch() -> None:
    with nbloss.patch_torch():
        with nbloss.patch_torch():
            pass
        assert F.huber_loss is nbloss.huber_loss
    assert F.huber_loss is not nbloss.huber_loss


def test_patches_that_overlap() -> None:
    before = fallback()
    first, second = nbloss.patch_torch(), nbloss.patch_torch()
    first.__exit__()
    assert F.huber_loss is nbloss.huber_loss
    assert repr(first) == "<nbloss, taken back>"
    second.__exit__()
    assert fallback() == before
    second.__exit__()
    assert fallback() == before


def test_a_patch_can_be_used_again() -> None:
    before = fallback()
    patch = nbloss.patch_torch()
    for _ in range(2):
        with patch:
            assert F.huber_loss is nbloss.huber_loss
        assert fallback() == before


def test_patches_of_two_threads() -> None:
    before = fallback()
    entered, left = threading.Event(), threading.Event()

    def work() -> None:
        with nbloss.patch_torch():
            entered.set()
            assert left.wait(10)
            found.append(F.huber_loss)

    found: list[Callable] = []
    thread = threading.Thread(target=work)
    with nbloss.patch_torch():
        thread.start()
        assert entered.wait(10)
    left.set()
    thread.join()
    assert found == [nbloss.huber_loss]
    assert fallback() == before


def test_patching_in_many_threads() -> None:
    before = fallback()

    def work() -> None:
        for _ in range(200):
            nbloss.patch_torch()
            nbloss.unpatch_torch()

    pool = [threading.Thread(target=work) for _ in range(4)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert fallback() == before


@pytest.mark.parametrize("kind", ["complex", "sparse", "meta", "mixed"])
def test_what_has_no_kernel_goes_to_torch(kind: str, patched: None) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    if kind == "complex":
        x = torch.randn(3, 4, dtype=torch.complex64)
        mine = F.triplet_margin_loss(x, y + 0j, y + 1j)
        theirs = TORCH_FUNCTIONS["triplet_margin_loss"](x, y + 0j, y + 1j)
        torch.testing.assert_close(mine, theirs)
    elif kind == "sparse":
        with pytest.raises((RuntimeError, NotImplementedError)):
            F.huber_loss(x.to_sparse(), y)
    elif kind == "meta":
        assert F.huber_loss(x.to("meta"), y.to("meta")).device.type == "meta"
    else:
        mine = F.margin_ranking_loss(x, y.double(), y.sign())
        assert mine.dtype == torch.float64


class Subclass(torch.Tensor):
    """A tensor that says what it is asked for."""

    seen: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        cls.seen.append(function.__name__)
        return super().__torch_function__(function, types, args, kwargs or {})


class Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Callable] = []

    def __torch_function__(
        self, function: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("patching", [False, True])
@NAME
def test_subclasses_and_modes_see_torchs_names(name: str, patching: bool) -> None:
    expected = getattr(F, name)(*GOOD[name])
    with nbloss.patch_torch() if patching else torch.enable_grad():
        Subclass.seen.clear()
        first, *rest = GOOD[name]
        value = getattr(nbloss, name)(first.as_subclass(Subclass), *rest)
        assert isinstance(value, Subclass)
        assert name in Subclass.seen
        torch.testing.assert_close(value.as_subclass(Tensor), expected)
        with Watch() as mode:
            value = getattr(nbloss, name)(*GOOD[name])
        assert mode.seen[0] is getattr(nbloss, name)
        assert not patching or mode.seen[0] is getattr(F, name)
        torch.testing.assert_close(value, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@NAME
def test_a_known_call_still_takes_another_route(name: str, launched: list) -> None:
    """What is known of plain calls holds for plain calls alone."""
    loss_of, given = getattr(nbloss, name), arguments(name)
    first, *rest = given
    for _ in range(3):
        loss_of(*given)
    assert len(launched) == 3
    plain = first.detach()

    def of_first(x: Tensor) -> Tensor:
        return loss_of(x, *rest)

    torch.func.grad(of_first)(plain)
    torch.func.vmap(of_first)(torch.stack([plain, plain]))
    torch.func.jvp(of_first, (plain,), (plain,))
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(loss_of(*given), FakeTensor)
    assert len(launched) == 3
    doubled = loss_of(torch._neg_view(-first), *rest)
    torch.testing.assert_close(doubled, loss_of(*given))
    with torch.no_grad():
        assert loss_of(*given).grad_fn is None
    with torch.autocast("cpu"):
        assert loss_of(*given).dtype == torch.float32
    zero = torch._efficientzerotensor(tuple(first.shape))
    torch.testing.assert_close(loss_of(zero, *rest), loss_of(torch.zeros_like(first), *rest))
    seen: list[Tensor] = []
    torch.func.grad(lambda x: seen.append(x) or x.sum())(plain)
    torch.testing.assert_close(loss_of(seen[0], *rest), loss_of(plain, *rest))


# --- ways to go backward --------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
@CASE
def test_checkpoint(case: Case, reentrant: bool) -> None:
    plain, saved = leaves_of(case), leaves_of(case)
    loss(case, plain).backward()
    name = case.differentiable[0]

    def step(x: Tensor) -> Tensor:
        return loss(case, {**saved, name: x * 1})

    checkpoint(step, saved[name], use_reentrant=reentrant).backward()
    torch.testing.assert_close(saved[name].grad, plain[name].grad)


@CASE
def test_hooks_and_anomalies(case: Case) -> None:
    leaves = leaves_of(case)
    seen = []
    name = case.differentiable[0]
    leaves[name].register_hook(lambda gradient: seen.append(gradient.clone()))
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        loss(case, leaves).backward()
    torch.testing.assert_close(seen[0], leaves[name].grad)
    with torch.autograd.graph.save_on_cpu():
        again = leaves_of(case)
        loss(case, again, reduction="none").sum().backward()


@CASE
def test_modes_of_evaluation(case: Case) -> None:
    expected = loss(case, leaves_of(case)).detach()
    with torch.inference_mode():
        value = loss(case, {name: x.clone() for name, x in leaves_of(case, []).items()})
        assert value.is_inference()
        torch.testing.assert_close(value.clone(), expected)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(loss(case, leaves_of(case)), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@CASE
def test_many_threads_share_a_module(case: Case) -> None:
    """As DataParallel has it: one module, a replica of the operands in each thread."""
    expected = leaves_of(case)
    loss(case, expected).backward()
    wrong = []

    def work() -> None:
        for _ in range(20):
            leaves = leaves_of(case)
            loss(case, leaves).backward()
            for name in case.differentiable:
                if not torch.equal(leaves[name].grad, expected[name].grad):
                    wrong.append(name)

    pool = [threading.Thread(target=work) for _ in range(4)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert wrong == []


# --- modules --------------------------------------------------------------------------------------


@CASE
def test_modules_travel(case: Case) -> None:
    module = getattr(nbloss.nn, case.module)(reduction="sum")
    given = tensors_of(case).values()
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for copied in (
        torch.load(buffer, weights_only=False),
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
    ):
        assert type(copied) is type(module)
        assert copied.reduction == "sum"
        torch.testing.assert_close(copied(*given), module(*given))


def test_modules_move() -> None:
    module = nbloss.nn.NLLLoss(weight=torch.ones(5))
    assert module.to(torch.float64).weight.dtype == torch.float64
    value = module(GOOD["nll_loss"][0].double(), GOOD["nll_loss"][1])
    assert value.dtype == torch.float64


# --- several processes ----------------------------------------------------------------------------

DISTRIBUTED = """
import os, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
import nbloss.nn

def work(rank, port, kind):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        results = []
        for library in (torch.nn, nbloss.nn):
            torch.manual_seed(0)
            layers = torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
            network = torch.nn.Sequential(*layers)
            if kind == "fsdp":
                from torch.distributed.fsdp import fully_shard
                from torch.distributed.device_mesh import init_device_mesh
                fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
                model = network
            else:
                model = DistributedDataParallel(network)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            torch.manual_seed(rank)
            curve = []
            for _ in range(5):
                x, t = torch.randn(16, 6), torch.randint(4, (16,))
                value = library.CrossEntropyLoss()(model(x), t)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                curve.append(value.item())
            results.append(curve)
        torch.testing.assert_close(torch.tensor(results[0]), torch.tensor(results[1]))
    finally:
        dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1], sys.argv[2]), nprocs=2)
    print("same")
"""


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=since(2, 13))])
def test_two_processes(kind: str, tmp_path: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = tmp_path / "distributed.py"
    script.write_text(DISTRIBUTED)
    done = subprocess.run(
        [sys.executable, str(script), port, kind],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout.strip().endswith("same"), done.stdout + done.stderr[-3000:]

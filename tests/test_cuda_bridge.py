"""What can be told of tensors on a CUDA device without one: by torch's stand-ins for tensors."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import nbloss
from nbloss.backends import torch as torch_backend
from nbloss.engine.cuda import compiler


class OnDevice:
    """An array that says that it lies on a device."""

    shape = (2,)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: object) -> None:
        raise BufferError("it lies on a device")


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "is_installed", lambda: False)


def test_values_stay_on_the_device() -> None:
    if not compiler.is_installed():
        pytest.skip("needs numba-cuda")
    with FakeTensorMode():
        x, y = torch.empty(3, 4, device="cuda"), torch.empty(3, 4, device="cuda")
        labels = torch.empty(3, dtype=torch.int64, device="cuda")
        assert nbloss.huber_loss(x, y).device.type == "cuda"
        assert nbloss.cross_entropy(x, labels, reduction="none").shape == (3,)
        with pytest.raises(RuntimeError, match=r"same device|different devices"):
            nbloss.cross_entropy(x, labels.cpu())


def test_an_error_says_what_installs_the_compiler(not_installed: None) -> None:
    with (
        FakeTensorMode(),
        pytest.raises(ImportError, match=r"numba-cuda.*pip install 'nbloss\[cuda1\d\]'"),
    ):
        nbloss.huber_loss(torch.empty(3, device="cuda"), torch.empty(3, device="cuda"))
    with pytest.raises(ImportError, match=r"pip install 'nbloss\[cuda13\]'"):
        nbloss.huber_loss(OnDevice(), OnDevice())


def test_everything_else_works_without_it(not_installed: None) -> None:
    x = torch.zeros(3, requires_grad=True)
    nbloss.huber_loss(x, torch.ones(3)).backward()
    assert float(nbloss.huber_loss(np.zeros(2), np.ones(2))) == 0.5


def test_numbas_own_part_of_the_name_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not compiler.is_installed.__wrapped__()


def test_arrays_of_two_devices_are_refused() -> None:
    with pytest.raises(TypeError, match="target can't be read on the CPU"):
        nbloss.huber_loss(np.zeros(2), OnDevice())


def test_what_autocast_has_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    device = torch.device("cuda")
    for loss in ("cross_entropy", "triplet_margin_with_distance_loss"):
        assert torch_backend.goes_to_float32(loss, device)
    assert not torch_backend.goes_to_float32("multilabel_soft_margin_loss", device)
    assert not torch_backend.goes_to_float32("cross_entropy", torch.device("cpu"))

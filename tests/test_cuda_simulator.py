"""The CUDA kernels in numba-cuda's simulator: tiny inputs and tiny blocks, against the oracles.

The simulator runs each thread of a block as a thread of Python, on memory of the processor. So the
tensors here lie there, and are taken for those of a device: everything is put to the test but the
driver. It has to be asked for before Numba is imported, as `make test` does::

    NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 python -m pytest tests/test_cuda_simulator.py
"""

import contextlib

import numba
import pytest

import test_losses
from cases import CASES, KINKS, Case, Kink
from nbloss.bridge import torch as torch_bridge
from test_losses import FIRST, kernels_only  # noqa: F401 (a fixture)

pytestmark = [
    pytest.mark.skipif(not numba.config.ENABLE_CUDASIM, reason="runs in the simulator alone"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
]


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all memory for that of a device."""
    monkeypatch.setattr(torch_bridge, "device", lambda x: 0)
    monkeypatch.setattr(torch_bridge, "stream", lambda x: 0)
    monkeypatch.setattr(torch_bridge, "current", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(torch_bridge, "is_capturing", lambda: False)


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

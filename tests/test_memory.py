"""Half types in kernels: every number that they have, there and back, against torch."""

import numba
import numpy as np
import pytest
import torch

from nbloss.codegen import chunks, memory

KINDS = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
PATTERNS = np.arange(1 << 16, dtype=np.uint16)


def through(function: object, x: np.ndarray, result: type, compiled: bool) -> np.ndarray:
    convert = numba.njit(function) if compiled else function

    def apply(x, out):
        for i in range(x.size):
            out[i] = convert(x[i])

    out = np.empty(x.size, result)
    (numba.njit(apply) if compiled else apply)(x, out)
    return out


@KINDS
@pytest.mark.parametrize("compiled", [True, False])
def test_widening(dtype: str, compiled: bool) -> None:
    truth = torch.from_numpy(PATTERNS).view(getattr(torch, dtype)).float().numpy()
    wide = through(memory.WIDEN[dtype], PATTERNS, np.float32, compiled)
    np.testing.assert_array_equal(wide, truth)


@KINDS
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_rounding(dtype: str, compiled: bool) -> None:
    """Numbers of the type, those halfway between two, and those a little to each side."""
    exact = torch.from_numpy(PATTERNS).view(getattr(torch, dtype)).float().numpy()
    with np.errstate(all="ignore"):
        halfway = (exact[:-1] + exact[1:]) / 2
        x = np.concatenate(
            [exact, halfway, np.nextafter(halfway, np.inf), np.nextafter(halfway, -np.inf)]
        )
    x = np.append(x, np.float32([1e30, -1e30, 65519.9, 65520.0, 3.4e38, np.inf, -np.inf]))
    x = x[:: 1 if compiled else 16]
    narrow = through(memory.NARROW[dtype], x, np.uint16, compiled)
    result = torch.from_numpy(narrow).view(getattr(torch, dtype)).float().numpy()
    truth = torch.from_numpy(x).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(result, truth)


@pytest.mark.parametrize(
    ("shape", "strides", "folded"),
    [
        ((2, 3), [(3, 1)], (1, 6, (0,), (1,))),
        ((2, 3), [(6, 2)], (1, 6, (0,), (2,))),
        ((2, 3), [(4, 1)], (2, 3, (4,), (1,))),
        ((2, 3), [(3, 1), (0, 1)], (2, 3, (3, 0), (1, 1))),
        ((2, 1, 3), [(3, 7, 1)], (1, 6, (0,), (1,))),
        ((), [()], (1, 1, (0,), (0,))),
        ((2, 3), [(-3, 1)], None),
        ((2, 3, 4), [(100, 20, 1)], None),
    ],
)
def test_layout(shape: tuple, strides: list, folded: tuple | None) -> None:
    assert chunks.layout(shape, strides) == folded

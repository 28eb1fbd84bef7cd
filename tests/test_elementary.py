"""Exponentials, logarithms and powers of the kernels, in units in the last place."""

from collections.abc import Callable

import numba
import numpy as np
import pytest

from nbloss.codegen import elementary

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, -1.0, -2.0, 1e-40, -1e-40]


def mapped(function: Callable, x: np.ndarray) -> np.ndarray:
    def each(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    out = np.empty_like(x)
    numba.njit(each)(x, out)
    return out


def assert_close(found: np.ndarray, truth: np.ndarray, ulps: float) -> None:
    with np.errstate(over="ignore"):
        nearest = truth.astype(found.dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(nearest))
    infinite = np.isinf(nearest)
    np.testing.assert_array_equal(found[infinite], nearest[infinite])
    usual = np.isfinite(nearest)
    off = np.abs(found[usual].astype(np.longdouble) - truth[usual])
    assert (off / np.spacing(np.abs(nearest[usual]))).max() <= ulps


@pytest.mark.parametrize(
    ("dtype", "low", "high", "ulps"),
    [(np.float32, -110.0, 92.0, 1.0), (np.float64, -760.0, 715.0, 2.0)],
)
def test_exp(dtype: type, low: float, high: float, ulps: float, rng: np.random.Generator) -> None:
    """Subnormal results and the borders of the range included."""
    x = np.concatenate(
        [rng.uniform(low, high, 200_000), rng.uniform(-1, 1, 100_000), np.array(SPECIAL)]
    ).astype(dtype)
    with np.errstate(all="ignore"):
        truth = np.exp(x.astype(np.longdouble))
    assert_close(mapped(elementary.WORDS[dtype]["exp"], x), truth, ulps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p(dtype: type, rng: np.random.Generator) -> None:
    x = np.concatenate(
        [
            np.exp(rng.uniform(-80, 80, 200_000)),
            rng.uniform(-1, 1, 100_000),
            np.exp(rng.uniform(-16, 0, 50_000)) - 1,
            np.array(SPECIAL),
            np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny]),
        ]
    ).astype(dtype)
    with np.errstate(all="ignore"):
        truth = np.log1p(x.astype(np.longdouble))
    assert_close(mapped(elementary.WORDS[dtype]["log1p"], x), truth, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log(dtype: type, rng: np.random.Generator) -> None:
    smallest, largest = np.log(np.finfo(dtype).smallest_subnormal), np.log(np.finfo(dtype).max)
    x = np.concatenate(
        [
            np.exp(rng.uniform(smallest, largest, 200_000)),
            rng.uniform(0.5, 2.0, 100_000),
            np.array(SPECIAL),
            np.array([np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal, 1.0]),
        ]
    ).astype(dtype)
    with np.errstate(all="ignore"):
        truth = np.log(x.astype(np.longdouble))
    assert_close(mapped(elementary.WORDS[dtype]["log"], x), truth, 1.0)


def test_power(rng: np.random.Generator) -> None:
    """Bases and exponents of all sizes and signs, each special value with each."""
    special = np.array([*SPECIAL, 0.5, 2.0, 3.0, -3.0, 1.0, 1.5, 1e-45, 3e38, 16777217.0])
    x = np.concatenate(
        [
            np.exp(rng.uniform(-103, 88, 100_000)),
            rng.uniform(0, 3, 100_000),
            -np.exp(rng.uniform(-5, 5, 20_000)),
            np.repeat(special, special.size),
        ]
    ).astype(np.float32)
    y = np.concatenate(
        [
            rng.uniform(-4, 4, 100_000),
            rng.uniform(-90, 90, 100_000),
            rng.integers(-9, 9, 20_000),
            np.tile(special, special.size),
        ]
    ).astype(np.float32)

    function = elementary.WORDS[np.float32]["power"]

    def each(x, y, out):
        for i in range(x.size):
            out[i] = function(x[i], y[i])

    found = np.empty_like(x)
    numba.njit(each)(x, y, found)
    with np.errstate(all="ignore"):
        truth = np.power(x.astype(np.longdouble), y.astype(np.longdouble))
    assert_close(found, truth, 1.0)

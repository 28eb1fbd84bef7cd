"""Exponentials, logarithms and powers, as straight arithmetic that loops vectorise.

The functions of the C library are calls, one for each element, and several times slower in a loop.
These are polynomials after a reduction of the range, without branches; they are right to a few
units in the last place for every number, subnormal results, infinities and NaN included.

The reduction is that of W. J. Cody and W. Waite, "Software Manual for the Elementary Functions"
(1980); the coefficients are those of S. L. Moshier's Cephes library (netlib.org/cephes).
"""

from typing import Any

import numba
import numpy as np

from nbloss.codegen.memory import bits, bits64, from_bits, from_bits64

# Contracting a product and a sum loses nothing; the order of operations must stay what it is.
MATH = {"contract", "nsz"}
F = np.float32
I = np.int32  # noqa: E741
U = np.uint32

# Adding this to a small number leaves its nearest integer in the lowest bits of the sum.
SHIFT32 = F(1.5 * 2**23)
SHIFT64 = 1.5 * 2.0**52
# The bits of 1.
ONE32, ONE64 = U(0x3F800000), np.uint64(0x3FF0000000000000)
LOG2_E = 1.4426950408889634
# The logarithm of 2 in two parts, of which the first has few bits.
LN2_HIGH32, LN2_LOW32 = F(0.693359375), F(-2.12194440e-4)
LN2_HIGH64, LN2_LOW64 = 0.693145751953125, 1.42860682030941723212e-6
LN2_FEW64, LN2_REST64 = 0.693359375, -2.121944400546905827679e-4
SQRT2 = 1.4142135623730951
# Smaller numbers are subnormal, unless multiplied by 2^54.
TINY64, TO_NORMAL64 = 2.2250738585072014e-308, 2.0**54


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def exp_float32(x):
    # Beyond these the result is infinite, or zero; a NaN is neither.
    x = F(90.0) if x > F(90.0) else x
    x = F(-105.0) if x < F(-105.0) else x
    shifted = x * F(LOG2_E) + SHIFT32
    n = shifted - SHIFT32
    r = (x - n * LN2_HIGH32) - n * LN2_LOW32
    p = F(1.9875691500e-4) * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    y = (p * (r * r) + r) + F(1.0)
    # Two powers of 2 instead of one, since a subnormal result has none that is a number. Of the
    # exponent, which the lowest bits of the sum hold, each takes half; no other bits get through.
    b = bits(shifted)
    half = U(b << U(22)) & U(0xFF800000)
    rest = U(U(b << U(23)) - half)
    return (y * from_bits(U(half + ONE32))) * from_bits(U(rest + ONE32))


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def exp_float64(x):
    x = 720.0 if x > 720.0 else x
    x = -750.0 if x < -750.0 else x
    shifted = x * LOG2_E + SHIFT64
    n = shifted - SHIFT64
    r = (x - n * LN2_HIGH64) - n * LN2_LOW64
    z = r * r
    p = (1.26177193074810590878e-4 * z + 3.02994407707441961300e-2) * z + 9.99999999999999999910e-1
    q = (3.00198505138664455042e-6 * z + 2.52448340349684104192e-3) * z
    q = (q + 2.27265548208155028766e-1) * z + 2.00000000000000000005
    p = p * r
    y = 1.0 + 2.0 * (p / (q - p))
    b = bits64(shifted)
    half = (b << np.uint64(51)) & np.uint64(0xFFF0000000000000)
    rest = (b << np.uint64(52)) - half
    return (y * from_bits64(half + ONE64)) * from_bits64(rest + ONE64)


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def log1p_float32(x):
    u = x + F(1.0)
    # What the sum has rounded away. A formula that divides by 1 + x as well has the same quotient.
    lost = (x - (u - F(1.0))) * (F(1.0) / u)
    b = bits(u)
    m = from_bits((b & U(0x007FFFFF)) | U(0x3F800000))
    e = F(I(I(b >> U(23)) - I(127)))
    large = m > F(SQRT2)
    m = m * F(0.5) if large else m
    e = e + F(1.0) if large else e
    f = m - F(1.0)
    z = f * f
    p = F(7.0376836292e-2) * f - F(1.1514610310e-1)
    p = p * f + F(1.1676998740e-1)
    p = p * f - F(1.2420140846e-1)
    p = p * f + F(1.4249322787e-1)
    p = p * f - F(1.6668057665e-1)
    p = p * f + F(2.0000714765e-1)
    p = p * f - F(2.4999993993e-1)
    p = p * f + F(3.3333331174e-1)
    y = ((f * z) * p + e * LN2_LOW32) + lost
    y = (f + (y - F(0.5) * z)) + e * LN2_HIGH32
    y = y if x < F(np.inf) else x
    y = y if x != F(-1.0) else F(-np.inf)
    return F(np.nan) if x < F(-1.0) else y  # a NaN is one already, by what is lost


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def log_of_normal(x, shift, lost):
    """The logarithm of x 2^shift, and what was lost of it before; x is positive and normal."""
    b = bits64(x)
    m = from_bits64((b & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x3FF0000000000000))
    e = np.float64(np.int64(b >> np.uint64(52)) - np.int64(1023)) + shift
    large = m > SQRT2
    m = m * 0.5 if large else m
    e = e + 1.0 if large else e
    f = m - 1.0
    z = f * f
    p = 1.01875663804580931796e-4 * f + 4.97494994976747001425e-1
    p = p * f + 4.70579119878881725854
    p = p * f + 1.44989225341610930846e1
    p = p * f + 1.79368678507819816313e1
    p = p * f + 7.70838733755885391666
    q = (f + 1.12873587189167450590e1) * f + 4.52279145837532221105e1
    q = (q * f + 8.29875266912776603211e1) * f + 7.11544750618563894466e1
    q = q * f + 2.31251620126765340583e1
    y = (f * (z * p / q) + e * LN2_REST64) + lost
    return (f + (y - 0.5 * z)) + e * LN2_FEW64


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def log1p_float64(x):
    u = x + 1.0
    y = log_of_normal(u, 0.0, (x - (u - 1.0)) * (1.0 / u))
    y = y if x < np.inf else x
    y = y if x != -1.0 else -np.inf
    return np.nan if x < -1.0 else y


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def log_float64(x):
    tiny = x < TINY64
    y = log_of_normal(x * TO_NORMAL64 if tiny else x, -54.0 if tiny else 0.0, 0.0)
    y = y if x < np.inf else x
    y = y if x > 0.0 else -np.inf
    return np.nan if x < 0.0 or x != x else y


# In float64 what is lost does not show in float32.
@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def log_float32(x):
    return F(log_float64(np.float64(x)))


@numba.njit(fastmath=MATH, error_model="numpy", forceinline=True)
def power_float32(x, y):
    size, exponent = np.float64(abs(x)), np.float64(y)
    z = exp_float64(exponent * log_float64(size))
    half = exponent * 0.5
    whole = np.floor(exponent) == exponent
    odd = whole and np.floor(half) != half
    negative = I(bits(x)) < I(0)
    z = -z if negative and odd else z
    z = np.nan if negative and not whole and size > 0.0 and size < np.inf else z
    # The product of zero and an infinity, or a NaN, that C's pow has as 1.
    is_one = x == F(1.0) or exponent == 0.0 or (size == 1.0 and abs(exponent) == np.inf)
    return F(1.0) if is_one else F(z)


@numba.njit(forceinline=True)
def keep_float32(x, mask):
    """Give x where all bits of the mask are set, and 0 where none is.

    A choice between x and 0, added up, LLVM turns into a choice between two sums, which it does not
    vectorise.
    """
    return from_bits(bits(x) & mask)


@numba.njit(forceinline=True)
def keep_float64(x, mask):
    return from_bits64(bits64(x) & mask)


@numba.njit(forceinline=True)
def rank_float32(x):
    """Give an integer that is in the order of the numbers, with NaN at the ends.

    The largest of integers is found in vectors; of numbers it is not, since a NaN is in no order.
    """
    b = I(bits(x))
    return I(b ^ ((b >> I(31)) & I(0x7FFFFFFF)))


@numba.njit(forceinline=True)
def ranked_float32(rank):
    """Give the number back."""
    return from_bits(U(rank ^ ((rank >> I(31)) & I(0x7FFFFFFF))))


@numba.njit(forceinline=True)
def rank_float64(x):
    b = np.int64(bits64(x))
    return b ^ ((b >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))


@numba.njit(forceinline=True)
def ranked_float64(rank):
    return from_bits64(np.uint64(rank ^ ((rank >> np.int64(63)) & np.int64(0x7FFFFFFFFFFFFFFF))))


# The same without Numba.
def keep_interpreted(x, mask):
    return x if mask else type(x)(0.0)


KEEP: dict[Any, tuple[Any, Any]] = {
    np.float32: (keep_float32, np.uint32),
    np.float64: (keep_float64, np.uint64),
}
RANK: dict[Any, tuple[Any, Any]] = {
    np.float32: (rank_float32, ranked_float32),
    np.float64: (rank_float64, ranked_float64),
}
if numba.config.DISABLE_JIT:
    RANK = dict.fromkeys(RANK, (lambda x: x, lambda x: x))
    KEEP = {dtype: (keep_interpreted, mask) for dtype, (_, mask) in KEEP.items()}

# What stands for the words of the same names in kernels of each type.
WORDS: dict[Any, dict[str, Any]] = {
    np.float32: {
        "exp": exp_float32,
        "log": log_float32,
        "log1p": log1p_float32,
        "power": power_float32,
    },
    # A power would take more digits than float64 has; it is left to the C library.
    np.float64: {"exp": exp_float64, "log": log_float64, "log1p": log1p_float64},
}

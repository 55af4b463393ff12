"""Discrete Gaussian noise, a million samples at once, over an AES keystream.

    P(x) = exp(-x^2 / 2 sigma^2) / Z     on the integers        (Canonne, Kamath, Steinke, NeurIPS 2020, Definition 1)

Protects: the noise is a function of a 32-byte key alone, integers throughout (no floating-point holes in
the support; Mironov, CCS 2012), within `statistical_distance(sigma)` < 2^-100 of the exact law a sample,
which privacy accounting may add to delta. Does not protect: against an observer of this process's timing or
memory (table look-ups depend on the noise), nor a key that is used twice: the same key gives the same
noise.

sigma <= DIRECT: one alias table (Walker 1977; Vose 1991) of integer weights with a resolution of 2^-127,
computed in 320-bit fixed point. One 64-bit word a sample picks column, sign and side; in one of 2^46
samples or fewer it cannot decide the side, and a second keystream supplies the next 64 bits.

sigma > DIRECT: X = X1 + k X2 with sigma1^2 + k^2 sigma2^2 = sigma^2 exactly (variances are fractions), X2
again such a sum while it is large; Peikert, CRYPTO 2010, Theorem 3.1; Micciancio and Walter, CRYPTO 2017,
section 4. Summing over X2 = y,

    P(z) ~ exp(-z^2 / 2 sigma^2) * sum over y of exp(-(y - c z)^2 / 2 tau^2),     tau = sigma1 sigma2 / sigma,

and by Poisson summation that sum varies with z by a factor of at most (1 + e) / (1 - e), e = 2 exp(-2 pi^2
tau^2) + ...
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange
from mpc.prg import Keystream

SMALLEST = 0.25
DIRECT = 512.0  # above it several tables of kilobytes beat one of megabytes
LARGEST = 2.0**40
TAIL = 13.3  # a table ends at TAIL * sigma: exp(-TAIL^2 / 2) < 2^-127
_SPLIT = Fraction(9, 4)  # sigma1 / k, which tau approaches from below: 2.2 < tau < 2.25
_LARGEST_FACTOR = 192  # of k: sigma1 stays below DIRECT

_FIXED_BITS = 320
_WEIGHT_BITS = 127  # the weights of the magnitudes sum to 2^127; the sign is the 128th bit
_BLOCK = 1 << 15
_SECOND_STREAM = bytes([128]) + bytes(15)  # a counter that the first stream never reaches


class Table(NamedTuple):
    """An alias table of |X|: column c yields c below its threshold and `alias[c]` above it."""

    column_bits: int
    # of each threshold, `high` holds the leading 63 - column_bits bits (one more when the column is full), `low` the trailing 64
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    alias: NDArray[np.int64]


def discrete_gaussian(sigma: float, size: int, key: bytes) -> NDArray[np.int64]:
    """`size` independent samples of the discrete Gaussian with parameter sigma in [1/4, 2^40], from a
    32-byte key.

    Their standard deviation is sigma to a relative 1e-6 for sigma >= 1, and smaller than sigma below that.

    >>> discrete_gaussian(3.0, 5, bytes(32)).tolist() == discrete_gaussian(3.0, 5, bytes(32)).tolist()
    True
    """
    variance = _variance(sigma)
    if size < 0:
        raise OutOfRange("size", "must be >= 0")
    words = Keystream(key)
    more = Keystream(key, _SECOND_STREAM)
    samples = np.empty(size, dtype=np.int64)
    tables = [(factor, alias_table(part)) for factor, part in _convolution(variance)]
    for begin in range(0, size, _BLOCK):
        block = samples[begin : begin + _BLOCK]
        block[:] = 0
        for factor, table in tables:
            block += factor * look_up(table, words.read(block.size), more)
    return samples


def statistical_distance(sigma: float) -> float:
    """A proven upper bound on the total variation distance of one sample from the exact law.

    A table of the magnitudes 0 ... m has m + 1 weights, rounded down by less than one 2^-127 each; what is
    missing goes to magnitude 0: at most (m + 1) 2^-127. Cutting the tail costs 2 (sigma^2 / m) exp(-m^2 / 2
    sigma^2) / (sigma sqrt(2 pi)) < 2^-131, for Z >= sigma sqrt(2 pi) by Poisson summation; the fixed-point
    error is below 2^-280 a weight. A convolution adds its tables' bounds and e / (1 - e) < 2.1 exp(-2 pi^2
    2.2^2) for each of its sums.
    """
    parts = _convolution(_variance(sigma))
    tables = sum((_largest_magnitude(part) + 2) * 2.0**-127 for _, part in parts)
    return tables + (len(parts) - 1) * 2.1 * math.exp(-2 * math.pi**2 * 2.2**2)


def look_up(table: Table, words: NDArray[np.uint64], more: Keystream) -> NDArray[np.int64]:
    """One signed sample a word: column | sign | the leading bits to compare with the threshold."""
    low_bits = np.uint64(63 - table.column_bits)
    column = (words >> np.uint64(64 - table.column_bits)).view(np.int64)
    sign = ((words >> low_bits) & np.uint64(1)).view(np.int64)
    position = words & np.uint64((1 << int(low_bits)) - 1)
    threshold = table.high.take(column)
    rejected = position >= threshold
    undecided = np.flatnonzero(position == threshold)
    if undecided.size:
        rejected[undecided] = more.read(undecided.size) >= table.low[column[undecided]]
    magnitude = np.where(rejected, table.alias.take(column), column)
    return (magnitude ^ -sign) + sign


@lru_cache(maxsize=32)
def alias_table(variance: Fraction) -> Table:
    """The alias table of |X|: its weights distributed over 2^column_bits columns of equal capacity."""
    remaining = magnitude_weights(variance)
    column_bits = max(1, (len(remaining) - 1).bit_length())
    columns = 1 << column_bits
    capacity = 1 << (_WEIGHT_BITS - column_bits)
    remaining += [0] * (columns - len(remaining))
    alias = list(range(columns))
    small = [c for c in range(columns) if remaining[c] < capacity]
    large = [c for c in range(columns) if remaining[c] >= capacity]
    # Vose: a column that is not full is topped up from one that overflows, which may then itself lack
    while small:
        filled, donor = small.pop(), large[-1]
        alias[filled] = donor
        remaining[donor] -= capacity - remaining[filled]
        if remaining[donor] < capacity:
            small.append(large.pop())
    thresholds = b"".join(weight.to_bytes(16, "little") for weight in remaining)
    pairs = np.frombuffer(thresholds, dtype="<u8").reshape(columns, 2)
    return Table(column_bits, pairs[:, 1].copy(), pairs[:, 0].copy(), np.array(alias, dtype=np.int64))


def magnitude_weights(variance: Fraction) -> list[int]:
    """Integers proportional to P(|X| = m), m = 0 ... TAIL * sigma, that sum to exactly 2^127."""
    one = 1 << _FIXED_BITS
    # exp(-(m+1)^2 / 2v) = exp(-m^2 / 2v) * step_m,   step_0 = exp(-1 / 2v),   step_(m+1) = step_m * exp(-1 / v)
    step = _exponential(-1 / (2 * variance))
    ratio = _exponential(-1 / variance)
    density, densities = one, [one]
    for _ in range(_largest_magnitude(variance)):
        density = density * step >> _FIXED_BITS
        step = step * ratio >> _FIXED_BITS
        densities.append(2 * density)
    total = sum(densities)
    weights = [(value << _WEIGHT_BITS) // total for value in densities]
    weights[0] += (1 << _WEIGHT_BITS) - sum(weights)
    return weights


def _exponential(exponent: Fraction) -> int:
    """exp(exponent) in fixed point."""
    with localcontext() as context:
        context.prec = 110
        power = (Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
        return int(power * (1 << _FIXED_BITS))


def _convolution(variance: Fraction) -> list[tuple[int, Fraction]]:
    """[(factor, variance)], factors^2 . variances = the variance, each small enough for a table."""
    parts, factor = [], 1
    while variance > DIRECT**2:
        k = min(_LARGEST_FACTOR, math.isqrt(int(math.isqrt(int(variance)) / _SPLIT)))
        parts.append((factor, (_SPLIT * k) ** 2))
        variance = (variance - (_SPLIT * k) ** 2) / k**2
        factor *= k
    return [*parts, (factor, variance)]


def _largest_magnitude(variance: Fraction) -> int:
    return math.ceil(TAIL * math.sqrt(variance))


def _variance(sigma: float) -> Fraction:
    if not SMALLEST <= sigma <= LARGEST:
        raise OutOfRange("sigma", f"must be {SMALLEST} ... {LARGEST:.0f}")
    return Fraction(sigma) ** 2

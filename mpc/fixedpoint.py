"""Exact sums and reals <-> vectors of words of Z_2^64, the arithmetic in which masks hide them.

Protects: against silently wrong sums. What a joint sum may reach is declared first; an encoding that cannot
carry it is refused at construction, a value beyond it before anything is sent, a decoded sum beyond it
after. Does not protect: secrecy (that is `mpc.secagg`), nor a declared bound that the parties' honest
values break together.

Integers. A joint sum below 2^63 takes one two's-complement word. A larger one takes two: with b bits in the
low limb,

    v = high * 2^b + low,  0 <= low < 2^b,  high signed,   words = [all lows | all highs]

and sums of `parties` lows stay below 2^63 while sums of highs stay in a signed word: carries need no
communication.

Reals. A value v becomes round(v * 2^e), e from its declared bound; a sum of N rounded values is off by at
most N * 2^-(e+1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange, Overflow, WrongLength

Integers = NDArray[Any] | Sequence[int]
_SIGNED = 2**63


class Encoding(msgspec.Struct, frozen=True):
    """How integers whose joint sum over `parties` lies in [-bound, bound] travel as words.

    >>> encoding = Encoding(bound=10**30, parties=3)
    >>> total = encoding.encode([-(10**29), 5]) + encoding.encode([10**30, -7]) + encoding.encode([0, 1])
    >>> encoding.words, encoding.decode(total).tolist()
    (2, [900000000000000000000000000000, -1])
    """

    bound: int
    parties: int

    def __post_init__(self) -> None:
        if not 1 <= self.parties < 2**20:
            raise OutOfRange("parties", "must be 1 ... 2^20 - 1")
        if self.bound < 0:
            raise OutOfRange("bound", "must be >= 0")
        if self.bound >= _SIGNED and self.bound >= self._two_word_limit:
            limit = math.log2(self._two_word_limit)
            raise Overflow("bound", f"must be below 2^{limit:.2f} for sums over {self.parties} parties")

    @property
    def words(self) -> int:
        """Words per value, 1 or 2."""
        return 1 if self.bound < _SIGNED else 2

    @property
    def low_bits(self) -> int:
        """Bits of the low limb: the most for which parties * 2^b < 2^63."""
        return 63 - self.parties.bit_length()

    @property
    def _two_word_limit(self) -> int:
        # |sum of highs| <= bound / 2^b + parties must stay below 2^63
        return (_SIGNED - self.parties) << self.low_bits

    def encode(self, values: Integers) -> NDArray[np.uint64]:
        """A vector of integers (any integer dtype, or Python ints) as `words` * len(values) words."""
        integers = _integers(values)
        if integers.size and not _within(integers, self.bound):
            raise Overflow("values", f"each must lie in [-{self.bound}, {self.bound}]")
        if self.words == 1:
            return integers.astype(np.int64).view(np.uint64)
        high = integers >> self.low_bits
        low = integers - (high << self.low_bits)
        return np.concatenate([low.astype(np.int64), high.astype(np.int64)]).view(np.uint64)

    def decode(self, words: NDArray[np.uint64]) -> NDArray[Any]:
        """The integers of a sum of encodings: int64 for one word a value, Python ints (object) for two."""
        if words.dtype != np.uint64 or words.ndim != 1 or words.size % self.words:
            raise WrongLength("words", f"must be a vector of uint64, {self.words} a value")
        signed = np.ascontiguousarray(words).view(np.int64)
        values: NDArray[Any]
        if self.words == 1:
            values = signed
        else:
            count = words.size // 2
            values = (signed[count:].astype(object) << self.low_bits) + signed[:count].astype(object)
        if values.size and not _within(values, self.bound):
            raise Overflow("sum", f"each joint sum must lie in [-{self.bound}, {self.bound}]")
        return values


def scale_for(max_abs: float, bits: int = 52) -> int:
    """The exponent e such that |round(v * 2^e)| < 2^bits for every |v| <= max_abs; negative for huge bounds.

    >>> scale_for(1000.0), scale_for(1e300)
    (42, -945)
    """
    if not math.isfinite(max_abs) or max_abs < 0:
        raise OutOfRange("max_abs", "must be finite and >= 0")
    if not 1 <= bits <= 62:
        raise OutOfRange("bits", "must be 1 ... 62")
    exponent = bits - math.frexp(max_abs)[1]
    # the bound itself may round up to 2^bits
    return exponent - 1 if round(math.ldexp(max_abs, exponent)) >> bits else exponent


def to_grid(values: NDArray[np.float64], exponent: int) -> NDArray[np.int64]:
    """round(v * 2^exponent), half to even, as int64. The rounding error of each is at most 2^-(exponent + 1)."""
    scaled = np.rint(np.ldexp(np.asarray(values, dtype=np.float64), exponent))
    if not np.all(np.abs(scaled) < 2.0**62):  # also refuses NaN
        raise Overflow("values", f"each must be finite and below 2^{62 - exponent} in magnitude")
    return scaled.astype(np.int64)


def from_grid(integers: Integers, exponent: int) -> NDArray[np.float64]:
    """v / 2^exponent, correctly rounded to a double (the relative error is at most 2^-53)."""
    exact = _integers(integers)
    return np.array([math.ldexp(float(v), -exponent) for v in exact.tolist()], dtype=np.float64)


def _integers(values: Integers) -> NDArray[Any]:
    """The values as a vector of int64 where they fit, of Python ints where not."""
    array = values if isinstance(values, np.ndarray) else np.array(list(values), dtype=object)
    if array.ndim != 1:
        raise OutOfRange("values", "must be a vector")
    if array.dtype == object:
        if not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in array):
            raise OutOfRange("values", "must be integers")
        return np.array([int(v) for v in array], dtype=object)
    if array.dtype.kind not in "iu":
        raise OutOfRange("values", "must be integers")
    return array.astype(object) if array.dtype == np.uint64 else array.astype(np.int64)


def _within(integers: NDArray[Any], bound: int) -> bool:
    return -bound <= int(integers.min()) and int(integers.max()) <= bound

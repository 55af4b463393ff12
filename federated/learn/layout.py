"""One round's sums of a learner -> one vector of words, and the joint vector -> joint sums, exactly enough to be those of the pooled rows.

Counts and other whole numbers travel as they are. A real sum is a double; its sum over departments is off by at most one part in 2^60
of the largest value that one row could add, whatever the scales of the others: each component has a grid of its own, from its declared
bound and the number of rows, and two words (`mpc.fixedpoint`). So nothing is lost beside the rounding that the pooled computation has itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import Overflow
from mpc.fixedpoint import Encoding

Floats = NDArray[np.float64]
Sums = Sequence[NDArray[Any]]
REAL_BITS = 118  # of a joint real sum on its grid; two words carry 2^122 and more


class Part(msgspec.Struct, frozen=True, eq=False):
    """Consecutive sums. One row adds to component i at most `bounds[i]` in magnitude (whole: an integer, `bounds` has one entry for all)."""

    name: str
    size: int
    bounds: Floats
    whole: bool = False


class Layout(msgspec.Struct, frozen=True, eq=False):
    """The parts of one round's vector. `rows` bounds how many rows take part at all departments together."""

    parts: tuple[Part, ...]
    rows: int

    def words(self, parties: int) -> int:
        """Length of the vector."""
        return sum(part.size * self._encoding(part, parties).words for part in self.parts)

    def encode(self, sums: Sums, parties: int) -> NDArray[np.uint64]:
        """One department's sums as words. Raises `mpc.errors.Overflow` for a sum beyond what is declared."""
        vectors = []
        for part, values in zip(self.parts, sums, strict=True):
            assert values.shape == (part.size,)
            if not part.whole:
                if not np.isfinite(values).all():
                    raise Overflow("values", "each must be finite")
                values = np.array(
                    [
                        round(math.ldexp(v, e))
                        for v, e in zip(values.tolist(), self._exponents(part), strict=True)
                    ],
                    dtype=object,
                )
            vectors.append(self._encoding(part, parties).encode(values))
        return np.concatenate(vectors)

    def decode(self, words: NDArray[np.uint64], parties: int) -> list[NDArray[Any]]:
        """The joint sums, per part: integers where whole, else doubles."""
        found, start = [], 0
        for part in self.parts:
            encoding = self._encoding(part, parties)
            end = start + part.size * encoding.words
            values = encoding.decode(words[start:end])
            if not part.whole:
                exponents = self._exponents(part)
                values = np.array([_ldexp(int(v), -e) for v, e in zip(values, exponents, strict=True)])
            found.append(values)
            start = end
        return found

    def _encoding(self, part: Part, parties: int) -> Encoding:
        # Each department's own rounding may add a half.
        return Encoding(int(part.bounds[0]) * self.rows if part.whole else 2**REAL_BITS + parties, parties)

    def _exponents(self, part: Part) -> list[int]:
        # By exponents, not by the product, which may be beyond a double.
        return (REAL_BITS - np.frexp(part.bounds)[1] - math.frexp(self.rows)[1]).tolist()


def _ldexp(value: int, exponent: int) -> float:
    """value * 2^exponent, correctly rounded; the integer may be beyond a double."""
    excess = max(value.bit_length() - 1000, 0)
    return math.ldexp(float(value >> excess), exponent + excess)


def whole(name: str, size: int, bound: int = 1) -> Part:
    """A part of integers."""
    return Part(name, size, np.array([float(bound)]), whole=True)


def real(name: str, bounds: Floats) -> Part:
    """A part of reals. A bound of 0 is taken as the least that can be."""
    return Part(name, len(bounds), np.maximum(np.asarray(bounds, np.float64), 1e-300))


def triangle(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the upper triangle of a symmetric matrix, row by row: how such matrices travel."""
    return np.triu_indices(size)


def symmetric(upper: Floats, size: int) -> Floats:
    """The matrix of an upper triangle."""
    matrix = np.zeros((size, size))
    rows, columns = triangle(size)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix

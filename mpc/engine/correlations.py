"""Correlated randomness: what the dealer A gives to B and C before they compute, most of it as two 32-byte seeds.

A correlation is a few uniformly random secrets and a few words that are functions of them, all shared between
B and C. Each expands its shares of the random ones from its own seed, and B its share of the derived ones too;
only C's share of the derived ones is a correction that must be sent (Beaver, CRYPTO 1991; seeds as in Araki et
al., CCS 2016 and Riazi et al., "Chameleon", ASIACCS 2018, section 3.2).

Protects: B and C each see uniform words. Whoever lacks the other's seed learns nothing of a secret: B's shares
are its own AES stream; C's corrections are derived words minus words of B's stream. Does not protect: against
a dealer that deals wrong values, or that pools with B or C: A knows every secret here, and must never see an
opening. A seed serves one session; `mpc.engine.party` refuses it a second time.

Arithmetic secrets live in Z_2^64, Boolean ones in packed words under exclusive or.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mpc import bits
from mpc.errors import WrongLength
from mpc.prg import Keystream

Words = NDArray[np.uint64]
ONE = np.uint64(1)


class Part(NamedTuple):
    """One secret: its shape in words, and whether its shares are added or xored."""

    shape: tuple[int, ...]
    boolean: bool = False

    @property
    def words(self) -> int:
        size = 1
        for length in self.shape:
            size *= length
        return size


class Correlation(Protocol):
    """Uniformly random secrets and what is derived from them."""

    @property
    def random(self) -> tuple[Part, ...]: ...
    @property
    def derived(self) -> tuple[Part, ...]: ...
    def derive(self, *secrets: Words) -> tuple[Words, ...]: ...


class Product(NamedTuple):
    """a, b and a * b, elementwise."""

    shape: tuple[int, ...]

    @property
    def random(self) -> tuple[Part, ...]:
        return Part(self.shape), Part(self.shape)

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part(self.shape),)

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        return (secrets[0] * secrets[1],)


class InnerProduct(NamedTuple):
    """a of p x n, b of q x n and a b^T of p x q."""

    left: int
    right: int
    length: int

    @property
    def random(self) -> tuple[Part, ...]:
        return Part((self.left, self.length)), Part((self.right, self.length))

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part((self.left, self.right)),)

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        return (inner(secrets[0], secrets[1]),)


class AndTriple(NamedTuple):
    """Packed bits a of `words`, `others` vectors b, and a AND each of them."""

    others: int
    words: int

    @property
    def random(self) -> tuple[Part, ...]:
        return Part((self.words,), True), Part((self.others, self.words), True)

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part((self.others, self.words), True),)

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        return (secrets[0] & secrets[1],)


class Bit(NamedTuple):
    """Random bits r, packed, and the same bits as integers (doubly authenticated bits without the MACs)."""

    words: int

    @property
    def random(self) -> tuple[Part, ...]:
        return (Part((self.words,), True),)

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part((64 * self.words,)),)

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        return (as_integers(secrets[0], 64 * self.words),)


class BitProduct(NamedTuple):
    """Random bits r, packed, words s of columns x length; r as integers, and r * s."""

    columns: int
    length: int

    @property
    def random(self) -> tuple[Part, ...]:
        return Part((bits.words_for(self.length),), True), Part((self.columns, self.length))

    @property
    def derived(self) -> tuple[Part, ...]:
        return Part((self.length,)), Part((self.columns, self.length))

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        chosen = as_integers(secrets[0], self.length)
        return chosen, chosen * secrets[1]


class Mask(NamedTuple):
    """64 random bit planes and the 64 * words integers that they spell (edaBits: Escudero et al., CRYPTO 2020)."""

    words: int

    @property
    def random(self) -> tuple[Part, ...]:
        return (Part((64, self.words), True),)

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part((64 * self.words,)),)

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        return (bits.from_planes(secrets[0]),)


class TruncationMask(NamedTuple):
    """A `Mask` r together with r >> shift and the leading bit of r, both as integers."""

    words: int
    shift: int

    @property
    def random(self) -> tuple[Part, ...]:
        return (Part((64, self.words), True),)

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part((64 * self.words,)),) * 3

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        mask = bits.from_planes(secrets[0])
        return mask, mask >> np.uint64(self.shift), mask >> np.uint64(63)


class OneHot(NamedTuple):
    """Random words r and, for each, the indicator of r mod 2^code_bits; shape 2^code_bits x length."""

    code_bits: int
    length: int

    @property
    def random(self) -> tuple[Part, ...]:
        return (Part((self.length,)),)

    @property
    def derived(self) -> tuple[Part, ...]:
        return (Part((1 << self.code_bits, self.length)),)

    def derive(self, *secrets: Words) -> tuple[Words, ...]:
        codes = np.arange(1 << self.code_bits, dtype=np.uint64)
        return ((codes[:, None] == (secrets[0] & (codes[-1]))).astype(np.uint64),)


def inner(left: Words, right: Words) -> Words:
    """left of p x n times the transpose of right, q x n, modulo 2^64."""
    return np.einsum("in,jn->ij", left, right)


def as_integers(packed: Words, size: int) -> Words:
    return bits.unpack(packed, size).astype(np.uint64)


class Deck:
    """One computing party's shares of a list of correlations, in order."""

    def __init__(
        self, key: bytes, correlations: Sequence[Correlation], corrections: memoryview | None = None
    ) -> None:
        self._stream = Keystream(key)
        self._corrections = corrections
        self._remaining = iter(correlations)

    def take(self) -> list[Words]:
        """Shares of the next correlation: first the random secrets, then the derived ones."""
        correlation = next(self._remaining)
        shares = [self._stream.read(part.words).reshape(part.shape) for part in correlation.random]
        for part in correlation.derived:
            words = self._stream.read(part.words) if self._corrections is None else self._correction(part)
            shares.append(words.reshape(part.shape))
        return shares

    def _correction(self, part: Part) -> Words:
        assert self._corrections is not None
        size = 8 * part.words
        if len(self._corrections) < size:
            raise WrongLength("corrections", f"must be at least {size} bytes here", peer="dealer")
        words = np.frombuffer(self._corrections[:size], dtype="<u8")
        self._corrections = self._corrections[size:]
        return words


def deal(correlations: Sequence[Correlation], key_b: bytes, key_c: bytes) -> Iterator[Words]:
    """The corrections for C, one array for each derived secret of each correlation."""
    stream_b, stream_c = Keystream(key_b), Keystream(key_c)
    for correlation in correlations:
        secrets = []
        for part in correlation.random:
            secret = stream_b.read(part.words)
            other = stream_c.read(part.words)
            (np.bitwise_xor if part.boolean else np.add)(secret, other, out=secret)
            secrets.append(secret.reshape(part.shape))
        for part, value in zip(correlation.derived, correlation.derive(*secrets), strict=True):
            yield corrected(part, value, stream_b)


def corrected(part: Part, value: Words, stream_b: Keystream) -> Words:
    """C's share of a value whose share at B are the next words of B's stream."""
    share = stream_b.read(part.words)
    (np.bitwise_xor if part.boolean else np.subtract)(value.reshape(-1), share, out=share)
    return share


def correction_words(correlations: Sequence[Correlation]) -> int:
    """How many words `deal` yields in all."""
    return sum(part.words for correlation in correlations for part in correlation.derived)

"""The protocols of B and C on shares: generators that yield what is to be opened and return a share.

Each yields a list of openings, `(boolean, share)`, and is sent back the opened arrays: one yield, one level of
depth. `first` is true at B, who alone adds public terms. Correlations come from `deck`, in the order in which
the matching function of `mpc.engine.operations` declares them.

Protects: everything opened is a share plus a fresh uniform mask of the dealer's, so that what B and C see is
uniform and independent of inputs (semi-honest, B and C not pooling with each other or with the dealer). Does
not protect: against a party that sends another value than it should.

Sources: products, Beaver, CRYPTO 1991; masks with their bits (edaBits), Escudero et al., CRYPTO 2020;
comparison by the borrow of a public minus a shared number, a tree of (less, equal) pairs, Garay, Schoenmakers,
Villegas, PKC 2007, here on bit planes; truncation as there, exact. Numbers are two's complement words.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from mpc import bits
from mpc.engine.correlations import AndTriple, Correlation, Deck, as_integers, inner

Words = NDArray[np.uint64]
Opening = tuple[bool, Words]
Protocol = Generator[list[Opening], list[Words], Words]

TRUNCATION_BOUND = 1 << 62  # values to truncate lie in [-2^62, 2^62)
_ALL = ~np.uint64(0)
_ONE, _TWO = np.uint64(1), np.uint64(2)


def multiply(first: bool, x: Words, y: Words, deck: Deck) -> Protocol:
    """x y = (d + a)(e + b) = d e + d b + a e + a b,   d = x - a and e = y - b opened."""
    a, b, product = deck.take()
    d, e = yield [(False, x - a), (False, y - b)]
    product = product + d * b
    product += a * e
    if first:
        product += d * e
    return product


def inner_product(first: bool, x: Words, y: Words, deck: Deck) -> Protocol:
    """x y^T for x of p x n and y of q x n; the same identity as `multiply`."""
    a, b, product = deck.take()
    d, e = yield [(False, x - a), (False, y - b)]
    result = product + inner(d, b)
    result += inner(a, e)
    if first:
        result += inner(d, e)
    return result


def conjunction(first: bool, x: Words, others: Words, deck: Deck) -> Protocol:
    """x AND each row of `others`, on packed bits."""
    a, b, product = deck.take()
    d, e = yield [(True, x ^ a), (True, others ^ b)]
    result = product ^ (d & b)
    result ^= a & e
    if first:
        result ^= d & e
    return result


def select(first: bool, chosen: Words, x: Words, deck: Deck) -> Protocol:
    """Packed bits c times words x of columns x length.

    With r, s random, m = c xor r and d = x - s opened:  c x = m x + (1 - 2m) r x,   r x = r d + r s.
    """
    mask, s, mask_integers, mask_product = deck.take()
    m_packed, d = yield [(True, chosen ^ mask), (False, x - s)]
    m = as_integers(m_packed, x.shape[-1])
    result = mask_integers * d
    result += mask_product
    result *= _ONE - _TWO * m
    result += m * x
    return result


def to_integers(first: bool, packed: Words, deck: Deck) -> Protocol:
    """Packed bits as integers: c = m + (1 - 2m) r with m = c xor r opened. 64 integers a word."""
    mask, mask_integers = deck.take()
    (m_packed,) = yield [(True, packed ^ mask)]
    m = as_integers(m_packed, mask_integers.size)
    result = mask_integers * (_ONE - _TWO * m)
    if first:
        result += m
    return result


def negative(first: bool, x: Words, deck: Deck) -> Protocol:
    """The sign bits of x, packed: that of z - r for z = x + r opened."""
    planes, mask = deck.take()
    (z,) = yield [(False, _padded(x) + mask)]
    public = bits.to_planes(z)
    borrow = yield from less_than_shared(first, public[:63], planes[:63], deck)
    sign = borrow ^ planes[63]
    return sign ^ public[63] if first else sign


def zero(first: bool, x: Words, deck: Deck) -> Protocol:
    """Whether x is zero, packed: whether z = x + r, opened, is r in every bit."""
    planes, mask = deck.take()
    (z,) = yield [(False, _padded(x) + mask)]
    alike = planes
    if first:
        alike = planes ^ bits.to_planes(z)
        np.bitwise_xor(alike, _ALL, out=alike)
    return (yield from conjunction_tree(first, alike, deck))


def truncate(first: bool, x: Words, shift: int, deck: Deck) -> Protocol:
    """floor(x / 2^shift), exactly, for x in [-2^62, 2^62).

    With y = x + 2^62 in [0, 2^63) and z = y + r opened:

        y >> f = (z >> f) - (r >> f) - [z mod 2^f < r mod 2^f] + 2^(64 - f) [z < r]

    and since y < 2^63, z wrapped around exactly when the leading bit of r is 1 and that of z is 0.
    """
    planes, mask, mask_high, mask_sign = deck.take()
    offset = np.uint64(TRUNCATION_BOUND) if first else np.uint64(0)
    (z,) = yield [(False, _padded(x) + mask + offset)]
    public = bits.to_planes(z)
    less = yield from less_than_shared(first, public[:shift], planes[:shift], deck)
    borrow = yield from to_integers(first, less, deck)
    wrapped = mask_sign * (_ONE - (z >> np.uint64(63)))
    result = (wrapped << np.uint64(64 - shift)) - mask_high - borrow
    if first:
        result += (z >> np.uint64(shift)) - np.uint64(TRUNCATION_BOUND >> shift)
    return result


def to_planes(first: bool, x: Words, deck: Deck) -> Protocol:
    """The 64 bit planes of x: z - r for z = x + r opened, borrows by a Kogge-Stone prefix."""
    planes, mask = deck.take()
    (z,) = yield [(False, _padded(x) + mask)]
    public = bits.to_planes(z)
    generated = planes & ~public  # a borrow arises here
    carried = planes ^ ~public if first else planes.copy()  # a borrow from below goes on
    for step in (1, 2, 4, 8, 16, 32):
        above = np.ascontiguousarray(carried[step:])
        below = np.stack([generated[:-step], carried[:-step]]).reshape(2, -1)
        both = (yield from conjunction(first, above.reshape(-1), below, deck)).reshape(2, *above.shape)
        generated[step:] ^= both[0]
        carried[step:] = both[1]
    result = planes ^ public if first else planes
    result[1:] ^= generated[:-1]
    return result


def one_hot(first: bool, x: Words, deck: Deck) -> Protocol:
    """Indicators of codes x mod G, shape G x length, G a power of two: those of r, rotated by x - r opened."""
    mask, indicators = deck.take()
    groups = np.uint64(len(indicators))
    (z,) = yield [(False, x - mask)]
    rotated = (np.arange(len(indicators), dtype=np.uint64)[:, None] - z) & (groups - _ONE)
    return np.take_along_axis(indicators, rotated.view(np.int64), axis=0)


def less_than_shared(first: bool, public: Words, planes: Words, deck: Deck) -> Protocol:
    """[public < shared] of numbers in bit planes, least significant first; one packed vector."""
    less = planes & ~public
    equal = planes ^ ~public if first else planes.copy()
    while len(less) > 1:
        pairs = len(less) // 2
        high, low = equal[1 : 2 * pairs : 2], slice(0, 2 * pairs, 2)
        others = np.stack([less[low], equal[low]]).reshape(2, -1)
        both = (yield from conjunction(first, high.reshape(-1), others, deck)).reshape(2, *high.shape)
        both[0] ^= less[1 : 2 * pairs : 2]
        rest = slice(2 * pairs, None)
        less, equal = (
            np.concatenate([both[0], less[rest]]),
            np.concatenate([both[1], equal[rest]]),
        )
    return less[0]


def less_than_shared_needs(planes: int, words: int) -> list[Correlation]:
    needs: list[Correlation] = []
    while planes > 1:
        needs.append(AndTriple(2, planes // 2 * words))
        planes = planes // 2 + planes % 2
    return needs


def conjunction_tree(first: bool, planes: Words, deck: Deck) -> Protocol:
    """The AND of all planes."""
    while len(planes) > 1:
        pairs = len(planes) // 2
        left, right = planes[:pairs], planes[pairs : 2 * pairs]
        both = yield from conjunction(first, left.reshape(-1), right.reshape(1, -1), deck)
        planes = np.concatenate([both.reshape(left.shape), planes[2 * pairs :]])
    return planes[0]


def conjunction_tree_needs(planes: int, words: int) -> list[Correlation]:
    needs: list[Correlation] = []
    while planes > 1:
        needs.append(AndTriple(1, planes // 2 * words))
        planes = planes // 2 + planes % 2
    return needs


def _padded(x: Words) -> Words:
    """A vector filled up with zeros to a multiple of 64."""
    flat = x.reshape(-1)
    missing = -flat.size % 64
    return np.concatenate([flat, np.zeros(missing, dtype=np.uint64)]) if missing else flat

"""Bits in words: packing, and transposing bit matrices by 64 x 64 squares, six rounds of masked exchanges a square.

Pure functions, no secrets of their own. Bit i of a packed vector is bit i % 64 of word i // 64, in the order of
`numpy.packbits(..., bitorder="little")`. The transposition of a square is that of Warren, "Hacker's Delight", 2nd
edition, section 7-3, of many squares at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_ROUNDS = (
    (32, 0x00000000FFFFFFFF),
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)  # how far apart rows and columns are exchanged, and which columns
_SQUARES = 1024  # transposed at once: 512 KiB, and half as much of scratch, in the second-level cache


def words_for(bits: int) -> int:
    """How many 64-bit words hold so many bits."""
    return -(-bits // 64)


def pack(bits: NDArray[Any]) -> Words:
    """A vector of booleans (any shape, in C order) as words; the last word is filled up with zeros."""
    flat = np.asarray(bits, dtype=bool).reshape(-1)
    packed = np.zeros(words_for(flat.size) * 8, dtype=np.uint8)
    packed[: -(-flat.size // 8)] = np.packbits(flat, bitorder="little")
    return packed.view(np.uint64)


def unpack(words: Words, size: int) -> NDArray[np.bool_]:
    """The first `size` bits of packed words."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    return np.unpackbits(octets, count=size, bitorder="little").view(np.bool_)


def transpose(matrix: Words) -> Words:
    """The transpose of a bit matrix of n x (64 * m) bits, n x m words, as (64 * m) x (n / 64) words; n % 64 = 0.

    >>> transpose(np.array([[1], [1], [5], *[[0]] * 61], dtype=np.uint64))[:3].ravel().tolist()
    [7, 0, 4]
    """
    across, down = matrix.shape[1], matrix.shape[0] // 64
    result = np.empty((across * 64, down), dtype=np.uint64)
    source, target = matrix.reshape(down, 64, across), result.reshape(across, 64, down)
    step = max(1, _SQUARES // max(1, min(across, down)))
    for begin in range(0, max(across, down), step):
        part = slice(begin, begin + step)
        rows, columns = (part, slice(None)) if down >= across else (slice(None), part)
        piece = source[rows, :, columns]
        squares = piece.transpose(1, 0, 2).copy(order="C")
        _transpose_squares(squares.reshape(64, -1))
        target[columns, :, rows] = squares.transpose(2, 0, 1)
    return result


def to_planes(values: Words) -> Words:
    """64 bit planes of n words, n a multiple of 64: plane k packs bit k of every word; shape (64, n / 64)."""
    return transpose(values.reshape(-1, 1))


def from_planes(planes: Words) -> Words:
    """The n words of their 64 bit planes; the inverse of `to_planes`."""
    return transpose(planes).reshape(-1)


def _transpose_squares(squares: Words) -> None:
    """Transposes in place n squares of 64 x 64 bits: word (i, k) is row i of square k."""
    count = squares.shape[1]
    scratch = np.empty(32 * count, dtype=np.uint64)
    for apart, mask in _ROUNDS:
        shift = np.uint64(apart)
        pairs = squares.reshape(32 // apart, 2, apart * count)
        upper, lower = pairs[:, 0], pairs[:, 1]
        changed = scratch.reshape(upper.shape)
        np.right_shift(upper, shift, out=changed)
        changed ^= lower
        changed &= np.uint64(mask)
        lower ^= changed
        np.left_shift(changed, shift, out=changed)
        upper ^= changed

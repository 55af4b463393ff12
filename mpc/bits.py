"""Bits in words: packing, and transposing bit matrices by 8 x 8 blocks, three masked shifts a block.

Pure functions, no secrets of their own. Bit i of a packed vector is bit i % 64 of word i // 64, in the order of
`numpy.packbits(..., bitorder="little")`. The block transposition is that of Warren, "Hacker's Delight", 2nd
edition, section 7-3, on eight bytes in one word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_STEPS = tuple(
    (np.uint64(shift), np.uint64(mask))
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
)
_BLOCK_BYTES = 1 << 18  # of a block of the matrix and its scratch copy: both stay in the second-level cache


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


def transpose(matrix: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The transpose of a bit matrix of rows x (8 * bytes) bits, as (8 * bytes) x (rows / 8) bytes.

    The number of rows must be a multiple of 8. Bits are little-endian within a byte, both before and after.

    >>> transpose(np.array([[1], [1], [1], [0], [0], [0], [0], [128]], dtype=np.uint8)).ravel().tolist()
    [7, 0, 0, 0, 0, 0, 0, 128]
    """
    rows, width = matrix.shape
    result = np.empty((width * 8, rows // 8), dtype=np.uint8)
    source, target = matrix.reshape(rows // 8, 8, width), result.reshape(width, 8, rows // 8)
    if rows >= width * 8:  # the longer side is cut into blocks
        step = max(1, _BLOCK_BYTES // max(1, 8 * width))
        for begin in range(0, rows // 8, step):
            piece = source[begin : begin + step]
            count = len(piece)
            blocks = _transpose_blocks(np.ascontiguousarray(piece.transpose(2, 0, 1)))
            target[:, :, begin : begin + count] = blocks.reshape(width, count, 8).transpose(0, 2, 1)
    else:
        step = max(1, _BLOCK_BYTES // max(1, rows))
        for begin in range(0, width, step):
            piece = source[:, :, begin : begin + step]
            count = piece.shape[2]
            blocks = _transpose_blocks(np.ascontiguousarray(piece.transpose(2, 0, 1)))
            target[begin : begin + count] = blocks.reshape(count, rows // 8, 8).transpose(0, 2, 1)
    return result


def to_planes(values: Words) -> Words:
    """64 bit planes of n words, n a multiple of 64: plane k packs bit k of every word; shape (64, n / 64)."""
    octets = np.ascontiguousarray(values).view(np.uint8).reshape(values.size, 8)
    return transpose(octets).view(np.uint64)


def from_planes(planes: Words) -> Words:
    """The n words of their 64 bit planes; the inverse of `to_planes`."""
    return transpose(np.ascontiguousarray(planes).view(np.uint8)).view(np.uint64).reshape(-1)


def _transpose_blocks(octets: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every 8 consecutive bytes, an 8 x 8 bit matrix of eight rows, transposed in place."""
    blocks = octets.reshape(-1).view(np.uint64)
    scratch = np.empty_like(blocks)
    for shift, mask in _STEPS:
        np.right_shift(blocks, shift, out=scratch)
        scratch ^= blocks
        scratch &= mask
        blocks ^= scratch
        np.left_shift(scratch, shift, out=scratch)
        blocks ^= scratch
    return octets

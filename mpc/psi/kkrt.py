"""A batched oblivious PRF from an OT extension with a pseudo-random code, on arrays.

    F((i, q_i, s), y) = H(i, q_i xor (C(y) and s))            the sender may evaluate anywhere, bin by bin
    t_i = q_i xor (C(x_i) and s)                              the receiver knows F at one x_i of each bin i

Kolesnikov, Kumaresan, Rosulek, Trieu, "Efficient Batched Oblivious PRF with Applications to Private Set
Intersection" (CCS 2016), figure 2, on the matrix of Ishai, Kilian, Nissim, Petrank (CRYPTO 2003): from WIDTH
base transfers in the other direction, the receiver sends T xor U xor C, column by column.

    C(x)   WIDTH bits of AES under four keys, of a 128-bit token x: a pseudo-random code, whose words for two
           tokens differ in 128 places or more but with probability 2^-40 over 2^24 of them (table 1 there)
    H      BLAKE2s of the 56 bytes and the bin, a random oracle as there

Protects: semi-honest two-party. The sender sees C masked by columns whose seeds it lacks; the receiver sees values
of F at other points, which are uniform to it. Does not protect: against either side deviating.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mpc import aes, bits
from mpc.prg import Keystream
from mpc.psi.blake2s import digests
from mpc.secagg.keys import derive

WIDTH = 448  # bits of a codeword; base transfers
ROW_WORDS = WIDTH // 64
DIGEST_BYTES = 12  # of F: 96 bits, of which 84 give 2^-40 at 2^22 x 2^22 rows
_BLOCK = 1 << 15  # rows: 1.8 MB of each matrix

Words = NDArray[np.uint64]
Rows = NDArray[np.uint8]


class Code:
    """C, under keys that both derive from the session's public key."""

    def __init__(self, key: bytes) -> None:
        self._keys = [derive(key, b"KKRT code", part) for part in range(4)]

    def words(self, tokens: Words) -> Words:
        """n x 7 words of n x 2."""
        result = np.empty((len(tokens), ROW_WORDS), dtype=np.uint64)
        for part, key in enumerate(self._keys):
            target = result[:, 2 * part : 2 * part + 2]
            target[:] = aes.encrypt(key, tokens)[:, : target.shape[1]]
        return result


class Columns:
    """Columns of a bit matrix, each from its seed, made from the top in blocks of rows."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._streams = [Keystream(seed) for seed in seeds]

    def next(self, rows: int) -> Words:
        """The next rows, a multiple of 64: one row of words a column."""
        block = np.empty((len(self._streams), rows // 64), dtype=np.uint64)
        for column, stream in zip(block, self._streams, strict=True):
            stream.fill(column)
        return block


def receive(
    pairs: Sequence[tuple[bytes, bytes]], code: Code, tokens: Words, masked: Rows
) -> Iterator[tuple[slice, Words]]:
    """Fills `masked` with T xor U xor C in columns, for the sender, and yields the rows t_i, block by block.

    A block of all three matrices stays in the cache, and none of them but `masked` is ever whole.
    """
    first, second = Columns([pair[0] for pair in pairs]), Columns([pair[1] for pair in pairs])
    for begin in range(0, len(tokens), _BLOCK):
        part = slice(begin, min(begin + _BLOCK, len(tokens)))
        own = first.next(part.stop - begin)
        block = bits.transpose(code.words(tokens[part]))
        block ^= own
        block ^= second.next(part.stop - begin)
        masked[:, begin // 8 : part.stop // 8] = block.view(np.uint8)
        yield part, bits.transpose(own)


def sender_rows(seeds: Sequence[bytes], choices: NDArray[np.bool_], masked: Rows) -> Words:
    """The rows q_i: each chosen column, and the receiver's where the choice is 1."""
    rows, chosen = masked.shape[1] * 8, Columns(seeds)
    result = np.empty((rows, ROW_WORDS), dtype=np.uint64)
    places = np.flatnonzero(choices)
    for begin in range(0, rows, _BLOCK):
        end = min(begin + _BLOCK, rows)
        block = chosen.next(end - begin)
        block.view(np.uint8)[places] ^= masked[places, begin // 8 : end // 8]
        result[begin:end] = bits.transpose(block)
    return result


def evaluate(
    rows: Words, bins: NDArray[np.int64], masked_codewords: Words | None = None, *, first: int = 0
) -> tuple[Words, NDArray[np.uint32]]:
    """F at one point of each bin of `bins`, as 64 and 32 bits: H(i, row_i xor what is given).

    `rows` begin at bin `first`.
    """
    low, high = np.empty(len(bins), dtype=np.uint64), np.empty(len(bins), dtype=np.uint32)
    block = np.empty((min(_BLOCK, len(bins)), ROW_WORDS + 1), dtype=np.uint64)
    for begin in range(0, len(bins), _BLOCK):
        chosen = bins[begin : begin + _BLOCK]
        piece = block[: len(chosen)]
        piece[:, :ROW_WORDS] = rows[chosen - first]
        if masked_codewords is not None:
            piece[:, :ROW_WORDS] ^= masked_codewords[begin : begin + _BLOCK]
        piece[:, ROW_WORDS] = chosen
        digest = digests(piece.view(np.uint32), DIGEST_BYTES)
        low[begin : begin + _BLOCK] = np.ascontiguousarray(digest[:, :2]).view(np.uint64)[:, 0]
        high[begin : begin + _BLOCK] = digest[:, 2]
    return low, high

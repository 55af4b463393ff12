"""BLAKE2s of many messages of one 64-byte block each (RFC 7693), on arrays of 32-bit words.

Where SHA-256 or BLAKE2s through `hashlib` spend half a microsecond on each call, four million rows of the OT
extension are hashed here in blocks that stay in the cache. Protects: as the hash does, which KKRT model as a
random oracle. Does not protect: nothing here is secret from who runs it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_WORDS = 16
_ROWS = 8192  # 16 words of state and 16 of message: 1 MiB, about the second-level cache
_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_SIGMA = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
Words32 = NDArray[np.uint32]
_ROTATIONS = tuple((np.uint32(r), np.uint32(32 - r)) for r in (16, 12, 8, 7))


def digests(blocks: Words32, size: int) -> Words32:
    """The digests of `size` bytes, 1 ... 32, of n x 16 words: n x ceil(size / 4), what exceeds `size` cut to zero."""
    words = -(-size // 4)
    result = np.empty((len(blocks), words), dtype=np.uint32)
    state, scratch = np.empty((16, _ROWS), dtype=np.uint32), np.empty((4, _ROWS), dtype=np.uint32)
    for begin in range(0, len(blocks), _ROWS):
        message = np.ascontiguousarray(blocks[begin : begin + _ROWS].T)
        count = message.shape[1]
        result[begin : begin + _ROWS] = _compress(message, size, state[:, :count], scratch[:, :count])[
            :words
        ].T
    if size % 4:
        result[:, -1] &= np.uint32((1 << 8 * (size % 4)) - 1)
    return result


def _compress(message: Words32, size: int, v: Words32, scratch: Words32) -> Words32:
    initial = [_IV[0] ^ 0x01010000 ^ size, *_IV[1:]]
    final = [*_IV[:4], _IV[4] ^ 64, _IV[5], _IV[6] ^ 0xFFFFFFFF, _IV[7]]  # 64 bytes so far; the last block
    v[:] = np.array(initial + final, dtype=np.uint32)[:, None]
    for schedule in _SIGMA:
        _mix(v, message, schedule[0:8], scratch, diagonal=False)
        _mix(v, message, schedule[8:16], scratch, diagonal=True)
    return v[:8] ^ v[8:] ^ np.array(initial, dtype=np.uint32)[:, None]


def _mix(
    v: Words32, message: Words32, schedule: tuple[int, ...], scratch: Words32, *, diagonal: bool
) -> None:
    """The function G of RFC 7693, section 3.1, on four columns at once, or on four diagonals.

    On diagonals each row of state meets the row below it one place to the right, in each of the four steps.
    """
    a, b, c, d = v[0:4], v[4:8], v[8:12], v[12:16]
    onto = _onto_turned if diagonal else _onto
    for half in (0, 1):
        onto(np.add, a, b)
        a += np.take(message, schedule[half::2], axis=0, out=scratch, mode="clip")
        onto(np.bitwise_xor, d, a)
        _rotate(d, _ROTATIONS[2 * half], scratch)
        onto(np.add, c, d)
        onto(np.bitwise_xor, b, c)
        _rotate(b, _ROTATIONS[2 * half + 1], scratch)


def _onto(operation: np.ufunc, x: Words32, y: Words32) -> None:
    operation(x, y, out=x)


def _onto_turned(operation: np.ufunc, x: Words32, y: Words32) -> None:
    """The same with y's rows turned by one."""
    operation(x[:3], y[1:], out=x[:3])
    operation(x[3], y[0], out=x[3])


def _rotate(x: Words32, shifts: tuple[np.uint32, np.uint32], scratch: Words32) -> None:
    right, left = shifts
    np.left_shift(x, left, out=scratch)
    np.right_shift(x, right, out=x)
    x |= scratch

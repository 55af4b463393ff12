"""AES-256-CTR keystream as numpy arrays: the masks of secure aggregation and the random words of the noise.

Protects: whoever does not hold the 32-byte key cannot tell the words from uniform ones (AES as a PRP; 2^64
blocks are far below the birthday bound for any vector here). Does not protect: integrity, nor a key that is
used for two purposes; derive one key per purpose (see `mpc.secagg.keys`). Follows NIST SP 800-38A, section
6.5 (vectors F.5.5), words read little-endian.

The keystream is an encryption of zeros written straight into an array; sums go block by block so that a
block of the total stays in the second-level cache while every stream is added to it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mpc.errors import OutOfRange

KEY_BYTES = 32
BLOCK_WORDS = 1 << 14  # 128 KiB: this block, one of the total and one of zeros fit in the second-level cache
_WORD = np.dtype("<u8")
_ZEROS = memoryview(bytes(BLOCK_WORDS * 8))


class Keystream:
    """The words of AES-256-CTR under one key, in order, from the 16-byte counter block `start`.

    >>> first = Keystream(bytes(32)).read(4)
    >>> again = Keystream(bytes(32))
    >>> [*again.read(1), *again.read(3)] == first.tolist()
    True
    """

    def __init__(self, key: bytes, start: bytes = bytes(16)) -> None:
        if len(key) != KEY_BYTES:
            raise OutOfRange("key", f"must be {KEY_BYTES} bytes")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(start)).encryptor()

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Overwrites a contiguous array with the next words."""
        if not out.size:
            return
        view = out.data.cast("B")
        for begin in range(0, len(view), len(_ZEROS)):
            piece = view[begin : begin + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(piece)], piece)

    def read(self, size: int) -> NDArray[np.uint64]:
        """The next `size` words as a new array."""
        out = np.empty(size, dtype=_WORD)
        self.fill(out)
        return out


def add_streams(into: NDArray[np.uint64], plus: Iterable[bytes] = (), minus: Iterable[bytes] = ()) -> None:
    """Adds the streams of the keys `plus` and subtracts those of `minus`, modulo 2^64, in place.

    `into` is a contiguous, writable vector of uint64.
    """
    if into.dtype != _WORD or into.ndim != 1 or not into.flags.c_contiguous or not into.flags.writeable:
        raise OutOfRange("into", "must be a contiguous, writable vector of uint64")
    added = [Keystream(key) for key in plus]
    subtracted = [Keystream(key) for key in minus]
    scratch = np.empty(min(BLOCK_WORDS, into.size), dtype=_WORD)
    for begin in range(0, into.size, BLOCK_WORDS):
        total = into[begin : begin + BLOCK_WORDS]
        mask = scratch[: total.size]
        for stream in added:
            stream.fill(mask)
            np.add(total, mask, out=total)
        for stream in subtracted:
            stream.fill(mask)
            np.subtract(total, mask, out=total)

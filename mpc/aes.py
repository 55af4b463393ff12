"""AES on arrays: many blocks under one key in one call, and the tokens that CMAC makes of many messages.

Protects: CMAC is a pseudo-random function of messages of any length (NIST SP 800-38B, RFC 4493; Iwata and Kurosawa,
FSE 2003), up to a distinguishing advantage of about (blocks)^2 / 2^128: to whoever lacks the key, equal
identifiers give equal tokens and everything else is uniform. Does not protect: against whoever holds the key,
who can try identifiers one by one.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mpc.errors import OutOfRange

BLOCK_BYTES = 16
Words = NDArray[np.uint64]


def encrypt(key: bytes, blocks: Words) -> Words:
    """Each row of n x 2 words, a block, under one key."""
    room = np.empty(blocks.size + 2, dtype=np.uint64)  # `update_into` asks for a block more than it fills
    if blocks.size:
        encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        encryptor.update_into(np.ascontiguousarray(blocks).data.cast("B"), room.data.cast("B"))
    return room[: blocks.size].reshape(blocks.shape)


def cmac(key: bytes, octets: NDArray[np.uint8], lengths: NDArray[np.int64]) -> Words:
    """The AES-CMAC of n messages, n x 2 words: message i is the first `lengths[i]` bytes of row i.

    `octets` is n x w bytes, zero beyond each message's end.
    """
    if octets.ndim != 2 or lengths.shape != octets.shape[:1] or (lengths > octets.shape[1]).any():
        raise OutOfRange("octets", "must be one row a message, no shorter than it")
    count, width = octets.shape
    whole = max(1, -(-width // BLOCK_BYTES)) * BLOCK_BYTES
    padded = np.zeros((count, whole), dtype=np.uint8)
    padded[:, :width] = octets
    last = np.maximum(-(-lengths // BLOCK_BYTES), 1) - 1
    cut = lengths != (last + 1) * BLOCK_BYTES
    partial = np.flatnonzero(cut)
    padded[partial, lengths[partial]] = 0x80
    blocks = padded.view(np.uint64).reshape(count, whole // BLOCK_BYTES, 2)
    masks = np.stack(_subkeys(key))[cut.astype(np.intp)]
    state = np.zeros((count, 2), dtype=np.uint64)
    for place in range(int(last.max(initial=0)) + 1):
        if (last == place).all():
            return encrypt(key, state ^ blocks[:, place] ^ masks)
        reached = np.flatnonzero(last >= place)
        entering = state[reached] ^ blocks[reached, place]
        entering[last[reached] == place] ^= masks[last == place]
        state[reached] = encrypt(key, entering)
    return state


def _subkeys(key: bytes) -> tuple[Words, Words]:
    """SP 800-38B, section 6.1: AES of zero, doubled once and twice in GF(2^128)."""
    value = int.from_bytes(encrypt(key, np.zeros((1, 2), dtype=np.uint64)).tobytes(), "big")
    subkeys = []
    for _ in range(2):
        value = (value << 1) ^ (0x87 if value >> 127 else 0)
        value &= (1 << 128) - 1
        subkeys.append(np.frombuffer(value.to_bytes(16, "big"), dtype="<u8"))
    return subkeys[0], subkeys[1]

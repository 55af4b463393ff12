"""Vectors: NIST SP 800-38A, appendix F.5.5, CTR-AES256.Encrypt."""

import numpy as np
import pytest

from mpc.errors import OutOfRange
from mpc.prg import BLOCK_WORDS, Keystream, add_streams

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
PLAINTEXT = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
CIPHERTEXT = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def test_keystream_is_that_of_the_standard():
    words = Keystream(KEY, COUNTER).read(8)
    expected = np.frombuffer(PLAINTEXT, dtype="<u8") ^ np.frombuffer(CIPHERTEXT, dtype="<u8")
    assert (words == expected).all()


@pytest.mark.parametrize("size", [0, 1, 3, BLOCK_WORDS, 2 * BLOCK_WORDS + 5])
def test_streams_add_and_cancel_over_block_borders(size):
    start = np.arange(size, dtype=np.uint64)
    keys = [bytes([i]) * 32 for i in range(3)]
    total = start.copy()
    add_streams(total, plus=keys[:2], minus=keys[2:])
    streams = [Keystream(key).read(size) for key in keys]
    assert (total == start + streams[0] + streams[1] - streams[2]).all()
    add_streams(total, plus=keys[2:], minus=keys[:2])
    assert (total == start).all()


def test_reading_in_pieces_gives_the_same_words():
    stream = Keystream(KEY)
    pieces = np.concatenate([stream.read(size) for size in (1, 2, 3, BLOCK_WORDS)])
    assert (pieces == Keystream(KEY).read(BLOCK_WORDS + 6)).all()


@pytest.mark.parametrize(
    "into",
    [np.zeros(4, dtype=np.int64), np.zeros((2, 2), dtype=np.uint64), np.zeros(8, dtype=np.uint64)[::2]],
)
def test_only_vectors_of_words_take_masks(into):
    with pytest.raises(OutOfRange, match="into"):
        add_streams(into, plus=[KEY])


def test_a_key_has_32_bytes():
    with pytest.raises(OutOfRange, match="key"):
        Keystream(bytes(16))

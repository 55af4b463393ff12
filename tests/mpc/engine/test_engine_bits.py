"""Packing and transposing, against numpy's own bit functions."""

import numpy as np
import pytest

from mpc import bits

SHAPES = [(64, 1), (64, 3), (448, 143), (4096, 8), (128, 5), (64 * 5000, 1), (64, 5000), (64 * 1500, 7)]


@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_a_transposed_matrix_is_numpys(rows, width):
    matrix = np.random.default_rng(rows).integers(0, 2**64, (rows, width), dtype=np.uint64)
    whole = np.unpackbits(matrix.view(np.uint8), axis=1, bitorder="little")
    turned = bits.transpose(matrix).view(np.uint8)
    assert (np.unpackbits(turned, axis=1, bitorder="little") == whole.T).all()
    assert (np.unpackbits(matrix.view(np.uint8), axis=1, bitorder="little") == whole).all(), "it is as it was"


def test_planes_hold_one_bit_of_every_word():
    values = np.random.default_rng(1).integers(0, 2**64, 6400, dtype=np.uint64)
    planes = bits.to_planes(values)
    for place in (0, 1, 31, 63):
        assert (bits.unpack(planes[place], 6400) == (values >> np.uint64(place)) % np.uint64(2)).all()
    assert (bits.from_planes(planes) == values).all()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_packed_bits_come_back_and_the_rest_is_zero(size):
    flags = np.random.default_rng(size).random(size) < 0.5
    packed = bits.pack(flags)
    assert packed.size == bits.words_for(size)
    assert (bits.unpack(packed, size) == flags).all()
    assert sum(bin(int(word)).count("1") for word in packed) == flags.sum()

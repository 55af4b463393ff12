"""Packed sums: exact against integers, within the derived error against reals; what does not fit is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.errors import Malformed, OutOfRange, Overflow, WrongLength
from mpc.he import seal
from mpc.he.keys import SecretKey
from mpc.he.packed import MOST_ADDENDS, PackedSum
from mpc.he.packing import Packing
from mpc.he.parameters import SUM

KEY = SecretKey.generate(SUM)
PUBLIC = KEY.public_key()
SIZES = st.sampled_from([1, 2, 4095, 4096, 4097, 8192, 8193])


@settings(max_examples=250)
@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 1e6),
    st.integers(1, 20),
    st.integers(2, 5),
    st.integers(0, 2**32),
    SIZES,
    st.booleans(),
)
def test_reals_within_the_derived_error(lower, width, bits, addends, seed, size, public):
    upper = lower + width
    sums = PackedSum.reals(lower, upper, addends=addends, bits=bits)
    generator = np.random.default_rng(seed)
    vectors = [np.clip(generator.uniform(lower, upper, size), lower, upper) for _ in range(addends)]
    vectors[0][0], vectors[-1][-1] = lower, upper  # at the bounds
    total = None
    for vector in vectors:
        encrypted = sums.encrypt(vector, PUBLIC if public else KEY)
        total = encrypted if total is None else total + encrypted
    exact = np.array([math.fsum(column) for column in zip(*vectors, strict=True)])
    assert np.abs(sums.decrypt(total, KEY) - exact).max() <= sums.error


@settings(max_examples=200)
@given(
    st.integers(-(2**30), 2**30),
    st.integers(0, 2**30),
    st.integers(1, 6),
    st.integers(0, 2**32),
    SIZES,
)
def test_integers_without_any_error(lower, width, addends, seed, size):
    sums = PackedSum.integers(lower, lower + width, addends=addends)
    assert sums.error == 0
    generator = np.random.default_rng(seed)
    vectors = [generator.integers(lower, lower + width, size, endpoint=True) for _ in range(addends)]
    total = sums.encrypt(vectors[0], KEY)
    for vector in vectors[1:]:
        total = total + sums.encrypt(vector, KEY)
    assert sums.decrypt(total, KEY).tolist() == np.sum(vectors, axis=0).tolist()


def test_the_most_addends_still_decrypt():
    """All at the upper bound, in full slots; noise at its worst, since one vector is added to itself."""
    sums = PackedSum.reals(-1, 1, addends=MOST_ADDENDS, bits=12)
    assert sums.packing.values_per_slot == 2
    one = total = sums.encrypt(np.ones(8192), KEY)
    while 2 * total.addends <= MOST_ADDENDS:
        total = total + total
    assert total.addends == MOST_ADDENDS
    assert np.abs(sums.decrypt(total, KEY) - MOST_ADDENDS).max() <= sums.error
    with pytest.raises(Overflow, match="128 vectors"):
        total + one


def test_independent_vectors_under_the_public_key_leave_room():
    sums = PackedSum.integers(0, 3, addends=MOST_ADDENDS)
    total = sums.encrypt(np.ones(10), PUBLIC)
    for _ in range(MOST_ADDENDS - 1):
        total = total + sums.encrypt(np.ones(10), PUBLIC)
    assert sums.decrypt(total, KEY).tolist() == [MOST_ADDENDS] * 10
    assert KEY.noise_bits_left(next(total.ciphertexts())) >= 3


def test_correlated_noise_is_refused_instead_of_a_wrong_number():
    sums = PackedSum.integers(0, 3, addends=MOST_ADDENDS)
    total = sums.encrypt(np.ones(4096 * 20), PUBLIC)
    while 2 * total.addends <= MOST_ADDENDS:
        total = total + total
    with pytest.raises(Overflow, match="noise"):
        sums.decrypt(total, KEY)


def test_what_is_packed_where():
    packing = Packing(0.0, 7.0, addends=2, step=1.0, slot_bits=39)
    assert (packing.levels, packing.width, packing.values_per_slot) == (7, 4, 9)
    packed = packing.pack(np.array([1, 2, 3, 4, 5]), 2)
    assert packed.tolist() == [[1 + (3 << 4) + (5 << 8), 2 + (4 << 4)]]
    assert packing.unpack(packed, 5, 1).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("value", [-1.0001, 1.0001, np.nan, np.inf, -np.inf])
def test_values_out_of_bounds_are_refused(value):
    sums = PackedSum.reals(-1, 1, addends=2)
    with pytest.raises(Overflow, match=r"each must lie in \[-1.0, 1.0\]"):
        sums.encrypt(np.array([0.0, value]), KEY)


def test_sums_that_no_field_could_hold_are_refused():
    assert PackedSum.reals(0, 1, addends=1, bits=39).packing.values_per_slot == 1
    with pytest.raises(Overflow, match="for sums of 2 to fit"):
        PackedSum.reals(0, 1, addends=2, bits=39)
    with pytest.raises(OutOfRange, match="addends"):
        PackedSum.reals(0, 1, addends=MOST_ADDENDS + 1, bits=4)
    with pytest.raises(OutOfRange, match="bounds"):
        PackedSum.reals(1, 0, addends=2)
    with pytest.raises(OutOfRange, match="bounds"):
        PackedSum.reals(0, math.nan, addends=2)


def test_other_shapes_and_packings_are_refused():
    sums = PackedSum.reals(-1, 1, addends=2)
    a = sums.encrypt(np.zeros(5), KEY)
    with pytest.raises(WrongLength, match="5 and 6 values"):
        a + sums.encrypt(np.zeros(6), KEY)
    with pytest.raises(OutOfRange, match="different packings"):
        a + PackedSum.reals(-1, 1, addends=3).encrypt(np.zeros(5), KEY)
    with pytest.raises(OutOfRange, match="another packing"):
        PackedSum.reals(-2, 1, addends=2).decrypt(a, KEY)
    with pytest.raises(Malformed, match="another packing"):
        PackedSum.reals(-2, 1, addends=2).read(a.to_bytes(), KEY.fingerprint)
    for values in (np.zeros((2, 2)), np.array(["a"]), np.zeros(0)):
        with pytest.raises(OutOfRange):
            sums.encrypt(values, KEY)


def test_adding_changes_no_operand():
    sums = PackedSum.integers(0, 9, addends=4)
    a, b = sums.encrypt(np.arange(10), KEY), sums.encrypt(np.ones(10), PUBLIC)
    before = a.to_bytes(), b.to_bytes()
    c = a + b
    kept = c.to_bytes()
    c + b
    assert (a.to_bytes(), b.to_bytes(), c.to_bytes()) == (*before, kept)
    assert sums.decrypt(a, KEY).tolist() == list(range(10))


def test_more_additions_than_the_header_says_are_noticed():
    """Somebody adds thousands of vectors outside of this library: the noise shows it, instead of a wrong number."""
    sums = PackedSum.integers(0, 1, addends=2)
    vector = sums.encrypt(np.ones(4), KEY)
    ciphertext = next(vector.ciphertexts())
    evaluator = seal.bindings().Evaluator(seal.context(SUM))
    for _ in range(14):
        evaluator.add_inplace(ciphertext, ciphertext)
    forged = type(vector)(vector.packing, vector.fingerprint, 4, 2, [ciphertext])
    with pytest.raises(Overflow, match="noise"):
        sums.decrypt(forged, KEY)


def test_a_vector_made_to_cancel_another_is_refused():
    sums = PackedSum.integers(0, 1, addends=2)
    vector = sums.encrypt(np.ones(4), KEY)
    negative = seal.bindings().Ciphertext()
    seal.bindings().Evaluator(seal.context(SUM)).negate(next(vector.ciphertexts()), negative)
    forged = type(vector)(vector.packing, vector.fingerprint, 4, 1, [negative])
    with pytest.raises(Malformed, match="not an independent"):
        vector + forged


def test_streams_in_pieces():
    sums = PackedSum.reals(0, 1, addends=2)
    values = np.linspace(0, 1, 20_000)
    pieces = list(sums.stream(values, KEY, length=9000))
    assert [piece.length for piece in pieces] == [9000, 9000, 2000]
    joined = np.concatenate([sums.decrypt(piece, KEY) for piece in pieces])
    assert np.abs(joined - values).max() <= sums.error


def test_a_million_values_are_smaller_than_float32(sum_key):
    sums = PackedSum.reals(-1, 1, addends=8)
    assert len(sums.encrypt(np.zeros(10**6), sum_key).to_bytes()) < 4 * 10**6

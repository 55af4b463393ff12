import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.errors import OutOfRange, Overflow, WrongLength
from mpc.fixedpoint import Encoding, from_grid, scale_for, to_grid


@st.composite
def federations(draw):
    """Vectors of several parties whose joint sums stay within the declared bound, often exactly at it."""
    parties = draw(st.integers(1, 120))
    bits = draw(st.integers(1, 118))
    bound = draw(st.sampled_from([2**bits - 1, 2**bits, draw(st.integers(1, 2**bits))]))
    columns = draw(st.integers(1, 4))
    rows = [[0] * columns for _ in range(parties)]
    for column in range(columns):
        total = draw(st.sampled_from([bound, -bound, draw(st.integers(-bound, bound))]))
        first = draw(st.integers(max(-bound, total - bound), min(bound, total + bound)))
        rows[0][column] = first
        rows[-1][column] += total - first
        assert abs(rows[-1][column]) <= bound
    return bound, parties, rows


@given(federations())
@settings(max_examples=200, deadline=None)
def test_sums_of_words_decode_to_the_exact_joint_sums(federation):
    bound, parties, rows = federation
    encoding = Encoding(bound, parties)
    total = np.zeros(encoding.words * len(rows[0]), dtype=np.uint64)
    for row in rows:
        total += encoding.encode(row)
    assert encoding.decode(total).tolist() == [sum(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(("bound", "words"), [(0, 1), (2**63 - 1, 1), (2**63, 2), (2**118, 2)])
def test_words_per_value(bound, words):
    encoding = Encoding(bound, 100)
    assert encoding.words == words
    assert encoding.decode(encoding.encode([bound, -bound, 0])).tolist() == [bound, -bound, 0]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint32, np.uint64, object])
def test_every_integer_dtype(dtype):
    for bound in (2**40, 2**80):
        encoding = Encoding(bound, 3)
        assert encoding.decode(encoding.encode(np.array([0, 1, 127], dtype=dtype))).tolist() == [0, 1, 127]


def test_large_uint64_values_are_not_wrapped():
    value = np.array([2**64 - 1], dtype=np.uint64)
    assert Encoding(2**70, 3).decode(Encoding(2**70, 3).encode(value)).tolist() == [2**64 - 1]
    with pytest.raises(Overflow):
        Encoding(2**62, 3).encode(value)


def test_what_two_words_cannot_carry_is_refused_at_construction():
    for parties in (1, 3, 4, 100, 1000):
        limit = (2**63 - parties) << (63 - parties.bit_length())
        Encoding(limit - 1, parties)
        with pytest.raises(Overflow, match="bound: must be below 2"):
            Encoding(limit, parties)


def test_a_value_or_a_sum_beyond_the_bound_is_refused_without_being_named():
    encoding = Encoding(1000, 3)
    for value in (1001, -1001, 2**200):
        with pytest.raises(Overflow, match=r"values: each must lie in \[-1000, 1000\]") as refusal:
            encoding.encode([5, value])
        assert str(value) not in str(refusal.value)
    with pytest.raises(Overflow, match="joint sum"):
        encoding.decode(encoding.encode([900]) + encoding.encode([101]))


@pytest.mark.parametrize(
    "values", [[1.0], [True], np.array([1.5]), np.array([True]), np.zeros((2, 2), dtype=int)]
)
def test_only_vectors_of_integers(values):
    with pytest.raises(OutOfRange, match="values"):
        Encoding(10, 3).encode(values)


def test_words_of_the_wrong_kind():
    with pytest.raises(WrongLength, match="2 a value"):
        Encoding(2**70, 3).decode(np.zeros(3, dtype=np.uint64))
    with pytest.raises(WrongLength):
        Encoding(10, 3).decode(np.zeros(3, dtype=np.int64))
    for parties in (0, 2**20):
        with pytest.raises(OutOfRange, match="parties"):
            Encoding(10, parties)
    with pytest.raises(OutOfRange, match="bound"):
        Encoding(-1, 3)


@given(st.floats(0, 1.7e308, allow_nan=False), st.integers(1, 62))
@settings(max_examples=300)
def test_scale_fills_the_bits_and_no_more(max_abs, bits):
    exponent = scale_for(max_abs, bits)
    assert round(math.ldexp(max_abs, exponent)) < 2**bits
    if max_abs:
        assert math.ldexp(max_abs, exponent) >= 2 ** (bits - 2)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.floats(1e-300, 1e300))
@settings(max_examples=200)
def test_rounding_error_is_within_the_stated_bound(fractions, max_abs):
    values = np.array(fractions) * max_abs
    exponent = scale_for(max_abs)
    grid = to_grid(values, exponent)
    assert int(np.abs(grid).max()) < 2**52
    exact = [Fraction(value) * Fraction(2) ** exponent for value in values.tolist()]
    assert all(abs(e - int(g)) <= Fraction(1, 2) for e, g in zip(exact, grid, strict=True))
    total = int(grid.astype(object).sum())
    assert abs(total - sum(exact)) <= Fraction(len(values), 2)
    assert from_grid([total], exponent)[0] == float(total / Fraction(2) ** exponent)


def test_reals_that_do_not_fit_are_refused():
    for value in (math.nan, math.inf, -1.0):
        with pytest.raises(OutOfRange, match="max_abs"):
            scale_for(value)
    for bits in (0, 63):
        with pytest.raises(OutOfRange, match="bits"):
            scale_for(1.0, bits)
    for value in (math.nan, math.inf, 2.0**62):
        with pytest.raises(Overflow, match="values"):
            to_grid(np.array([value]), 0)
    assert from_grid([2**1000, -3], 990).tolist() == [1024.0, -3 / 2.0**990]

"""Every operation equals numpy's, for arrays of any length, over inputs of all three parties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpc.engine import Laboratory, concatenate
from mpc.errors import OutOfRange

COMPARABLE = st.integers(-(2**62), 2**62 - 1)
ANY = st.integers(-(2**63), 2**63 - 1)
HOLDERS = st.sampled_from("ABC")


@st.composite
def pairs(draw, elements):
    length = draw(st.sampled_from([1, 2, 3, 63, 64, 65, 200]))
    x, y = (draw(arrays(np.int64, length, elements=elements)) for _ in range(2))
    return x, np.where(draw(arrays(bool, length)), x, y), draw(HOLDERS), draw(HOLDERS)


def secrets_of(pair):
    x, y, holder_x, holder_y = pair
    laboratory = Laboratory()
    return laboratory, laboratory.secret(x, holder_x), laboratory.secret(y, holder_y), x, y


@given(pairs(ANY))
def test_arithmetic_wraps_as_words_do(pair):
    laboratory, a, b, x, y = secrets_of(pair)
    with np.errstate(over="ignore"):
        expected = [x + y, x - y, x * y, -x, 3 * x - 7, 5 - x, (x * y).sum()]
    found = laboratory.reveal(a + b, a - b, a * b, -a, 3 * a - 7, 5 - a, (a * b).sum())
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))


@given(pairs(COMPARABLE))
def test_comparisons_are_exact_up_to_the_bounds(pair):
    laboratory, a, b, x, y = secrets_of(pair)
    found = laboratory.reveal(a < b, a <= b, a > b, a >= b, a == b, a != b, a < int(y[0]), a == int(x[0]))
    expected = [x < y, x <= y, x > y, x >= y, x == y, x != y, x < y[0], x == x[0]]
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))


@given(pairs(COMPARABLE), st.integers(1, 62))
def test_truncation_is_the_floor_every_time(pair, shift):
    laboratory, a, b, x, y = secrets_of(pair)
    found = laboratory.reveal(a >> shift, b >> 1)
    assert np.array_equal(found[0], x >> shift)
    assert np.array_equal(found[1], y >> 1)


@pytest.mark.parametrize("value", [-(2**62), -(2**62) + 1, -1, 0, 1, 2**62 - 1])
@pytest.mark.parametrize("shift", [1, 20, 62])
def test_truncation_at_the_ends_of_its_range(value, shift):
    laboratory = Laboratory()
    found = laboratory.reveal(laboratory.secret(np.full(200, value)) >> shift)
    assert found.tolist() == [value >> shift] * 200


@given(pairs(ANY))
def test_booleans_selection_and_bits(pair):
    x, y, holder_x, holder_y = pair
    laboratory = Laboratory()
    p, q = laboratory.secret(x > 0, holder_x), laboratory.secret(y > 0, holder_y)
    a, b = laboratory.secret(x, holder_y), laboratory.secret(y, holder_x)
    words = x.view(np.uint64)[None] >> np.arange(64, dtype=np.uint64)[:, None]
    with np.errstate(over="ignore"):
        expected = [
            (x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0), x <= 0, (x > 0) * y,
            np.where(y > 0, x, y), (x > 0).astype(int), words & np.uint64(1), (x > 0)[::2],
        ]  # fmt: skip
    found = laboratory.reveal(p & q, p | q, p ^ q, ~p, p * b, q.select(a, b), p.integers(), a.bits(), p[::2])
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("groups", [1, 2, 4, 5, 64])
def test_codes_become_indicators(groups):
    codes = np.random.default_rng(groups).integers(0, groups, 333)
    laboratory = Laboratory()
    found = laboratory.reveal(laboratory.secret(codes, "A").one_hot(groups))
    assert np.array_equal(found, np.arange(groups)[:, None] == codes)


@pytest.mark.parametrize(("p", "n", "q"), [(1, 1, 1), (3, 100, 2), (20, 500, 20)])
def test_matrices(p, n, q):
    random = np.random.default_rng(n)
    x, y = random.integers(-(2**40), 2**40, (p, n)), random.integers(-(2**20), 2**20, (n, q))
    laboratory = Laboratory()
    a, b = laboratory.secret(x, "B"), laboratory.secret(y, "C")
    stacked = concatenate([a, a], axis=1)
    found = laboratory.reveal(a @ b, a @ y, a.inner(a), a.sum(axis=0), a.T[1:3], stacked[0, ..., ::2])
    expected = [x @ y, x @ y, x @ x.T, x.sum(axis=0), x.T[1:3], np.concatenate([x, x], axis=1)[0, ::2]]
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))


def test_depth_is_what_costs_calls_and_not_how_much_is_computed():
    few, many = Laboratory(), Laboratory()
    for laboratory, count in ((few, 1), (many, 20)):
        xs = [laboratory.secret(np.arange(10) + i) for i in range(count)]
        laboratory.reveal(*[(x < 5) & (x == 3) for x in xs])
    assert few.traffic["calls"] == many.traffic["calls"] == 5
    assert few.traffic["levels"] == many.traffic["levels"] == 8


def test_an_array_does_not_branch_and_plans_do_not_mix():
    one, other = Laboratory(), Laboratory()
    x, y = one.secret([1]), other.secret([1])
    with pytest.raises(OutOfRange, match="condition"):
        bool(x == 1)
    with pytest.raises(OutOfRange, match="one plan"):
        x + y
    with pytest.raises(OutOfRange, match="shift"):
        x >> 0
    with pytest.raises(OutOfRange, match="constant"):
        x + 0.5
    one.reveal(x)
    with pytest.raises(OutOfRange, match="in use"):
        x + 1


def test_entries_are_taken_in_any_order():
    laboratory = Laboratory()
    matrix = laboratory.secret(np.arange(12).reshape(3, 4))
    assert laboratory.reveal(matrix.take([11, 0, 5, 5])).tolist() == [11, 0, 5, 5]
    with pytest.raises(OutOfRange, match="places: must be 0"):
        matrix.take([12])

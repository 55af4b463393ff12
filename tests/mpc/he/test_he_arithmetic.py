"""Every operation is within its own bound, leaves its operands alone, and refuses when levels or moduli are used up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.errors import OutOfRange, Overflow, Tampered
from mpc.he import bounds, columns, seal
from mpc.he.arithmetic import Arithmetic, rotations_of_total
from mpc.he.keys import SecretKey
from mpc.he.parameters import SUM, Parameters, score_parameters

PARAMETERS = score_parameters(2, 8192)
KEY = SecretKey.generate(PARAMETERS)
EVALUATION = KEY.evaluation_key(multiply=True, rotations=rotations_of_total(PARAMETERS))
COMPUTE = Arithmetic(PARAMETERS, EVALUATION)
SLOTS = PARAMETERS.slots


def fresh(values):
    return COMPUTE.fresh(KEY.encrypt(columns.encode(PARAMETERS, values)))


def decoded(number):
    return columns.decrypt(KEY, number.ciphertext)


def draw(seed, count):
    return np.random.default_rng(seed).uniform(-1, 1, (count, SLOTS))


@settings(max_examples=70)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=6),
    st.floats(-1, 1),
    st.sampled_from([1e-17, 1e-9, 1e-3, 1, 300]),
    st.integers(0, 2**32),
)
def test_combinations(weights, constant, size, seed):
    values = draw(seed, len(weights))
    weights = [w * size for w in weights]
    result = COMPUTE.combine([fresh(v) for v in values], weights, constant)
    exact = np.array(weights) @ values + constant
    assert np.abs(decoded(result) - exact).max() <= result.noise.sup + bounds.doubles(result.magnitude)
    assert np.abs(exact).max() <= result.magnitude * (1 + 1e-12)
    assert result.level == 1


@settings(max_examples=70)
@given(st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_products_squares_and_chebyshev_steps(square, step, seed):
    x, y, z = draw(seed, 3)
    a, c = fresh(x), fresh(z)
    b = a if square else fresh(y)
    result = COMPUTE.product(a, b, twice=step, minus=c if step else None)
    exact = x * (x if square else y) * (2 if step else 1) - (z if step else 0)
    assert np.abs(decoded(result) - exact).max() <= result.noise.sup
    deeper = COMPUTE.product(result, c)  # operands of different level and scale
    assert np.abs(decoded(deeper) - exact * z).max() <= deeper.noise.sup
    assert (result.level, deeper.level) == (1, 0)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, SLOTS))
def test_totals_complements_sums_and_masks(seed, rows):
    x, y = draw(seed, 2)
    a, b = fresh(x), fresh(y)
    total = COMPUTE.total(COMPUTE.add([a, b]))
    assert np.abs(decoded(total) - (x + y).sum()).max() <= total.noise.sup + bounds.doubles(total.magnitude)
    complement = COMPUTE.complement(fresh(np.abs(x)))
    assert np.abs(decoded(complement) - 1 + np.abs(x)).max() <= complement.noise.sup
    masked = COMPUTE.combine([a, b], [0.5, -0.25], 0.125, rows=rows)
    exact = np.where(np.arange(SLOTS) < rows, 0.5 * x - 0.25 * y + 0.125, 0)
    assert np.abs(decoded(masked) - exact).max() <= masked.noise.sup


def test_bounds_are_not_idle():
    """Within a factor of 100 of what is seen: the largest of thousands of slots is about 4 of the 9 deviations, products of
    two such bounds 81 instead of about 15."""
    x, y = draw(5, 2)
    for result, exact in (
        (fresh(x), x),
        (COMPUTE.combine([fresh(x)], [0.3]), 0.3 * x),
        (COMPUTE.product(fresh(x), fresh(y)), x * y),
    ):
        assert result.noise.sup < 100 * np.abs(decoded(result) - exact).max()


def test_root_mean_square_bounds_what_flooding_hides():
    x, y = draw(6, 2)
    for result, exact in (
        (fresh(x), x),
        (COMPUTE.combine([fresh(x), fresh(y)], [1.0, 1.0]), x + y),
        (COMPUTE.product(fresh(x), fresh(y)), x * y),
    ):
        seen = np.sqrt(np.mean((decoded(result) - exact) ** 2) * 2)  # the imaginary halves carry as much
        assert seen <= result.noise.rms < 20 * seen


def test_operands_are_never_overwritten():
    x, y = draw(7, 2)
    a, b = fresh(x), fresh(y)
    low = COMPUTE.product(a, b)
    before = [seal.dump(n.ciphertext) for n in (a, b, low)]
    COMPUTE.combine([a, b, low], [0.5, 0.5, 0.5], 1.0)
    COMPUTE.product(a, low)
    COMPUTE.product(a, b, twice=True, minus=a)
    COMPUTE.product(a, a, twice=True)
    COMPUTE.complement(a)
    COMPUTE.add([a, b])
    COMPUTE.total(a)
    assert [seal.dump(n.ciphertext) for n in (a, b, low)] == before


def test_levels_run_out_in_words():
    a = fresh(np.ones(SLOTS))
    last = COMPUTE.product(COMPUTE.product(a, a), a)
    assert last.level == 0
    for attempt in (
        lambda: COMPUTE.product(last, a),
        lambda: COMPUTE.combine([last], [1.0]),
    ):
        with pytest.raises(Overflow, match="all 2 multiplications in a row are used up"):
            attempt()


def test_values_that_do_not_fit_are_refused_and_those_just_below_decode():
    a = COMPUTE.combine([fresh(np.ones(SLOTS))], [1.0])
    room = 2.0 ** (60 - PARAMETERS.coefficient_bits[1] - 1.5)
    with pytest.raises(Overflow, match="do not fit into 60 bits"):
        COMPUTE.combine([a], [room])
    most = COMPUTE.combine([a], [0.999 * room])
    assert np.abs(decoded(most) - 0.999 * room).max() <= most.noise.sup + bounds.doubles(room)


def test_keys_and_parameters_are_not_mixed():
    other = SecretKey.generate(PARAMETERS)
    foreign = Arithmetic(PARAMETERS, other.evaluation_key(multiply=True)).fresh(
        other.encrypt(columns.encode(PARAMETERS, np.ones(4)))
    )
    mine = fresh(np.ones(4))
    for attempt in (
        lambda: COMPUTE.product(mine, foreign),
        lambda: COMPUTE.combine([mine, foreign], [1.0, 1.0]),
        lambda: COMPUTE.add([mine, foreign]),
    ):
        with pytest.raises(Tampered, match="different keys"):
            attempt()
    with pytest.raises(OutOfRange, match="CKKS"):
        Arithmetic(SUM)
    with pytest.raises(OutOfRange, match="own"):
        Arithmetic(score_parameters(1), EVALUATION)


def test_a_key_allows_only_what_it_was_made_for():
    limited = Arithmetic(PARAMETERS, KEY.evaluation_key(rotations=(1,)))
    a = limited.fresh(KEY.encrypt(columns.encode(PARAMETERS, np.ones(4))))
    with pytest.raises(OutOfRange, match="does not allow multiplications"):
        limited.product(a, a)
    with pytest.raises(OutOfRange, match="rotations of a sum"):
        limited.total(a)
    with pytest.raises(OutOfRange, match="one level and scale"):
        limited.add([a, limited.combine([a], [1.0])])


def test_planned_and_computed_bounds_agree():
    plan = Arithmetic(PARAMETERS)
    p, q = plan.fresh(), plan.fresh()
    a, b = fresh(np.ones(4)), fresh(np.ones(4))
    for planned, computed in (
        (plan.product(p, q), COMPUTE.product(a, b)),
        (plan.combine([p, q], [0.5, 2.0], 1.0), COMPUTE.combine([a, b], [0.5, 2.0], 1.0)),
        (plan.total(p), COMPUTE.total(a)),
    ):
        assert planned.level == computed.level
        assert planned.noise.sup == pytest.approx(computed.noise.sup, rel=1e-6)


def test_fresh_noise_has_the_variance_that_the_bounds_assume():
    """Centred binomial errors of variance 10.5 and rounding of 1/12: 8,192 slots of Gaussians, to nine deviations."""
    small = Parameters("ckks", 8192, (60, 40, 60))
    key = SecretKey.generate(small)
    slots = [
        columns.decrypt(key, key.encrypt(columns.encode(small, np.zeros(small.slots)))) for _ in range(4)
    ]
    variance = np.mean(np.concatenate(slots) ** 2) * small.scale**2 / (small.degree / 2)
    spread = 9 * np.sqrt(2 / (4 * small.slots))
    assert abs(variance / bounds.ERROR_VARIANCE - 1) < spread
    assert abs(variance / (bounds.ERROR_VARIANCE * 1.5) - 1) > spread

"""Accounting and noise scale: against `dp-accounting`, against the Gaussian mechanism's exact curve, and by arithmetic."""

from __future__ import annotations

import math

import pytest
from dp_accounting.dp_event import ZCDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from sandbox import col, count, dp
from sandbox import query as q
from sandbox.catalog import Column, DataSet
from sandbox.errors import ParameterError
from sandbox.plan import compile as compile_plan

epsilons = st.floats(1e-3, 50.0)
deltas = st.sampled_from([1e-15, 1e-9, 1e-6, 1e-3])
FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)


def plan_of(*aggregates):
    schema = DataSet("general-1", ("p",), {"x": Column("integer", (0, 9))}).schema()
    named = tuple(q.Named(a.name, a.aggregate) for a in aggregates)
    return compile_plan(q.Query("t", named), schema, exact=False)


def gaussian_delta(rho, epsilon):
    """Exact delta of the continuous Gaussian mechanism with sensitivity^2 / (2 sigma^2) = rho (Balle and Wang, ICML 2018, Theorem 8)."""
    ratio = math.sqrt(2 * rho)  # sensitivity / sigma
    first, second = ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio
    return stats.norm.cdf(first) - math.exp(epsilon + stats.norm.logcdf(second))


@FEW
@given(epsilon=epsilons, delta=deltas)
def test_rho_and_epsilon_are_inverse(epsilon, delta):
    rho = dp.rho_of(epsilon, delta)
    assert rho > 0
    assert dp.epsilon_of(rho, delta) == pytest.approx(epsilon, rel=1e-6)
    assert dp.delta_of(rho, epsilon) <= delta


@FEW
@given(epsilon=epsilons, delta=deltas)
def test_the_conversion_is_the_best_over_all_alphas(epsilon, delta):
    """Proposition 12 by brute force: no alpha of a fine grid promises a smaller delta."""
    rho = dp.rho_of(epsilon, delta)

    def log_delta(log_gap):
        alpha = 1 + math.exp(log_gap)
        return (alpha - 1) * (alpha * rho - epsilon) - math.log(alpha - 1) + alpha * math.log1p(-1 / alpha)

    best = optimize.minimize_scalar(log_delta, bounds=(-20, 20), method="bounded", options={"xatol": 1e-12})
    assert math.log(dp.delta_of(rho, epsilon)) == pytest.approx(min(best.fun, 0.0), abs=1e-6)


@FEW
@given(epsilon=epsilons, delta=deltas)
def test_it_promises_no_more_than_the_gaussian_mechanism_keeps(epsilon, delta):
    rho = dp.rho_of(epsilon, delta)
    assert gaussian_delta(rho, epsilon) <= delta * (1 + 1e-9)


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.3, 2.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-6])
def test_it_agrees_with_dp_accounting(rho, delta):
    """Theirs searches a grid of orders, so it may only be larger, and not by much."""
    orders = [1 + 1.02**k / 50 for k in range(800)]
    accountant = RdpAccountant(orders)
    accountant.compose(ZCDpEvent(rho))
    theirs, ours = accountant.get_epsilon(delta), dp.epsilon_of(rho, delta)
    assert ours <= theirs * (1 + 1e-9)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_nothing_spent_is_zero():
    assert dp.epsilon_of(0.0, 1e-6) == 0.0


@FEW
@given(a=st.floats(1e-6, 10), b=st.floats(1e-6, 10), delta=deltas)
def test_spending_more_leaves_less(a, b, delta):
    assert dp.epsilon_of(a + b, delta) > dp.epsilon_of(max(a, b), delta)


@pytest.mark.parametrize("epsilon", [0, 0.0, -1, math.nan, math.inf, -math.inf, 100.1, True, "1", None, [1]])
def test_epsilon_out_of_range(epsilon):
    with pytest.raises(ParameterError, match=r"'epsilon' is .*allowed are numbers above 0, to 100"):
        dp.check_epsilon(epsilon)


@pytest.mark.parametrize("epsilon", [1e-300, 1, 100, 100.0])
def test_epsilon_in_range(epsilon):
    dp.check_epsilon(epsilon)


@pytest.mark.parametrize("delta", [0.0, -1.0, 1e-16, 2e-3, 1.0, math.nan, math.inf])
def test_delta_out_of_range(delta):
    with pytest.raises(ParameterError, match="'delta' is"):
        dp.check_delta(delta)
    with pytest.raises(ParameterError):
        dp.rho_of(1.0, delta)


def test_delta_that_is_no_number():
    for delta in ("1e-6", None, [1e-6], True):
        with pytest.raises(ParameterError, match="'delta' is"):
            dp.check_delta(delta)


@pytest.mark.parametrize("rows_per_unit", [1, 4])
@pytest.mark.parametrize("aggregates", [(count(),), (count(), col("x").sum(), col("x").var())])
def test_the_scale_follows_from_sensitivity_and_cost(aggregates, rows_per_unit):
    plan, rho, honest = plan_of(*aggregates), 0.02, 3
    noise = dp.noise_for(plan, rows_per_unit, rho, honest)
    families = len(plan.components)
    assert families == {1: 1, 3: 3}[len(aggregates)]
    assert noise.sensitivity == pytest.approx(rows_per_unit * math.sqrt(families) * (noise.grid + 1))
    assert noise.sensitivity**2 / (2 * noise.sigma**2) == pytest.approx(rho)
    assert honest * noise.department_sigma**2 == pytest.approx(noise.sigma**2)
    assert noise.variance(honest) == pytest.approx((noise.sigma / noise.grid) ** 2)
    assert noise.variance(5) == pytest.approx(noise.variance(honest) * 5 / 3)


def test_a_tree_of_counts_has_a_family_a_level():
    schema = DataSet("general-1", ("p",), {"y": Column("real", (0, 1))}).schema()
    query = q.Query("t", (q.Named("median", q.Quantile(q.Column("y"), 0.5)),))
    plan = compile_plan(query, schema, exact=False)
    levels = len(plan.leaves[0].levels)
    assert levels == 3  # 4096 leaves, 256, 16
    assert dp.noise_for(plan, 1, 0.1, 2).sensitivity == pytest.approx(math.sqrt(levels) * (dp.GRID + 1))


def test_a_coarser_grid_serves_where_the_noise_is_large():
    plan = plan_of(count())
    rhos = [1e-3 / 4**k for k in range(14)]
    grids = [dp.noise_for(plan, 1, rho, 2).grid for rho in rhos]
    assert grids[0] == dp.GRID
    assert grids == sorted(grids, reverse=True)
    assert grids[-1] < dp.GRID
    for rho, grid in zip(rhos, grids, strict=True):
        noise = dp.noise_for(plan, 1, rho, 2)
        assert noise.sigma <= dp.MAX_SIGMA
        assert noise.sensitivity**2 / (2 * noise.sigma**2) == pytest.approx(rho)
        assert grid == noise.grid


@pytest.mark.parametrize("rho", [1e-20, 1e6])
def test_noise_out_of_range_names_the_range(rho):
    with pytest.raises(ParameterError, match=r"'epsilon' asks for noise with deviation .* supported are"):
        dp.noise_for(plan_of(count()), 1, rho, 2)


def test_a_sum_of_discrete_gaussians_is_near_enough_to_one():
    """Kairouz, Liu and Steinke's tau at the least deviation that is allowed: below 10^-4000."""
    s = dp.MIN_DEPARTMENT_SIGMA
    log10_tau = (math.log(10) - 2 * math.pi**2 * s**2 / 2) / math.log(10)
    assert log10_tau < -4000

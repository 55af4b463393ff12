"""Tests of hypotheses from joint sums: Pearson's chi-squared, Welch's t, one-way ANOVA.

Exact mode: the textbook tests, as SciPy computes them on the pooled rows. DP mode: the same statistic on noisy sums, with a p-value that
counts the noise. Compared with the textbook distribution, noise would pass for an effect; so the null is simulated, sampling and
privacy noise together, from parameters estimated under it (Gaboardi, Lim, Rogers and Vadhan, "Differentially Private Chi-Squared
Hypothesis Testing", ICML 2016, algorithm MCIndep; for means the same parametric bootstrap on n, sum and sum of squares).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sandbox import query as q
from sandbox.plan import Measure
from sandbox.release import Test

from .encoding import JointSums
from .statistics import Sums, exact_sums, formula

Floats = NDArray[np.float64]
DRAWS = 4999
CLEAR = 5.0  # deviations of the noise above which a count says something
UNUSABLE = "the noise leaves too little to test: use a larger epsilon or fewer groups"


NAMES = {
    "crosstab": "Pearson chi-squared test of independence",
    "welch": "Welch t-test of equal means",
    "anova": "one-way ANOVA of equal means",
}


def run(query: q.Query, joint: JointSums, rounding: int, suppressed: bool, seed: int) -> Test:
    """The test that `query.analysis` asks for. `suppressed`: whether any value that it needs is."""
    name = NAMES[query.analysis]
    if suppressed:
        return Test(
            name, reason="a group that it needs is suppressed: merge small groups with cut() or when()"
        )
    plan = joint.plan
    shape = tuple(len(key.domain) for key in plan.keys)
    sums = exact_sums(joint, rounding) if plan.exact else Sums(plan, dict(enumerate(joint.components)))
    if query.analysis == "crosstab":
        counts = formula(plan.measures[0], sums).reshape(shape)
        if plan.exact:
            return _chi_squared(name, counts)
        return _noisy_chi_squared(name, counts, joint.deviations[plan.measures[0].rows or 0], seed)
    n, mean, variance = (formula(measure, sums) for measure in plan.measures)
    if plan.exact:
        return (
            _welch(name, n, mean, variance) if query.analysis == "welch" else _anova(name, n, mean, variance)
        )
    return _noisy_means(name, query.analysis, plan.measures, joint, seed)


def chi_squared(counts: Floats) -> Floats:
    """The statistic of tables of shape [..., rows, columns]; negative counts are taken as 0."""
    table = np.maximum(counts, 0)
    expected = table.sum(-1, keepdims=True) * table.sum(-2, keepdims=True)
    total = table.sum((-1, -2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = expected / total
        return np.where(expected > 0, (table - expected) ** 2 / expected, 0.0).sum((-1, -2))


def t_statistic(n: Floats, mean: Floats, variance: Floats) -> Floats:
    """Welch's t for groups on the last axis, exactly two."""
    with np.errstate(invalid="ignore", divide="ignore"):
        squared = variance / n
        return (mean[..., 0] - mean[..., 1]) / np.sqrt(squared[..., 0] + squared[..., 1])


def f_statistic(n: Floats, mean: Floats, variance: Floats) -> Floats:
    """F for groups on the last axis; groups without rows do not count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total, groups = n.sum(-1), (n > 0).sum(-1)
        mean, variance = np.where(n > 0, mean, 0), np.where(n > 1, variance, 0)
        grand = (n * mean).sum(-1, keepdims=True) / total[..., None]
        between = (n * (mean - grand) ** 2).sum(-1) / (groups - 1)
        within = ((n - 1).clip(0) * variance).sum(-1) / (total - groups)
        return between / within


def _chi_squared(name: str, counts: Floats) -> Test:
    from scipy import special

    rows, columns = (counts.sum(1) > 0).sum(), (counts.sum(0) > 0).sum()
    if rows < 2 or columns < 2:
        return Test(name, reason="needs at least two rows and two columns that are not empty")
    freedom = float((rows - 1) * (columns - 1))
    statistic = float(chi_squared(counts))
    return Test(name, statistic, (freedom,), float(special.chdtrc(freedom, statistic)))


def _welch(name: str, n: Floats, mean: Floats, variance: Floats) -> Test:
    from scipy import special

    present = n > 0
    n, mean, variance = n[present], mean[present], variance[present]
    if len(n) != 2 or (n < 2).any():
        return Test(
            name, reason="needs exactly two groups with at least two values each; pick them with groups="
        )
    statistic = float(t_statistic(n, mean, variance))
    if not np.isfinite(statistic):
        return Test(name, reason="neither group varies")
    squared = variance / n
    freedom = float(squared.sum() ** 2 / (squared**2 / (n - 1)).sum())
    return Test(name, statistic, (freedom,), float(2 * special.stdtr(freedom, -abs(statistic))))


def _anova(name: str, n: Floats, mean: Floats, variance: Floats) -> Test:
    from scipy import special

    groups, total = int((n > 0).sum()), float(n.sum())
    if groups < 2 or total <= groups:
        return Test(name, reason="needs at least two groups, and more values than groups")
    statistic = float(f_statistic(n, mean, variance))
    if not np.isfinite(statistic):
        return Test(name, reason="no group varies")
    freedom = (float(groups - 1), total - groups)
    return Test(name, statistic, freedom, float(special.fdtrc(*freedom, statistic)))


def _exceeding(observed: float, null: Floats) -> float:
    """The p-value of a simulated null; an undefined draw counts as extreme."""
    return float(1 + (~(null < observed)).sum()) / (1 + len(null))


def _noisy_chi_squared(name: str, counts: Floats, deviation: float, seed: int) -> Test:
    table = np.maximum(counts, 0)
    total = table.sum()
    if total < max(1.0, CLEAR * deviation) or min(counts.shape) < 2:
        return Test(name, reason=UNUSABLE)
    generator = np.random.default_rng(seed)
    independent = np.outer(table.sum(1), table.sum(0)) / total**2
    draws = generator.multinomial(round(total), independent.ravel() / independent.sum(), DRAWS)
    noisy = draws.reshape(DRAWS, *counts.shape) + generator.normal(0, deviation, (DRAWS, *counts.shape))
    observed = float(chi_squared(counts))
    return Test(name, observed, (), _exceeding(observed, chi_squared(noisy)))


def _noisy_means(
    name: str, analysis: str, measures: tuple[Measure, ...], joint: JointSums, seed: int
) -> Test:
    """Welch's or ANOVA's statistic, against draws of sampling and privacy noise under equal means.

    Groups whose noisy count does not stand out from the noise say nothing, and are left out.
    """
    spread = measures[2]
    assert spread.rows is not None
    indices = (spread.rows, spread.first[0], spread.second[0])
    center = joint.plan.components[spread.first[0]].factors[0].center
    noise = [joint.deviations[i] for i in indices]
    usable = joint.components[spread.rows] > max(2.0, CLEAR * noise[0])
    sums = [joint.components[i][usable] for i in indices]
    welch = analysis == "welch"
    left_out = int((~usable).sum())
    if len(sums[0]) < 2 or (welch and left_out):
        return Test(name, reason=UNUSABLE)
    statistic = t_statistic if welch else f_statistic
    n, mean, variance = _groups(sums, center)
    common = (n * mean).sum() / n.sum()
    if not welch:
        variance = np.full_like(n, ((n - 1) * variance).sum() / (n - 1).sum())
    generator = np.random.default_rng(seed)
    drawn_mean = generator.normal(common, np.sqrt(variance / n), (DRAWS, len(n)))
    drawn_variance = variance * generator.chisquare(n - 1, (DRAWS, len(n))) / (n - 1)
    offset = drawn_mean - center
    drawn = (np.broadcast_to(n, offset.shape), n * offset, (n - 1) * drawn_variance + n * offset**2)
    noisy = [values + generator.normal(0, s, values.shape) for values, s in zip(drawn, noise, strict=True)]
    observed, null = float(statistic(*_groups(sums, center))), statistic(*_groups(noisy, center))
    if not np.isfinite(observed):
        return Test(name, reason=UNUSABLE)
    p_value = _exceeding(abs(observed), np.abs(null)) if welch else _exceeding(observed, null)
    note = f"{left_out} groups whose counts do not stand out from the noise are left out" if left_out else ""
    return Test(name, observed, (), p_value, note=note)


def _groups(sums: list[Floats], center: float) -> tuple[Floats, Floats, Floats]:
    """n, mean and variance per group, with what noise made impossible moved to the nearest possible."""
    n, first, second = np.maximum(sums[0], 2.0), *sums[1:]
    return n, center + first / n, np.maximum(second - first**2 / n, 0) / (n - 1)

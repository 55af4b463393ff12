"""DP releases: unbiased, with exactly the noise that they state, intervals that cover, tests that do not see effects in noise.

Many values come from one release over many cells. Every check of chance fails a right implementation with probability at most `ALARM`; the
noise is wrong on purpose in some, by a factor of 2/3 and of 3/2, and must then be found out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from federated import encoding, inference
from federated.local import open_city
from federated.statistics import Z95
from sandbox import col, corr, count, dp
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.engine import LocalSums
from sandbox.errors import BudgetExceeded
from sandbox.plan import compile as compile_plan
from sandbox.table import JointTable

ALARM = 1e-6
PURPOSE = "research"
KEYS = ("row", "column")
CELLS = 64 * 64
NAMES = ("ash", "birch", "cedar", "date")
COLUMNS = {
    "row": Column("integer", (0, 63)),
    "column": Column("integer", (0, 63)),
    "x": Column("integer", (0, 20)),
    "y": Column("real", (-1.0, 3.0)),
}
DATASET = DataSet("general-4", (PURPOSE,), COLUMNS, budget=Budget(100.0, 1e-6), max_rows=2**20)
ROWS = 40  # rows a cell and department


def frame(seed):
    generator = np.random.default_rng(seed)
    cells = np.repeat(np.arange(CELLS), ROWS)
    x = generator.binomial(20, 0.3, cells.size)
    y = (x / 10 + generator.normal(0, 0.4, cells.size)).clip(-1, 3)
    return pd.DataFrame({"row": cells // 64, "column": cells % 64, "x": x, "y": y})


FRAMES = {name: {"t": frame(i)} for i, name in enumerate(NAMES)}
CATALOGS = {name: Catalog(name, {"t": DATASET}) for name in NAMES}


@pytest.fixture(scope="module")
def pooled():
    return pd.concat([FRAMES[name]["t"] for name in NAMES]).groupby(list(KEYS))


@pytest.fixture(scope="module")
def federation(open_federation):
    return open_federation(CATALOGS, FRAMES)


@pytest.fixture(scope="module")
def here(open_in_process):
    """In this process: for what is reckoned from sums, however they came."""
    return open_in_process(CATALOGS, FRAMES)


def counts_and_sums(city, epsilon=1.0):
    query = city.table("t").group_by(*KEYS).agg(count(), col("x").sum())
    return query.release(purpose=PURPOSE, epsilon=epsilon)


def errors(release, pooled, names=None):
    """Noise of counts and of sums in their stated deviations: pairs of (noise / deviation)."""
    truth = {"count": pooled.size(), "x_sum": pooled["x"].sum()}
    for name, expected in truth.items():
        deviation = (release.intervals[f"{name}_high"] - release.intervals[f"{name}_low"]) / 2 / Z95
        yield name, ((release.frame[name] - expected.to_numpy()) / deviation).to_numpy()


def variance_is_one(scaled):
    """Whether normal values of mean 0 have variance 1: a two-sided chi-squared test at `ALARM`."""
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], len(scaled))
    return low <= (scaled**2).sum() <= high


def mean_is_zero(scaled):
    return abs(scaled.mean()) * len(scaled) ** 0.5 <= stats.norm.isf(ALARM / 2)


def share_is(hits, share, at_least=False):
    """Whether `hits` come with probability `share`: a binomial test at `ALARM`."""
    low, high = stats.binom.ppf([ALARM / 2, 1 - ALARM / 2], len(hits), share)
    return low <= hits.sum() and (at_least or hits.sum() <= high)


def test_noise_is_unbiased_and_as_large_as_stated(federation, pooled):
    release = counts_and_sums(federation.city)
    for _name, scaled in errors(release, pooled):
        assert mean_is_zero(scaled)
        assert variance_is_one(scaled)
        assert share_is(np.abs(scaled) <= Z95, 0.95)


def test_the_stated_noise_is_what_the_cost_asks_for(here):
    """sigma^2 = sensitivity^2 / (2 rho) over 3 of 4 departments, all four of which add theirs: 4/3 of it."""
    release = counts_and_sums(here.city)
    assert dp.epsilon_of(release.privacy.rho, 1e-6) == pytest.approx(1.0)
    half = (release.intervals["count_high"] - release.intervals["count_low"]) / 2 / Z95
    sensitivity = 2**0.5 * (1 + 1 / dp.GRID)  # two families
    sigma = sensitivity / (2 * release.privacy.rho) ** 0.5
    assert half.to_numpy() == pytest.approx(sigma * (4 / 3) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_wrong_noise_is_found_out(monkeypatch, pooled, factor):
    honest = encoding.gaussian.discrete_gaussian
    monkeypatch.setattr(
        encoding.gaussian,
        "discrete_gaussian",
        lambda sigma, size, key: honest(sigma * factor, size, key),
    )
    release = counts_and_sums(open_city(CATALOGS, FRAMES))
    for _name, scaled in errors(release, pooled):
        assert mean_is_zero(scaled)
        assert not variance_is_one(scaled)
        assert not share_is(np.abs(scaled) <= Z95, 0.95)


def test_noise_that_is_not_centred_is_found_out(monkeypatch, pooled):
    """A fifth of its deviation off."""
    honest = encoding.gaussian.discrete_gaussian
    monkeypatch.setattr(
        encoding.gaussian,
        "discrete_gaussian",
        lambda sigma, size, key: honest(sigma, size, key) + np.int64(sigma / 5),
    )
    release = counts_and_sums(open_city(CATALOGS, FRAMES))
    assert not any(mean_is_zero(scaled) for _name, scaled in errors(release, pooled))


def test_survivors_add_noise_enough(open_federation):
    federation = open_federation(CATALOGS, FRAMES)
    federation.wire.lose("masked", "birch")
    release = counts_and_sums(federation.city)
    assert release.missing == ("birch",)
    present = pd.concat([FRAMES[name]["t"] for name in release.departments]).groupby(list(KEYS))
    for name, scaled in errors(release, present):
        assert mean_is_zero(scaled)
        assert variance_is_one(scaled)
        if name == "count":
            half = (release.intervals["count_high"] - release.intervals["count_low"])[0] / 2 / Z95
            needed = 2**0.5 * (1 + 1 / dp.GRID) / (2 * release.privacy.rho) ** 0.5
            assert half == pytest.approx(needed, rel=1e-9)


def test_each_release_draws_its_own_noise(federation, pooled):
    first, second = (dict(errors(counts_and_sums(federation.city), pooled)) for _ in range(2))
    for name in first:
        correlation = np.corrcoef(first[name], second[name])[0, 1]
        assert abs(correlation) * CELLS**0.5 <= stats.norm.isf(ALARM / 2)


def test_intervals_of_derived_statistics_cover(here, pooled):
    """The bootstrap's intervals are approximate: 95 % give or take 2."""
    query = (
        here.city.table("t")
        .group_by(*KEYS)
        .agg(col("x").mean(), col("x").var(), col("x").std(), corr("x", "y"))
    )
    release = query.release(purpose=PURPOSE, epsilon=20.0)
    truth = {
        "x_mean": pooled["x"].mean(),
        "x_var": pooled["x"].var(),
        "x_std": pooled["x"].std(),
        "x_y_corr": pooled[["x", "y"]].corr().iloc[0::2, 1],
    }
    for name, expected in truth.items():
        low, high = release.intervals[f"{name}_low"], release.intervals[f"{name}_high"]
        inside = (low.to_numpy() <= expected.to_numpy()) & (expected.to_numpy() <= high.to_numpy())
        assert share_is(inside, 0.93, at_least=True), (name, inside.mean())
        assert not share_is(inside, 0.99, at_least=True), (name, inside.mean())
        error = (release.frame[name].to_numpy() - expected.to_numpy()) / (high - low).to_numpy()
        assert abs(np.nanmedian(error)) < 0.05, name  # centred, within a twentieth of the interval


def test_quantile_intervals_cover(open_in_process):
    cells = 256
    columns = {"cell": Column("integer", (0, cells - 1)), "y": Column("real", (0.0, 1000.0))}
    dataset = DataSet("general-4", (PURPOSE,), columns, budget=Budget(100.0, 1e-6), max_rows=2**20)
    frames = {}
    for i, name in enumerate(NAMES):
        generator = np.random.default_rng(i)
        cell = np.repeat(np.arange(cells), 500)
        frames[name] = {"t": pd.DataFrame({"cell": cell, "y": generator.uniform(100, 900, cell.size)})}
    federation = open_in_process({name: Catalog(name, {"t": dataset}) for name in NAMES}, frames)
    levels = (0.1, 0.5, 0.9)
    query = federation.city.table("t").group_by("cell").agg(*(col("y").quantile(level) for level in levels))
    release = query.release(purpose=PURPOSE, epsilon=2.0)
    groups = pd.concat([frames[name]["t"] for name in NAMES]).groupby("cell")["y"]
    for level, series in zip(levels, release.series, strict=True):
        expected = groups.quantile(level).to_numpy()
        low, high = np.array(series.low), np.array(series.high)
        inside = (low <= expected) & (expected <= high)
        assert share_is(inside, 0.95, at_least=True), (level, inside.mean())
        assert np.median(high - low) < 200  # and says something: bounds are 1000 apart
        error = np.array(series.values) - expected
        assert abs(np.mean(error)) < 0.6 * np.std(error)  # 5 / 16 of it by chance, 0.2 for the non-linearity


# --- tests of hypotheses ---


class Query:
    """A query's plan and joint sums with fresh noise, without the network: cheap enough for a thousand."""

    DEPARTMENTS = 3

    def __init__(self, columns, build, epsilon):
        schema = DataSet("general-4", (PURPOSE,), columns, max_rows=2**20).schema()
        self.query = build(JointTable(None, "t")).query
        self.plan = compile_plan(self.query, schema, exact=False)
        self.noise = dp.noise_for(self.plan, 1, dp.rho_of(epsilon, 1e-6), 2)

    def joint(self, sums, generator):
        """Joint sums of departments of which the first holds all rows."""
        layout = {"max_rows": 2**20, "parties": self.DEPARTMENTS}
        nothing = LocalSums([np.zeros_like(part) for part in sums], [])
        parts = [LocalSums(sums, []), *[nothing] * (self.DEPARTMENTS - 1)]
        vectors = [
            encoding.encode(self.plan, part, self.noise, **layout, random_bytes=generator.bytes)
            for part in parts
        ]
        return encoding.decode(
            self.plan, sum(vectors[1:], vectors[0]), self.noise, **layout, present=self.DEPARTMENTS
        )

    def p_values(self, draw, times, seed):
        """p of the DP test, and of the textbook test that takes the noisy sums for exact ones."""
        generator = np.random.default_rng(seed)
        pairs = []
        for i in range(times):
            joint = self.joint(draw(self.plan, generator), generator)
            ours = inference.run(self.query, joint, 0, False, seed=i).p_value
            pairs.append((np.nan if ours is None else ours, self.textbook(joint)))
        return np.array(pairs).T

    def textbook(self, joint):
        sums = inference.Sums(self.plan, dict(enumerate(joint.components)))
        if self.query.analysis == "crosstab":
            shape = tuple(len(key.domain) for key in self.plan.keys)
            counts = np.maximum(inference.formula(self.plan.measures[0], sums), 0).reshape(shape)
            return inference._chi_squared("", counts).p_value
        n, mean, variance = (inference.formula(measure, sums) for measure in self.plan.measures)
        test = inference._welch if self.query.analysis == "welch" else inference._anova
        return test("", n, mean, variance).p_value or 0.0


def independent(plan, generator, effect=0.0):
    """Counts of 1000 rows in a 3 x 4 table."""
    table = np.outer([0.2, 0.3, 0.5], [0.1, 0.2, 0.3, 0.4])
    table[0, 0] += effect
    table[0, 3] -= effect
    return [generator.multinomial(1000, table.ravel() / table.sum())]


def equal_means(sizes):
    def draw(plan, generator, effect=0.0):
        """Sums of whole numbers 0 … 20 in groups of the given sizes; the first group has a larger mean."""
        groups = [
            generator.binomial(20, 0.3 + effect * (i == 0), size).astype(np.int64)
            for i, size in enumerate(sizes)
        ]
        sums = []
        for spec in plan.components:
            power = len(spec.factors)
            scale = 2**spec.exponent
            center = spec.factors[0].center if power else 0
            sums.append(np.array([int(((g - center) ** power).sum() * scale) for g in groups]))
        return sums

    return draw


AGE = {"x": Column("integer", (0, 20))}
CASES = {
    "chi-squared": (
        {
            "a": Column("category", categories=tuple("pqr")),
            "b": Column("category", categories=tuple("stuv")),
        },
        lambda table: table.crosstab("a", "b"),
        independent,
        0.3,
        0.08,
    ),
    "welch": (
        AGE | {"g": Column("category", categories=("p", "q"))},
        lambda table: table.ttest("x", "g"),
        equal_means((300, 700)),
        0.5,
        0.3,
    ),
    "anova": (
        AGE | {"g": Column("category", categories=tuple("pqrs"))},
        lambda table: table.anova("x", "g"),
        equal_means((200, 200, 300, 300)),
        0.5,
        0.3,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_p_values_are_not_too_small_under_the_null(case):
    """The share of p <= 0.05 and p <= 0.2 is at most that; the textbook test on the same noisy sums rejects far more often."""
    columns, build, draw, epsilon, _ = CASES[case]
    ours, textbook = Query(columns, build, epsilon).p_values(draw, 400, seed=7)
    for level in (0.05, 0.2):
        assert (ours <= level).sum() <= stats.binom.isf(ALARM, len(ours), level), (ours <= level).mean()
        assert (textbook <= level).sum() > stats.binom.isf(ALARM, len(ours), level), (
            textbook <= level
        ).mean()
    assert (ours <= 0.5).mean() > 0.3  # and not all near 1, or missing


@pytest.mark.parametrize("case", CASES)
def test_an_effect_that_stands_out_is_found(case):
    columns, build, draw, _, effect = CASES[case]
    ours, _ = Query(columns, build, 2.0).p_values(
        lambda plan, generator: draw(plan, generator, effect), 20, seed=8
    )
    assert (ours <= 0.05).mean() >= 0.8


@pytest.mark.parametrize("case", ["welch", "anova"])
def test_noise_that_drowns_the_groups_gives_no_test(case):
    columns, build, draw, _, _ = CASES[case]
    query = Query(columns, build, 0.01)
    generator = np.random.default_rng(3)
    test = inference.run(query.query, query.joint(draw(query.plan, generator), generator), 0, False, seed=1)
    assert test.statistic is None
    assert test.reason == inference.UNUSABLE


# --- budgets ---


def test_costs_add_up_until_the_budget_is_spent(open_in_process, people):
    everyone = people(budget=Budget(2.0, 1e-6))
    federation = open_in_process(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").agg(count())
    rho = dp.rho_of(0.5, 1e-6)
    done = 0
    while dp.epsilon_of((done + 1) * rho, 1e-6) <= 2.0:
        release = query.release(purpose=PURPOSE, epsilon=0.5)
        done += 1
        expected = dp.epsilon_of(done * rho, 1e-6)
        assert federation.spent() == pytest.approx(dict.fromkeys(everyone.names, expected))
        assert release.privacy.epsilon_left == pytest.approx(
            dict.fromkeys(everyone.names, 2.0 - expected), abs=1e-9
        )
    assert done > 4, "zCDP composes better than epsilons add"
    spent = federation.spent()
    with pytest.raises(BudgetExceeded) as refused:
        query.release(purpose=PURPOSE, epsilon=0.5)
    assert "ash, birch, cedar, date: privacy budget of 't'" in refused.value.reasons[0]
    assert federation.spent() == spent
    small = 2.0 - max(spent.values())
    query.release(purpose=PURPOSE, epsilon=min(0.01, small / 2))  # what still fits is granted
    assert max(federation.spent().values()) <= 2.0


def test_the_whole_budget_can_be_spent_at_once(open_in_process, people):
    everyone = people(budget=Budget(2.0, 1e-6))
    federation = open_in_process(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").agg(count())
    release = query.release(purpose=PURPOSE, epsilon=2.0)
    assert release.privacy.epsilon_left == pytest.approx(dict.fromkeys(everyone.names, 0.0), abs=1e-6)
    with pytest.raises(BudgetExceeded):
        query.release(purpose=PURPOSE, epsilon=0.01)


def test_exact_releases_cost_no_budget(federation):
    before = federation.spent()
    federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    assert federation.spent() == before


def test_one_query_of_many_statistics_costs_its_epsilon_once(open_in_process, people):
    everyone = people()
    federation = open_in_process(everyone.catalogs, everyone.frames)
    table = federation.city.table("t")
    table.group_by("region").agg(
        count(), col("age").mean(), col("age").var(), col("income").median()
    ).release(purpose=PURPOSE, epsilon=1.0)
    assert federation.spent() == pytest.approx(dict.fromkeys(everyone.names, 1.0))


def test_more_statistics_in_one_query_mean_more_noise(here):
    table = here.city.table("t")

    def half(*aggregates):
        intervals = table.agg(*aggregates).release(purpose=PURPOSE, epsilon=1.0).intervals
        return (intervals["count_high"] - intervals["count_low"])[0]

    few = half(count())
    many = half(count(), col("x").sum(), col("x").var(), col("y").mean())
    families = 4  # rows, x, xx, y
    assert many == pytest.approx(few * families**0.5, rel=1e-3)

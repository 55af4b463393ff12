"""Every statistic in exact mode equals pandas and SciPy on the pooled rows, on tables that hypothesis makes up.

Level general-1 has no disclosure rules, so nothing is suppressed or rounded. `whole` and `real` hold numbers that the plan's grid
represents, so results are exact but for the last roundings: 1e-9 relative. `huge` and `fine` do not, and may differ by the resolution that
their declared bounds leave (`sandbox.plan`: 2^-52 of the largest value), which `Within` derives.

That is found in one process. Over TLS, each statistic of one table is what it is there, to the last bit.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from sandbox import col, corr, count, cov, when
from sandbox.catalog import Budget, Catalog, Column, DataSet

PURPOSE = "research"
REGIONS = ("north", "south", "east")
COLUMNS = {
    "region": Column("category", categories=REGIONS, nullable=True),
    "smokes": Column("boolean"),
    "size": Column("integer", (1, 2)),
    "whole": Column("integer", (-1000, 999), nullable=True),
    "real": Column("real", (-(2.0**20), 2.0**20), nullable=True),
    "huge": Column("integer", (-(2.0**52), 2.0**52), nullable=True),
    "fine": Column("real", (-100.0, 1e5), nullable=True),
}
DATASET = DataSet("general-1", (PURPOSE,), COLUMNS, budget=Budget(1.0, 1e-6), max_rows=100)
NUMBERS = ("whole", "real", "huge", "fine")
QUANTILES = (0.0, 0.25, 0.5, 0.9, 1.0)
MOMENTS = ("count", "sum", "mean", "var", "std")
BREAKS = (-500, 0, 1, 250)
PAIR = ("whole", "real")
ASKED = {
    "moments": lambda t: t.group_by("region", "smokes", "size").agg(
        count(), *(getattr(col(name), moment)() for name in NUMBERS for moment in MOMENTS)
    ),
    "derived columns": lambda t: (
        t.filter((col("whole") >= 0) | col("smokes"))
        .with_columns(twice=col("whole") * 2 + 1, kind=when(col("whole") > 0).then("+").otherwise("other"))
        .group_by("kind")
        .agg(count(), col("twice").sum(), col("twice").mean())
    ),
    "total": lambda t: t.agg(count()),
    "histogram": lambda t: t.histogram("whole", list(BREAKS)),
    "quantiles": lambda t: t.group_by("smokes").agg(
        *(col(name).quantile(q).alias(f"{name}|{q}") for name in NUMBERS for q in QUANTILES)
    ),
    "covariances": lambda t: t.cov(NUMBERS),
    "correlations": lambda t: t.corr(list(PAIR)),
    "of a pair": lambda t: t.agg(cov(*PAIR), corr(*PAIR)),
    "chi-squared": lambda t: t.crosstab("region", "smokes"),
    "Welch": lambda t: t.ttest("whole", "smokes"),
    "Welch of two groups": lambda t: t.ttest("whole", "region", groups=["north", "east"]),
    "analysis of variance": lambda t: t.anova("whole", "region"),
}
# Each example opens a federation, so failing ones are not shrunk.
FEW = settings(max_examples=3, deadline=None, derandomize=True, database=None, phases=[Phase.generate])


def optional(values):
    return st.one_of(st.none(), values, values, values)


@st.composite
def tables(draw):
    """Frames of three or four departments: small groups, nulls, perhaps an empty department and a constant column."""
    whole = st.one_of(st.integers(-1000, 999), st.sampled_from([-1000, 0, 999]))
    real = st.integers(-(2**25), 2**25).map(lambda n: n / 32)
    huge = st.one_of(st.integers(-(2**52), 2**52), st.sampled_from([-(2**52), 2**52]))
    fine = st.floats(-100.0, 1e5)
    row = st.tuples(
        optional(st.sampled_from(REGIONS)),
        st.booleans(),
        st.integers(1, 2),
        *map(optional, (whole, real, huge, fine)),
    )
    departments = draw(st.integers(3, 4))
    parts = [draw(st.lists(row, max_size=12)) for _ in range(departments)]
    if draw(st.booleans()):
        parts[draw(st.integers(0, departments - 1))] = []
    frames = [pd.DataFrame(part, columns=list(COLUMNS)) for part in parts]
    constant = draw(st.sampled_from([None, *NUMBERS]))
    for frame in frames:
        if constant is not None:
            frame[constant] = {"whole": 7, "real": -0.5, "huge": 2**52, "fine": 0.1}[constant]
        for name in ("whole", "huge"):
            frame[name] = pd.array(frame[name], dtype="Int64")
        for name in ("real", "fine"):
            frame[name] = frame[name].astype(float)
        frame["region"] = frame["region"].astype("str")
        frame["smokes"] = frame["smokes"].astype(bool)
        frame["size"] = frame["size"].astype("int64")
    return frames


class Within:
    """How far a statistic of a column may lie from pandas: the resolution of its declared bounds, per row."""

    def __init__(self, name):
        low, high = COLUMNS[name].bounds
        half = (high - low) / 2
        self.first = half * 2.0**-51 if name in ("fine",) else 0.0
        self.second = half**2 * 2.0**-48 if name in ("fine", "huge") else 0.0

    def of(self, statistic, rows):
        match statistic:
            case "sum":
                return rows * self.first
            case "mean":
                return self.first
            case "var":
                return self.second
            case "std":
                return math.sqrt(self.second)
        return 0.0


def opening(open_federation):
    """Opens a federation, of the two settings in turn, and gives its table and the pooled rows."""
    settings_in_turn = itertools.cycle(["honest-but-curious", "active"])

    def open_(frames):
        names = ["ash", "birch", "cedar", "date"][: len(frames)]
        catalogs = {name: Catalog(name, {"t": DATASET}) for name in names}
        parts = {name: {"t": frame} for name, frame in zip(names, frames, strict=True)}
        table = open_federation(catalogs, parts, next(settings_in_turn)).city.table("t")
        return table, pd.concat(frames, ignore_index=True)

    return open_


@pytest.fixture(scope="module")
def open_table(open_in_process):
    return opening(open_in_process)


def released(table, statistic):
    return ASKED[statistic](table).release(purpose=PURPOSE)


def cell_of(pooled, row, keys):
    """The pooled rows of one cell of a release."""
    inside = np.ones(len(pooled), dtype=bool)
    for key in keys:
        null = pd.isna(row[key])
        inside &= pooled[key].isna() if null else (pooled[key] == row[key]).fillna(False).astype(bool)
    return pooled[inside]


def same(ours, pandas, absolute=0.0):
    """Equal to 1e-9 relative, or both undefined."""
    ours, pandas = (float("nan") if pd.isna(value) else float(value) for value in (ours, pandas))
    if math.isnan(pandas):
        return math.isnan(ours)
    return ours == pytest.approx(pandas, rel=1e-9, abs=absolute)


@FEW
@given(frames=tables())
def test_counts_and_moments_by_several_keys(open_table, frames):
    table, pooled = open_table(frames)
    keys = ("region", "smokes", "size")
    release = released(table, "moments")
    assert len(release.frame) == (len(REGIONS) + 1) * 2 * 2
    for (_, row), (_, interval) in zip(release.frame.iterrows(), release.intervals.iterrows(), strict=True):
        cell = cell_of(pooled, row, keys)
        assert row["count"] == len(cell)
        for name in NUMBERS:
            values = cell[name].dropna().astype(float)
            for statistic in MOMENTS:
                expected = getattr(values, statistic)()
                tolerance = Within(name).of(statistic, len(values))
                label = f"{name}_{statistic}"
                assert same(row[label], expected, tolerance), label
                if not math.isnan(expected):
                    slack = 1e-9 * abs(expected)
                    assert interval[f"{label}_low"] - slack <= expected <= interval[f"{label}_high"] + slack


@FEW
@given(frames=tables())
def test_filters_derived_columns_and_totals(open_table, frames):
    table, pooled = open_table(frames)
    frame = released(table, "derived columns").frame.set_index("kind")
    kept = pooled[(pooled["whole"] >= 0).fillna(False).astype(bool) | pooled["smokes"]]
    positive = (kept["whole"] > 0).fillna(False).astype(bool)
    for kind, cell in (("+", kept[positive]), ("other", kept[~positive])):
        twice = cell["whole"].dropna().astype(float) * 2 + 1
        assert frame.loc[kind, "count"] == len(cell)
        assert same(frame.loc[kind, "twice_sum"], twice.sum())
        assert same(frame.loc[kind, "twice_mean"], twice.mean())
    [total] = released(table, "total").frame["count"]
    assert total == len(pooled)


@FEW
@given(frames=tables())
def test_histogram_counts_every_row_in_its_band(open_table, frames):
    table, pooled = open_table(frames)
    frame = released(table, "histogram").frame
    values = pooled["whole"].dropna().astype(float)
    expected = np.histogram(values, [-math.inf, *BREAKS, math.inf])[0].tolist()
    assert frame["count"].tolist()[: len(expected)] == expected
    assert frame["count"].sum() == len(pooled)  # the last band is that of nulls


@FEW
@given(frames=tables())
def test_quantiles_lie_within_the_declared_resolution(open_table, frames):
    table, pooled = open_table(frames)
    release = released(table, "quantiles")
    for (_, row), (_, interval) in zip(release.frame.iterrows(), release.intervals.iterrows(), strict=True):
        cell = cell_of(pooled, row, ["smokes"])
        for name in NUMBERS:
            low, high = COLUMNS[name].bounds
            width = 0.0 if name == "whole" else (high - low) / 4096  # a bin a value, or LEAVES bins
            slack = (high - low) * 1e-15
            values = cell[name].dropna().astype(float)
            for q in QUANTILES:
                expected, label = values.quantile(q), f"{name}|{q}"
                if not len(values):
                    assert pd.isna(row[label])
                    continue
                if name == "whole":
                    assert same(row[label], expected, 1e-12)
                assert interval[f"{label}_low"] - slack <= expected <= interval[f"{label}_high"] + slack
                assert interval[f"{label}_low"] - slack <= row[label] <= interval[f"{label}_high"] + slack
                assert interval[f"{label}_high"] - interval[f"{label}_low"] <= width + slack


@FEW
@given(frames=tables())
def test_covariance_and_correlation_use_pairs_without_nulls(open_table, frames):
    table, pooled = open_table(frames)
    values = pooled[list(NUMBERS)].astype(float)
    covariances = released(table, "covariances").frame
    with np.errstate(all="ignore"):
        expected = values.cov()
    for a in NUMBERS:
        for b in NUMBERS:
            tolerance = _pair_resolution(a, b)
            assert same(covariances.loc[a, b], expected.loc[a, b], tolerance), (a, b)
    correlations = released(table, "correlations").frame
    both = values[list(PAIR)].dropna()
    varies = len(both) > 1 and (both.nunique() > 1).all()
    r = both["whole"].corr(both["real"]) if varies else math.nan
    assert same(correlations.loc["whole", "real"], r, 1e-9)
    [row] = released(table, "of a pair").frame.to_dict("records")
    assert same(row["whole_real_cov"], covariances.loc["whole", "real"])
    assert same(row["whole_real_corr"], correlations.loc["whole", "real"])


def _pair_resolution(a, b):
    halves = [(COLUMNS[name].bounds[1] - COLUMNS[name].bounds[0]) / 2 for name in (a, b)]
    return 0.0 if {a, b} <= {"whole", "real"} else math.prod(halves) * 2.0**-48


@FEW
@given(frames=tables())
def test_chi_squared_is_scipys(open_table, frames):
    table, pooled = open_table(frames)
    release = released(table, "chi-squared")
    seen = pd.crosstab(pooled["region"].astype(object).fillna("none"), pooled["smokes"])
    domain = [*REGIONS, "none"]
    expected = seen.reindex(index=domain, columns=[False, True], fill_value=0)
    assert release.frame.to_numpy().tolist() == expected.to_numpy().tolist()
    if min(seen.shape) < 2:
        assert release.test.statistic is None
        assert "not empty" in release.test.reason
        return
    scipy = stats.chi2_contingency(seen.to_numpy(), correction=False)
    assert same(release.test.statistic, scipy.statistic, 1e-9)
    assert release.test.degrees_of_freedom == (scipy.dof,)
    assert same(release.test.p_value, scipy.pvalue)


@FEW
@given(frames=tables())
def test_welch_is_scipys(open_table, frames):
    table, pooled = open_table(frames)
    test = released(table, "Welch").test
    groups = _groups(pooled, "whole", "smokes", [False, True])
    if min(map(len, groups)) < 2 or all(np.ptp(group) == 0 for group in groups):
        assert test.statistic is None
        return
    scipy = stats.ttest_ind(*groups, equal_var=False)
    assert same(test.statistic, scipy.statistic, 1e-9)
    assert same(test.degrees_of_freedom[0], scipy.df)
    assert same(test.p_value, scipy.pvalue)
    picked = released(table, "Welch of two groups").test
    groups = _groups(pooled, "whole", "region", ["north", "east"])
    if min(map(len, groups)) >= 2 and any(np.ptp(group) > 0 for group in groups):
        assert same(abs(picked.statistic), abs(stats.ttest_ind(*groups, equal_var=False).statistic), 1e-9)


@FEW
@given(frames=tables())
def test_anova_is_scipys(open_table, frames):
    table, pooled = open_table(frames)
    test = released(table, "analysis of variance").test
    groups = [g for g in _groups(pooled, "whole", "region", [*REGIONS, None]) if len(g)]
    total = sum(map(len, groups))
    if len(groups) < 2 or total <= len(groups) or all(np.ptp(group) == 0 for group in groups):
        assert test.statistic is None
        return
    scipy = stats.f_oneway(*groups)
    assert same(test.statistic, scipy.statistic, 1e-9)
    assert test.degrees_of_freedom == (len(groups) - 1, total - len(groups))
    assert same(test.p_value, scipy.pvalue)


def _groups(pooled, value, by, values):
    return [cell_of(pooled, {by: chosen}, [by])[value].dropna().astype(float).to_numpy() for chosen in values]


def some_rows(seed, size=12):
    """Rows with nulls, in every cell of `region` and `smokes`."""
    generator = np.random.default_rng(seed)
    whole, huge = generator.integers(-1000, 1000, size), generator.integers(-(2**52), 2**52, size)
    gaps = generator.random((4, size)) < 0.1
    return pd.DataFrame(
        {
            "region": np.resize(np.array([*REGIONS, None], dtype=object), size),
            "smokes": np.arange(size) // 4 % 2 == 0,
            "size": generator.integers(1, 3, size),
            "whole": pd.array(np.where(gaps[0], None, whole), "Int64"),
            "real": np.where(gaps[1], np.nan, generator.integers(-(2**25), 2**25, size) / 32),
            "huge": pd.array(np.where(gaps[2], None, huge), "Int64"),
            "fine": np.where(gaps[3], np.nan, generator.uniform(-100.0, 1e5, size)),
        }
    )


@pytest.fixture(scope="module")
def on_both(open_in_process, open_over_tls):
    """For each setting, the table of the same departments in process and over TLS."""
    frames = [some_rows(seed) for seed in range(4)]
    here, away = opening(open_in_process), opening(open_over_tls)
    return [(here(frames)[0], away(frames)[0]) for _setting in range(2)]


@pytest.mark.parametrize("statistic", ASKED)
def test_over_tls_each_is_what_it_is_in_process(on_both, statistic):
    for here, away in on_both:
        wanted, found = released(here, statistic), released(away, statistic)
        pd.testing.assert_frame_equal(found.frame, wanted.frame, check_exact=True)
        pd.testing.assert_frame_equal(found.intervals, wanted.intervals, check_exact=True)
        assert found.test == wanted.test
        assert found.departments == wanted.departments == ("ash", "birch", "cedar", "date")
        assert len(wanted.frame) > 0

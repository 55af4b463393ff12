"""Statistics of joined tables equal pandas on the merged plaintext; what cannot be computed apart is refused in words."""

from __future__ import annotations

import clinic
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated import local
from sandbox import col, corr, count, cov
from sandbox.catalog import Catalog, Column, DataSet
from sandbox.errors import ParameterError, QueryError
from sandbox.joining.declared import Join

MERGED = clinic.merged(clinic.frames())


@pytest.fixture(scope="module")
def wide():
    """Open data: nothing is suppressed, and no release bars another."""
    return clinic.federation("general-1").city().join(*clinic.TABLES, on="person")


def released(query, **options):
    return query.release(purpose=clinic.PURPOSE, **options)


def test_columns_are_told_with_their_department(wide):
    columns = wide.columns.set_index("column")
    assert columns.loc["hdl", "department"] == "lab"
    assert bool(columns.loc["hdl", "nullable"])
    assert columns.loc["tests", "domain"] == "0 to 3"
    assert columns.loc["diabetes", "type"] == "boolean"


def test_groups_and_values_of_several_departments(wide):
    query = wide.filter(col("age") >= 40).group_by("sex", "diabetes")
    aggregates = (
        count(),
        col("hdl").count().alias("n_hdl"),
        col("hdl").mean(),
        col("age").sum(),
        col("weight").std(),
        col("highest").var(),
    )
    frame = released(query.agg(*aggregates)).frame.set_index(["sex", "diabetes"]).astype(float)
    groups = MERGED[MERGED.age >= 40].groupby(["sex", "diabetes"])
    expected = pd.DataFrame(
        {
            "count": groups.size(),
            "n_hdl": groups.hdl.count(),
            "hdl_mean": groups.hdl.mean(),
            "age_sum": groups.age.sum(),
            "weight_std": groups.weight.std(),
            "highest_var": groups.highest.var(),
        }
    ).astype(float)
    pd.testing.assert_frame_equal(frame, expected, check_names=False, rtol=1e-9)


def test_covariances_across_departments_lie_in_their_intervals(wide):
    names = ["age", "hdl", "weight", "highest"]
    for release, expected in (
        (released(wide.corr(names)), MERGED[names].corr()),
        (released(wide.agg(cov("age", "highest").alias("age|highest"))), MERGED[names].cov()),
    ):
        for series in release.series:
            a, b = series.name.split("|")
            assert series.values[0] == pytest.approx(expected.loc[a, b], rel=1e-6, abs=1e-7)
            assert series.low[0] - 1e-12 <= expected.loc[a, b] <= series.high[0] + 1e-12


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (col("highest") > col("limit"), MERGED.highest > MERGED.limit),
        (col("highest") >= col("limit"), MERGED.highest >= MERGED.limit),
        (col("highest") < col("limit"), MERGED.highest < MERGED.limit),
        (col("highest") <= col("age") + 10, MERGED.highest <= MERGED.age + 10),
        (
            (col("limit") == col("age")) & (col("sex") == "male"),
            (MERGED.limit == MERGED.age) & (MERGED.sex == "male"),
        ),
    ],
)
def test_filters_compare_columns_of_two_departments(wide, condition, holds):
    assert released(wide.filter(condition).agg(count())).frame["count"].tolist() == [holds.sum()]


def test_quantiles_bands_tests_and_tables(wide):
    banded = wide.with_columns(band=col("age").cut([40, 60]))
    frame = released(banded.group_by("band").agg(col("age").quantile(0.5), col("tests").median())).frame
    expected = MERGED.groupby(pd.cut(MERGED.age, [0, 40, 60, 100], right=False))
    assert frame["age_q50"].tolist() == expected.age.median().tolist()
    assert frame["tests_median"].tolist() == expected.tests.median().tolist()
    table = released(wide.crosstab("sex", "diabetes"))
    assert table.frame.to_numpy().tolist() == pd.crosstab(MERGED.sex, MERGED.diabetes).to_numpy().tolist()
    from scipy import stats

    sick = [MERGED.hdl[MERGED.diabetes == value].dropna() for value in (False, True)]
    found = released(wide.ttest("hdl", by="diabetes")).test
    assert found.p_value == pytest.approx(stats.ttest_ind(*sick, equal_var=False).pvalue, rel=1e-6)


def test_noise_has_the_deviation_that_the_release_states(wide):
    """292 cells in one release. The sum of squared errors over the stated variance is chi-squared; 2/3 and 3/2 of the deviation are refused
    at a false-alarm rate of 1e-6."""
    from scipy import stats

    release = released(wide.group_by("age", "sex", "diabetes").agg(count()), epsilon=2.0)
    cells = MERGED.groupby(["age", "sex", "diabetes"]).size()
    truth = [cells.get(cell, 0) for cell in zip(*release.keys.values(), strict=True)]
    [series] = release.series
    deviation = (series.high[0] - series.low[0]) / 2 / stats.norm.ppf(0.975)
    squares = float(np.sum((np.array(series.values) - truth) ** 2)) / deviation**2
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], len(truth))
    assert low < squares < high
    assert not low < squares * 2.25 < high
    assert not low < squares / 2.25 < high
    assert release.privacy.epsilon == 2.0


def test_private_values_lie_near_the_truth(wide):
    query = wide.group_by("sex").agg(count(), col("hdl").mean(), corr("age", "highest"), col("age").median())
    release = released(query, epsilon=30.0)
    frame, groups = release.frame.set_index("sex"), MERGED.groupby("sex")
    half = (release.intervals["hdl_mean_high"] - release.intervals["hdl_mean_low"]).to_numpy() / 2
    assert (abs(frame["hdl_mean"] - groups.hdl.mean()).to_numpy() <= 5 * half).all()
    assert half.max() < 5


keys = st.lists(st.sampled_from(["a", "Ä", "ａ", "b", "c", "漢", "d e", "f"]), unique=True, max_size=8)


@settings(max_examples=5)
@given(st.data())
def test_tables_of_any_shape_equal_pandas(data):
    """No overlap, full overlap, no rows, one row, nulls, unicode keys under one spelling, values at their bounds."""
    rows = {}
    for name in ("x", "y", "z"):
        found = data.draw(keys, label=name)
        if {"a", "ａ"} <= set(found):
            found.remove("a")  # they are one person under the normaliser
        values = [data.draw(st.sampled_from([-3, 0, 3, None])) for _ in found]
        flags = [data.draw(st.booleans()) for _ in found]
        rows[name] = pd.DataFrame(
            {
                "k": pd.Series(found, dtype=object),
                name: pd.Series(values, dtype=object),
                f"is_{name}": pd.Series(flags, dtype=bool),
            }
        )
    catalogs = {}
    for name in rows:
        others = tuple(f"{other}.t" for other in rows if other != name)
        dataset = DataSet(
            "general-1",
            ("research",),
            {
                "k": Column("identifier", normaliser="text"),
                name: Column("integer", bounds=(-3, 3), nullable=True),
                f"is_{name}": Column("boolean"),
            },
            unit="k",
            max_rows=100,
            join=Join(others),
        )
        catalogs[name] = Catalog(name, {"t": dataset})
    city = local.open_city(catalogs, {name: {"t": frame} for name, frame in rows.items()})
    table = city.join("x.t", "y.t", "z.t", on="k")
    query = (
        table.filter(~col("is_z")).group_by("is_x").agg(count(), col("x").count().alias("nx"), col("y").sum())
    )
    frame = query.release(purpose="research").frame
    spelt = [f.assign(k=f.k.str.normalize("NFKC").str.casefold()) for f in rows.values()]
    merged = spelt[0].merge(spelt[1], on="k").merge(spelt[2], on="k")
    merged = merged[~merged.is_z.astype(bool)]
    for value, line in frame.set_index("is_x").iterrows():
        cell = merged[merged.is_x == value]
        assert line["count"] == len(cell)
        assert line["nx"] == cell.x.notna().sum()
        assert line["y_sum"] == cell.y.dropna().sum()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (
            lambda wide: wide.filter((col("sex") == "male") | col("diabetes")).agg(count()),
            "filter: a condition on columns of registry and hospital may compare two whole numbers",
        ),
        (lambda wide: wide.filter(col("hdl") > col("age")).agg(count()), "may compare two whole numbers"),
        (lambda wide: wide.filter(col("age") != col("limit")).agg(count()), "with < <= > >= or =="),
        (lambda wide: wide.agg((col("hdl") * col("age")).mean()), "mixes columns of registry and lab"),
        (lambda wide: wide.agg(col("person").count()), "identifies units; it cannot be queried"),
        (lambda wide: wide.agg(col("nothing").mean()), "unknown column 'nothing'"),
        (
            lambda wide: wide.group_by("age", "limit", "tests").agg(count()),
            "more than 8192 sums: use fewer or coarser keys",
        ),
    ],
)
def test_what_cannot_be_computed_apart_is_refused_in_words(wide, query, reason):
    with pytest.raises(QueryError, match=reason.replace("(", r"\(").replace("?", r"\?")):
        released(query(wide))


def test_a_column_that_two_tables_have_is_called_by_its_department():
    catalogs, rows = {}, {}
    for seed, name in enumerate(("x", "y", "z")):
        others = tuple(f"{other}.t" for other in ("x", "y", "z") if other != name)
        columns = {"k": Column("identifier"), "v": Column("integer", bounds=(0, 9))}
        dataset = DataSet("general-1", ("research",), columns, unit="k", max_rows=100, join=Join(others))
        catalogs[name] = Catalog(name, {"t": dataset})
        rows[name] = {"t": pd.DataFrame({"k": np.arange(50), "v": np.arange(50) % (seed + 2)})}
    table = local.open_city(catalogs, rows).join("x.t", "y.t", "z.t", on="k")
    query = table.group_by("x.v").agg(col("y.v").sum(), col("z.v").sum())
    found = query.release(purpose="research").frame.set_index("x.v")
    merged = pd.DataFrame({name: frames["t"].v for name, frames in rows.items()})
    assert found.loc[[0, 1], "y.v_sum"].tolist() == merged.groupby("x").y.sum().tolist()
    assert found.loc[[0, 1], "z.v_sum"].tolist() == merged.groupby("x").z.sum().tolist()


def test_mock_data_and_explanations_spend_nothing(wide):
    query = wide.group_by("sex").agg(count(), col("hdl").mean())
    mock = query.mock()
    assert mock.mock
    assert mock.frame["count"].sum() == 300
    explained = query.explain(epsilon=1.0)
    assert "registry sends the bins in which its people would be" in repr(explained)
    assert explained.decisions == {"registry": (), "lab": (), "hospital": ()}
    release = released(query, epsilon=1.0)
    assert release.cost.rounds == explained.rounds


def test_too_much_noise_is_refused_before_anything_is_spent(wide):
    with pytest.raises(ParameterError, match="'epsilon' asks for noise"):
        released(wide.agg(count()), epsilon=1e-6)


def test_messages_go_in_pieces_where_they_are_long(monkeypatch):
    from federated.joining import driving, sides

    monkeypatch.setattr(driving.Driver, "piece", 50_000)
    monkeypatch.setattr(sides.Sides, "piece", 70_000)
    table = clinic.federation("general-1").city().join(*clinic.TABLES, on="person")
    release = released(table.agg(count(), col("highest").sum()))
    assert release.frame["highest_sum"].tolist() == [MERGED.highest.sum()]
    assert release.cost.rounds > 15


def test_rounded_levels_are_rounded_and_small_cells_say_so():
    table = clinic.federation("general-3").city().join(*clinic.TABLES, on="person")
    release = released(table.group_by("age").agg(count(), col("limit").sum()))
    sizes = MERGED.groupby("age").size()
    for age, shown, why in zip(
        release.keys["age"], release.series[0].values, release.series[0].reasons, strict=True
    ):
        size = sizes.get(age, 0)
        assert (why == "") == (size >= 10)
        assert shown is None or (shown % 5 == 0 and abs(shown - size) <= 2.5)

"""The analyst's handle: what exists, what a query would do, mock data, and what a release says of itself."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from federated.local import open_city
from mpc.secagg import LEAKAGE
from sandbox import col, corr, count
from sandbox.catalog import Budget, Column
from sandbox.errors import BudgetExceeded, Denied, ParameterError, QueryError, SQLError, TooFewDepartments

PURPOSE = "research"


@pytest.fixture(params=["honest-but-curious", "active"], scope="module")
def opened(request, open_federation, people):
    everyone = people(level="general-2")
    return open_federation(everyone.catalogs, everyone.frames, request.param), everyone


def test_the_catalogue_says_what_exists_and_whose_it_is(opened):
    federation, everyone = opened
    catalog = federation.city.catalog()
    assert catalog["department"].tolist() == list(everyone.names)
    assert set(catalog["level"]) == {"general-2"}
    assert set(catalog["purposes"]) == {PURPOSE}
    assert set(catalog["epsilon"]) == {20.0}
    assert "ash, birch, cedar, date: t" in repr(federation.city)


def test_columns_are_the_declared_ones(opened):
    federation, _ = opened
    columns = federation.city.table("t").columns.set_index("column")
    assert columns.loc["region", "domain"] == "north, south, east"
    assert columns.loc["age", "domain"] == "0 to 100"
    assert columns["nullable"].to_dict() == {
        "region": False,
        "smokes": False,
        "age": False,
        "income": True,
    }


def test_explain_spends_nothing_and_foresees_the_release(opened):
    federation, everyone = opened
    query = federation.city.table("t").group_by("region").agg(count(), col("age").sum())
    before = federation.spent()
    explanation = query.explain(epsilon=1.0)
    assert federation.spent() == before
    assert explanation.cells == 3
    assert explanation.decisions == dict.fromkeys(everyone.names, ())
    federation.broker.attach(federation.wire)
    release = query.release(purpose=PURPOSE, epsilon=1.0)
    assert explanation.rounds == release.cost.rounds
    assert explanation.epsilon_left == pytest.approx(release.privacy.epsilon_left)
    after = federation.spent()
    for name in everyone.names:
        assert 20.0 - after[name] == pytest.approx(release.privacy.epsilon_left[name])
    for name in ("count", "age_sum"):  # the error foreseen is the one stated
        half = (release.intervals[f"{name}_high"] - release.intervals[f"{name}_low"]) / 2
        assert explanation.errors[name] == f"± {half[0]:.3g}"
    vector = 3 * 2 * 8  # three cells of two sums
    assert explanation.bytes >= 4 * vector


def test_explain_says_who_would_refuse(open_in_process, people):
    everyone = people()
    everyone.redeclare("cedar", budget=Budget(0.5, 1e-6))
    federation = open_in_process(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").agg(count())
    explanation = query.explain(epsilon=1.0)
    assert "privacy budget of 't'" in explanation.decisions["cedar"][0]
    assert explanation.decisions["ash"] == ()
    with pytest.raises(BudgetExceeded):
        query.release(purpose=PURPOSE, epsilon=1.0)
    federation.wire.lose("explain", "ash")
    assert query.explain().decisions["ash"] == ("did not answer in time",)
    with pytest.raises(ParameterError):
        query.explain(epsilon=1e-9, delta=1e-12)


def test_explain_names_the_disclosure_rules_of_an_exact_release(opened):
    federation, _ = opened
    explanation = federation.city.table("t").agg(count()).explain()
    assert explanation.epsilon is None
    assert explanation.errors == {"count": "none; suppressed below 10 units"}


def test_set_up_is_paid_once_a_batch(opened):
    federation, everyone = opened
    federation.broker.attach(federation.wire)
    rounds = 4 if federation.city.setting == "honest-but-curious" else 5
    query = federation.city.table("t").agg(count())
    first, second = (query.release(purpose=PURPOSE, epsilon=0.1).cost for _ in range(2))
    assert (first.rounds, second.rounds) == (rounds + 3, rounds)
    assert set(second.sent) == set(second.received) == set(everyone.names)
    assert all(0 < second.sent[name] < first.sent[name] for name in everyone.names)
    traffic = federation.wire.traffic
    masked = len(federation.wire.reply("masked", "ash"))
    assert masked < second.sent["ash"] <= traffic.received["ash"]


def test_progress_names_the_stages(opened):
    federation, _ = opened
    stages = []
    federation.city.progress = stages.append
    federation.broker.attach(federation.wire)
    federation.city.table("t").agg(count()).release(purpose=PURPOSE, epsilon=0.1)
    federation.city.progress = lambda _stage: None
    confirming = ["confirming who remained"] if federation.city.setting == "active" else []
    assert stages == [
        "deciding",
        "exchanging keys",
        "computing and masking",
        *confirming,
        "unmasking the sum",
        "logging and signing the release",
    ]


def test_the_leakage_statement_fits_setting_and_mode(opened):
    federation, everyone = opened
    query = federation.city.table("t").group_by("region").agg(col("age").mean())
    exact, noisy = query.release(purpose=PURPOSE), query.release(purpose=PURPOSE, epsilon=0.5)
    for release in (exact, noisy):
        text = "\n".join(release.leakage)
        assert LEAKAGE[federation.city.setting] in text
        assert ", ".join(everyone.names) in text
    assert "no differential privacy" in "\n".join(exact.leakage)
    assert "(0.5, 1e-06)-differentially private" in "\n".join(noisy.leakage)


def test_mock_runs_the_same_query_and_spends_nothing(people):
    everyone = people()
    city = open_city(everyone.catalogs, everyone.frames)
    query = city.table("t").group_by("region").agg(count(), col("income").mean())
    for privacy in ({}, {"epsilon": 1.0}):
        mock, real = query.mock(**privacy), query.release(purpose=PURPOSE, **privacy)
        assert mock.mock
        assert "Mock data" in repr(mock)
        assert list(mock.frame.columns) == list(real.frame.columns)
        assert mock.frame["region"].tolist() == real.frame["region"].tolist()
    catalog = city.catalog()
    assert catalog["epsilon_left"].tolist() == pytest.approx([19.0] * 4, rel=1e-6)


def test_mock_data_are_not_the_data(people):
    columns = {"code": Column("integer", (0, 10**6))}
    everyone = people(columns=columns)
    frame = pd.DataFrame({"code": np.full(40, 777_777)})
    city = open_city(everyone.catalogs, {name: {"t": frame} for name in everyone.names})
    mocked = city.table("t").agg(col("code").var()).mock().frame["code_var"][0]
    assert mocked > 10**9


def test_a_session_without_mock_data_says_so(opened):
    federation, _ = opened
    with pytest.raises(ParameterError, match="no mock data"):
        federation.city.table("t").agg(count()).mock()


def test_sql_is_the_same_query(opened):
    federation, _ = opened
    built = (
        federation.city.table("t")
        .filter(col("age") >= 30)
        .group_by("region")
        .agg(count(), col("age").mean())
        .release(purpose=PURPOSE)
        .frame
    )
    text = "SELECT region, COUNT(*), AVG(age) FROM t WHERE age >= 30 GROUP BY region"
    written = federation.city.sql(text).release(purpose=PURPOSE).frame
    assert written.to_numpy().tolist() == built.to_numpy().tolist()
    with pytest.raises(SQLError):
        federation.city.sql("SELECT age FROM t")
    with pytest.raises(QueryError, match="unknown data set 'taxes'"):
        federation.city.sql("SELECT COUNT(*) FROM taxes")


def test_a_department_without_the_table_is_not_asked(open_federation, people):
    everyone = people()
    catalog = everyone.catalogs["date"]
    everyone.catalogs["date"] = type(catalog)("date", {"u": catalog.datasets["t"]})
    everyone.frames["date"] = {"u": everyone.frames["date"]["t"]}
    federation = open_federation(everyone.catalogs, everyone.frames)
    release = federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    assert release.departments == ("ash", "birch", "cedar")
    assert release.frame["count"].tolist() == [120]
    assert all(name != "date" for kind, name, _, _ in federation.wire.seen if kind != "catalog")
    with pytest.raises(TooFewDepartments):
        federation.city.table("u").agg(count()).release(purpose=PURPOSE)


def test_disclosure_rules_of_the_strictest_department_hold(open_in_process, people):
    everyone = people(rows=8, level="general-1")
    everyone.redeclare("cedar", level="general-4")
    federation = open_in_process(everyone.catalogs, everyone.frames)
    release = federation.city.table("t").group_by("region").agg(count()).release(purpose=PURPOSE)
    sizes = everyone.pooled().groupby("region").size()
    assert sizes.min() < 20, "the table has a small cell"
    for _, row in release.frame.iterrows():
        size = sizes[row["region"]]
        assert pd.isna(row["count"]) == (size < 20)
        if size < 20:
            assert row["suppressed"] == "fewer than 20 units"


def test_rounding_is_shown_in_value_and_interval(open_in_process, people):
    everyone = people(level="general-3", rows=60)
    federation = open_in_process(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").group_by("smokes").agg(count(), col("age").sum(), col("age").mean())
    release = query.release(purpose=PURPOSE)
    pooled = everyone.pooled().groupby("smokes")["age"]
    truth = pd.DataFrame({"count": pooled.size(), "age_sum": pooled.sum(), "age_mean": pooled.mean()})
    assert (release.frame["count"] % 5 == 0).all()
    # A row bound of age is 50 around its middle, 50: sums move in steps of 5 * 50.
    assert ((release.frame["age_sum"] - 50 * release.frame["count"]) % 250 == 0).all()
    for name in truth:
        assert (release.intervals[f"{name}_low"].to_numpy() <= truth[name].to_numpy() + 1e-9).all()
        assert (truth[name].to_numpy() <= release.intervals[f"{name}_high"].to_numpy() + 1e-9).all()


def test_dp_is_not_offered_without_a_budget(open_in_process, people):
    everyone = people(budget=None)
    federation = open_in_process(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").agg(count())
    assert query.release(purpose=PURPOSE).frame["count"].tolist() == [160]
    with pytest.raises(Denied, match="no privacy budget"):
        query.release(purpose=PURPOSE, epsilon=1.0)
    assert federation.city.catalog()["epsilon"].isna().all()


def test_the_default_delta_is_the_smallest_of_the_budgets(open_in_process, people):
    everyone = people()
    everyone.redeclare("cedar", budget=Budget(20.0, 1e-9))
    federation = open_in_process(everyone.catalogs, everyone.frames)
    release = federation.city.table("t").agg(count()).release(purpose=PURPOSE, epsilon=1.0)
    assert release.privacy.delta == 1e-9


def test_undefined_values_are_shown_as_such(open_in_process, people):
    everyone = people(rows=1)
    federation = open_in_process(everyone.catalogs, everyone.frames)
    table = federation.city.table("t").filter(col("age") < 0)
    release = table.agg(count(), col("age").sum(), col("age").mean(), corr("age", "income")).release(
        purpose=PURPOSE
    )
    [row] = release.frame.to_dict("records")
    assert (row["count"], row["age_sum"]) == (0, 0)
    assert math.isnan(row["age_mean"])
    assert row["suppressed"] == "not defined"

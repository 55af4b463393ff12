"""Attacks on exact releases of joined tables, and on their noise: each succeeds with its defence off, and fails with it on.

Three departments know 120 people; one of them, the victim, has an income that two analysts want who pool what they got. No department knows
who is in a joined cell, so none could compare cells alone: they count, in a join of its own, whom the cells share.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from federated import local
from federated.joining import driving
from sandbox import col, count, dp
from sandbox.catalog import Budget, Catalog, Column, DataSet, Level
from sandbox.errors import Denied, QueryError
from sandbox.fit import LinearRegression
from sandbox.joining import door
from sandbox.joining.declared import Join

SECRET = 871
PEOPLE = 120
TABLES = ("registry.t", "tax.t", "clinic.t")
COLUMNS = {
    "registry": {"age": Column("integer", bounds=(0, 120))},
    "tax": {"income": Column("integer", bounds=(0, 1000))},
    "clinic": {"ill": Column("boolean"), "visits": Column("integer", bounds=(0, 20))},
}


def frames() -> dict[str, pd.DataFrame]:
    random = np.random.default_rng(3)
    people = np.arange(PEOPLE)
    registry = pd.DataFrame({"id": people, "age": random.integers(20, 80, PEOPLE)})
    tax = pd.DataFrame({"id": people, "income": random.integers(100, 900, PEOPLE)})
    clinic = pd.DataFrame({"id": people, "ill": people % 2 == 0, "visits": random.integers(0, 10, PEOPLE)})
    registry.loc[0, "age"], tax.loc[0, "income"], clinic.loc[0, "visits"] = 97, SECRET, 17
    return {"registry": registry, "tax": tax, "clinic": clinic}


def town(
    rows: dict[str, pd.DataFrame] | None = None, level: Level = "general-2", **options: object
) -> local.Federation:
    catalogs = {}
    for name, columns in COLUMNS.items():
        others = tuple(table for table in TABLES if not table.startswith(name))
        dataset = DataSet(
            level,
            ("research",),
            {"id": Column("identifier"), **columns},
            unit="id",
            max_rows=1000,
            budget=Budget(50.0, 1e-6),
            join=Join(others),
        )
        catalogs[name] = Catalog(name, {"t": dataset})
    found = {name: {"t": frame} for name, frame in (rows or frames()).items()}
    return local.open_federation(catalogs, found, **options)


def total(table, *conditions) -> int:
    release = table.filter(*conditions).agg(count(), col("income").sum()).release(purpose="research")
    return int(release.frame["income_sum"][0])


def all_but_one(city) -> Iterator[int]:
    """Everyone, and everyone but the victim, whom only the clinic's column tells apart."""
    table = city.join(*TABLES, on="id")
    everyone = total(table)
    yield 1
    yield everyone - total(table, col("visits") < 17)


def by_two_departments(city) -> Iterator[int]:
    """The victim is the only one in two groups of different departments: neither filter alone is close to the group."""
    table = city.join(*TABLES, on="id")
    ill = total(table, col("ill"))
    yield 1
    yield ill - total(table, col("ill"), (col("age") < 97))


def bands(city) -> Iterator[int]:
    """Bands of one department's column, and the sum of some of them less the victim by another's."""
    table = city.join(*TABLES, on="id")
    banded = table.with_columns(band=col("age").cut([40, 60])).group_by("band")
    by_band = banded.agg(count(), col("income").sum()).release(purpose="research").frame
    yield 1
    yield int(by_band["income_sum"].iloc[-1]) - total(table, col("age") >= 60, col("visits") < 17)


def compared_numbers(city) -> Iterator[int]:
    """A comparison of two departments' numbers that leaves out the victim alone."""
    table = city.join(*TABLES, on="id")
    everyone = total(table)
    yield 1
    yield everyone - total(table, col("visits") * 12 <= col("age") + 100)


@pytest.mark.parametrize("attack", [all_but_one, by_two_departments, bands, compared_numbers])
def test_subtraction_is_refused_and_was_worth_it(attack, monkeypatch):
    guarded = town()
    steps = attack(guarded.city())
    released = next(steps)
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        next(steps)
    assert [len(list(g.state.ledger.entries())) for g in guarded.gates.values()] == [released] * 3
    monkeypatch.setattr(driving.cohorts, "refusals", lambda *_given: ())
    steps = attack(town().city())
    next(steps)
    assert next(steps) == SECRET


def test_another_set_of_tables_is_refused_and_was_worth_it(monkeypatch):
    """The same people but the victim, since a fourth department does not know the victim: no count of one join tells."""

    def attack(opened: local.Federation) -> int:
        city = opened.city()
        everyone = total(city.join(*TABLES, on="id"))
        return everyone - total(city.join(*TABLES, "police.t", on="id"))

    def wider() -> local.Federation:
        opened = town()
        catalogs = {name: gate.catalog for name, gate in opened.gates.items()}
        everybody = (*TABLES, "police.t")
        columns = {**COLUMNS, "police": {"seen": Column("boolean")}}
        rows = {**frames(), "police": pd.DataFrame({"id": np.arange(1, PEOPLE), "seen": True})}
        for name, own in columns.items():
            others = tuple(table for table in everybody if not table.startswith(name))
            dataset = DataSet(
                "general-2",
                ("research",),
                {"id": Column("identifier"), **own},
                unit="id",
                max_rows=1000,
                join=Join(others),
            )
            catalogs[name] = Catalog(name, {"t": dataset})
        return local.open_federation(catalogs, {name: {"t": frame} for name, frame in rows.items()})

    with pytest.raises(Denied, match=r"exact releases of \S+, \S+, \S+ joined on 'id': only that join"):
        attack(wider())
    monkeypatch.setattr(door, "against", lambda *_given: [])
    monkeypatch.setattr(driving.cohorts, "refusals", lambda *_given: ())
    monkeypatch.setattr("sandbox.joining.earlier.Joins.released", lambda *_given: ())
    monkeypatch.setattr("sandbox.joining.earlier.Joins.add", lambda *_given: None)
    assert attack(wider()) == SECRET


def test_another_version_of_the_data_is_refused_and_was_worth_it(tmp_path, monkeypatch):
    """The clinic strikes the victim off its table: what is left is everyone but the victim."""

    def attack(place) -> int:
        before = town(directory=place)
        everyone = total(before.city().join(*TABLES, on="id"))
        for gate in before.gates.values():
            gate.state.close()
        rows = frames()
        rows["clinic"] = rows["clinic"].iloc[1:]
        after = town(rows, directory=place, everybody=before.parties)
        return everyone - total(after.city().join(*TABLES, on="id"))

    with pytest.raises(
        Denied, match="the data of 't' have changed since an exact release of this joined table"
    ):
        attack(tmp_path / "guarded")
    monkeypatch.setattr(door, "against", lambda *_given: [])
    monkeypatch.setattr(driving.cohorts, "refusals", lambda *_given: ())
    assert attack(tmp_path / "open") == SECRET


@pytest.mark.parametrize("departments", [2, 3, 8])
def test_no_department_can_take_off_the_noise(departments):
    """Whoever knows its own share of the noise takes that off; with shares of sigma^2 / n too little would be left."""

    class Families:
        families = 4

    noise = dp.joined_noise(Families(), 0.01, departments)
    left = (departments - 1) * noise.department_sigma**2
    assert noise.sensitivity**2 / (2 * left) == pytest.approx(0.01)
    naive = (departments - 1) * noise.sigma**2 / departments
    assert noise.sensitivity**2 / (2 * naive) > 0.011


@pytest.mark.parametrize("level", ["general-1", "general-2"])
def test_a_target_that_says_who_is_97(level):
    """X'y of least squares is that one person's row, of which each department knows a part."""
    table = town(level=level).city().join(*TABLES, on="id")
    table = table.with_columns(one=col("age") == 97, mine=(col("age") == 97) * col("age"))

    def told(target: str) -> np.ndarray:
        model = (
            LinearRegression()
            .fit(table, features=["income", "visits"], target=target, purpose="research")
            .model
        )
        return np.linalg.solve(np.array(model.unscaled), np.array(model.coefficients))

    if level == "general-1":
        np.testing.assert_allclose(told("one"), [1, SECRET, 17], rtol=1e-6)
    else:
        with pytest.raises(Denied, match="level one, not 0: fewer than 10 rows"):
            told("one")
    with pytest.raises(QueryError, match="a condition stands alone"):
        told("mine")

"""A count in other words: the sum, mean or spread of a yes/no column tells how many said yes, though a count of them is suppressed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from federated import local
from sandbox import col, corr, count, cov, disclosure
from sandbox.catalog import Catalog, Column, DataSet
from sandbox.errors import Denied

NAMES = ("ash", "birch", "cedar")
PEOPLE = 60  # a department
COLUMNS = {
    "sick": Column("boolean"),
    "code": Column("integer", (0, 1)),
    "size": Column("integer", (5, 6), nullable=True),
    "poor": Column("boolean"),
    "income": Column("integer", (0, 1000)),
}


def city(sick: int, both: int = 20, **declared):
    """Three departments, of whose people `sick` in all have it; of 60 poor ones `both`."""
    random, frames, left = np.random.default_rng(3), {}, sick
    for at, name in enumerate(NAMES):
        mine = min(left, -(-sick // 3))
        left -= mine
        ill = np.arange(PEOPLE) < mine
        poor = ill & (np.cumsum(ill) <= both // 3 + (at < both % 3))
        poor |= np.arange(PEOPLE) >= PEOPLE - 20 + poor.sum()
        values = {"sick": ill, "code": ill.astype(int), "size": ill + 5, "poor": poor}
        frames[name] = {"t": pd.DataFrame({**values, "income": random.integers(0, 1000, PEOPLE)})}
    dataset = DataSet("general-2", ("research",), COLUMNS, max_rows=1000, **declared)
    return local.open_federation({name: Catalog(name, {"t": dataset}) for name in NAMES}, frames).city()


def told(opened, *aggregates) -> list[float | None]:
    series = opened.table("t").agg(count(), *aggregates).release(purpose="research").series[1:]
    return [one.values[0] for one in series]


EACH = [
    aggregate
    for name in ("sick", "code", "size")
    for aggregate in (col(name).sum(), col(name).mean(), col(name).var(), col(name).std())
]
PAIRS = [cov(col("sick"), col("income")), corr(col("sick"), col("poor"))]


@pytest.mark.parametrize("defended", [True, False])
@pytest.mark.parametrize("sick", [3, 9, 3 * PEOPLE - 3])
def test_how_many_said_yes_is_told_by_no_statistic(monkeypatch, sick, defended):
    if not defended:  # what dominance lets pass
        monkeypatch.setattr(disclosure, "one_sided", lambda *_: False)
    opened = city(sick)
    values = told(opened, *EACH, *PAIRS)
    if defended:
        assert values == [None] * len(values)
    else:
        assert values[0] == sick
        assert None not in values
    asked = opened.table("t").filter(col("sick")).agg(count())
    if sick < 10:
        assert asked.release(purpose="research").series[0].reasons[0] == "fewer than 10 units"
    else:
        with pytest.raises(Denied, match="differ by fewer than 10 units"):
            asked.release(purpose="research")


@pytest.mark.parametrize("sick", [10, 3 * PEOPLE - 10])
def test_ten_on_either_side_are_told(sick):
    values = told(city(sick), *EACH)
    assert [values[0], values[4], values[8]] == [sick, sick, 5 * 3 * PEOPLE + sick]
    assert None not in values


@pytest.mark.parametrize("both", [20, 9])
def test_the_four_cells_of_two_columns(both):
    """Each column has enough of either kind; of both together there may be too few."""
    opened = city(40, both)
    means = told(opened, col("sick").mean(), col("poor").mean())
    assert means == pytest.approx([40 / 180, 60 / 180])
    for pair in (cov(col("sick"), col("poor")), corr(col("sick"), col("poor"))):
        [value] = told(opened, pair)
        assert (value is None) == (both < 10)


def test_each_unit_may_have_several_rows():
    """Ten rows of one unit are no ten units."""
    rules = disclosure.RULES["general-2"]
    counts = [np.array([9, 10, 18, 19, 40]), np.array([40, 40, 40, 40, 18])]
    assert disclosure.one_sided(rules, counts, 1).tolist() == [True, False, False, False, False]
    assert disclosure.one_sided(rules, counts, 2).tolist() == [True, True, True, False, True]
    assert not np.any(disclosure.one_sided(disclosure.NONE, counts, 1))

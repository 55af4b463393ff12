"""Suppression alone does not hide a cell: linear programming over the published margins finds it. Rounding holds.

Each row and column of the table has no suppressed cell, or two and more, as complementary suppression asks. But the suppressed cells form
two cycles joined by one cell (a bridge of the bipartite graph of rows and columns), which the margins determine (Gusfield, "A Graph
Theoretic Approach to Statistical Data Security", SIAM J. Computing 1988).
"""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import linprog

from federated.local import open_city
from sandbox import count
from sandbox.catalog import Catalog, Column, DataSet

SIZE = 4
SECRET = (0, 2)
TABLE = np.array([[8, 9, 6, 40], [9, 8, 40, 40], [40, 40, 9, 8], [40, 40, 8, 9]])
NAMES = ("a", "b", "c", "d")


def city(level):
    key = Column("category", categories=NAMES)
    dataset = DataSet(
        description="two keys",
        source="x.parquet",
        level=level,
        purposes=("research",),
        max_rows=1000,
        columns={"row": key, "across": key},
    )
    people = [(NAMES[i], NAMES[j]) for (i, j), n in np.ndenumerate(TABLE) for _ in range(n)]
    order = np.random.default_rng(1).permutation(len(people))
    frame = pd.DataFrame(people, columns=["row", "across"]).iloc[order]
    departments = ("north", "south", "west")
    frames = {name: {"t": frame.iloc[i::3].reset_index(drop=True)} for i, name in enumerate(departments)}
    return open_city({name: Catalog(name, {"t": dataset}) for name in departments}, frames)


def published(city):
    """The table with NaN where it is suppressed, and both margins."""
    table = city.table("t")
    inner = table.group_by("row", "across").agg(count()).release(purpose="research").frame
    cells = inner["count"].astype("Float64").to_numpy(float, na_value=np.nan).reshape(SIZE, SIZE)
    rows, columns = (
        table.group_by(key).agg(count()).release(purpose="research").frame["count"].to_numpy(float)
        for key in ("row", "across")
    )
    return cells, rows, columns


def bounds(cells, rows, columns, uncertainty):
    """Least and largest value of the secret cell that agree with what is published, each value off by at most `uncertainty`."""
    hidden = np.isnan(cells)
    at = {place: k for k, place in enumerate(zip(*np.nonzero(hidden), strict=True))}
    equations, left = [], []
    for axis, margin in enumerate((rows, columns)):
        for i in range(SIZE):
            line = np.zeros(len(at))
            for place, k in at.items():
                line[k] = place[axis] == i
            known = np.nansum(np.take(cells, i, axis=axis))
            shown = (~np.isnan(np.take(cells, i, axis=axis))).sum()
            slack = uncertainty * (1 + shown)
            equations += [line, -line]
            left += [margin[i] - known + slack, -(margin[i] - known) + slack]
    target = np.zeros(len(at))
    target[at[SECRET]] = 1
    ends = [linprog(sign * target, A_ub=np.array(equations), b_ub=left, bounds=(0, 9)) for sign in (1, -1)]
    assert all(end.status == 0 for end in ends)
    return ends[0].fun, -ends[1].fun


def test_each_line_has_no_suppressed_cell_or_two_and_more():
    cells, _, _ = published(city("general-2"))
    hidden = np.isnan(cells)
    assert hidden[SECRET]
    for axis in (0, 1):
        assert set(hidden.sum(axis=axis)) <= {0, 2, 3}


def test_suppression_alone_gives_the_cell_away():
    low, high = bounds(*published(city("general-2")), uncertainty=0)
    assert low == pytest.approx(TABLE[SECRET])
    assert high == pytest.approx(TABLE[SECRET])


def test_rounding_holds():
    cells, rows, columns = published(city("general-3"))
    assert np.isnan(cells[SECRET])
    low, high = bounds(cells, rows, columns, uncertainty=2.5)
    assert high - low >= 5

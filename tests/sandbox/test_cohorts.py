"""Cohorts and their members against sets and pandas; what is kept survives, and the list of releases is checked."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sandbox import bitmaps, members, plan
from sandbox import query as q
from sandbox.catalog import Column, DataSet
from sandbox.cohorts import Cohorts
from sandbox.differencing import Released, layout
from sandbox.embedded import Opened
from sandbox.engine import Engine
from sandbox.errors import CatalogError, InternalError, LedgerError, ScheduleError
from sandbox.members import Members

ROWS = 30
KEYS = np.arange(ROWS, dtype=np.uint64) + 100


def cells_of(*layers, version="v1", cells=3) -> Members:
    return Members(version, (cells,), ((),) * len(layers), np.array(layers, np.int32))


def store(path, version="v1", keys=KEYS) -> Cohorts:
    opened = Cohorts(path / "cohorts.db")
    opened.identify("t", version, keys)
    return opened


@pytest.fixture
def kept(tmp_path):
    opened = store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("cohorts")


labels = hnp.arrays(np.int32, ROWS, elements=st.integers(-1, 2))


def counted(new: np.ndarray, universe: int, old: list[set[int]]) -> list[int]:
    """The vector, from sets."""
    sets = [set(np.flatnonzero(new == cell)) for cell in range(3)]
    return [universe, *map(len, sets), *map(len, old), *(len(a & b) for a in sets for b in old)]


@given(st.lists(labels, max_size=4), labels, st.integers(0, 1))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_sets(path, old, new, many):
    (path / "cohorts.db").unlink(missing_ok=True)
    opened = store(path)
    before = bitmaps._LOOKUPS_PER_INTERSECTION
    try:
        for i, release in enumerate(old):
            opened.add("t", f"request {i}", cells_of(release), {f"request {j}" for j in range(i)})
            opened.settle("t", f"request {i}", [0, 2])
        released = opened.released("t")
        bitmaps._LOOKUPS_PER_INTERSECTION = many * 1000  # either way of counting
        vector = opened.vector("t", cells_of(new), released)
    finally:
        bitmaps._LOOKUPS_PER_INTERSECTION = before
        opened.close()
    sets = [set(np.flatnonzero(release == cell)) for release in old for cell in (0, 2)]
    assert vector.tolist() == [counted(new, ROWS, sets)]
    assert vector.shape[1] == layout(3, released)


def test_counts_of_departments_add_up_to_those_of_all_rows(tmp_path):
    random = np.random.default_rng(1)
    old, new = random.integers(-1, 3, (2, ROWS))
    total = 0
    for part in (slice(0, 10), slice(10, 11), slice(11, ROWS)):
        (tmp_path / str(part.start)).mkdir()
        opened = store(tmp_path / str(part.start), keys=KEYS[part])
        opened.add("t", "first", cells_of(old[part]), ())
        total = total + opened.vector("t", cells_of(new[part]), opened.released("t"))
        opened.close()
    assert total.tolist() == [counted(new, ROWS, [set(np.flatnonzero(old == cell)) for cell in range(3)])]


def test_layers_are_cohorts_of_their_own(kept):
    a, b = np.repeat([0, 1, 2], 10), np.repeat([0, -1, 2], 10)
    kept.add("t", "first", cells_of(a, b), ())
    assert [earlier.request for earlier in kept.released("t")] == ["first", "first/1"]
    vector = kept.vector("t", cells_of(b), kept.released("t"))
    both = [set(np.flatnonzero(x == cell)) for x in (a, b) for cell in range(3)]
    assert vector.tolist() == [counted(b, ROWS, both)]


def test_cohorts_survive_reopening(kept, tmp_path):
    first = np.repeat([0, 1, 2], 10)
    kept.add("t", "first", cells_of(first), ())
    again = Cohorts(tmp_path / "cohorts.db")
    assert again.knows("t", "v1")
    assert again.released("t") == (Released("first", (3,), (0, 1, 2)),)
    assert (
        again.vector("t", cells_of(first), again.released("t"))
        == kept.vector("t", cells_of(first), kept.released("t"))
    ).all()
    again.close()


def test_the_same_again_changes_nothing_and_something_else_is_refused(kept):
    first = cells_of(np.repeat([0, 1, 2], 10))
    kept.add("t", "first", first, ())
    kept.add("t", "first", first, ())
    assert len(kept.released("t")) == 1
    with pytest.raises(InternalError, match="other rows"):
        kept.add("t", "first", cells_of(np.repeat([0, 2, 1], 10)), ())
    kept.settle("t", "first", [0, 1])
    kept.settle("t", "first", [1, 0])
    assert kept.released("t") == (Released("first", (3,), (0, 1)),)
    with pytest.raises(ScheduleError, match="names other cells"):
        kept.settle("t", "first", [0])
    with pytest.raises(ScheduleError, match="sent no sums"):
        kept.settle("t", "second", [0])


def test_of_two_releases_that_do_not_know_each_other_only_the_first_passes(kept):
    one, other = cells_of(np.repeat([0, 1, 2], 10)), cells_of(np.repeat([0, 1, -1], 10))
    kept.vector("t", one, ())
    kept.vector("t", other, ())
    kept.add("t", "first", one, ())
    with pytest.raises(ScheduleError, match="ask again"):
        kept.add("t", "second", other, ())
    kept.add("t", "second", other, {"first"})
    kept.add("t", "first", one, ())  # it was kept before, and is known again
    assert [earlier.request for earlier in kept.released("t")] == ["first", "second"]


def test_a_record_cannot_name_cells_that_there_are_not(kept):
    kept.add("t", "first", cells_of(np.repeat([0, 1, 2], 10)), ())
    with pytest.raises(ScheduleError, match="does not have"):
        kept.settle("t", "first", [3])


def test_a_department_that_was_left_out_counts_nothing_but_keeps_the_list(kept):
    first = np.repeat([0, 1, 2], 10)
    kept.add("t", "first", cells_of(first), ())
    kept.settle("t", "first", [0, 1], included=False)
    released = kept.released("t")
    assert released == (Released("first", (3,), (0, 1)),)
    assert kept.vector("t", cells_of(first), released).tolist() == [counted(first, ROWS, [set(), set()])]


def test_equal_cohorts_count_alike_whatever_was_shown_of_them(kept):
    first, other = np.repeat([0, 1, 2], 10), np.repeat([0, 1, -1], 10)
    for i, (cells, shown) in enumerate(
        [(first, [0, 1]), (first, [1, 2]), (other, [1, 2]), (first, [0, 1, 2])]
    ):
        kept.add("t", f"{i}", cells_of(cells), {f"{j}" for j in range(i)})
        kept.settle("t", f"{i}", shown, included=i != 3)
    old = [(first, 0), (first, 1), (first, 1), (first, 2), (other, 1), (other, 2)]
    sets = [set(np.flatnonzero(cells == cell)) for cells, cell in old] + [set()] * 3
    for new in (np.random.default_rng(5).integers(-1, 3, ROWS).astype(np.int32), first, other):
        assert kept.vector("t", cells_of(new), kept.released("t")).tolist() == [counted(new, ROWS, sets)]


def test_the_same_layers_again_count_as_sets_do(kept):
    a, b = np.repeat([0, 1, 2], 10), np.repeat([0, -1, 2], 10)
    kept.add("t", "first", cells_of(a, b), ())
    both = [set(np.flatnonzero(x == cell)) for x in (a, b) for cell in range(3)]
    vector = kept.vector("t", cells_of(a, b), kept.released("t"))
    assert vector.tolist() == [counted(a, ROWS, both), counted(b, ROWS, both)]


def test_releases_of_others_count_nothing(kept):
    first = np.repeat([0, 1, 2], 10)
    theirs = (Released("theirs", (2, 2), (0, 3)),)
    assert kept.vector("t", cells_of(first), theirs).tolist() == [counted(first, ROWS, [set(), set()])]


def test_a_list_that_hides_a_release_or_its_cells_is_refused(kept):
    first = cells_of(np.repeat([0, 1, 2], 10))
    kept.add("t", "first", first, ())
    with pytest.raises(ScheduleError, match="leaves out"):
        kept.vector("t", first, ())
    kept.vector(
        "t", first, (Released("first", (3,), (1,)),)
    )  # the record has not come here: the list may know it
    kept.settle("t", "first", [0, 1])
    with pytest.raises(ScheduleError, match="other cells"):
        kept.vector("t", first, (Released("first", (3,), (1,)),))
    with pytest.raises(ScheduleError, match="twice"):
        kept.vector("t", first, kept.released("t") * 2)


def test_data_sets_do_not_mix(kept):
    kept.identify("other", "v1", KEYS)
    kept.add("other", "first", cells_of(np.repeat([0, 1, 2], 10)), ())
    assert kept.released("t") == ()


def test_rows_keep_their_numbers_from_version_to_version(kept):
    first = np.repeat([0, 1, 2], 10)
    kept.add("t", "first", cells_of(first), ())
    shuffled = np.random.default_rng(2).permutation(ROWS)
    keys = KEYS[shuffled].copy()
    keys[first[shuffled] == 2] = 7_000 + np.arange(10)  # the rows of cell 2 are replaced by others
    kept.identify("t", "v2", keys)
    assert not kept.knows("t", "v1")
    vector = kept.vector("t", cells_of(first[shuffled], version="v2"), kept.released("t"))
    shared = np.diag([10, 10, 0])
    assert vector.tolist() == [[ROWS + 10, 10, 10, 10, 10, 10, 10, *shared.ravel()]]
    with pytest.raises(InternalError, match="no numbers in this version"):
        kept.vector("t", cells_of(first), kept.released("t"))
    kept.identify("t", "v2", keys)
    assert (kept.vector("t", cells_of(first[shuffled], version="v2"), kept.released("t")) == vector).all()


def test_a_department_may_refuse_on_its_own_differences(kept):
    first = np.repeat([0, 1, 2], 10)
    kept.add("t", "first", cells_of(first), ())
    moved = first.copy()
    moved[0] = -1
    [reason] = kept.local_refusals("t", cells_of(moved), least=3)
    assert "first" in reason
    assert kept.local_refusals("t", cells_of(first), least=3) == ()
    moved[:3] = -1
    assert kept.local_refusals("t", cells_of(moved), least=3) == ()


def test_a_damaged_store_is_refused(tmp_path):
    (tmp_path / "cohorts.db").write_bytes(b"no database at all, just long enough " * 200)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Cohorts(tmp_path / "cohorts.db")


# --- members ---

DATASET = DataSet(
    "general-2",
    ("p",),
    {
        "sex": Column("category", categories=("f", "m"), nullable=True),
        "age": Column("integer", (0, 120), clip=True),
        "income": Column("real", (0, 1e6), nullable=True),
        "who": Column("identifier"),
    },
    max_rows=10_000,
)


def frame(rows=5_000, seed=3) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "sex": random.choice(np.array(["f", "m", None], object), rows),
            "age": random.integers(0, 140, rows),
            "income": np.where(random.random(rows) < 0.3, np.nan, random.random(rows) * 1e6),
            "who": [f"p{i}" for i in range(rows)],
        }
    )


def compiled(*keys: str, where: q.Expression | None = None) -> plan.Plan:
    aggregates = (q.Named("n", q.Count()), q.Named("m", q.Mean(q.Column("income"))))
    return plan.compile(q.Query("t", aggregates, keys, where), DATASET.schema(), exact=True)


OLD = q.Compare(">=", q.Column("age"), q.Value(60))


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
@pytest.mark.parametrize("where", [None, OLD])
@pytest.mark.parametrize("keys", [(), ("sex",)])
def test_members_are_the_rows_that_pandas_finds(tmp_path, suffix, where, keys):
    data = frame()
    dataset = msgspec.structs.replace(DATASET, source=f"t{suffix}")
    if suffix == ".parquet":
        import duckdb

        duckdb.sql(f"COPY data TO '{tmp_path}/t.parquet' (FORMAT parquet, ROW_GROUP_SIZE 2048)")
    elif suffix:
        data.to_csv(tmp_path / "t.csv", index=False)
    source = Engine("t", dataset, None if suffix else data, tmp_path)
    found = members.members(source, compiled(*keys, where=where))
    cell = (
        data["sex"].map({"f": 0, "m": 1}).fillna(2).to_numpy(np.int32) if keys else np.zeros(len(data), int)
    )
    everyone = np.where((data["age"] >= 60) | (where is None), cell, members.NOWHERE)
    assert found.shape == ((3,) if keys else ())
    assert found.layers == ((), (q.Column("income"),))
    assert (found.cells[0] == everyone).all()
    assert (found.cells[1] == np.where(data["income"].isna(), members.NOWHERE, everyone)).all()
    assert found.version == source.version()
    sums = source.sums(compiled(*keys, where=where), bounded=False)
    assert np.bincount(everyone[everyone >= 0]).tolist() == sums.components[0].tolist()


def test_nobody_is_in_no_cell():
    source = Engine("t", DATASET, frame())
    never = q.Compare(">", q.Column("age"), q.Value(1_000))
    assert (members.members(source, compiled("sex", where=never)).cells == members.NOWHERE).all()
    empty = Engine("t", DATASET, frame().head(0))
    assert members.members(empty, compiled("sex")).cells.shape == (2, 0)
    assert len(members.keys(empty)[1]) == 0


def test_keys_are_of_values_wherever_the_rows_stand(tmp_path):
    data = frame()
    version, keys = members.keys(Engine("t", DATASET, data))
    order = np.random.default_rng(4).permutation(len(data))
    again, moved = members.keys(Engine("t", DATASET, data.iloc[order].reset_index(drop=True)))
    assert version != again
    assert (moved == keys[order]).all()
    assert len(set(keys.tolist())) == len(data)
    edited = data.copy()
    edited.loc[17, "income"] = 1.0
    assert np.flatnonzero(members.keys(Engine("t", DATASET, edited))[1] != keys).tolist() == [17]


def test_equal_rows_have_different_keys_and_the_same_ones_in_any_order():
    data = pd.concat([frame(3)] * 4, ignore_index=True)
    _, keys = members.keys(Engine("t", DATASET, data))
    assert len(set(keys.tolist())) == 12
    _, again = members.keys(Engine("t", DATASET, data.sort_values("who", ignore_index=True)))
    assert set(again.tolist()) == set(keys.tolist())
    _, fewer = members.keys(Engine("t", DATASET, data.head(9)))
    assert set(fewer.tolist()) < set(keys.tolist())


def test_text_and_null_do_not_make_different_rows_alike():
    columns = {"a": Column("identifier"), "b": Column("identifier")}
    rows = [
        ("x:1", "y"),
        ("x", "1:y"),
        ("-", "x"),
        (None, "x"),
        ("x", "-"),
        ("x", None),
        ("", "x"),
        ("1", ":x"),
    ]
    data = pd.DataFrame(rows, columns=["a", "b"], dtype=object)
    source = Engine("t", DataSet("general-2", ("p",), columns), data)
    sql = members.keys_sql(source.dataset.schema(), "data", "duckdb", ordered=True)
    assert len(set(source.read(sql)[1]["key"].tolist())) == len(rows)


def test_data_that_change_while_they_are_read_are_refused(tmp_path, monkeypatch):
    frame().to_csv(tmp_path / "t.csv", index=False)

    source = Engine("t", msgspec.structs.replace(DATASET, source="t.csv"), directory=tmp_path)
    run = Opened.run

    def changing(*arguments, **options):
        found = run(*arguments, **options)
        frame(seed=5).to_csv(tmp_path / "t.csv", index=False)
        return found

    monkeypatch.setattr(Opened, "run", changing)
    with pytest.raises(CatalogError, match="changed while they were read"):
        members.members(source, compiled("sex"))

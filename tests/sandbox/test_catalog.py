"""Catalogues: each field that is malformed is named, with what is allowed, before any data are opened."""

from __future__ import annotations

import pickle

import msgspec
import pytest

from sandbox.catalog import Budget, Catalog, Column, DataSet, Schema, load
from sandbox.errors import CatalogError

TOML = """
department = "health"

[datasets.survey]
level = "general-3"
purposes = ["research"]
source = "survey.parquet"
unit = "person"
rows_per_unit = 2
max_rows = 1000
budget = { epsilon = 1.5, delta = 1e-6 }

[datasets.survey.columns]
person = { type = "identifier" }
age = { type = "integer", bounds = [0, 120], clip = true }
income = { type = "real", bounds = [-0.5, 1e6], nullable = true }
sex = { type = "category", categories = ["female", "male"] }
insured = { type = "boolean", description = "has insurance" }
"""
PERSON = Column("identifier")
AGE = Column("integer", (0, 120))


def catalog(**changes):
    fields = {"level": "general-3", "purposes": ("research",), "columns": {"person": PERSON, "age": AGE}}
    return Catalog("health", {"survey": DataSet(**fields | changes)})


def test_a_catalogue_is_read_as_written(tmp_path):
    path = tmp_path / "health.toml"
    path.write_text(TOML)
    columns = {
        "person": PERSON,
        "age": Column("integer", (0, 120), clip=True),
        "income": Column("real", (-0.5, 1e6), nullable=True),
        "sex": Column("category", categories=("female", "male")),
        "insured": Column("boolean", description="has insurance"),
    }
    survey = DataSet(
        "general-3",
        ("research",),
        columns,
        source="survey.parquet",
        unit="person",
        rows_per_unit=2,
        max_rows=1000,
        budget=Budget(1.5, 1e-6),
    )
    assert load(path) == Catalog("health", {"survey": survey})


@pytest.mark.parametrize(
    ("line", "instead", "named"),
    [
        ('department = "health"', "", "missing required field `department`"),
        ('department = "health"', 'department = "health"\nowner = "x"', "unknown field `owner`"),
        ('level = "general-3"', 'level = "secret"', r"'secret' - at `\$.datasets\[...\].level`"),
        ('level = "general-3"', "", "missing required field `level`"),
        ('purposes = ["research"]', 'purposes = "research"', "purposes"),
        ("max_rows = 1000", "max_rows = 1000.5", "max_rows"),
        ("max_rows = 1000", "max_row = 1000", "unknown field `max_row`"),
        ("epsilon = 1.5", 'epsilon = "1.5"', "budget.epsilon"),
        ('"identifier" }', '"key" }', "Invalid enum value 'key'"),
        ("bounds = [0, 120]", "bounds = [0]", "bounds"),
        ("bounds = [0, 120]", 'bounds = ["a", "b"]', "bounds"),
        ("clip = true", "clip = 1", "clip"),
        ("clip = true", "clipped = true", "unknown field `clipped`"),
        ('["female", "male"]', "[1, 2]", "categories"),
        ("rows_per_unit = 2", "rows_per_unit = 0", "'rows_per_unit' is 0; allowed are 1 to 1000"),
        ("rows_per_unit = 2", "rows_per_unit = ", r"catalogue health.toml is not TOML"),
    ],
)
def test_a_malformed_file_is_refused_with_the_field(tmp_path, line, instead, named):
    path = tmp_path / "health.toml"
    assert TOML.count(line) == 1
    path.write_text(TOML.replace(line, instead))
    with pytest.raises(CatalogError, match=named):
        load(path)


def test_a_file_that_is_missing_or_not_text_is_refused_by_name(tmp_path):
    path = tmp_path / "health.toml"
    with pytest.raises(CatalogError, match=r"catalogue health\.toml"):
        load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match=r"catalogue health\.toml"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"purposes": ()}, "'purposes' needs at least one"),
        ({"purposes": ("research", "")}, "'purposes' needs at least one non-empty"),
        ({"max_rows": 0}, "'max_rows' is 0; allowed are 1 to 1099511627776"),
        ({"max_rows": 2**40 + 1}, "'max_rows' is 1099511627777; allowed are 1 to 1099511627776"),
        ({"rows_per_unit": 1001, "unit": "person"}, "'rows_per_unit' is 1001; allowed are 1 to 1000"),
        ({"rows_per_unit": 2}, "'rows_per_unit' above 1 needs 'unit'"),
        ({"unit": "age"}, "'unit' must name a column of type 'identifier'"),
        ({"unit": "nobody"}, "'unit' must name a column of type 'identifier'"),
        ({"budget": Budget(0.0, 1e-6)}, "budget 'epsilon' is 0.0; allowed are numbers above 0, to 100"),
        ({"budget": Budget(100.5, 1e-6)}, "budget 'epsilon' is 100.5"),
        ({"budget": Budget(float("nan"), 1e-6)}, "budget 'epsilon' is nan"),
        ({"budget": Budget(float("inf"), 1e-6)}, "budget 'epsilon' is inf"),
        ({"budget": Budget(1.0, 0.0)}, "budget 'delta' is 0.0; allowed are 1e-15 to 1e-3"),
        ({"budget": Budget(1.0, 0.01)}, "budget 'delta' is 0.01"),
        ({"budget": Budget(1.0, float("nan"))}, "budget 'delta' is nan"),
        ({"columns": {}}, "at least one column is needed"),
    ],
)
def test_a_contradiction_in_a_data_set_is_refused_with_field_and_range(changes, named):
    with pytest.raises(CatalogError, match=f"data set 'survey': {named}"):
        catalog(**changes)


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (Column("category", (0, 1), ("a",)), "'bounds' belong to integer and real columns"),
        (Column("boolean", (0, 1)), "'bounds' belong to integer and real columns"),
        (Column("real", (1, 1)), "'bounds' must be two finite numbers, the lower first"),
        (Column("real", (2, 1)), "'bounds' must be two finite numbers, the lower first"),
        (Column("real", (0, float("inf"))), "'bounds' must be two finite numbers"),
        (Column("real", (float("nan"), 1)), "'bounds' must be two finite numbers"),
        (Column("real", (0, 1.1e150)), "'bounds' reach beyond 1e150"),
        (Column("integer", (0.5, 3)), "'bounds' of an integer column must be whole numbers"),
        (Column("integer", (0, 2.0**53 + 2)), r"'bounds' of an integer column must lie within ±2\^53"),
        (Column("integer", clip=True), "'clip' needs 'bounds'"),
        (Column("category"), "'categories' belong to category columns, and each of those needs them"),
        (Column("integer", (0, 1), ("a",)), "'categories' belong to category columns"),
        (Column("category", categories=()), "'categories' has 0 entries; allowed are 1 to 100000"),
        (Column("category", categories=tuple(map(str, range(100_001)))), "'categories' has 100001 entries"),
        (Column("category", categories=("a", "b", "a")), "'categories' must differ from each other"),
    ],
)
def test_a_contradiction_in_a_column_is_refused_with_its_name_and_range(column, named):
    with pytest.raises(CatalogError, match=f"data set 'survey', column 'x': {named}"):
        catalog(columns={"x": column})


@pytest.mark.parametrize("name", ["", "1st", "two words", 'a"b', "a;b", "x" * 129, "a\n", "a.b", "-"])
def test_a_name_that_would_need_care_elsewhere_is_refused(name):
    """Names stand in SQL, in files' names and in messages: letters, digits and _ only."""
    with pytest.raises(CatalogError, match=r"column .*: a name is 1 to 128 letters, digits or _"):
        catalog(columns={name: AGE})
    with pytest.raises(CatalogError, match=r"data set .*: a name is"):
        Catalog("health", {name: catalog().datasets["survey"]})
    with pytest.raises(CatalogError, match=r"department .*: a name is"):
        Catalog(name, catalog().datasets)


def test_names_may_be_in_any_script():
    assert "年龄" in catalog(columns={"年龄": AGE, "Größe_1": AGE}).datasets["survey"].columns


def test_a_department_needs_a_data_set():
    with pytest.raises(CatalogError, match="catalogue of 'health': at least one data set is needed"):
        Catalog("health", {})


def test_departments_that_declare_alike_have_one_schema_digest_whatever_else_they_choose():
    ours = catalog(purposes=("research",), budget=Budget(1.0, 1e-6)).datasets["survey"].schema()
    theirs = catalog(level="important", purposes=("planning",), source="x.csv").datasets["survey"].schema()
    assert ours.digest() == theirs.digest()
    whole = catalog(columns={"age": Column("integer", (0, 120))}).datasets["survey"].schema()
    same = catalog(columns={"age": Column("integer", (0.0, 120.0))}).datasets["survey"].schema()
    assert whole.digest() == same.digest()
    others = [
        {"columns": {"person": PERSON, "age": Column("integer", (0, 121))}},
        {"columns": {"person": PERSON, "age": Column("integer", (0, 120), nullable=True)}},
        {"columns": {"person": PERSON, "age": Column("integer", (0, 120), clip=True)}},
        {"unit": "person"},
        {"unit": "person", "rows_per_unit": 2},
        {"max_rows": 7},
    ]
    digests = {catalog(**changes).datasets["survey"].schema().digest() for changes in others}
    assert len(digests | {ours.digest()}) == len(others) + 1


def test_equal_columns_have_equal_digests_wherever_they_come_from():
    written = Column("identifier", normaliser="exact")
    for other in (
        Column("identifier"),
        pickle.loads(pickle.dumps(written)),
        msgspec.json.decode(b'{"type": "identifier", "normaliser": "exact"}', type=Column),
    ):
        assert Schema({"a": other}).digest() == Schema({"a": written}).digest()

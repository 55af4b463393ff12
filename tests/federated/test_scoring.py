"""Scores of a department's model, on both networks: right to the bound, refused in words, and nothing readable on the way."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest
from scored import BOUNDS, MODELS, catalog, declared, opened, quotas, rows, truth

from federated import local
from federated.deploy import checks
from federated.deploy.config import NodeConfig
from federated.scoring import server
from mpc.he import files
from mpc.he.models import features_of, linear
from sandbox.catalog import Catalog
from sandbox.errors import (
    BudgetExceeded,
    CatalogError,
    Denied,
    ParameterError,
    QueryError,
)
from sandbox.scoring.declared import read as read_models


@pytest.fixture(scope="module")
def bank(open_federation):
    return opened(open_federation)


# --- scores ---


@pytest.mark.parametrize(("name", "count"), [("credit", 4097), ("deep", 50), ("steps", 10)])
def test_scores_are_the_models_to_the_stated_bound_and_the_receipt_holds(bank, name, count):
    table = rows(count)
    table.index = table.index + 1000
    found = bank.city.score(model=f"{name}@bank", table=table, purpose="loans")
    assert found.values.shape == (count, 1)
    assert np.abs(found.values - truth(name, table)).max() <= found.bound < 0.1
    assert found.frame.index.equals(table.index)
    assert found.verify(bank.city.roster).ok
    assert not msgspec.structs.replace(found, release="0" * 64).verify(bank.city.roster).ok
    assert f"Scores of {count:,} rows by {name}@bank" in repr(found)
    assert "bank learns that analyst asked for" in found._repr_html_()


def test_mappings_and_lists_of_rows_serve_as_tables(bank):
    table = rows(3)
    as_columns = {name: table[name].to_list() for name in BOUNDS}
    for given in (as_columns, table[[*BOUNDS]].to_dict("records")):
        found = bank.city.score(model="credit@bank", table=given, purpose="loans")
        assert np.abs(found.values - truth("credit", table)).max() <= found.bound


def test_publishable_scores_carry_noise_that_is_stated(bank):
    table = rows(200)
    found = bank.city.score(model="credit@bank", table=table, purpose="loans", publishable=True)
    difference = np.abs(found.values - truth("credit", table)).max()
    assert 0 < difference <= found.bound + 9 * found.spread / 4
    assert "with noise of" in repr(found)
    assert bank.city.score(model="credit@bank", table=table, purpose="loans").spread is None


def test_models_say_what_may_be_asked(bank):
    frame = bank.city.models().set_index("model")
    assert list(frame.index) == ["credit@bank", "deep@bank", "steps@bank"]
    assert frame.loc["credit@bank", "features"] == "income, age"
    assert (frame["rows_per_analyst"] == 10_000).all()


# --- refused ---


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"purpose": "marketing"}, Denied, "bank: purpose 'marketing' is not permitted for model 'credit'"),
        ({"purpose": ""}, ParameterError, "'purpose' must be"),
        ({"model": "credit"}, ParameterError, "allowed is name@department"),
        ({"model": "other@bank"}, QueryError, "'bank' has no model 'other'; it has: credit, deep, steps"),
        ({"model": "credit@town"}, QueryError, "no models of 'town': known are: bank"),
        ({"table": rows(5).drop(columns="age")}, ParameterError, "lacks the columns 'age'"),
        ({"table": rows(5).assign(age=17)}, ParameterError, r"age: each value must lie in \[18, 70\]"),
        ({"table": rows(5).assign(age=np.nan)}, ParameterError, r"age: each value must lie in"),
        ({"table": rows(5).assign(age="old")}, ParameterError, "age: must be a column of numbers"),
        ({"table": rows(0)}, ParameterError, "rows"),
        ({"table": [{"age": 20}]}, ParameterError, "each row needs income, age"),
        ({"model": "steps@bank", "table": rows(5).assign(children=2.5)}, ParameterError, "declared levels"),
    ],
)
def test_what_is_refused_says_why_and_costs_nothing(bank, changes, error, text):
    before = quotas(bank)
    given = {"model": "credit@bank", "table": rows(5), "purpose": "loans", **changes}
    with pytest.raises(error, match=text):
        bank.city.score(**given)
    assert quotas(bank) == before


def test_an_attempt_to_work_the_model_out_ends_with_the_quota(open_federation):
    """Six unknowns: five scores leave a line of models, a sixth would give the model away."""
    features = features_of(dict.fromkeys("abcde", (0, 1)))
    weights = [0.3, -0.7, 0.2, 0.9, -0.4]
    models = {"linear": linear(features, weights, 0.1)}
    bank = opened(open_federation, models, rows=8, rows_per_analyst=5, tolerance=1e-3)
    points = pd.DataFrame(np.vstack([np.zeros(5), np.eye(5)]), columns=list("abcde"))
    found = bank.city.score(model="linear@bank", table=points[:5], purpose="loans")
    design = np.column_stack([np.ones(5), points[:5]])
    assert np.linalg.matrix_rank(design) == 5 < 6
    for table in (points[5:], points):
        with pytest.raises(BudgetExceeded, match="for analyst 'analyst': 5 of 5 rows are used"):
            bank.city.score(model="linear@bank", table=table, purpose="loans")
    assert len(quotas(bank)) == 1
    # With the quota off, the same questions do give it away.
    open_bank = opened(open_federation, models, rows=100, rows_per_analyst=100, tolerance=1e-3)
    found = open_bank.city.score(model="linear@bank", table=points, purpose="loans").values[:, 0]
    solved = np.linalg.solve(np.column_stack([np.ones(6), points]), found)
    assert np.abs(solved - [0.1, *weights]).max() < 0.01


def test_a_department_without_models_says_so_and_stands_in_nobodys_way(open_federation, people):
    everyone = people(departments=3)
    catalogs = {**everyone.catalogs, "bank": catalog(models={"credit": MODELS["credit"]})}
    federation = open_federation(catalogs, everyone.frames, models={"bank": MODELS})
    assert list(federation.city.models()["model"]) == ["credit@bank"]
    with pytest.raises(QueryError, match="no models of 'ash': QueryError: 'ash' publishes no models"):
        federation.city.score(model="credit@ash", table=rows(2), purpose="loans")
    assert federation.city.table("t").crosstab("region", "smokes").release(
        purpose="research"
    ).departments == (
        "ash",
        "birch",
        "cedar",
    )


# --- what a node refuses to serve ---


def test_a_node_is_checked_before_it_starts(tmp_path):
    """`sandbox node check` plans the model, or says what is wrong with it."""
    declares = declared(MODELS["credit"], file="credit.json")
    place = tmp_path / "node.toml"
    place.write_text('department = "bank"\nurl = "https://127.0.0.1:1"\n')
    (tmp_path / "catalog.toml").write_bytes(msgspec.toml.encode(Catalog("bank", models={"credit": declares})))
    config = NodeConfig.load(place)
    [told] = checks._data(config)
    assert (told.name, told.ok) == ("model credit", False)
    files.write(MODELS["credit"], tmp_path / "credit.json")
    [told] = checks._data(config)
    assert told.ok
    assert told.detail.startswith("2 features, scores to ")
    assert checks._catalog(config) == "0 data sets, 1 models"


@pytest.mark.parametrize(
    ("models", "changes", "text"),
    [
        ({}, {}, "model 'credit': its file is missing"),
        (
            {"credit": linear(features_of({"age": (18, 70), "income": (0, 500)}), [1, 1])},
            {},
            r"'bounds' are not those of the model, which has age = \[18, 70\], income",
        ),
        ({"credit": MODELS["credit"]}, {"tolerance": 1e-9}, "model 'credit': tolerance: cannot be kept"),
    ],
)
def test_a_model_that_is_not_the_declared_one_stops_the_node(models, changes, text):
    declares = catalog(models={"credit": MODELS["credit"]}, **changes)
    with pytest.raises(CatalogError, match=text):
        local.open_federation({"bank": declares}, {}, models={"bank": models})


def test_models_are_read_from_their_files(tmp_path):
    declares = declared(MODELS["credit"], file="credit.json")
    with pytest.raises(CatalogError, match=r"model 'credit': file 'credit.json': No such file"):
        read_models({"credit": declares}, tmp_path)
    files.write(MODELS["credit"], tmp_path / "credit.json")
    found = read_models({"credit": declares}, tmp_path)
    assert found == local.encoded({"credit": MODELS["credit"]})
    assert server.planned("credit", declares, found["credit"]).circuit.model == MODELS["credit"]
    with pytest.raises(FileExistsError):
        files.write(MODELS["credit"], tmp_path / "credit.json")
    for odd in (b"\x80\x04pickle", found["credit"].replace(b'"link"', b'"bond"'), found["credit"][:-1]):
        with pytest.raises(CatalogError, match=r"is no model as written by mpc\.he\.files"):
            server.planned("credit", declares, odd)

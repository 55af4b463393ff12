"""Federations whose files `sandbox federation init` has made, for the tests of deployment: three departments and an analyst."""

from __future__ import annotations

import os
import pathlib

import duckdb
import pandas as pd
import pytest
import village

from federated import up
from federated.deploy import federation
from federated.deploy.config import CoordinatorConfig
from sandbox import cli, count

DEPARTMENTS = ("ash", "birch", "cedar")
LATER = "date"
URL = "https://127.0.0.1:8443"


class Commands:
    """Runs a command in this process: its exit status, output and errors."""

    def __init__(self, capsys: pytest.CaptureFixture):
        self._capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return (ended.value.code, *self._capsys.readouterr())


def make(directory: pathlib.Path) -> pathlib.Path:
    """A federation's files."""
    federation.init(directory, "city", DEPARTMENTS, ("li",), URL, witnesses=("regulator",))
    return directory


def config(made: pathlib.Path) -> CoordinatorConfig:
    return CoordinatorConfig.load(made / "coordinator" / "coordinator.toml")


def ready(directory: pathlib.Path) -> dict[str, pd.DataFrame]:
    """The same with ports that are free, and the village's table at each department; its rows."""
    port = up.free_port()
    federation.init(
        directory,
        "city",
        DEPARTMENTS,
        ("analyst",),
        f"https://127.0.0.1:{port}",
        address=f"127.0.0.1:{port}",
        metrics=tuple(up.free_port() for _ in range(4)),
    )
    return {name: fill(directory, name, seed) for seed, name in enumerate(DEPARTMENTS)}


def fill(directory: pathlib.Path, name: str, seed: int) -> pd.DataFrame:
    """Give a node the village's table."""
    rows = village.rows(seed)
    duckdb.from_df(rows).write_parquet(os.fspath(directory / "nodes" / name / "t.parquet"))
    catalog = village.CATALOG.format(department=name, level="general-1")
    (directory / "nodes" / name / "catalog.toml").write_text(catalog)
    return rows


def people(city) -> tuple[int, tuple[str, ...]]:
    """A release of the number of rows, and who is in it."""
    release = city.table("t").agg(count()).release(purpose=village.PURPOSE)
    assert release.verify(city.roster).ok
    return int(release.frame["count"].sum()), release.departments

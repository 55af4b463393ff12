"""A federation's files for tests with processes: three departments with a small table on disk, keys for everybody, a TLS certificate."""

from __future__ import annotations

import os
import pathlib

import duckdb
import numpy as np
import over_tls
import pandas as pd

from federated import local
from federated.up import free_port

NAMES = ("ash", "birch", "cedar")
PURPOSE = "research"
ROWS = 300
CATALOG = """
department = "{department}"

[datasets.t]
level = "{level}"
purposes = ["research"]
source = "t.parquet"
max_rows = 10000

[datasets.t.budget]
epsilon = 20.0
delta = 1e-6

[datasets.t.columns.region]
type = "category"
categories = ["north", "south"]

[datasets.t.columns.age]
type = "integer"
bounds = [0, 100]
"""


def rows(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    region = generator.choice(["north", "south"], ROWS)
    return pd.DataFrame({"region": region, "age": generator.integers(0, 100, ROWS, endpoint=True)})


def build(
    directory: pathlib.Path,
    level: str = "general-1",
    names: tuple[str, ...] = NAMES,
    analysts: tuple[str, ...] = ("analyst",),
) -> dict[str, pd.DataFrame]:
    """Write the files; each department's rows."""
    everybody = local.parties(names, analysts[0])
    roster, more = everybody.roster, {}
    for name in analysts[1:]:
        key = local.SigningKey.generate()
        more[name] = key
        member = local.member(name, "analyst", "city statistics", key.public)
        roster = local.Roster(roster.federation, (*roster.members, member))
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    at = directory / "coordinator"
    (at / "links").mkdir(parents=True)
    over_tls.certificate(at)
    authority = (at / "tls.crt").read_bytes()
    everybody.coordinator.save(at / "coordinator.key")
    _write(at, roster, authority)
    (at / "coordinator.toml").write_text(
        f'federation = "city"\naddress = "127.0.0.1:{port}"\nurl = "{url}"\nmetrics = "127.0.0.1:{free_port()}"\n'
    )
    frames: dict[str, pd.DataFrame] = {}
    for seed, name in enumerate(names):
        place = directory / "nodes" / name
        place.mkdir(parents=True)
        _write(place, roster, authority)
        everybody.nodes[name].save(place / "node.key")
        (at / "links" / f"{name}.pub").write_bytes(over_tls.new_link_key(place / "link.key"))
        (place / "node.toml").write_text(
            f'department = "{name}"\nurl = "{url}"\nparties = {min(3, len(names))}\nmetrics = "127.0.0.1:{free_port()}"\n'
        )
        (place / "catalog.toml").write_text(CATALOG.format(department=name, level=level))
        frames[name] = rows(seed)
        duckdb.from_df(frames[name]).write_parquet(os.fspath(place / "t.parquet"))
    for name in analysts:
        place = directory / "analysts" / name
        place.mkdir(parents=True)
        _write(place, roster, authority)
        more.get(name, everybody.analyst).save(place / "analyst.key")
        (place / "city.toml").write_text(f'federation = "city"\nurl = "{url}"\nanalyst = "{name}"\n')
    return frames


def _write(place: pathlib.Path, roster: local.Roster, authority: bytes) -> None:
    (place / "roster.toml").write_text(roster.dumps())
    (place / "ca.crt").write_bytes(authority)

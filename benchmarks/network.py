"""The same requests over processes that speak TLS, and in one process: what the network costs, by cause.

A coordinator, three nodes and this analyst on loopback, as `sandbox up` starts them. Targets: a round in 0.4 s, a joint statistic in 1.2 s,
a secure sum of 10^6 values in 3 s.
"""

from __future__ import annotations

import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from federated import demo, up
from federated.session import City
from sandbox import col, count

RUNS = 15
SIDE = 1000
WIDE = """
[datasets.wide]
source = "wide.parquet"
level = "general-1"
purposes = ["public-health"]
max_rows = 2000

[datasets.wide.columns]
a = { type = "integer", bounds = [0, 999] }
b = { type = "integer", bounds = [0, 999] }
"""
PEOPLE = 1 << 17
JOINED = """
[datasets.{table}]
source = "{table}.parquet"
level = "general-1"
purposes = ["public-health"]
unit = "person"
max_rows = {rows}
join = {{ tables = {others} }}

[datasets.{table}.columns]
person = {{ type = "identifier" }}
{column} = {{ type = "integer", bounds = [0, {largest}] }}
"""


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="joint-sandbox-") as made:
        place = pathlib.Path(made) / "city"
        up.make(place)
        for seed, name in enumerate(demo.DEPARTMENTS):
            _widen(place / "nodes" / name, seed)
            _apart(place / "nodes" / name, seed)
        with up.Processes(place) as processes:
            return _figures(processes)


def _figures(processes: up.Processes) -> list[dict[str, Any]]:
    here, there = demo.city(), processes.city()
    exact_here, exact_there = _statistic(here), _statistic(there)
    wide = there.table("wide").group_by("a", "b").agg(count())
    calls: dict[str, Callable[[], Any]] = {
        "joint statistic, exact, in one process": lambda: exact_here.release(purpose="public-health"),
        "joint statistic, exact, over TLS": lambda: exact_there.release(purpose="public-health"),
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    releases: dict[str, list[Any]] = {name: [] for name in calls}
    for _ in range(RUNS + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            releases[name].append(call())
            samples[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(found[2:]) for name, found in samples.items()}
    local, remote = medians.values()
    last = list(releases.values())[1][2:]
    rounds = [release.cost.seconds / release.cost.rounds for release in last]
    records = [
        _record(name, medians[name], "s", samples[name][2:], target=1.2 if "TLS" in name else None)
        for name in calls
    ]
    records[1]["ratio"], records[1]["ratio_to"] = remote / local, "one process"
    records.append(
        _record("round of three nodes, over TLS", statistics.median(rounds), "s", rounds, target=0.4)
    )
    api = [
        took - release.cost.seconds
        for took, release in zip(samples["joint statistic, exact, over TLS"][2:], last, strict=True)
    ]
    records.append(
        _record("of a statistic: the analysts' API and the queue", statistics.median(api), "s", api)
    )
    busy = _answering(processes)
    per_round = statistics.median(rounds)
    records.append(_record("of a round: the slowest node's own work", busy, "s", [busy]))
    records.append(
        _record("of a round: Flower's messages, TLS, waiting", per_round - busy, "s", [per_round - busy])
    )
    wide.release(purpose="public-health")  # keys are exchanged
    found = []
    for _ in range(3):
        release = wide.release(purpose="public-health")
        found.append(release.cost.seconds)
    size = sum(release.cost.sent.values()) / SIDE**2 / len(demo.DEPARTMENTS)
    records.append(
        _record("secure sum, over TLS", statistics.median(found), "s", found, target=3.0, cells=SIDE**2)
    )
    records.append(_record("secure sum, over TLS: sent by a node", size, "B/value", [size], cells=SIDE**2))
    return [*records, *_join(there)]


def _join(city: City) -> list[dict[str, Any]]:
    """A count and a mean by two departments' groups, of three departments' tables joined: seconds, and a round's."""
    wide = city.join(*_TABLES, on="person")
    query = wide.group_by("c0", "c1").agg(count(), col("c2").mean())
    found = [query.release(purpose="public-health") for _ in range(RUNS // 3)]
    if sum(found[-1].frame["count"]) != PEOPLE // 2:
        raise AssertionError("the joined count is wrong")
    seconds = [release.cost.seconds for release in found]
    rounds = [release.cost.seconds / release.cost.rounds for release in found]
    sent = [(sum(r.cost.sent.values()) + sum(r.cost.received.values())) / PEOPLE for r in found]
    told = {"rows": PEOPLE, "rounds": found[-1].cost.rounds}
    name = "join of three tables, over TLS"
    return [
        _record(name, statistics.median(seconds), "s", seconds, **told),
        _record(f"{name}: a round", statistics.median(rounds), "s", rounds, **told),
        _record(f"{name}: all messages", statistics.median(sent), "B/row", sent, **told),
    ]


def _statistic(city: City) -> Any:
    return city.table(demo.TABLE).group_by("sex").agg(count(), col("illdays").mean(), col("spending").std())


def _answering(processes: up.Processes) -> float:
    """The median, over rounds, of the time that a node took to answer, from the nodes' logs; the slowest node's."""
    medians = []
    for name in processes.departments:
        text = (processes.place(name) / "log.jsonl").read_text()
        seconds = [float(value) for value in re.findall(r'"event": "answered".*?"seconds": ([0-9.]+)', text)]
        medians.append(statistics.median(seconds[-10 * RUNS :]))
    return max(medians)


def _widen(node: pathlib.Path, seed: int) -> None:
    """One more data set, whose cells are many."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({name: generator.integers(0, SIDE, 1000) for name in ("a", "b")})
    duckdb.from_df(frame).write_parquet(str(node / "wide.parquet"))
    with (node / "catalog.toml").open("a") as catalog:
        catalog.write(WIDE)


_TABLES = tuple(f"{name}.t{seed}" for seed, name in enumerate(demo.DEPARTMENTS))


def _apart(node: pathlib.Path, seed: int) -> None:
    """One column of people of whom all three departments know a half."""
    generator = np.random.default_rng(seed)
    largest = (1, 1, 1000)[seed]
    people = np.r_[: PEOPLE // 2, (seed + 1) * PEOPLE : (seed + 1) * PEOPLE + PEOPLE // 2]
    values = generator.integers(0, largest, PEOPLE, endpoint=True)
    frame = pd.DataFrame({"person": generator.permutation(people), f"c{seed}": values})
    duckdb.from_df(frame).write_parquet(str(node / f"t{seed}.parquet"))
    others = [table for table in _TABLES if not table.endswith(str(seed))]
    text = JOINED.format(table=f"t{seed}", rows=PEOPLE, others=others, column=f"c{seed}", largest=largest)
    with (node / "catalog.toml").open("a") as catalog:
        catalog.write(text)


def _record(
    name: str, value: float, unit: str, samples: list[float], target: float | None = None, **parameters: Any
) -> dict[str, Any]:
    return {
        "suite": "network",
        "name": name,
        "value": value,
        "unit": unit,
        "samples": samples,
        "target": target,
        "parameters": {"departments": len(demo.DEPARTMENTS), **parameters},
    }

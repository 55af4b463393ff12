"""The same requests over processes that speak TLS, in one process, and over an emulated wide-area network.

A coordinator, three nodes and this analyst on loopback, as `sandbox up` starts them. Parts of a joint statistic's time: the analysts' API and
the queue; the slowest node's own work, from the nodes' logs; Flower's messages, TLS and waiting. It cannot do without a round trip a round.

The wide-area network is `tc netem` on the loopback of a network namespace, where the kernel has it: then every process is in there. Elsewhere
the delay is injected at the channel: each message of a federation in one process sleeps for half a round trip and for its bytes at the given
rate. The entry's conditions say which it was.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import duckdb
import msgspec
import numpy as np
import pandas as pd
import pytest

from benchmarks.harness import Measure, Sizes, sweep
from federated import demo, local, network, up
from federated.session import City
from sandbox import col, count
from sandbox.catalog import DataSet

WORDS = Sizes(quick=(20_000,), default=(1_000_000,), full=(20_000, 1_000_000))  # that a department sends
COUNTED = 1000  # rows at each department
TABLES = {
    1_000_000: ("wide", 999, 499),
    20_000: ("narrow", 99, 99),
}  # two words a cell: rows, and departments that have any
PURPOSE = "public-health"
ELSEWHERE: dict[str, Any] = {"cpu_seconds": None, "peak_bytes": None}  # spent by other processes
PEOPLE = Sizes(quick=(1 << 12,), default=(1 << 17,))
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
STATISTIC = "joint statistic"


def prepare(node: pathlib.Path, seed: int, mode: str) -> None:
    """More data sets at a node."""
    [people] = PEOPLE.of(mode)
    duckdb.from_df(_counted(seed)).write_parquet(str(node / "counted.parquet"))
    tables = {table: _declared(table) | {"source": "counted.parquet"} for table, _, _ in TABLES.values()}
    with (node / "catalog.toml").open("ab") as catalog:
        catalog.write(b"\n" + msgspec.toml.encode({"datasets": tables}))
    _apart(node, seed, people)


def _declared(table: str) -> dict[str, Any]:
    """A data set of rows to be counted by two numbers."""
    _, first, second = next(shape for shape in TABLES.values() if shape[0] == table)
    columns = {name: {"type": "integer", "bounds": [0, most]} for name, most in (("a", first), ("b", second))}
    return {"level": "general-1", "purposes": [PURPOSE], "max_rows": 2000, "columns": columns}


def _counted(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    return pd.DataFrame({column: generator.integers(0, 100, COUNTED) for column in ("a", "b")})


def _statistic(city: City) -> Any:
    return city.table(demo.TABLE).group_by("sex").agg(count(), col("illdays").mean(), col("spending").std())


def _checked(release: Any) -> float:
    """The largest relative error of `_statistic`; raises AssertionError if it is more than roundings."""
    pooled = demo.pooled().groupby("sex").agg({"sex": "size", "illdays": "mean", "spending": "std"})
    found = release.frame.sort_values("sex").drop(columns="sex").to_numpy(float)
    error = float(np.abs(found / pooled.sort_index().to_numpy(float) - 1).max())
    if not error <= 1e-9:
        raise AssertionError(f"the joint statistic is off by {error:.1e}")
    return error


def _cells(city: City, words: int) -> Any:
    return city.table(TABLES[words][0]).group_by("a", "b").agg(count())


def _all_counted(release: Any) -> None:
    if release.frame["count"].sum() != COUNTED * len(demo.DEPARTMENTS):
        raise AssertionError("the joint counts do not add up to the rows")


def bench_in_process(measure: Measure) -> None:
    query = _statistic(demo.city())
    measure.task(STATISTIC, "ours in one process", "no network", departments=3)
    release = measure(lambda: query.release(purpose=PURPOSE), rounds=7)
    _told(measure, release)
    measure.note(error=_checked(release), error_is="largest, relative")


def bench_over_tls(measure: Measure, processes: up.Processes) -> None:
    query, rounds = _statistic(processes.city()), 3 if measure.quick else 15
    measure.task(STATISTIC, conditions="five processes, TLS, loopback", departments=3)
    costs, release = _costs(measure, query, rounds)
    whole = statistics.median(measure.entry["seconds"])
    request = statistics.median(cost.seconds for cost in costs)
    work = _answering(processes, rounds, costs[0].rounds)
    _told(measure, release)
    measure.note(error=_checked(release), error_is="largest, relative", **ELSEWHERE)
    measure.note(
        parts={
            "the analysts' API and the queue": whole - request,
            "the slowest node's own work": work,
            "Flower's messages, TLS, waiting": request - work,
        },
        figures={"seconds a round": statistics.median(cost.seconds / cost.rounds for cost in costs)},
        demands={"loopback round trip": costs[0].rounds},
    )


@sweep(words=WORDS)
def bench_sum(measure: Measure, processes: up.Processes, words: int) -> None:
    query = _cells(processes.city(), words)
    measure.task("secure sum over TLS", departments=3, words=words)
    costs, release = _costs(measure, query, 3)
    _told(measure, release)
    _all_counted(release)
    sent, seconds = sum(release.cost.sent.values()), statistics.median(cost.seconds for cost in costs)
    measure.note(error=0.0, error_is="exact", work=words, unit="words", **ELSEWHERE)
    measure.note(
        parts={
            "from request to sum": seconds,
            "the release's way to the analyst": statistics.median(measure.entry["seconds"]) - seconds,
        },
        figures={
            "seconds from request to sum": seconds,
            "bytes a word and party": sent / words / 3,
        },
        demands={"loopback bandwidth": float(sent), "loopback round trip": release.cost.rounds},
    )


@sweep(people=PEOPLE)
def bench_join(measure: Measure, processes: up.Processes, people: int) -> None:
    """A count and a mean by two departments' groups, of three departments' tables joined."""
    measure.task("join of three tables over TLS", conditions="nobody learns who matched", rows=people)
    wide = processes.city().join(*_tables(), on="person")
    query = wide.group_by("c0", "c1").agg(count(), col("c2").mean())
    release = measure(lambda: query.release(purpose=PURPOSE), rounds=3)
    if sum(release.frame["count"]) != people // 2:
        raise AssertionError("the joined count is wrong")
    _told(measure, release)
    cost = release.cost
    sent = sum(cost.sent.values()) + sum(cost.received.values())
    measure.note(work=people, unit="rows", error=0.0, error_is="exact, of the count", **ELSEWHERE)
    measure.note(figures={"seconds a round": cost.seconds / cost.rounds, "bytes a row": sent / people})
    measure.note(demands={"loopback bandwidth": float(sent), "loopback round trip": cost.rounds})


def _tables() -> list[str]:
    return [f"{name}.t{seed}" for seed, name in enumerate(demo.DEPARTMENTS)]


def _apart(node: pathlib.Path, seed: int, people: int) -> None:
    """One column of people of whom all three departments know a half."""
    generator = np.random.default_rng(seed)
    largest, half = (1, 1, 1000)[seed], people // 2
    known = np.r_[:half, (seed + 1) * people : (seed + 1) * people + half]
    values = generator.integers(0, largest, people, endpoint=True)
    frame = pd.DataFrame({"person": generator.permutation(known), f"c{seed}": values})
    duckdb.from_df(frame).write_parquet(str(node / f"t{seed}.parquet"))
    others = [table for table in _tables() if not table.endswith(str(seed))]
    text = JOINED.format(table=f"t{seed}", rows=people, others=others, column=f"c{seed}", largest=largest)
    with (node / "catalog.toml").open("a") as catalog:
        catalog.write(text)


LINKS = {
    "milliseconds": Sizes(quick=(20,), default=(5, 20, 80), full=(5, 20, 80, 20, 20)),
    "megabits": Sizes(quick=(100,), default=(100, 100, 100), full=(100, 100, 100, 10, 1000)),
}


@pytest.mark.parametrize("words", [0, "most"])
@sweep(**LINKS)
def bench_wide_area(measure: Measure, milliseconds: int, megabits: int, words: int | str) -> None:
    """Round trips of so many milliseconds, so many megabits a second: the joint statistic, and a secure sum of so many words."""
    mode = "quick" if measure.quick else "default"
    words = WORDS.of(mode)[0] if words else 0
    shape = {"departments": 3, "round_trip_ms": milliseconds, "megabits_a_second": megabits}
    shape |= {"words": words} if words else {}
    task = "secure sum, wide-area network" if words else "joint statistic, wide-area network"
    if _netem(milliseconds, megabits):
        measure.task(f"{task} by tc netem", conditions="processes in a network namespace", **shape)
        told = _in_namespace(measure, milliseconds, megabits, words)
        measure.note(sent=told["sent"], rounds=told["rounds"], **ELSEWHERE)
    else:
        said = "in one process: each message sleeps on its way"
        measure.task(f"{task} by injected delay", conditions=said, **shape)
        city = _delayed_city(milliseconds / 1e3, megabits * 1e6 / 8)
        query = _cells(city, words) if words else _statistic(city)
        release = measure(lambda: query.release(purpose=PURPOSE), rounds=3)
        _all_counted(release) if words else _checked(release)
        _told(measure, release)
    entry = measure.entry
    trips, largest = entry["rounds"] * milliseconds / 1e3, max(entry["sent"].values())
    measure.note(error=0.0, error_is="exact, or to roundings")
    measure.note(
        figures={
            "seconds of round trips alone": trips,
            "seconds of a party's bytes alone": largest * 8 / megabits / 1e6,
        }
    )


def _in_namespace(measure: Measure, milliseconds: int, megabits: int, words: int) -> dict[str, Any]:
    """Measures a federation of processes behind a shaped loopback; what its last release says of its cost."""
    command = [sys.executable, "-m", "benchmarks.suites.network", str(words)]
    unshared = ["unshare", "--net", "sh", "-c", _shaping(milliseconds, megabits) + ' && exec "$@"', "sh"]
    with subprocess.Popen(
        [*unshared, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        inside.stdout.readline()  # it is ready

        def ask() -> str:
            print("ask", file=inside.stdin, flush=True)
            told = inside.stdout.readline()
            if not told:
                raise RuntimeError("the federation in the namespace ended")
            return told

        told = json.loads(measure(ask, rounds=3))
        inside.stdin.close()
    return told


def _costs(measure: Measure, query: Any, rounds: int) -> tuple[list[Any], Any]:
    """What the measured releases say of their cost; the last release."""
    releases: list[Any] = []
    measure(lambda: releases.append(query.release(purpose=PURPOSE)), rounds=rounds)
    measured = releases[1 : rounds + 1]  # the first warms up
    return [release.cost for release in measured], measured[-1]


def _told(measure: Measure, release: Any) -> None:
    measure.note(sent={k: float(v) for k, v in release.cost.sent.items()}, rounds=release.cost.rounds)


def _answering(processes: up.Processes, requests: int, rounds: int) -> float:
    """Seconds in which a node answered one request, the mean of its last ones, from its log; the slowest node's."""
    slowest = 0.0
    for name in processes.departments:
        text = (processes.place(name) / "log.jsonl").read_text()
        seconds = [float(value) for value in re.findall(r'"event": "answered".*?"seconds": ([0-9.]+)', text)]
        slowest = max(slowest, sum(seconds[-requests * rounds :]) / requests)
    return slowest


def _shaping(milliseconds: int, megabits: int) -> str:
    """Commands for a namespace; a packet on loopback is delayed once each way."""
    return (
        f"ip link set lo up && tc qdisc add dev lo root netem delay {milliseconds / 2}ms rate {megabits}mbit"
    )


def _netem(milliseconds: int, megabits: int) -> bool:
    """Whether this kernel, and this user, can shape a namespace's loopback."""
    if not all(map(shutil.which, ("unshare", "ip", "tc"))):
        return False
    tried = ["unshare", "--net", "sh", "-c", _shaping(milliseconds, megabits)]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def _delayed_city(round_trip: float, bandwidth: float) -> City:
    """The demo's departments in this process; each message, and each reply, is on the way for half a round trip and its bytes' time."""

    class Delayed(network.LocalGrid):
        def _handle(self, data: bytes) -> Any:
            time.sleep(round_trip / 2 + len(data) / bandwidth)
            reply = super()._handle(data)
            size = 0 if reply is None else len(network.local.to_bytes(reply, "m"))
            time.sleep(round_trip / 2 + size / bandwidth)
            return reply

    catalogs, frames = {}, {}
    for seed, (name, people) in enumerate(demo.departments().items()):
        catalog = demo.catalog(name)
        counted = {table: msgspec.convert(_declared(table), DataSet) for table, _, _ in TABLES.values()}
        catalogs[name] = msgspec.structs.replace(catalog, datasets=catalog.datasets | counted)
        frames[name] = {demo.TABLE: people} | dict.fromkeys(counted, _counted(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "LocalGrid", Delayed)
        return local.open_city(catalogs, frames)


def main() -> None:
    """What runs inside a namespace: a federation of processes that answers a statistic for each line it reads."""
    with tempfile.TemporaryDirectory(prefix="joint-sandbox-") as made:
        place = pathlib.Path(made) / "city"
        up.make(place)
        for seed, name in enumerate(demo.DEPARTMENTS):
            prepare(place / "nodes" / name, seed, "quick")
        with up.Processes(place) as running:
            city, words = running.city(), int(sys.argv[1])
            query = _cells(city, words) if words else _statistic(city)
            query.release(purpose=PURPOSE)
            print("ready", flush=True)
            for _ in sys.stdin:
                release = query.release(purpose=PURPOSE)
                _all_counted(release) if words else _checked(release)
                cost = release.cost
                told = {"sent": {k: float(v) for k, v in cost.sent.items()}, "rounds": cost.rounds}
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    main()

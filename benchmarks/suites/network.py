"""The same requests over processes that speak TLS, in one process, and over an emulated wide-area network.

A coordinator, three nodes and this analyst on loopback, as `sandbox up` starts them. Parts of a joint statistic's time: the analysts' API and
the queue; the slowest node's own work, from the nodes' logs; Flower's messages, TLS and waiting. It cannot do without a round trip a round.

The wide-area network is `tc netem` on the loopback of a network namespace, where the kernel has it: then every process is in there. Elsewhere
the delay is injected at the channel: each message of a federation in one process sleeps for half a round trip and for its bytes at the given
rate. The entry's conditions say which it was.
"""

from __future__ import annotations

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
import numpy as np
import pandas as pd
import pytest

from benchmarks.harness import Measure, Sizes, sweep
from federated import demo, local, network, up
from federated.session import City
from sandbox import col, count

SIDE = Sizes(quick=(100,), default=(1000,))
WIDE = """
[datasets.wide]
source = "wide.parquet"
level = "general-1"
purposes = ["public-health"]
max_rows = 2000

[datasets.wide.columns]
a = { type = "integer", bounds = [0, 999] }
b = { type = "integer", bounds = [0, 999] }

[datasets.narrow]
source = "wide.parquet"
level = "general-1"
purposes = ["public-health"]
max_rows = 2000

[datasets.narrow.columns]
a = { type = "integer", bounds = [0, 99] }
b = { type = "integer", bounds = [0, 99] }
"""
TABLES = {1000: "wide", 100: "narrow"}
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
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({column: generator.integers(0, 100, 1000) for column in ("a", "b")})
    duckdb.from_df(frame).write_parquet(str(node / "wide.parquet"))
    with (node / "catalog.toml").open("a") as catalog:
        catalog.write(WIDE)
    _apart(node, seed, people)


def _statistic(city: City) -> Any:
    return city.table(demo.TABLE).group_by("sex").agg(count(), col("illdays").mean(), col("spending").std())


def bench_in_process(measure: Measure) -> None:
    query = _statistic(demo.city())
    measure.task(STATISTIC, "ours in one process", "no network", departments=3)
    _told(measure, measure(lambda: query.release(purpose="public-health"), rounds=7))


def bench_over_tls(measure: Measure, processes: up.Processes) -> None:
    query, rounds = _statistic(processes.city()), 3 if measure.quick else 15
    measure.task(STATISTIC, conditions="five processes, TLS, loopback", departments=3)
    query.release(purpose="public-health")
    costs, release = _costs(measure, query, rounds)
    whole = statistics.median(measure.entry["seconds"])
    request = statistics.median(cost.seconds for cost in costs)
    work = _answering(processes, (rounds + 2) * costs[0].rounds) * costs[0].rounds
    _told(measure, release)
    measure.note(
        parts={
            "the analysts' API and the queue": whole - request,
            "the slowest node's own work": work,
            "Flower's messages, TLS, waiting": request - work,
        },
        figures={"seconds a round": statistics.median(cost.seconds / cost.rounds for cost in costs)},
        demands={"loopback round trip": costs[0].rounds},
    )


@sweep(side=SIDE)
def bench_sum(measure: Measure, processes: up.Processes, side: int) -> None:
    query = processes.city().table(TABLES[side]).group_by("a", "b").agg(count())
    measure.task("secure sum over TLS", departments=3, cells=side**2)
    query.release(purpose="public-health")
    costs, release = _costs(measure, query, 3)
    _told(measure, release)
    sent, seconds = sum(release.cost.sent.values()), statistics.median(cost.seconds for cost in costs)
    measure.note(
        parts={
            "from request to sum": seconds,
            "the release's way to the analyst": statistics.median(measure.entry["seconds"]) - seconds,
        },
        figures={
            "seconds from request to sum": seconds,
            "bytes a value and party": sent / side**2 / 3,
        },
        demands={"loopback bandwidth": float(sent), "loopback round trip": release.cost.rounds},
    )


@sweep(people=PEOPLE)
def bench_join(measure: Measure, processes: up.Processes, people: int) -> None:
    """A count and a mean by two departments' groups, of three departments' tables joined."""
    measure.task("join of three tables over TLS", conditions="nobody learns who matched", rows=people)
    wide = processes.city().join(*_tables(), on="person")
    query = wide.group_by("c0", "c1").agg(count(), col("c2").mean())
    release = measure(lambda: query.release(purpose="public-health"), rounds=3)
    if sum(release.frame["count"]) != people // 2:
        raise AssertionError("the joined count is wrong")
    _told(measure, release)
    cost = release.cost
    sent = sum(cost.sent.values()) + sum(cost.received.values())
    measure.note(work=people, unit="rows")
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


@sweep(
    milliseconds=Sizes(quick=(20,), default=(5, 20, 80), full=(5, 20, 80, 20, 20)),
    megabits=Sizes(quick=(100,), default=(100, 100, 100), full=(100, 100, 100, 10, 1000)),
)
def bench_wide_area(measure: Measure, milliseconds: int, megabits: int) -> None:
    """Round trips of so many milliseconds; so many megabits a second."""
    shape = {"departments": 3, "round_trip_ms": milliseconds, "megabits_a_second": megabits}
    task, purpose = "joint statistic, wide-area network", "public-health"
    if _netem(milliseconds, megabits):
        measure.task(task, conditions="tc netem in a network namespace", **shape)
        command = [sys.executable, "-m", "benchmarks.suites.network", str(milliseconds), str(megabits)]
        unshared = ["unshare", "--net", "sh", "-c", _shaping(milliseconds, megabits) + ' && exec "$@"', "sh"]
        with subprocess.Popen(
            [*unshared, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as inside:
            assert inside.stdin is not None
            assert inside.stdout is not None
            inside.stdout.readline()  # it is ready

            def ask() -> None:
                print("ask", file=inside.stdin, flush=True)
                if not inside.stdout.readline():
                    raise RuntimeError("the federation in the namespace ended")

            measure(ask, rounds=3)
            inside.stdin.close()
        return
    measure.task(task, conditions="delay injected at the channel, in one process", **shape)
    query = _statistic(_delayed_city(milliseconds / 1e3, megabits * 1e6 / 8))
    release = measure(lambda: query.release(purpose=purpose), rounds=3)
    _told(measure, release)
    measure.note(figures={"seconds of round trips alone": release.cost.rounds * milliseconds / 1e3})


def _costs(measure: Measure, query: Any, rounds: int) -> tuple[list[Any], Any]:
    """What the measured releases say of their cost; the last release."""
    releases: list[Any] = []
    measure(lambda: releases.append(query.release(purpose="public-health")), rounds=rounds)
    return [release.cost for release in releases[1 : rounds + 1]], releases[-1]


def _told(measure: Measure, release: Any) -> None:
    measure.note(sent={k: float(v) for k, v in release.cost.sent.items()}, rounds=release.cost.rounds)


def _answering(processes: up.Processes, answers: int) -> float:
    """The median time in which a node answered, over its last answers, from its log; the slowest node's."""
    medians = []
    for name in processes.departments:
        text = (processes.place(name) / "log.jsonl").read_text()
        seconds = [float(value) for value in re.findall(r'"event": "answered".*?"seconds": ([0-9.]+)', text)]
        medians.append(statistics.median(seconds[-answers:]))
    return max(medians)


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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "LocalGrid", Delayed)
        return demo.city()


def main() -> None:
    """What runs inside a namespace: a federation of processes that answers a statistic for each line it reads."""
    with tempfile.TemporaryDirectory(prefix="joint-sandbox-") as made:
        place = pathlib.Path(made) / "city"
        up.make(place)
        with up.Processes(place) as running:
            query = _statistic(running.city())
            query.release(purpose="public-health")
            print("ready", flush=True)
            for _ in sys.stdin:
                query.release(purpose="public-health")
                print("done", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    main()

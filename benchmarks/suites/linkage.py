"""Joins and intersections without anyone learning who matched: all parties in one process, one thread.

Every message is made, counted and taken as bytes; the network between is left out. The join counts and averages by
four groups: A brings the group, B the value, identifiers are 18-digit integers that are normalised, made tokens and
joined, in time. Beside it the same statistic by pandas on the merged plaintext. The intersection reads its identifiers from files.
What both cannot do without: to sort or gather each identifier of both sides once.
"""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks import workloads
from benchmarks.harness import Measure, Sizes, sweep
from mpc.engine import Seeds
from mpc.join import Column, Columns, Coordinator, ProbeSide, Question, TableSide, normalise
from mpc.psi import Receiver, Sender
from mpc.psi.cardinality import CardinalityReceiver, CardinalitySender

GROUPS = 4
IDENTITIES = {name: hashlib.sha256(name.encode()).digest() for name in ("lab", "registry")}
ROSTER = {
    name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    for name, key in IDENTITIES.items()
}
REQUEST = hashlib.sha256(b"the analyst's request").digest()
QUESTION = Question(
    "lab",
    ("registry",),
    {"registry": Columns(GROUPS, ()), "lab": Columns(0, (1000,))},
    tuple(
        (Column("registry", "flag", group), *value)
        for value in ((), (Column("lab", "word", 0),))
        for group in range(GROUPS)
    ),
)
JOINED = "nobody learns who matched; a coordinator helps; no two of three pool; semi-honest"
PSI = "the receiver learns who matched; two parties; semi-honest"


class Meter:
    """Seconds by who spends them, bytes by direction, calls from C to B."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)
        self.calls = 0

    def call(self, who: str, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds[who] += time.perf_counter() - started
        return result

    def send(self, way: str, message: Any) -> Any:
        self.bytes[way] += len(message)
        return message


def tables(rows: int) -> tuple[Any, Any, Any, Any]:
    """Keys and groups of A, keys and values of B; about half of the keys are shared."""
    keys_a, keys_b = workloads.identifiers(rows)
    random = np.random.default_rng(rows + 1)
    return keys_a, random.integers(0, GROUPS, rows), keys_b, random.integers(-1000, 1001, rows)


def join(keys_a: Any, groups: Any, keys_b: Any, values: Any) -> tuple[Meter, list[int]]:
    meter, used = Meter(), Seeds()
    coordinator = Coordinator(ROSTER, QUESTION, REQUEST, used=used)

    def registry() -> TableSide:
        flags = groups[:, None] == np.arange(GROUPS)
        identifiers = normalise(keys_a, "text")
        return TableSide("registry", IDENTITIES["registry"], ROSTER, identifiers, flags, **_allowed())

    def lab() -> ProbeSide:
        identifiers = normalise(keys_b, "text")
        return ProbeSide("lab", IDENTITIES["lab"], ROSTER, identifiers, (), values[:, None], **_allowed())

    a, b = meter.call("A", registry), meter.call("B", lab)
    announcement = coordinator.announce()
    for who, side in (("A", a), ("B", b)):
        hello = meter.send(f"{who} to C", meter.call(who, side.hello, announcement))
        coordinator.accept_hello(side.name, hello)
    hellos = coordinator.hellos()
    table = meter.send("A to C", meter.call("A", a.table, hellos))
    meter.call("C", coordinator.accept_table, "registry", table)
    bins = meter.send("B to C", meter.call("B", b.probe, hellos, coordinator.notes()))
    turn = meter.call("C", coordinator.accept_probe, "lab", bins)
    while not coordinator.finished:
        meter.calls += 1
        reply = meter.send("B to C", meter.call("B", b.receive, meter.send("C to B", turn)))
        turn = meter.call("C", coordinator.accept_levels, "lab", reply)
    return meter, coordinator.result().tolist()


def _allowed() -> dict[str, Any]:
    return {"question": QUESTION, "request": REQUEST, "used": Seeds()}


def in_plain(keys_a: Any, groups: Any, keys_b: Any, values: Any) -> list[int]:
    left, right = pd.DataFrame({"key": keys_a, "g": groups}), pd.DataFrame({"key": keys_b, "v": values})
    found = left.merge(right, on="key").groupby("g").v.agg(["count", "sum"])
    return [*found["count"].tolist(), *found["sum"].tolist()]


TASK = "join, count and mean by group"


@sweep(rows=workloads.ROWS)
def bench_pandas(measure: Measure, rows: int) -> None:
    measure.task(TASK, "pandas, pooled", "sees all rows", rows=rows)
    measure(in_plain, setup=lambda: tables(rows), rounds=3)
    measure.note(work=rows, unit="rows")


@sweep(rows=workloads.ROWS)
def bench_join(measure: Measure, rows: int) -> None:
    measure.task(TASK, conditions=JOINED, rows=rows)
    meter, found = measure(join, setup=lambda: tables(rows), rounds=3, warm=measure.quick)
    if found != in_plain(*tables(rows)):
        raise AssertionError("the joined sums are wrong")
    measure.note(work=rows, unit="rows", parts=meter.seconds, sent=meter.bytes, rounds=4 + meter.calls)
    measure.note(error=0.0, error_is="exact", figures={"bytes a row": sum(meter.bytes.values()) / rows})
    measure.note(demands={"sort": 2.0 * rows, "memory gather": 3.0 * rows})


@sweep(rows=workloads.ROWS)
def bench_intersection(measure: Measure, rows: int, tmp_path: pathlib.Path) -> None:
    measure.task("intersection, identifiers from files", conditions=PSI, rows=rows)
    keys_a, keys_b = workloads.identifiers(rows)
    paths = [tmp_path / name for name in ("sender", "receiver")]
    for path, keys in zip(paths, (keys_a, keys_b), strict=True):
        path.write_text("\n".join(map(str, keys.tolist())))

    def intersect() -> tuple[Any, dict[str, float]]:
        columns = [normalise(path.read_text().split("\n"), "text") for path in paths]
        sender, receiver = Sender(*columns[0]), Receiver(*columns[1])
        start = sender.start()
        answer = receiver.answer(start)
        finish = sender.finish(answer)
        found = receiver.result(finish)
        return found, {"sender": float(len(start) + len(finish)), "receiver": float(len(answer))}

    found, sent = measure(intersect, rounds=3, warm=measure.quick)
    if not np.array_equal(found, np.isin(keys_b, keys_a, kind="sort")):
        raise AssertionError("the intersection is wrong")
    measure.note(work=rows, unit="rows", sent=sent, rounds=2, error=0.0, error_is="exact")
    measure.note(figures={"bytes a row": sum(sent.values()) / rows})
    measure.note(demands={"sort": 2.0 * rows, "memory gather": 3.0 * rows, "X25519": 256.0})


@sweep(rows=Sizes(quick=(200,), default=(2_000,)))
def bench_cardinality(measure: Measure, rows: int) -> None:
    measure.task("size of the intersection, with noise", rows=rows)
    identifiers = [b"%d" % i for i in range(rows)]

    def count() -> None:
        receiver, sender = CardinalityReceiver(identifiers, 4.0), CardinalitySender(identifiers, 4.0)
        receiver.result(sender.answer(receiver.start()))

    measure(count, rounds=3)
    measure.note(work=rows, unit="rows", demands={"X25519": 4.0 * rows})

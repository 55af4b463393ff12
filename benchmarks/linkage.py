"""Joins and intersections without anyone learning who matched, and the engine beneath: all parties in one process, one thread.

Every message is made, counted and taken as bytes; the network between is left out. The join counts and averages by
four groups: A brings the group, B the value, identifiers are 18-digit integers that are normalised, made tokens and
joined, in time. Beside it the same statistic by pandas on the merged plaintext, in the same run. Memory is that of a fresh
process that holds all three parties and their data. The intersection reads its identifiers from files.
"""

from __future__ import annotations

import hashlib
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from mpc.engine import Laboratory, SecretArray, Seeds
from mpc.join import Column, Columns, Coordinator, ProbeSide, Question, TableSide, normalise
from mpc.psi import Receiver, Sender
from mpc.psi.cardinality import CardinalityReceiver, CardinalitySender

ROWS = 1 << 20
ELEMENTS = 1_000_000
GROUPS = 4
RUNS = 3
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


def run() -> list[dict[str, Any]]:
    return [*_engine(), *_join(), *_intersection(), *_cardinality()]


class Meter:
    """Seconds by who spends them, bytes by direction, calls from C to B."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)
        self.calls = 0

    def call(self, who: str, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds[who] += time.perf_counter() - started
        return result

    def send(self, way: str, message: Any) -> Any:
        self.bytes[way] += len(message)
        return message


def tables(rows: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Keys and groups of A, keys and values of B; about half of the keys are shared."""
    random = np.random.default_rng(rows)
    pool = 110101190001010000 + random.permutation(3 * rows // 2)
    keys_b = random.permutation(pool)[:rows]
    return pool[:rows], random.integers(0, GROUPS, rows), keys_b, random.integers(-1000, 1001, rows)


def one_join(rows: int) -> tuple[Meter, list[int]]:
    keys_a, groups, keys_b, values = tables(rows)
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
    meter.call(
        "C", coordinator.accept_table, "registry", meter.send("A to C", meter.call("A", a.table, hellos))
    )
    bins = meter.send("B to C", meter.call("B", b.probe, hellos, coordinator.notes()))
    turn = meter.call("C", coordinator.accept_probe, "lab", bins)
    while not coordinator.finished:
        meter.calls += 1
        reply = meter.send("B to C", meter.call("B", b.receive, meter.send("C to B", turn)))
        turn = meter.call("C", coordinator.accept_levels, "lab", reply)
    return meter, coordinator.result().tolist()


def _allowed() -> dict[str, Any]:
    return {"question": QUESTION, "request": REQUEST, "used": Seeds()}


def in_plain(rows: int) -> tuple[float, list[int]]:
    """Seconds and result of pandas on the merged plaintext."""
    keys_a, groups, keys_b, values = tables(rows)
    started = time.perf_counter()
    left, right = pd.DataFrame({"key": keys_a, "g": groups}), pd.DataFrame({"key": keys_b, "v": values})
    found = left.merge(right, on="key").groupby("g").v.agg(["count", "sum"])
    return time.perf_counter() - started, [*found["count"].tolist(), *found["sum"].tolist()]


def _join() -> list[dict[str, Any]]:
    meters, plain = [], []
    for _ in range(RUNS):
        seconds, expected = in_plain(ROWS)
        meter, found = one_join(ROWS)
        if found != expected:
            raise AssertionError("the joined sums are wrong")
        meters.append(meter)
        plain.append(seconds)
    parameters = {"rows": ROWS, "groups": GROUPS}
    whole = [sum(m.seconds.values()) for m in meters]
    pandas = "pandas", statistics.median(plain)
    name = "join, count and mean by group"
    records = [
        _record(name, parameters, whole, "s", target=8.0, ratio_to=pandas),
        *(_record(f"{name}: {who}", parameters, [m.seconds[who] for m in meters], "s") for who in "ABC"),
        _record(f"{name}: calls from C to B after the bins", parameters, [meters[0].calls], "calls"),
        _record(f"{name}: memory of all parties", parameters, [_memory()], "GiB", target=2.0),
    ]
    for rows in (ROWS // 16, ROWS // 4, ROWS):
        traffic = meters[0].bytes if rows == ROWS else one_join(rows)[0].bytes
        records += [
            _record(f"{name}: {way}", {"rows": rows}, [sent / rows], "B/row") for way, sent in traffic.items()
        ]
    return records


def _memory() -> float:
    """Peak resident size of a fresh process after one join."""
    command = [sys.executable, "-m", "benchmarks.linkage"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout)


def _intersection() -> list[dict[str, Any]]:
    keys_a, _, keys_b, _ = tables(ROWS)
    samples, plain, sent = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, name) for name in ("sender", "receiver")]
        for path, keys in zip(paths, (keys_a, keys_b), strict=True):
            path.write_text("\n".join(map(str, keys.tolist())))
        for _ in range(RUNS):
            started = time.perf_counter()
            expected = np.isin(keys_b, keys_a, kind="sort")
            plain.append(time.perf_counter() - started)
            started = time.perf_counter()
            columns = [normalise(path.read_text().split("\n"), "text") for path in paths]
            sender, receiver = Sender(*columns[0]), Receiver(*columns[1])
            start = sender.start()
            answer = receiver.answer(start)
            finish = sender.finish(answer)
            found = receiver.result(finish)
            samples.append(time.perf_counter() - started)
            sent = len(start) + len(answer) + len(finish)
    if not np.array_equal(found, expected):
        raise AssertionError("the intersection is wrong")
    parameters = {"rows": ROWS}
    return [
        _record(
            "intersection, identifiers from files",
            parameters,
            samples,
            "s",
            target=4.0,
            ratio_to=("numpy's isin on integers", statistics.median(plain)),
        ),
        _record("intersection: all messages", parameters, [sent / ROWS], "B/row"),
    ]


def _cardinality(rows: int = 2000) -> list[dict[str, Any]]:
    identifiers = [b"%d" % i for i in range(rows)]
    samples = []
    for _ in range(RUNS):
        started = time.perf_counter()
        receiver, sender = CardinalityReceiver(identifiers, 4.0), CardinalitySender(identifiers, 4.0)
        receiver.result(sender.answer(receiver.start()))
        samples.append((time.perf_counter() - started) / rows * 1e3)
    return [_record("cardinality with noise, a row of each side", {"rows": rows}, samples, "ms")]


def _engine() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    x, y = (random.integers(-(2**30), 2**30, ELEMENTS) for _ in range(2))
    matrix = random.integers(-(2**20), 2**20, (20, ELEMENTS // 10))

    def pair(laboratory: Laboratory) -> tuple[SecretArray, SecretArray]:
        return laboratory.secret(x, "B"), laboratory.secret(y, "C")

    def gram(laboratory: Laboratory) -> SecretArray:
        rows = laboratory.secret(matrix)
        return rows.inner(rows)

    cases: list[tuple[str, Callable[[Laboratory], SecretArray], Any, float | None]] = [
        ("multiply", lambda lab: (lambda a, b: a * b)(*pair(lab)), x * y, 0.1),
        ("less than", lambda lab: (lambda a, b: a < b)(*pair(lab)), x < y, 0.6),
        ("equal", lambda lab: (lambda a, b: a == b)(*pair(lab)), x == y, None),
        ("truncate by 16", lambda lab: pair(lab)[0] >> 16, x >> 16, None),
        ("Gram matrix of 100,000 x 20", gram, matrix @ matrix.T, 1.0),
    ]
    records = []
    for name, write, expected, target in cases:
        samples, traffic = [], {}
        for _ in range(RUNS + 2):
            laboratory = Laboratory()
            wanted = write(laboratory)
            started = time.perf_counter()
            found = laboratory.reveal(wanted)
            samples.append(time.perf_counter() - started)
            traffic = laboratory.traffic
        if not np.array_equal(found, expected):
            raise AssertionError(f"{name} is wrong")
        sent = (traffic["to B"] + traffic["to C"] + traffic["dealt"]) / ELEMENTS
        parameters = {"elements": ELEMENTS, "levels": traffic["levels"], "calls": traffic["calls"]}
        records.append(_record(f"engine: {name}", parameters, samples, "s", target=target))
        records.append(_record(f"engine: {name}, all messages", parameters, [sent], "B/element"))
    return records


def _record(
    name: str,
    parameters: dict[str, int],
    samples: list[float],
    unit: str,
    *,
    target: float | None = None,
    ratio_to: tuple[str, float] | None = None,
) -> dict[str, Any]:
    value = statistics.median(samples)
    record = {"suite": "linkage", "name": name, "parameters": parameters, "samples": samples, "value": value}
    compared = {} if ratio_to is None else {"ratio": value / ratio_to[1], "ratio_to": ratio_to[0]}
    return {**record, "unit": unit, "target": target, **compared}


if __name__ == "__main__":
    one_join(ROWS)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)

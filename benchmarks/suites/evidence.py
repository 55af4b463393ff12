"""Audit log, witness and receipts: what evidence adds to a request. An append ends on the disk: one `fdatasync` is what it cannot do without.

`verify` is of a receipt of three departments, in this process and in a fresh one.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.harness import Measure
from sandbox import checkpoint, entries, receipt, roster
from sandbox.audit import AuditLog
from sandbox.keys import SigningKey
from sandbox.witness import Witness

NODES = ("a", "b", "c")
PEOPLE = {**dict.fromkeys(NODES, "node"), "centre": "coordinator", "ana": "analyst"}
KEYS = {name: SigningKey.generate() for name in (*PEOPLE, "regulator")}
ENTRIES, BATCH, NOW = 10_000, 1_000, 1_790_000_000
CODE = "import pathlib\nfrom sandbox import receipt, roster\n" + (
    f"r = receipt.verify(pathlib.Path('receipt.json').read_bytes(), roster.load('roster.toml'), now={NOW})\n"
    "raise SystemExit(not r.ok)"
)
_numbers = itertools.count()


def _refusal() -> entries.Refusal:
    return entries.Refusal(
        time=NOW, request=f"{next(_numbers):064x}", reasons=("purpose 'x' is not permitted",)
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditLog]:
    with AuditLog(tmp_path_factory.mktemp("evidence") / "log", "bench/a", key=KEYS["a"]) as made:
        while len(made) < ENTRIES:
            made.append_many([_refusal() for _ in range(BATCH)])
        yield made


def bench_append(measure: Measure, log: AuditLog) -> None:
    measure.task("append to the log", entries=ENTRIES)
    measure(lambda: [log.append(_refusal()) for _ in range(20)])
    measure.note(work=20, unit="entries", demands={"fdatasync": 20.0, "SHA-256": 20 * 1000.0})


def bench_append_many(measure: Measure, log: AuditLog) -> None:
    measure.task("append a batch to the log", entries=ENTRIES)
    measure(lambda: log.append_many([_refusal() for _ in range(BATCH)]))
    measure.note(work=BATCH, unit="entries")


def bench_prove(measure: Measure, log: AuditLog) -> None:
    measure.task("prove inclusion and consistency", entries=ENTRIES)
    third = len(log) // 3

    def prove() -> None:
        for _ in range(20):
            log.prove(third)
            log.consistency(third, len(log))

    measure(prove)
    measure.note(work=20, unit="proofs")


def bench_verify_log(measure: Measure, log: AuditLog) -> None:
    measure.task("verify the log", entries=ENTRIES)
    measure(log.verify, rounds=3)
    measure.note(work=len(log), unit="entries")


def bench_cosign(measure: Measure, log: AuditLog, tmp_path: pathlib.Path) -> None:
    """Append, sign a head, and have a witness check that it continues the last one."""
    measure.task("head and cosignature", entries=ENTRIES)
    key = KEYS["regulator"]
    watching = Witness(tmp_path / "seen", key, "bench/regulator", {"bench/a": KEYS["a"].public})
    watching.cosign(log.head(), (), NOW)

    def cosign() -> None:
        seen = watching.last("bench/a")
        log.append(_refusal())
        watching.cosign(log.head(), log.consistency(seen), NOW)

    measure(cosign)
    checkpoint.verify(log.head(), KEYS["a"].public, "bench/a")
    measure.note(demands={"fdatasync": 2.0, "Ed25519 signature": 2.0, "Ed25519 verification": 1.0})


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, bytes, roster.Roster]:
    """A receipt of three departments, beside its roster, in a directory."""
    place = tmp_path_factory.mktemp("receipt")
    members = [roster.member(name, role, "Bench", KEYS[name].public) for name, role in PEOPLE.items()]  # type: ignore[arg-type]
    people = roster.Roster("bench", tuple(members))
    statement = receipt.Statement(
        federation="bench",
        request=f"{1:064x}",
        release=f"{2:064x}",
        analyst="ana",
        purpose="benchmark",
        code="1",
        departments=NODES,
        issued=NOW,
        epsilon=0.5,
        delta=1e-6,
    )
    parts = []
    for name in NODES:
        entry = entries.Release(
            time=NOW,
            department=name,
            statement=statement.digest(),
            request=statement.request,
            release=statement.release,
            dataset="t",
            policy=f"{3:064x}",
            data_version="1",
            code="1",
            epsilon=0.5,
            delta=1e-6,
        )
        with AuditLog(place / name, f"bench/{name}", key=KEYS[name]) as log:
            log.append_many([_refusal() for _ in range(1000)])
            parts.append(receipt.attest(log, entry))
    data = receipt.issue(statement, parts, KEYS["centre"], "centre")
    (place / "receipt.json").write_bytes(data)
    (place / "roster.toml").write_text(people.dumps(), encoding="utf-8")
    return place, data, people


def bench_verify(measure: Measure, issued: tuple[pathlib.Path, bytes, roster.Roster]) -> None:
    _, data, people = issued
    measure.task("verify a receipt", departments=len(NODES))
    found = measure(lambda: [receipt.verify(data, people, now=NOW) for _ in range(20)])
    if not found[0].ok:
        raise AssertionError("the receipt does not hold")
    measure.note(work=20, unit="receipts", figures={"bytes": len(data)})
    measure.note(demands={"Ed25519 verification": 20.0 * (len(NODES) + 1)})


def bench_verify_cold(measure: Measure, issued: tuple[pathlib.Path, bytes, roster.Roster]) -> None:
    place, _, _ = issued
    measure.task("verify a receipt, cold process", departments=len(NODES))
    path = os.pathsep.join(str(pathlib.Path(entry).resolve()) for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    measure(lambda: subprocess.run([sys.executable, "-c", CODE], cwd=place, env=environment, check=True))

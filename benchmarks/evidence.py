"""Audit log, witness and receipts: what evidence adds to a request, beside the bare disk and a bare signature.

An append ends on the disk, so it is shown as a ratio to one `fdatasync` of as many bytes. `verify` is a receipt of three departments.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from sandbox import checkpoint, entries, receipt, roster
from sandbox.audit import AuditLog
from sandbox.keys import SigningKey
from sandbox.witness import Witness

NODES = ("a", "b", "c")
PEOPLE = {**dict.fromkeys(NODES, "node"), "centre": "coordinator", "ana": "analyst"}
KEYS = {name: SigningKey.generate() for name in (*PEOPLE, "regulator")}
ENTRIES = 100_000
BATCH = 1_000
NOW = 1_790_000_000
CODE = "import pathlib\nfrom sandbox import receipt, roster\n" + (
    f"r = receipt.verify(pathlib.Path('receipt.json').read_bytes(), roster.load('roster.toml'), now={NOW})\n"
    "raise SystemExit(not r.ok)"
)


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        return [*_log(pathlib.Path(directory)), *_receipt(pathlib.Path(directory))]


def _log(directory: pathlib.Path) -> list[dict[str, Any]]:
    numbers = iter(range(10**9))
    records = []
    with AuditLog(directory / "log", "bench/a", key=KEYS["a"]) as log:
        log.append(_refusal(next(numbers)))
        frame = bytes((directory / "log" / "entries.log").stat().st_size)
        bare = os.open(directory / "bare", os.O_CREAT | os.O_WRONLY)

        def sync() -> None:
            os.write(bare, frame)
            os.fdatasync(bare)

        floor = _timed("fdatasync of as many bytes", sync, 300)
        append = _timed("append", lambda: log.append(_refusal(next(numbers))), 300)
        os.close(bare)
        records += [floor, {**append, "ratio": append["value"] / floor["value"]}]
        started = time.perf_counter()
        while len(log) < ENTRIES:
            log.append_many([_refusal(next(numbers)) for _ in range(BATCH)])
        each = (time.perf_counter() - started) / ENTRIES
        records.append(_record("append, of a batch", [each], 1e6, "us", entries=BATCH))

        def head() -> None:
            log.append(_refusal(next(numbers)))
            log.head()

        records.append(_timed("append and signed head", head, 100, entries=len(log)))
        size = len(log)
        records.append(_timed("prove inclusion", lambda: log.prove(size // 3), 300, entries=size))
        records.append(
            _timed("prove consistency", lambda: log.consistency(size // 3, size), 300, entries=size)
        )
        note = log.head()
        records.append(_timed("check a head's signature", lambda: _check(note), 300))
        watching = Witness(
            directory / "seen", KEYS["regulator"], "bench/regulator", {"bench/a": KEYS["a"].public}
        )
        watching.cosign(note, (), NOW)

        def cosign() -> None:
            seen = watching.last("bench/a")
            log.append(_refusal(next(numbers)))
            watching.cosign(log.head(), log.consistency(seen), NOW)

        records.append(_timed("append, head and cosignature", cosign, 50))
        records.append(_timed("verify the log", log.verify, 2, 1.0, "s", entries=len(log)))
        size = len(log)

    def reopen() -> None:
        with AuditLog(directory / "log", "bench/a", key=KEYS["a"]):
            pass

    records.append(_timed("open the log", reopen, 2, 1.0, "s", entries=size))
    return records


def _receipt(directory: pathlib.Path) -> list[dict[str, Any]]:
    members = [
        roster.member(name, role, "Bench", KEYS[name].public)  # type: ignore[arg-type]
        for name, role in PEOPLE.items()
    ]
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
        with AuditLog(directory / name, f"bench/{name}", key=KEYS[name]) as log:
            log.append_many([_refusal(number) for number in range(1000)])
            parts.append(receipt.attest(log, entry))
    data = receipt.issue(statement, parts, KEYS["centre"], "centre")
    (directory / "receipt.json").write_bytes(data)
    (directory / "roster.toml").write_text(people.dumps(), encoding="utf-8")
    if not receipt.verify(data, people, now=NOW).ok:
        raise RuntimeError("the receipt does not hold")

    def cold() -> None:
        path = os.pathsep.join(str(pathlib.Path(place).resolve()) for place in sys.path)
        subprocess.run(
            [sys.executable, "-c", CODE], cwd=directory, env={**os.environ, "PYTHONPATH": path}, check=True
        )

    cold()
    return [
        _timed("verify a receipt", lambda: receipt.verify(data, people, now=NOW), 200, 1e3, "ms"),
        {**_timed("verify a receipt, cold process", cold, 9, 1.0, "s"), "target": 0.5},
        _record("receipt", [float(len(data))], 1.0, "bytes", departments=len(NODES)),
    ]


def _check(note: str) -> None:
    checkpoint.verify(note, KEYS["a"].public, "bench/a")


def _refusal(number: int) -> entries.Refusal:
    return entries.Refusal(time=NOW, request=f"{number:064x}", reasons=("purpose 'x' is not permitted",))


def _timed(
    name: str, call: Callable[[], object], runs: int, scale: float = 1e6, unit: str = "us", **parameters: int
) -> dict[str, Any]:
    samples = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return _record(name, samples, scale, unit, **parameters)


def _record(name: str, samples: list[float], scale: float, unit: str, **parameters: int) -> dict[str, Any]:
    scaled = [sample * scale for sample in samples]
    return {
        "suite": "evidence",
        "name": name,
        "parameters": parameters,
        "samples": scaled,
        "value": statistics.median(scaled),
        "unit": unit,
    }

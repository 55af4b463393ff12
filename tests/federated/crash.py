"""A node to be killed: what victim and test share, and the victim's side. Run as a program, it is the zygote that victims are forked from.

A victim is killed at a step that the gate names, before an operation that changes a file, or in the middle of a write.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import re
import signal
import sqlite3
import sys
import time

import msgspec
import pandas as pd
import sqlglot

from federated import local
from sandbox import approvals, code, gate, keys
from sandbox import query as q
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.contract import Contract
from sandbox.dp import rho_of
from sandbox.engine import Engine
from sandbox.gate import Gate
from sandbox.judge import policies
from sandbox.keys import SigningKey
from sandbox.receipt import Evidence, Statement
from sandbox.request import CLEARANCE, RECORD, REQUEST, Clearance, Privacy, Record, Request
from sandbox.roster import Roster, member
from sandbox.state import State

NOW = int(os.environ.setdefault("CRASHES_SINCE", str(int(time.time()))))  # victims inherit it
HONEST, EPSILON, DELTA = 2, 0.25, 1e-6
FRAME = pd.DataFrame({"x": [i % 10 for i in range(40)]})
PEOPLE = (
    ("ash", "node"), ("coordinator", "coordinator"), ("wu", "analyst"), ("olga", "owner"), ("oskar", "owner"),
)  # fmt: skip
KEYS = {who: SigningKey.generate(insecure_seed="/".join(who).encode()) for who in PEOPLE}
ROSTER = Roster("city", tuple(member(*who, "clinic", KEYS[who].public) for who in PEOPLE))
READS = re.compile(r"SELECT|BEGIN DEFERRED|PRAGMA (user_version$|foreign_keys|synchronous|recursive)")
STEPS = {  # what `run` makes durable, in order
    "exact": ("charged", "kept", "logged", "computed"),
    "dp": ("charged", "logged", "computed"),
    "contract": ("charged", "counted", "logged", "computed"),
}
NODES = ("ash", "birch", "cedar")
NODE_KEYS = {name: SigningKey.generate(insecure_seed=f"{name}/node".encode()) for name in NODES}
CITY = local.Parties(
    Roster("city", (*ROSTER.members, *(member(n, "node", n, NODE_KEYS[n].public) for n in NODES[1:]))),
    NODE_KEYS,
    {},
    KEYS["wu", "analyst"],
    KEYS["coordinator", "coordinator"],
    SigningKey.generate(insecure_seed=b"regulator"),
)
DATASET = DataSet(
    "general-2", ("research",), {"x": Column("integer", (0, 9))}, budget=Budget(10.0, DELTA), max_rows=100
)
STORES = ("ledger.db", "cohorts.db", "approvals.db")


# --- a node, its analyst and its coordinator; the victim's side and the test's are the same ---


def open_gate(directory: pathlib.Path, scene: str) -> Gate:
    """The department `ash`, whose data are important in scene `contract`."""
    level = "important" if scene == "contract" else "general-2"
    dataset = msgspec.structs.replace(DATASET, level=level)
    catalog = Catalog("ash", {"t": dataset})
    opened = State(directory, catalog, policies(catalog), ROSTER, KEYS["ash", "node"], lambda: NOW)
    return Gate(catalog, {"t": Engine("t", dataset, FRAME)}, opened)


def shut(opened: Gate) -> None:
    for part in (opened.state.ledger, opened.state.cohorts, opened.state.approvals, opened.state.log):
        part.close()


QUERY = q.Query("t", (q.Named("count", q.Count()),))


def ask(scene: str, nonce: int) -> keys.Signed:
    privacy = None if scene == "exact" else Privacy(EPSILON, DELTA)
    asked = Request(QUERY, "research", "wu", f"{nonce:032x}", NOW + 3600, privacy)
    return keys.seal(KEYS["wu", "analyst"], "wu", REQUEST, asked)


def digest(signed: keys.Signed) -> str:
    request: Request = keys.decode(signed.body, Request)
    return request.digest().hex()


def serve(opened: Gate, signed: keys.Signed) -> gate.Answer:
    """All that a department does for a request until it has an answer."""
    decision = opened.decide(signed, HONEST)
    assert isinstance(decision, gate.Allow), decision
    clearance = None
    if decision.rules is not None:
        if decision.released:
            opened.overlaps(signed, HONEST, decision.released)
        known = tuple(release.request for release in decision.released)
        value = Clearance(digest(signed), known, 10)
        clearance = keys.seal(KEYS["coordinator", "coordinator"], "coordinator", CLEARANCE, value)
    return opened.run(signed, HONEST, clearance)


def record(opened: Gate, signed: keys.Signed) -> Evidence:
    privacy = keys.decode(signed.body, Request).privacy
    statement = Statement(
        federation="city",
        request=digest(signed),
        release="ab" * 32,
        analyst="wu",
        purpose="research",
        code=code.version(),
        departments=("ash",),
        issued=NOW,
        epsilon=privacy.epsilon if privacy else None,
        delta=privacy.delta if privacy else None,
        rho=rho_of(privacy.epsilon, privacy.delta) if privacy else None,
    )
    value = Record(statement, ("ash",), (0,))
    evidence = opened.record(keys.seal(KEYS["coordinator", "coordinator"], "coordinator", RECORD, value))
    assert evidence is not None
    return evidence


def open_city(directory: pathlib.Path) -> local.Federation:
    """Three departments with the same people; clocks are real ones."""
    catalogs = {name: Catalog(name, {"t": DATASET}) for name in NODES}
    frames = {name: {"t": FRAME} for name in NODES}
    return local.open_federation(catalogs, frames, analyst="wu", directory=directory, everybody=CITY)


def prepare(directory: pathlib.Path, scene: str) -> None:
    """A node that has answered once, so that there is something to lose; of important data, under a contract for many runs."""
    opened = open_gate(directory, scene)
    if scene == "contract":
        terms = {"runs": 100, "epsilon": (EPSILON, EPSILON), "budget": 100 * EPSILON}
        contract = Contract(QUERY, "research", "Statistics Act", "wu", NOW + 3600, **terms)
        proposed = opened.state.approvals.propose(approvals.propose(KEYS["wu", "analyst"], contract))
        for name in ("olga", "oskar"):
            decision = approvals.sign_decision(KEYS[name, "owner"], name, proposed, True, now=NOW)
            opened.state.approvals.decide(decision)
    first = ask(scene, 0)
    serve(opened, first)
    record(opened, first)
    shut(opened)


# --- the victim ---


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Saboteur:
    """Dies before the `point`-th operation that changes a file; without one, leaves in a file how many there are."""

    def __init__(self, point: int | None, counted: pathlib.Path):
        self._point, self._counted = point, counted
        self._operations, self.armed = itertools.count(1), False

    def install(self) -> None:
        for name in ("pwrite", "ftruncate", "fdatasync", "fsync", "replace"):
            setattr(os, name, self._before(getattr(os, name)))
        sqlite3.connect = self._traced(sqlite3.connect)

    def _before(self, operation):
        def sabotaged(*arguments):
            self.strike()
            return operation(*arguments)

        return sabotaged

    def _traced(self, connect):
        def traced(*arguments, **options):
            connection = connect(*arguments, **options)
            connection.set_trace_callback(lambda sql: READS.match(sql) or self.strike())
            return connection

        return traced

    def strike(self) -> None:
        if self.armed:
            number = next(self._operations)
            if number == self._point:
                die()
            if self._point is None:
                self._counted.write_text(str(number))


def torn(part: float):
    """`os.pwrite` that writes a part of the log's frame and dies."""
    write = os.pwrite

    def pwrite(file, data, position):
        write(file, data[: int(len(data) * part)], position)
        die()

    return pwrite


def victim(directory: str, scene: str, act: str, at: str, point: float | str | None) -> None:
    """One life: serve request 1, or record it, or merely open; killed where `at` and `point` say."""
    path, signed = pathlib.Path(directory), ask(scene, 1)
    if act == "city":
        release_and_die(path, scene, str(point))
    saboteur = Saboteur(point if isinstance(point, int) else None, path / "operations")
    if at == "operation":
        saboteur.install()
    saboteur.armed = act == "open"
    opened = open_gate(path, scene)
    if act == "record":
        serve(opened, signed)
    if at == "step":
        opened._step = lambda name: die() if name == point else None
    if at == "write" and act == "serve":  # the write that logs the charge
        opened._step = lambda name: setattr(os, "pwrite", torn(point)) if name == "charged" else None
    elif at == "write":
        os.pwrite = torn(point)
    saboteur.armed = True
    if act != "open":
        (serve if act == "serve" else record)(opened, signed)


def release_and_die(directory: pathlib.Path, scene: str, at: str) -> None:
    """All three nodes and their coordinator die together, like a machine that loses power, when `ash` is at a step."""
    federation, signed = open_city(directory), ask(scene, 1)
    ash = federation.gates["ash"]
    ash._step = lambda name: die() if name == at else None
    prove = ash.record

    def proved(record_: keys.Signed) -> Evidence | None:
        evidence = prove(record_)
        return die() if at == "recorded" else evidence

    ash.record = proved
    outcome = federation.broker.run(signed, NODES, DATASET.schema())
    federation.broker.record(keys.decode(signed.body, Request), "ab" * 32, outcome, (0,))


def zygote() -> None:
    """Forks a victim for every line of its input, and says which signal ended it, or how it ended itself."""
    import sandbox.embedded  # noqa: F401  # DuckDB, and how to write for it: else every victim loads both

    sqlglot.parse_one("SELECT 1").sql("duckdb")
    for line in sys.stdin:
        arguments = json.loads(line)
        delay = arguments.pop("delay", None)
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                victim(**arguments)
                status = 0
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            finally:
                os._exit(status)
        if delay is not None:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    zygote()

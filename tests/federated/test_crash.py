"""kill -9 at every step between decide and reply, and while a release is recorded: real processes, real files.

A zygote imports everything once. Each victim is forked from it, opens the node's state, serves a request, and is killed: at a step that the
gate names, before any line of the code that makes things durable, in the middle of a write, or at a moment that nobody chose. Then the test
opens what is left, as the next start of the node would. Whatever happened:

- databases and log open and verify; every charge is logged, once; every release in the log has its charge before it;
- the request is charged once, and where it may have been answered it is not answered again;
- a fresh request runs and is recorded.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys

import crash
import pytest
from crash import (
    DATASET,
    NODES,
    STEPS,
    STORES,
    ask,
    digest,
    open_city,
    open_gate,
    prepare,
    record,
    serve,
    shut,
)

from sandbox import count, entries, keys
from sandbox.errors import ScheduleError, TooFewDepartments
from sandbox.gate import Gate


class Nursery:
    """Victims on demand, each in a fresh copy of a node that was prepared once a scene."""

    def __init__(self, directory: pathlib.Path):
        self.directory, self._count = directory, itertools.count()
        self._zygote = subprocess.Popen(
            [sys.executable, crash.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._prepared: set[str] = set()

    def copy(self, scene: str, origin: pathlib.Path | None = None) -> pathlib.Path:
        template = self.directory / scene
        if scene not in self._prepared:
            prepare(template, scene)
            self._prepared.add(scene)
        place = self.directory / f"life {next(self._count)}"
        shutil.copytree(origin or template, place)
        return place

    def end(self, place: pathlib.Path, scene: str, act: str, at: str, **terms: object) -> int:
        """How a victim ended: the signal as a negative number, or its exit code."""
        arguments = {"directory": str(place), "scene": scene, "act": act, "at": at, "point": None, **terms}
        self._zygote.stdin.write(json.dumps(arguments) + "\n")
        self._zygote.stdin.flush()
        return int(self._zygote.stdout.readline())

    def kill(self, place: pathlib.Path, scene: str, act: str, at: str, **terms: object) -> None:
        assert self.end(place, scene, act, at, **terms) == -signal.SIGKILL

    def operations(self, scene: str, act: str, origin: pathlib.Path | None = None) -> int:
        """How many operations change a file in the course of an act."""
        place = self.copy(scene, origin)
        assert self.end(place, scene, act, "operation") == 0
        return int((place / "operations").read_text())

    def close(self) -> None:
        self._zygote.stdin.close()
        self._zygote.wait()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


def books(opened: Gate) -> list[entries.Entry]:
    """The log, once all books are found to be whole and to agree with each other."""
    for store in STORES:
        with sqlite3.connect(opened.state.directory / store) as database_:
            assert database_.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database_.close()
    opened.state.ledger.verify()
    opened.state.log.verify()
    log = list(opened.state.log.entries())
    charges = [entry for entry in log if isinstance(entry, entries.Charge)]
    assert [(c.number, c.request) for c in sorted(charges, key=lambda c: c.number)] == [
        (entry.number, entry.charge.request.hex()) for entry in opened.state.ledger.entries()
    ], "each charge is logged, once"
    for i, entry in enumerate(log):
        if isinstance(entry, entries.Release):
            assert any(isinstance(e, entries.Charge) and e.request == entry.request for e in log[:i])
    requests = {charge.request for charge in charges}
    assert {request for request, _ in opened.state.approvals.runs()} <= requests
    return log


def charged(log: list[entries.Entry], signed: keys.Signed) -> int:
    return sum(isinstance(entry, entries.Charge) and entry.request == digest(signed) for entry in log)


def survey(place: pathlib.Path, scene: str, recorded: bool = False) -> bool:
    """Open what a victim left, and go on. Whether its request had been charged."""
    signed, fresh = ask(scene, 1), ask(scene, 2)
    opened = open_gate(place, scene)
    try:
        before = charged(books(opened), signed)
        assert before <= 1
        if not before:
            serve(opened, signed)
        if recorded:
            assert before
            evidence = record(opened, signed)
            assert evidence.entry.request == digest(signed)
        with pytest.raises(ScheduleError, match="has run before"):
            serve(opened, signed)
        serve(opened, fresh)
        assert record(opened, fresh).entry.request == digest(fresh)
        log = books(opened)
        assert (charged(log, signed), charged(log, fresh)) == (1, 1)
        return before == 1
    finally:
        shut(opened)
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("scene", "step"), [(scene, step) for scene, steps in STEPS.items() for step in steps]
)
def test_killed_at_a_step_that_the_gate_names(nursery, scene, step):
    place = nursery.copy(scene)
    nursery.kill(place, scene, "serve", "step", point=step)
    assert survey(place, scene), "the charge comes first"


def test_the_steps_are_those_that_the_gate_names(nursery):
    for scene, steps in STEPS.items():
        opened, named = open_gate(nursery.copy(scene), scene), []
        opened._step = named.append
        serve(opened, ask(scene, 1))
        shut(opened)
        assert tuple(named) == steps


@pytest.mark.parametrize("scene", STEPS)
def test_killed_before_any_operation_on_a_file_of_a_request(nursery, scene):
    operations, seen = nursery.operations(scene, "serve"), []
    for number in range(1, operations + 1):
        place = nursery.copy(scene)
        nursery.kill(place, scene, "serve", "operation", point=number)
        seen.append(survey(place, scene))
    assert seen == sorted(seen), "charged, it stays charged"
    assert set(seen) == {False, True}
    place = nursery.copy(scene)
    assert nursery.end(place, scene, "serve", "operation", point=operations + 1) == 0, "there are no more"
    assert survey(place, scene)


@pytest.mark.parametrize("scene", STEPS)
def test_killed_before_any_operation_on_a_file_of_a_record(nursery, scene):
    for number in range(1, nursery.operations(scene, "record") + 1):
        place = nursery.copy(scene)
        nursery.kill(place, scene, "record", "operation", point=number)
        assert survey(place, scene, recorded=True)


@pytest.mark.parametrize("scene", STEPS)
def test_killed_again_before_any_operation_of_the_start_that_mends_a_crash(nursery, scene):
    """A charge is missing in the log when the node starts, and the start is cut off too."""
    crashed = nursery.copy(scene)
    nursery.kill(crashed, scene, "serve", "step", point="charged")
    for number in range(1, nursery.operations(scene, "open", crashed) + 1):
        place = nursery.copy(scene, crashed)
        nursery.kill(place, scene, "open", "operation", point=number)
        assert survey(place, scene)


@pytest.mark.parametrize("act", ["serve", "record"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.2, 0.5, 0.99, 1.0])
def test_killed_in_the_middle_of_a_write_to_the_log(nursery, act, part):
    place = nursery.copy("exact")
    nursery.kill(place, "exact", act, "write", point=part)
    assert survey(place, "exact", recorded=act == "record")


@pytest.mark.parametrize("scene", STEPS)
def test_killed_at_any_moment(nursery, scene):
    """Moments that nobody chose: in SQLite, in DuckDB, or in the kernel on their behalf."""
    moments, ends = random.Random(7), []
    for _ in range(12):
        place = nursery.copy(scene)
        ends.append(nursery.end(place, scene, "serve", "nothing", delay=moments.uniform(0.005, 0.06)))
        survey(place, scene)
    assert set(ends) <= {0, -signal.SIGKILL}


def without_ash(federation, signed) -> str:
    """Who is missing in the same request, and why. Two departments that had not begun may still answer a DP one."""
    try:
        missing = federation.broker.run(signed, NODES, DATASET.schema()).missing
    except TooFewDepartments as refused:
        return str(refused)
    assert len(missing) == 1
    return ", ".join(f"{name} ({why})" for name, why in missing.items())


@pytest.mark.parametrize(
    ("scene", "at"), [(scene, at) for scene in ("exact", "dp") for at in (*STEPS[scene], "recorded")]
)
def test_a_city_that_loses_power_while_one_node_is_at_a_step(nursery, tmp_path, scene, at):
    nursery.kill(tmp_path, scene, "city", "step", point=at)
    federation, signed = open_city(tmp_path), ask(scene, 1)
    before = {name: charged(books(opened), signed) for name, opened in federation.gates.items()}
    assert before["ash"] == 1
    assert max(before.values()) == 1
    assert "ash (ScheduleError: this request has run before" in without_ash(federation, signed)
    for name, opened in federation.gates.items():
        assert charged(books(opened), signed) <= 1, name
    city = federation.city()
    release = (
        city.table("t").agg(count()).release(purpose="research", epsilon=None if scene == "exact" else 1.0)
    )
    assert release.departments == NODES
    if scene == "exact":
        assert release.frame["count"].tolist() == [120]
    assert release.verify(city.roster).ok
    for opened in federation.gates.values():
        books(opened)
        shut(opened)

"""Real processes on loopback, over TLS: what happens when any of them is killed, frozen or restarted, at any time in a request.

Whatever happens, a request ends in a release that says who is missing, or in an error that says what to do; nothing is charged twice; and
the next request works.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
import village

from federated import up
from sandbox import SandboxError, col, count
from sandbox.audit import AuditLog
from sandbox.entries import Charge
from sandbox.errors import Cancelled, TooFewDepartments
from sandbox.roster import load as load_roster

PURPOSE = village.PURPOSE
NAMES = ("ash", "birch", "cedar", "date")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Four departments, running; their rows."""
    directory = tmp_path_factory.mktemp("town")
    frames = village.build(directory, "general-1", NAMES, ("analyst", "li"))
    with up.Processes(directory) as processes:
        processes.frames = frames
        yield processes


@pytest.fixture(autouse=True)
def whole(town):
    """After each test everybody is there again, and everything works."""
    yield
    for name in (up.COORDINATOR, *NAMES):
        if name not in town._running:
            town.start(name)
    town.wait()
    release = asked(town.city()).release(purpose=PURPOSE)
    assert total(release) == pooled(town)
    assert release.missing == ()


def asked(city):
    return city.table("t").group_by("region").agg(count(), col("age").mean())


def total(release) -> int:
    return int(release.frame["count"].sum())


def pooled(town, names=NAMES) -> int:
    return len(pd.concat([town.frames[name] for name in names]))


def charges(town, name: str) -> list[str]:
    """The requests that a department has charged, from its audit log, which verifies. The node must not run."""
    place = town.place(name)
    roster = load_roster(place / "roster.toml")
    log = AuditLog(place / "state" / "audit", f"city/{name}", public=roster.public(name, "node"))
    log.verify()
    found = [entry.request for entry in log.entries() if isinstance(entry, Charge)]
    log.close()
    return found


def at_stage(city, query, stage: str, action, **privacy):
    """Release, and do something to the processes just when a stage is reached; the release, or the error."""
    pending = query.release(purpose=PURPOSE, wait=False, **privacy)
    done = threading.Event()

    def look(reached: str) -> None:
        if reached.startswith(stage) and not done.is_set():
            done.set()
            action()

    try:
        return pending.result(60, look), done.is_set()
    except SandboxError as error:
        return error, done.is_set()


STAGES = ("deciding", "exchanging", "computing", "unmasking", "logging")


@pytest.mark.parametrize("stage", STAGES)
def test_a_node_killed_at_any_stage(town, stage):
    city = town.city()
    if stage == "exchanging":  # a new node process means new keys
        town.end("date")
        town.start("date")
        town.wait("date")
    outcome, reached = at_stage(city, asked(city), stage, lambda: town.kill("birch"), epsilon=0.1)
    assert reached, outcome
    if isinstance(outcome, SandboxError):
        assert isinstance(outcome, TooFewDepartments)
        assert "birch" in str(outcome)
    else:
        gone = set(outcome.missing) | set(outcome.unattested)
        assert gone <= {"birch"}, (outcome.missing, outcome.unattested)
        assert outcome.verify(city.roster).ok
    # The others go on without it, and say so.
    second = asked(city).release(purpose=PURPOSE)
    assert second.missing == ("birch",)
    assert total(second) == pooled(town, ("ash", "cedar", "date"))
    assert len(set(charges(town, "birch"))) == len(charges(town, "birch"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_coordinator_killed_at_any_stage(town, stage):
    """The analyst's wait goes on over the coordinator's restart, and ends: in a release, or in an error that says what was spent."""
    city = town.city()
    if stage == "exchanging":
        town.end("date")
        town.start("date")
        town.wait("date")

    def restart() -> None:
        town.kill(up.COORDINATOR)
        town.start(up.COORDINATOR)

    outcome, reached = at_stage(city, asked(city), stage, restart, epsilon=0.1)
    assert reached
    if stage in ("deciding", "exchanging"):  # nothing had been spent: it ran again from the start
        assert not isinstance(outcome, SandboxError), outcome
    if isinstance(outcome, SandboxError):
        assert isinstance(outcome, Cancelled), outcome
        assert "what they charged is spent" in str(outcome)
    else:
        assert outcome.verify(city.roster).ok
    town.wait()
    town.end("ash")
    assert len(set(charges(town, "ash"))) == len(charges(town, "ash"))


def test_a_request_that_waits_survives_the_coordinator(town):
    city = town.city()
    town.freeze("ash")  # holds the first request up
    first = asked(city).release(purpose=PURPOSE, epsilon=0.1, wait=False)
    second = asked(city).release(purpose=PURPOSE, wait=False)
    assert second.state == "queued"
    town.kill(up.COORDINATOR)
    town.thaw("ash")
    town.start(up.COORDINATOR)
    town.wait()
    later = town.city()
    assert total(later.request(second.digest).result(60)) == pooled(town)
    assert later.request(first.digest).done


def test_an_analyst_that_is_killed_finds_its_release_later(town):
    code = (
        "import sys, time; from federated.connecting import connect; from sandbox import col, count\n"
        "city = connect(sys.argv[1])\n"
        f"p = city.table('t').group_by('region').agg(count()).release(purpose={PURPOSE!r}, wait=False)\n"
        "print(p.digest, flush=True); time.sleep(60)"
    )
    place = town.directory / "analysts" / "analyst" / "city.toml"
    analyst = subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    digest = analyst.stdout.readline().strip()
    analyst.kill()
    analyst.wait()
    assert total(town.city().request(digest[:12]).result(60)) == pooled(town)
    assert town.city("li").requests().query("digest == @digest").empty


def test_a_node_that_is_cut_off_and_comes_back(town):
    """A frozen process is a network without answers: connections stand, and nothing comes."""
    city = town.city()
    town.freeze("cedar")
    try:
        started = time.monotonic()
        release = asked(city).release(purpose=PURPOSE, epsilon=0.1)
        assert release.missing == ("cedar",)
        assert time.monotonic() - started < 90
    finally:
        town.thaw("cedar")
    town.wait("cedar")
    assert asked(city).release(purpose=PURPOSE).missing == ()


def test_a_node_restarts_within_its_heartbeat(town):
    for _ in range(2):
        town.kill("date")
        town.start("date")
        town.wait("date")
    assert asked(town.city()).release(purpose=PURPOSE).missing == ()


def test_a_node_waits_for_a_coordinator_that_is_away(town):
    town.kill(up.COORDINATOR)
    assert town.connected() == set()
    time.sleep(0.5)  # every node has tried in vain
    town.start(up.COORDINATOR)
    town.wait()


def test_stopping_is_clean(town):
    assert town.end("ash") == 0
    assert town.end(up.COORDINATOR) in (0, -15)
    text = (town.place("ash") / "log.jsonl").read_text()
    assert '"event": "stopped"' in text


def test_logs_hold_nothing_of_requests_or_data(town):
    city = town.city()
    asked(city).release(purpose=PURPOSE)
    for name in (up.COORDINATOR, *NAMES):
        text = (town.place(name) / "log.jsonl").read_text()
        for word in ("region", "north", '"age"', PURPOSE, "parquet", "analyst"):
            assert word not in text, (name, word)

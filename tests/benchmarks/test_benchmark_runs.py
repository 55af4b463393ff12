"""Runs: what fails is an entry and an exit status, what is skipped an entry; a peer that cannot be installed fails nobody."""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks import environments, machine, records, running
from benchmarks.running import Suite

WELL = """
from benchmarks.harness import Sizes, sweep

@sweep(n=Sizes(quick=(10,), default=(20,), full=(10, 20)))
def bench_adding(measure, n):
    measure.task("adding", n=n)
    total = measure(lambda: sum(range(n)), rounds=3)
    measure.note(error=float(total - n * (n - 1) // 2), error_is="absolute")
"""
BROKEN = """
import pytest

def bench_wrong(measure):
    measure.task("wrong", n=1)
    measure(lambda: None, rounds=2)
    raise AssertionError("the sum is wrong")

def bench_absent(measure):
    measure.task("absent")
    pytest.skip("no such device")

def bench_idle(measure):
    measure.task("idle")
"""
MEMORY = """
import numpy as np

def bench_before(measure):
    measure.task("before")
    measure(lambda: [np.ones(2**20) for _ in range(8)], rounds=1)  # 64 MiB, freed, and kept for the next

def bench_large(measure):
    measure.task("large")
    calls = []

    def call():
        calls.append(None)
        [np.ones(2**20) for _ in range(8 if len(calls) < 3 else 32)]  # 64 MiB; the profiled call, 256

    measure(call, rounds=2, warm=False)

def bench_elsewhere(measure):
    measure.task("elsewhere")
    measure(lambda: None, rounds=1)
    measure.note(peak_bytes=None, cpu_seconds=None)
"""
SLOW = """
import pathlib, subprocess, time
import pytest

@pytest.fixture
def helper():
    helper = subprocess.Popen(["sleep", "600"])
    pathlib.Path({pids!r}).write_text(str(helper.pid))
    yield
    pathlib.Path({pids!r} + "-down").touch()

def bench_wrong(measure):
    measure.task("wrong")
    raise AssertionError("before the time is over")

def bench_zzz(measure, helper):
    time.sleep(600)
"""
LEAVING = """
import pathlib, subprocess

def bench_leaving(measure):
    measure.task("leaving")
    left = measure(lambda: subprocess.Popen(["sleep", "600"]), rounds=1, warm=False)
    pathlib.Path({pids!r}).write_text(str(left.pid))
"""


@pytest.fixture
def suites(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Suite]:
    """Suites of files in a folder; `limits` is a small one."""
    shutil.copy(running.FOLDER / "pytest.ini", tmp_path)
    (tmp_path / "suites").mkdir()
    files = {
        "limits": WELL,
        "broken": BROKEN,
        "crashing": "import os\nos._exit(3)\n",
        "unreadable": "import nothing_like_it\n",
        "failing-then-crashing": "import os\n" + BROKEN + "\ndef bench_zero(measure):\n    os._exit(3)\n",
        "memory": MEMORY,
        "slow": SLOW,
        "leaving": LEAVING,
    }
    for name, text in files.items():
        (tmp_path / "suites" / f"{name}.py").write_text(
            text.replace("{pids!r}", repr(str(tmp_path / "pids")))
        )
    made = {name: Suite("", (name,)) for name in files}
    monkeypatch.setattr(running, "FOLDER", tmp_path)
    monkeypatch.setattr(running, "SUITES", made)
    return made


def ran(path: pathlib.Path, *arguments: str) -> tuple[int, dict[str, records.Entry]]:
    done = CliRunner().invoke(cli.app, ["run", "--output", str(path), *arguments])
    return done.exit_code, {entry.task: entry for entry in records.read(path).entries}


def test_a_run_that_goes_well(suites: dict[str, Suite], tmp_path: pathlib.Path) -> None:
    status, found = ran(tmp_path / "results.jsonl", "--quick", "limits")
    adding = found["adding"]
    assert (status, adding.outcome, adding.parameters, len(adding.seconds)) == (0, "measured", {"n": 10}, 3)
    assert adding.cpu_seconds is not None
    assert adding.load >= 0


def test_what_fails_or_is_skipped_is_an_entry_and_failing_an_exit_status(
    suites: dict[str, Suite], tmp_path: pathlib.Path
) -> None:
    status, found = ran(tmp_path / "results.jsonl", "--quick", "broken", "crashing", "unreadable")
    assert status == 1
    assert {task: entry.outcome for task, entry in found.items()} == {
        "adding": "measured",
        "wrong": "failed",
        "absent": "skipped",
        "idle": "failed",
        "the run": "failed",
        "unreadable.py": "failed",
    }
    assert found["wrong"].reason == "AssertionError: the sum is wrong"
    assert not found["wrong"].seconds
    assert "no such device" in found["absent"].reason
    assert "status 3" in found["the run"].reason
    assert "nothing_like_it" in found["unreadable.py"].reason


def test_a_crash_is_told_also_after_a_failure(suites: dict[str, Suite], tmp_path: pathlib.Path) -> None:
    status, found = ran(tmp_path / "results.jsonl", "--quick", "failing-then-crashing")
    assert status == 1
    assert found["wrong"].outcome == found["the run"].outcome == "failed"
    assert "status 3" in found["the run"].reason


def test_a_suite_that_takes_too_long_ends_with_all_that_it_started(
    suites: dict[str, Suite], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(running.LONGEST, "quick", 4.0)
    entries = {entry.task: entry for entry in running.measure("slow", tmp_path / "results.jsonl", "quick")}
    assert entries["wrong"].outcome == "failed"
    assert entries["the run"].reason == "not done within 4 s"
    assert (tmp_path / "pids-down").exists()
    assert ended(int((tmp_path / "pids").read_text()))


def test_what_a_suite_leaves_running_is_ended(suites: dict[str, Suite], tmp_path: pathlib.Path) -> None:
    [entry] = running.measure("leaving", tmp_path / "results.jsonl", "quick")
    assert (entry.outcome, entry.warm) == ("measured", False)
    assert ended(int((tmp_path / "pids").read_text()))


def ended(process: int) -> bool:
    """Within a second; one that nobody has waited for counts as ended."""
    for _ in range(100):
        try:
            if ") Z " in pathlib.Path(f"/proc/{process}/stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak alone")
def test_memory_is_that_of_the_timed_calls_alone(suites: dict[str, Suite], tmp_path: pathlib.Path) -> None:
    """Neither what the task before has freed hides any, nor does the profiled call add to it."""
    _, found = ran(tmp_path / "results.jsonl", "memory")
    assert found["large"].profile
    assert found["large"].peak_bytes == pytest.approx(64 << 20, rel=0.05)
    assert (found["before"].warm, found["large"].warm) == (True, False)
    assert found["elsewhere"].peak_bytes is None


def test_a_peers_entries_say_all_that_its_environment_holds(
    suites: dict[str, Suite], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = environments.Peer("peer", "Somebody", "3.11", ("limits",))
    monkeypatch.setattr(environments, "peers", lambda: (peer,))
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    monkeypatch.setattr(environments, "python_of", lambda peer: sys.executable)
    (tmp_path / "peer.py").write_text(WELL)
    path = tmp_path / "results.jsonl"
    ran(path, "--quick", "--peers", "limits")
    read = records.read(path)
    ours, theirs = sorted(read.entries, key=lambda entry: entry.system != records.OURS)
    assert (ours.versions, theirs.system) == ({}, "Somebody")
    assert theirs.versions == read.run.versions == machine.versions()
    assert {"msgspec", "numpy", "pytest-benchmark", "pluggy"} <= theirs.versions.keys()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("status", [0, 1])
def test_make_bench_reports_also_when_a_task_failed(tmp_path: pathlib.Path, status: int) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $3 >> {tmp_path}/called\ntest $3 = report || exit {status}\n")
    python.chmod(0o755)
    command = ["make", "-C", str(machine.ROOT), "bench", f"BIN={tmp_path}", "-o", ".venv/dev.ready"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (tmp_path / "called").read_text().split() == ["run", "report"]
    assert bool(done.returncode) == bool(status)


def test_a_peer_that_cannot_be_installed_is_an_entry_and_no_failure(
    suites: dict[str, Suite], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = environments.Peer("none", "Nobody", "9.9", ("limits",))
    monkeypatch.setattr(environments, "peers", lambda: (peer,))
    monkeypatch.setattr(environments, "PEERS", tmp_path)
    monkeypatch.setattr(environments, "PLACE", tmp_path / "environments")
    (tmp_path / "none.txt").write_text("# system: Nobody\n")
    status, found = ran(tmp_path / "results.jsonl", "--quick", "--peers", "limits")
    assert status == 0
    assert (found["installation"].system, found["installation"].outcome) == ("Nobody", "failed")
    assert "Python 9.9" in found["installation"].reason


@pytest.mark.parametrize("peer", environments.peers(), ids=lambda peer: peer.name)
def test_a_peer_is_pinned_and_has_a_job(peer: environments.Peer) -> None:
    lines = [line for line in peer.pins.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert peer.job.exists()
    assert set(peer.suites) <= set(running.SUITES)
    assert not re.search(r"^(from|import) (mpc|sandbox|federated)\b", peer.job.read_text(), re.MULTILINE)


def test_unknown_suites_and_contradictions_are_refused(tmp_path: pathlib.Path) -> None:
    for arguments in (
        ["run", "no-such"],
        ["run", "--quick", "--full"],
        ["report", str(tmp_path / "none.jsonl")],
    ):
        assert CliRunner().invoke(cli.app, arguments).exit_code == 2

"""Runs: what fails is an entry and an exit status, what is skipped an entry; a peer that cannot be installed fails nobody."""

from __future__ import annotations

import pathlib
import re
import shutil

import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks import environments, records, running
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
    }
    for name, text in files.items():
        (tmp_path / "suites" / f"{name}.py").write_text(text)
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


def test_a_peer_that_cannot_be_installed_is_an_entry_and_no_failure(
    suites: dict[str, Suite], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = environments.Peer("none", "Nobody", "9.9", ("limits",), ())
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


def test_the_suites_are_files_and_the_limits_run(tmp_path: pathlib.Path) -> None:
    for suite in running.SUITES.values():
        assert all((running.FOLDER / "suites" / f"{file}.py").exists() for file in suite.files)
    status, found = ran(tmp_path / "results.jsonl", "--quick", "limits")
    assert status == 0
    assert {"AES-256-CTR", "memory copy", "X25519", "loopback round trip"} <= found.keys()


def test_unknown_suites_and_contradictions_are_refused(tmp_path: pathlib.Path) -> None:
    for arguments in (
        ["run", "no-such"],
        ["run", "--quick", "--full"],
        ["report", str(tmp_path / "none.jsonl")],
    ):
        assert CliRunner().invoke(cli.app, arguments).exit_code == 2

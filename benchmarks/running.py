"""Run suites, each in a process of its own under pytest, and peers in theirs; everything that happens becomes an entry."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

from benchmarks import environments, machine, records
from benchmarks.records import OURS, WHOLE, Entry, Mode
from federated import memory

FOLDER = pathlib.Path(__file__).parent
LONGEST = {"quick": 300.0, "default": 1800.0, "full": 7200.0}  # seconds for a suite or a peer
GRACE = 10.0  # seconds in which pytest may take down what it made
ENDED, UNREADABLE, EMPTY = (
    (0, 1),
    2,
    5,
)  # pytest's statuses: as entries tell, at files that cannot be loaded, without a test


class Suite(NamedTuple):
    """What belongs together: files under `suites/`."""

    about: str
    files: tuple[str, ...]


SUITES = {
    "limits": Suite("what this machine can do at most", ("limits",)),
    "secagg": Suite("masked sums", ("secagg",)),
    "he": Suite("encrypted sums and scores", ("he_sum", "he_score")),
    "dp": Suite("noise, the budget, and accuracy at an epsilon", ("dp",)),
    "statistics": Suite("from import to release", ("statistics",)),
    "learning": Suite("exact and private fits, neural training", ("learning", "neural")),
    "linkage": Suite("joins, intersections, the two-server engine", ("linkage", "engine")),
    "network": Suite("processes over TLS, and an emulated wide-area network", ("network", "trainings")),
    "door": Suite("policy, differencing, audit log, receipts", ("door", "evidence")),
}


def run(
    names: Iterable[str],
    path: pathlib.Path,
    mode: Mode,
    *,
    with_peers: bool = False,
    show: Callable[[Entry], None] = lambda entry: None,
) -> bool:
    """Measure suites, `limits` first, into a file of records, which is made or continued. Whether all of ours succeeded.

    A peer that cannot be installed, fails or takes too long is an entry, and no failure of ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(records.line(machine.run(mode)))
    well = True
    for name in sorted(set(names) | {"limits"}, key=list(SUITES).index):
        entries = measure(name, path, mode, show)
        well = well and all(entry.outcome != "failed" for entry in entries)
        if with_peers:
            for peer in environments.peers():
                if name in peer.suites:
                    _peer(peer, name, path, mode, show)
    return well


def measure(
    name: str, path: pathlib.Path, mode: Mode, show: Callable[[Entry], None] = lambda entry: None
) -> list[Entry]:
    """Measure one suite of ours alone; the entries, which are appended to the file."""
    files = [FOLDER / "suites" / f"{file}.py" for file in SUITES[name].files]
    return _measure(sys.executable, files, path, mode, name, OURS, show)


def _peer(
    peer: environments.Peer, suite: str, path: pathlib.Path, mode: Mode, show: Callable[[Entry], None]
) -> None:
    try:
        python = environments.python_of(peer)
    except environments.CannotInstall as error:
        _fail(path, suite, peer.system, "installation", str(error), show)
        return
    _measure(str(python), [peer.job], path, mode, suite, peer.system, show)


def _measure(
    python: str,
    files: list[pathlib.Path],
    path: pathlib.Path,
    mode: Mode,
    suite: str,
    system: str,
    show: Callable[[Entry], None],
) -> list[Entry]:
    """Entries that a process of pytest appended, with one more if it ended in a way that they do not tell."""
    path.touch()
    before = path.stat().st_size
    command = [python, "-m", "pytest", "-c", str(FOLDER / "pytest.ini"), "--rootdir", str(FOLDER)]
    command += ["--records", str(path), "--mode", mode, "--suite", suite, "--system", system]
    command += map(str, files)
    environment = {  # of this process's own pytest nothing: under pytest-xdist's name nothing would be measured
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": str(machine.ROOT),
        "OMP_NUM_THREADS": os.environ.get(
            "OMP_NUM_THREADS", "1"
        ),  # limits are one core's; spinning threads disturb
        # as `sandbox node start` does: freed memory is kept for the next vector, of ours and of peers alike
        "MALLOC_MMAP_THRESHOLD_": str(memory.LARGEST),
        "MALLOC_TRIM_THRESHOLD_": str(memory.KEPT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # other plugins take seconds to load
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    status, said = _ended(command, environment, LONGEST[mode])
    with path.open("rb") as file:
        file.seek(before)
        entries = [_entry(line) for line in file]
    for entry in entries:
        show(entry)
    if trouble := _untold(status, said, entries, {file.name for file in files}, LONGEST[mode]):
        entries.append(_fail(path, suite, system, WHOLE, trouble, show))
    return entries


def _ended(command: list[str], environment: dict[str, str], longest: float) -> tuple[int | None, str]:
    """The status with which a command ended, None if it took too long, and its last line. Nothing that it started in its group outlives it."""
    with tempfile.TemporaryFile() as output:  # a pipe would be held open by whatever outlives the command
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(longest)
        except subprocess.TimeoutExpired:
            status = None
            process.send_signal(signal.SIGINT)  # so that pytest takes down what its fixtures made
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    return status, lines[-1] if lines else ""


def _untold(
    status: int | None, said: str, entries: list[Entry], files: set[str], longest: float
) -> str | None:
    """What of the end of a run the entries do not tell."""
    if status is None:
        return f"not done within {longest:.0f} s"
    unreadable = any(entry.outcome == "failed" and entry.task in files for entry in entries)
    if status in ENDED or (status == UNREADABLE and unreadable) or (status == EMPTY and entries):
        return None if entries else "nothing was measured"
    return f"status {status}: {said}"


def _entry(line: bytes) -> Entry:
    import msgspec

    return msgspec.json.decode(line, type=Entry)


def _fail(
    path: pathlib.Path, suite: str, system: str, task: str, reason: str, show: Callable[[Entry], None]
) -> Entry:
    entry = Entry(suite, task, system, "failed", os.getloadavg()[0], reason)
    with path.open("ab") as file:
        file.write(records.line(entry))
    show(entry)
    return entry

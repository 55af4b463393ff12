"""`sandbox node check` names each thing that is wrong, and nothing else; a department joins a federation that runs; `sandbox up` ends."""

from __future__ import annotations

import contextlib
import http.server
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import deployed
import duckdb
import msgspec
import pytest
import village
from deployed import DEPARTMENTS, LATER, fill, people

from federated import up, worker
from federated.deploy import authority, checks
from federated.deploy.config import CoordinatorConfig, NodeConfig
from sandbox import roster
from sandbox.errors import Unreachable
from sandbox.keys import SigningKey
from sandbox.ledger import Ledger


@pytest.fixture
def sandbox_cli(capsys):
    return deployed.Commands(capsys)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Three departments, made by `init` and running; and their rows."""
    directory = tmp_path_factory.mktemp("running") / "city"
    frames = deployed.ready(directory)
    with up.Processes(directory) as processes:
        processes.frames = frames
        people(processes.city())  # the audit logs' heads are signed
        yield processes


def found(directory: pathlib.Path) -> dict[str, checks.Check]:
    return {check.name: check for check in checks.run(directory)}


@pytest.fixture
def department(running, tmp_path):
    """A copy of birch's files, to break."""
    shutil.copytree(
        running.place("birch"), tmp_path / "birch", ignore=shutil.ignore_patterns("state", "log*")
    )
    return tmp_path / "birch"


def test_check_finds_nothing_wrong_with_a_department_that_runs(running, sandbox_cli):
    place = running.place("ash")
    names = ("configuration", "roster", "key", "link key", "authority", "catalogue", "policy", "state")
    told = found(place)
    assert tuple(told) == (*names, "coordinator", "link", "data t")
    assert all(check.ok for check in told.values()), told
    assert told["link"].detail == "the coordinator knows its key; a node runs under it"
    status, text, _ = sandbox_cli("node", "check", place)
    assert status == 0
    assert len(text.splitlines()) == len(told)
    assert all(line.startswith("ok ") for line in text.splitlines())
    status, text, _ = sandbox_cli("coordinator", "status", running.place(up.COORDINATOR))
    assert (status, "connected: 3" in text) == (0, True)
    status, text, _ = sandbox_cli("node", "status", place)
    assert (status, "status: ok" in text) == (0, True)


def back(running: up.Processes, *names: str) -> None:
    """Start nodes, and wait until they say themselves that they are connected: to the coordinator a check's own call was its node's."""
    for name in names:
        running.start(name)
    waiting = {name: NodeConfig.load(running.place(name) / "node.toml") for name in names}
    for _ in range(1200):
        for name, config in list(waiting.items()):
            assert running.process(name).poll() is None
            with contextlib.suppress(Unreachable):
                if worker.status(config)["status"] == "ok":
                    del waiting[name]
        if not waiting:
            return
        time.sleep(0.05)
    pytest.fail(f"{', '.join(waiting)}: running, and not connected")


def test_check_of_a_department_that_does_not_run_disturbs_nothing(running):
    running.end("cedar")
    told = found(running.place("cedar"))
    assert all(check.ok for check in told.values()), told
    assert told["link"].detail == "the coordinator knows its key"
    back(running, "cedar")


def content(place: pathlib.Path) -> dict[str, bytes]:
    """The files of a state, but those that SQLite makes for whoever reads."""
    found = (path for path in place.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


def test_check_after_a_crash_finds_what_a_start_would_and_leaves_the_state_as_it_is(running):
    people(running.city())
    running.kill("cedar")
    state = running.place("cedar") / "state"
    before = content(state)
    told = found(running.place("cedar"))
    assert told["state"].ok, told["state"]
    assert "ledger, cohorts and approvals fit it" in told["state"].detail
    assert content(state) == before
    back(running, "cedar")


def replaced(path: pathlib.Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def another_key(place: pathlib.Path) -> None:
    (place / "node.key").unlink()
    SigningKey.generate().save(place / "node.key")


def another_link(place: pathlib.Path) -> None:
    (place / "link.key").unlink()
    authority.new_link_key(place / "link.key")


def another_authority(place: pathlib.Path) -> None:
    authority.new_authority(place / "..", "city")
    shutil.copy(place / ".." / "ca.crt", place / "ca.crt")


def outside(place: pathlib.Path) -> None:
    rows = village.rows(1)
    rows.loc[0, "age"] = 777
    duckdb.from_df(rows).write_parquet(os.fspath(place / "t.parquet"))


def state_without(place: pathlib.Path, name: str) -> None:
    shutil.copytree(place / "good", place / "state")
    (place / "state" / "audit" / name).unlink()


def damaged_log(place: pathlib.Path) -> None:
    shutil.copytree(place / "good", place / "state")
    entries = place / "state" / "audit" / "entries.log"
    data = bytearray(entries.read_bytes())
    data[len(data) // 2] ^= 1
    entries.write_bytes(bytes(data))


def old_ledger(place: pathlib.Path) -> None:
    """The ledger as it was before anything was charged, put back beside a log that knows better."""
    shutil.copytree(place / "good", place / "state")
    for path in (place / "state").glob("ledger.db*"):
        path.unlink()
    Ledger(place / "state" / "ledger.db").close()


def no_log(place: pathlib.Path) -> None:
    shutil.copytree(place / "good", place / "state")
    shutil.rmtree(place / "state" / "audit")


def open_state(place: pathlib.Path) -> None:
    shutil.copytree(place / "good", place / "state")
    (place / "state").chmod(0o750)


def one_owner_only(place: pathlib.Path) -> None:
    """Important data need two approvers; a roster with one owner of this organisation."""
    replaced(place / "catalog.toml", "general-1", "important")
    who = roster.load(place / "roster.toml")
    left = tuple(member for member in who.members if member.name != "birch-owner-2")
    (place / "roster.toml").write_text(roster.Roster(who.federation, left).dumps())


WRONG = {
    "metrics for everybody": (
        lambda p: replaced(p / "node.toml", 'metrics = "127.0.0.1', 'metrics = "0.0.0.0'),
        {"configuration"},
        "allowed is a loopback address",
    ),
    "fewer owners than approvers": (
        one_owner_only,
        {"policy"},
        "t: 2 owners must approve each contract, and the roster has 1 here",
    ),
    "old ledger": (old_ledger, {"state"}, "ledger of 'birch': it lacks charge 1"),
    "ledger without a log": (no_log, {"state"}, "has no audit log, and ledger.db, cohorts.db, approvals.db"),
    "state that others can read": (open_state, {"state"}, "has mode 0750, so others can read it"),
    "node.toml with a typing mistake": (
        lambda p: replaced(p / "node.toml", "parties", "party"),
        {"configuration"},
        "unknown field `party`",
    ),
    "key that others can read": (
        lambda p: (p / "node.key").chmod(0o640),
        {"key"},
        "0640, so others can read it",
    ),
    "another key": (another_key, {"key"}, "the roster has"),
    "link key that others can read": (
        lambda p: (p / "link.key").chmod(0o644),
        {"link key", "link"},
        "can be read by others",
    ),
    "link key that is none": (
        lambda p: (p / "link.key").write_text("x"),
        {"link key", "link"},
        "cannot be used: ValueError",
    ),
    "another link key": (another_link, {"link"}, "the coordinator does not know the key"),
    "another authority": (another_authority, {"coordinator", "link"}, "does not answer (ConnectError)"),
    "authority that is none": (
        lambda p: (p / "ca.crt").write_text("x"),
        {"authority", "coordinator", "link"},
        "is no certificate",
    ),
    "no roster": (lambda p: (p / "roster.toml").unlink(), {"roster", "key"}, "cannot be read: No such file"),
    "roster without this department": (
        lambda p: replaced(p / "roster.toml", 'name = "birch"', 'name = "elm"'),
        {"roster", "key"},
        "has no node 'birch'",
    ),
    "more parties than there are": (
        lambda p: replaced(p / "node.toml", "parties = 3", "parties = 4"),
        {"roster"},
        "'parties' is 4, and the roster has 3 nodes",
    ),
    "catalogue of another": (
        lambda p: replaced(p / "catalog.toml", '"birch"', '"ash"'),
        {"catalogue"},
        "it is of 'ash', and 'department' is 'birch'",
    ),
    "catalogue with a contradiction": (
        lambda p: replaced(p / "catalog.toml", "[0, 100]", "[100, 0]"),
        {"catalogue", "policy"},
        "'bounds' must be two finite numbers, the lower first",
    ),
    "data outside the bounds": (outside, {"data t"}, "'age'"),
    "no data": (lambda p: (p / "t.parquet").unlink(), {"data t"}, "'source' 't.parquet' is not a file"),
    "column that is not there": (
        lambda p: replaced(p / "catalog.toml", "columns.age", "columns.height"),
        {"data t"},
        "the data have no such column",
    ),
    "nothing": (
        lambda p: replaced(p / "node.toml", "parties", f'state = "{p / "good"}"\nparties'),
        set(),
        "",
    ),
    "audit log with another byte": (damaged_log, {"state"}, "audit log 'city/birch': "),
    "audit log without its head": (lambda p: state_without(p, "head"), {"state"}, "its signed head is gone"),
    "coordinator away": (
        lambda p: (p / "node.toml").write_text(
            f'department = "birch"\nurl = "https://127.0.0.1:{up.free_port()}"\n'
        ),
        {"coordinator", "link"},
        "does not answer (ConnectError): is it started",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_check_says_what_is_wrong_and_nothing_else_is(running, department, sandbox_cli, what):
    shutil.copytree(running.place("birch") / "state", department / "good")
    break_, names, told = WRONG[what]
    break_(department)
    checked = found(department)
    assert {name for name, check in checked.items() if not check.ok} == names, checked
    if names:
        assert any(told in checked[name].detail for name in names), checked
    status, text, _ = sandbox_cli("node", "check", department)
    assert status == (1 if names else 0)
    assert sum(line.startswith("FAILED") for line in text.splitlines()) == len(names)
    assert "777" not in text, "values of rows are not told"
    assert not any(len(line) > 600 for line in text.splitlines())


class OtherClock(http.server.BaseHTTPRequestHandler):
    """A coordinator whose clock is wrong, or that tells no time."""

    behind, protocol_version = 0.0, "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response_only(200)
        if self.behind is not None:
            self.send_header("date", self.date_time_string(time.time() - self.behind))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.mark.parametrize(("behind", "ok"), [(0.0, True), (300.0, False), (-300.0, False), (None, False)])
def test_check_compares_the_clocks(running, department, behind, ok):
    place = running.place(up.COORDINATOR)
    handler = type("Handler", (OtherClock,), {"behind": behind})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(place / "tls.crt", place / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"https://127.0.0.1:{server.server_port}"
        loaded = NodeConfig.load(department / "node.toml")
        checked = checks._tried(
            "coordinator", lambda: checks._coordinator(msgspec.structs.replace(loaded, url=url))
        )
        thread.join()
    assert checked.ok is ok, checked
    if behind:
        assert "this clock differs by " in checked.detail
        assert "use NTP" in checked.detail


def test_another_authority_follows_while_nobody_stands_still(running, sandbox_cli, tmp_path):
    """Both are trusted; then the coordinator's certificate is of the new one; then the old one is taken out."""
    coordinator, analyst = running.place(up.COORDINATOR), running.directory / "analysts" / "analyst"
    trusted = [running.place(name) / "ca.crt" for name in (up.COORDINATOR, *DEPARTMENTS)]
    trusted.append(analyst / "ca.crt")
    assert sandbox_cli("federation", "authority", tmp_path / "next", "--name", "city")[0] == 0
    assert (tmp_path / "next" / "ca.key").stat().st_mode & 0o777 == 0o600
    old, new = (path.read_text() for path in (analyst / "ca.crt", tmp_path / "next" / "ca.crt"))
    for path in trusted:
        path.write_text(old + new)
    for name in DEPARTMENTS:
        running.end(name)
    back(running, *DEPARTMENTS)
    everybody = people(running.city())
    assert everybody[1] == DEPARTMENTS
    words = ("federation", "certificate", tmp_path / "next", coordinator, "--host", "127.0.0.1")
    assert sandbox_cli(*words)[0] == 0
    running.end(up.COORDINATOR)
    running.start(up.COORDINATOR)
    running.wait()
    assert people(running.city()) == everybody
    for path in trusted:
        path.write_text(new)
    assert all(check.ok for check in found(running.place("ash")).values())
    assert people(running.city()) == everybody
    (analyst / "ca.crt").write_text(old)
    with pytest.raises(Unreachable, match="does not prove who it is"):
        running.city()
    (analyst / "ca.crt").write_text(new)


def test_a_department_that_joins_takes_part_in_the_next_release(running, sandbox_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory, coordinator = running.directory, running.place(up.COORDINATOR)
    everybody = sum(map(len, running.frames.values()))
    assert people(running.city()) == (everybody, DEPARTMENTS)
    node = directory / "nodes" / LATER
    for words in (
        ("invite", coordinator, "--name", LATER, "--organisation", "Transport Authority"),
        ("join", "invitation.json", node, "--owner", "chen", "--owner", "zhao"),
        ("federation", "admit", coordinator, node / "card.json"),
    ):
        assert sandbox_cli(*words)[0] == 0
    more = len(fill(directory, LATER, 7))
    # The coordinator still runs under the old roster, and so do the others: nothing has changed for them.
    assert people(running.city()) == (everybody, DEPARTMENTS)
    assert not found(node)["link"].ok, "the coordinator reads link keys when it starts"
    for place in (*map(running.place, DEPARTMENTS), node, directory / "analysts" / "analyst"):
        assert sandbox_cli("roster", "install", "roster.json", "--file", place / "roster.toml")[0] == 0
    running.end(up.COORDINATOR)
    running.start(up.COORDINATOR)
    for name in DEPARTMENTS:
        running.end(name)
        running.start(name)
    running.start(LATER)
    running.wait()
    assert all(check.ok for check in found(node).values()), found(node)
    assert people(running.city()) == (everybody + more, (*DEPARTMENTS, LATER))


# --- sandbox up ---


def test_make_writes_the_demos_departments(tmp_path):
    up.make(tmp_path / "demo")
    for name in ("harbour", "hills", "river"):
        told = found(tmp_path / "demo" / "nodes" / name)
        wrong = {check for check, result in told.items() if not result.ok}
        assert wrong == {"coordinator", "link"}, "all but what does not run yet"


def children(process: int) -> list[int]:
    return [int(n) for n in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_up_runs_until_it_is_told_to_end_and_leaves_nothing(tmp_path):
    village.build(tmp_path / "city")
    process = subprocess.Popen(
        [sys.executable, "-c", up._RUN, "up", str(tmp_path / "city")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0].startswith("ash, birch, cedar are connected")
        parts = children(process.pid)
        assert len(parts) == 4
        assert all(map(alive, parts))
        city = up.Processes(tmp_path / "city").city()
        assert people(city)[0] == 3 * village.ROWS
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not any(map(alive, parts))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    port = CoordinatorConfig.load(tmp_path / "city" / "coordinator" / "coordinator.toml").address.partition(
        ":"
    )[2]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), 5)

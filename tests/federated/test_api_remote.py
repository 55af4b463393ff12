"""The analysts' port over TLS: the calls of `sandbox.demo()` unchanged, many analysts at once, and whoever should not get in."""

from __future__ import annotations

import collections
import json
import math
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import httpx
import msgspec
import pytest
from over_https import ANALYSTS, Opened, Port, served

from federated import demo
from federated.http import api, signatures
from federated.http.routes import LONGEST_WAIT, ROUTES
from sandbox import col, count, errors, keys
from sandbox.catalog import Budget
from sandbox.errors import Cancelled, QueryError, Refused, Unreachable
from sandbox.pending import ENDED
from sandbox.roster import Roster

ROOT = pathlib.Path(__file__).parents[2]
PURPOSE = "research"
OPEN = {"/health", "/openapi.json"}


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """The demo's departments behind a port."""
    catalogs = {name: demo.catalog(name) for name in demo.DEPARTMENTS}
    frames = {name: {demo.TABLE: part} for name, part in demo.departments().items()}
    opened = Opened(catalogs, frames)
    with served(api.app(opened.desk), tmp_path_factory.mktemp("demo")) as port:
        yield opened, port


@pytest.fixture
def opened(people):
    everyone = people(departments=3)
    return Opened(everyone.catalogs, everyone.frames)


@pytest.fixture
def port(opened, tmp_path):
    with served(api.app(opened.desk), tmp_path) as port:
        yield port


def until(condition):
    """Wait until it holds; the timeout is of a broken test, not of what is tested."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- the same calls ---

QUERIES = {
    "means": lambda t: t.group_by("sex").agg(count(), col("illdays").mean(), col("age").std()),
    "filter": lambda t: t.filter((col("age") >= 60) & (col("sex") == "male")).agg(count()),
    "quantile": lambda t: t.group_by("insurance").agg(col("age").quantile(0.5)),
    "crosstab": lambda t: t.crosstab("sex", "insurance"),
    "welch": lambda t: t.ttest("illdays", by="insurance"),
    "matrix": lambda t: t.corr(["age", "illdays"]),
    "histogram": lambda t: t.histogram("age", [18, 40, 60]),
}


@pytest.mark.parametrize("epsilon", [None, 0.25])
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_the_demos_calls_are_the_same(demonstration, query, epsilon):
    opened, port = demonstration
    if query is QUERIES["quantile"] and epsilon is None:
        epsilon = 0.1  # an exact quantile needs more units per cell than are here
    city = opened.city(port)
    question = query(city.table(demo.TABLE))
    foreseen = question.explain(epsilon=epsilon)
    same = query(opened.here().table(demo.TABLE)).explain(epsilon=epsilon)
    assert foreseen == msgspec.structs.replace(same, seconds=foreseen.seconds)  # measured, not computed
    release = question.release(purpose="public-health", epsilon=epsilon)
    assert release.verify(city.roster).ok
    newest = opened.desk.tickets("analyst")[0]
    kept = opened.desk.release("analyst", newest.digest)
    assert (release, release.digest()) == (kept, kept.digest())
    if epsilon is None:
        again = query(opened.here().table(demo.TABLE)).release(purpose="public-health")
        assert again.series == release.series
        assert again.test == release.test


def test_what_exists_is_the_same(demonstration):
    opened, port = demonstration
    city, here = opened.city(port), opened.here()
    assert city.catalog().equals(here.catalog())
    assert city.table(demo.TABLE).columns.equals(here.table(demo.TABLE).columns)
    assert (city.roster, city.setting, city.unreachable) == (here.roster, here.setting, {})
    assert repr(city) == repr(here)
    mock = city.table(demo.TABLE).group_by("sex").agg(count()).mock()
    assert mock.mock
    assert mock.frame["sex"].tolist() == ["female", "male"]


def test_sql_and_progress(demonstration):
    opened, port = demonstration
    city, stages = opened.city(port), []
    city.progress = stages.append
    query = city.sql(f"SELECT sex, COUNT(*) FROM {demo.TABLE} GROUP BY sex")
    assert query.release(purpose="public-health").frame["count"].tolist() == [13573, 14192]
    ticket = opened.desk.tickets("analyst")[0]
    assert tuple(stages) == ticket.stages
    assert "computing and masking" in stages


def test_infinite_ends_of_intervals_survive(opened, port):
    city = opened.city(port)
    query = city.table("t").filter(col("age") < 1).agg(col("income").mean(), col("income").std())
    release = query.release(purpose=PURPOSE, epsilon=0.01)
    ends = [end for series in release.series for end in (*series.low, *series.high) if end is not None]
    assert any(math.isinf(end) for end in ends)
    assert release.verify(city.roster).ok
    json.dumps(release.frame.to_dict("list"))


def test_contracts_are_proposed_approved_and_used(people, tmp_path):
    everyone = people(departments=3, level="important")
    opened = Opened(everyone.catalogs, everyone.frames)
    with served(api.app(opened.desk), tmp_path) as port:
        query = opened.city(port).table("t").agg(count())
        with pytest.raises(errors.ApprovalNeeded) as needed:
            query.release(purpose=PURPOSE, epsilon=0.5)
        assert needed.value.reasons
        proposal = query.propose(purpose=PURPOSE, legal_basis="statistics act", epsilon=0.5)
        assert not proposal.failed
        assert set(proposal.status()["state"]) == {"pending"}
        for department in everyone.names:
            for name in opened.federation.parties.owners[department]:
                with opened.federation.owner(department, name) as owner:
                    owner.approve(proposal.digest)
        assert proposal.approved
        assert query.release(purpose=PURPOSE, epsilon=0.5).verify(opened.roster).ok


# --- the same errors ---

FAILING = {
    "purpose": lambda city: city.table("t").agg(count()).release(purpose="taxes"),
    "budget": lambda city: city.table("t").agg(count()).release(purpose=PURPOSE, epsilon=60.0),
    "delta": lambda city: city.table("t").agg(count()).explain(epsilon=1e-9, delta=1e-12),
    "unknown request": lambda city: city.released("0" * 64),
    "unknown digest": lambda city: city.cancel("0" * 64),
    "too few": lambda city: city.table("u").agg(count()).release(purpose=PURPOSE),
    "contract's table": lambda city: city._desk.contract("0" * 64, "nothing"),
    "two differ": lambda city: city._desk.explain(
        city._signed(city._request(_query("v"), PURPOSE, None, None))
    ),
}


def _query(table):
    from sandbox.table import JointTable

    return JointTable(None, table).agg(count()).query


@pytest.mark.parametrize("fail", FAILING.values(), ids=FAILING)
def test_errors_are_the_same(people, tmp_path_factory, fail, served_errors):
    opened, port = served_errors
    caught = []
    for city in (opened.here("bo"), opened.city(port, "bo")):
        with pytest.raises(errors.SandboxError) as error:
            fail(city)
        caught.append(error.value)
    here, there = caught
    assert type(there) is type(here)
    assert str(there) == str(here)
    assert getattr(there, "reasons", None) == getattr(here, "reasons", None)


@pytest.fixture(scope="module")
def served_errors(people, tmp_path_factory):
    """Tables `t` of all, `u` of two departments, and `v`, which two declare differently; little budget."""
    everyone = people(departments=3, budget=Budget(19.0, 1e-6))
    for i, name in enumerate(everyone.names):
        dataset = everyone.catalogs[name].datasets["t"]
        more = {"v": msgspec.structs.replace(dataset, max_rows=1000 + i)} | ({"u": dataset} if i else {})
        everyone.catalogs[name] = msgspec.structs.replace(
            everyone.catalogs[name], datasets={"t": dataset} | more
        )
        everyone.frames[name] |= dict.fromkeys(more, everyone.frames[name]["t"])
    opened = Opened(everyone.catalogs, everyone.frames)
    with served(api.app(opened.desk), tmp_path_factory.mktemp("errors")) as port:
        yield opened, port


def test_of_a_foreign_exception_only_its_class_crosses(opened, port, monkeypatch, caplog):
    city = opened.city(port)

    def broken(*_arguments):
        raise ZeroDivisionError("a patient's name")

    monkeypatch.setattr(opened.desk, "_run", broken)
    with pytest.raises(errors.InternalError) as caught:
        city.table("t").agg(count()).release(purpose=PURPOSE)
    assert "ZeroDivisionError" in str(caught.value)
    monkeypatch.setattr(opened.desk, "explain", broken)
    with pytest.raises(errors.InternalError) as again:
        city.table("t").agg(count()).explain()
    assert "patient" not in str(caught.value) + str(again.value) + caplog.text
    logged = [r.fields["error"] for r in caplog.records if r.name == "joint-sandbox.api"]
    assert logged == ["InternalError", "ZeroDivisionError"]


# --- requests that outlive a call ---


def test_without_waiting_and_from_another_notebook(opened, port):
    gated = opened.gate("decide")
    pending = opened.city(port).table("t").agg(count()).release(purpose=PURPOSE, wait=False)
    assert gated.reached.wait(60)
    assert (pending.state, pending.stages, pending.done) == ("running", ("deciding",), False)
    with pytest.raises(TimeoutError):
        pending.result(timeout=0.01)
    with pytest.raises(QueryError, match="is running"):
        opened.remote(port).release("analyst", pending.digest)
    other = opened.city(port).request(pending.digest[:8])
    gated.let()
    assert other.result(timeout=60).frame["count"].tolist() == [120]
    assert pending.result(timeout=60) == other.result()
    assert opened.city(port).requests()["state"].tolist() == ["released"]


def test_a_watch_returns_once_it_changes(opened, port):
    gated = opened.gate("decide")
    city = opened.city(port)
    pending = city.table("t").agg(count()).release(purpose=PURPOSE, wait=False)
    assert gated.reached.wait(60)
    seen, found = city.watch(pending.digest, None, 0.0), []
    watcher = threading.Thread(
        target=lambda: found.append(city.watch(pending.digest, seen, LONGEST_WAIT * 9))
    )
    watcher.start()
    gated.let()
    watcher.join(60)
    assert found[0] != seen
    pending.result()
    assert city.watch(pending.digest, None, 0.0).state == "released"


def test_cancelled_while_queued_and_while_running(opened, port):
    gated = opened.gate("decide")
    city = opened.city(port)
    table = city.table("t").agg(count())
    running, queued = (table.release(purpose=PURPOSE, epsilon=0.5, wait=False) for _ in range(2))
    assert gated.reached.wait(60)
    assert queued.cancel() == "cancelled"
    assert running.cancel() == "running"
    gated.let()
    for pending in (running, queued):
        with pytest.raises(Cancelled, match="cancelled by its analyst before"):
            pending.result(timeout=60)
    assert city.catalog()["epsilon_left"].tolist() == [20.0] * 3
    assert gated.sent["masked"] == 0


def test_the_same_request_again_is_the_same_ticket(opened, port):
    desk, city = opened.remote(port), opened.city(port)
    signed = city._signed(city._request(_query("t"), PURPOSE, 0.5, None))
    first = desk.submit(signed)
    assert {desk.submit(signed).digest for _ in range(3)} == {first.digest}
    city.request(first.digest).result()
    assert desk.submit(signed).state == "released"
    assert city.catalog()["epsilon_left"].tolist() == pytest.approx([19.5] * 3)


def test_fifty_requests_of_five_analysts(opened, port):
    gated = opened.gate("decide")
    cities = {name: opened.city(port, name) for name in ANALYSTS}
    found, pending = collections.defaultdict(list), collections.defaultdict(list)

    def ask(name):
        one = cities[name].table("t").agg(count()).release(purpose=PURPOSE, epsilon=0.05, wait=False)
        pending[name].append(one)
        found[name].append((one.digest, one.result(timeout=300)))

    threads = [threading.Thread(target=ask, args=(name,)) for name in ANALYSTS for _ in range(10)]
    for thread in threads:
        thread.start()
    until(lambda: opened.desk.waiting() == 50)
    # Fifty calls wait; others are answered meanwhile.
    assert all(len(city._desk.tickets(name)) == 10 for name, city in cities.items())
    assert cities["eve"].catalog()["epsilon_left"].tolist() == [20.0] * 3
    gated.let()
    for thread in threads:
        thread.join(300)
    assert {name: len(releases) for name, releases in found.items()} == dict.fromkeys(ANALYSTS, 10)
    digests = {digest for releases in found.values() for digest, _ in releases}
    assert len(digests) == 50
    for name, releases in found.items():
        assert {ticket.digest for ticket in opened.desk.tickets(name)} == {digest for digest, _ in releases}
        assert all(release.verify(opened.roster).ok for _, release in releases)
    # Each was charged and computed once.
    assert gated.sent["masked"] == 50
    left = cities["eve"].catalog()["epsilon_left"]
    assert (left < 20 - 0.05).all()
    # A round over the analysts: none gets ahead of another by more than one; the first was running before the others came.
    tickets = sorted(
        (ticket for name in ANALYSTS for ticket in opened.desk.tickets(name)), key=lambda ticket: ticket.ended
    )
    ahead = collections.Counter()
    for ticket in tickets[1:-1]:
        ahead[ticket.analyst] += 1
        assert max(ahead.values()) - min(ahead[name] for name in ANALYSTS) <= 1


KILLED = """
import sys
from federated.http.client import RemoteDesk
from federated.session import City
from sandbox import count, keys, roster
url, authority, roster_path, key_path = sys.argv[1:]
key = keys.SigningKey.load(key_path)
city = City(RemoteDesk(url, authority, "analyst", key, roster.load(roster_path)), key)
pending = city.table("t").agg(count()).release(purpose="research", epsilon=0.5, wait=False)
print(pending.digest, flush=True)
pending.result()
"""


def test_an_analyst_is_killed_while_waiting(opened, tmp_path):
    gated, app = opened.gate("decide"), api.app(opened.desk)
    opened.keys["analyst"].save(tmp_path / "key.pem")
    (tmp_path / "roster.toml").write_text(opened.roster.dumps())
    with served(app, tmp_path) as port:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", KILLED, port.url, str(port.authority)),
                *(str(tmp_path / "roster.toml"), str(tmp_path / "key.pem")),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        digest = process.stdout.readline().strip()
        assert gated.reached.wait(60)
        places, waiting = app.state.served._places._taken, app.state.served._changes._waiting
        until(lambda: places["analyst"] == 1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until(lambda: not places and not waiting)  # nothing is kept for who is gone
        gated.let()
        city = opened.city(port)
        assert city.request(digest).result(timeout=60).verify(opened.roster).ok
        assert gated.sent["masked"] == 1
        assert city.table("t").agg(count()).release(purpose=PURPOSE).frame["count"].tolist() == [120]


def test_the_port_restarts_while_an_analyst_waits(opened, tmp_path):
    """The desk stays: what is tried is the client's patience."""
    (tmp_path / "first").mkdir()
    first = Port(api.app(opened.desk), tmp_path / "first")
    gated = opened.gate("decide")
    city = opened.city(first)
    pending = city.table("t").agg(count()).release(purpose=PURPOSE, wait=False)
    assert gated.reached.wait(60)
    found = []
    waiter = threading.Thread(target=lambda: found.append(pending.result()))
    waiter.start()
    first.stop()
    again = Port(api.app(opened.desk), tmp_path / "first", first.number, fresh=False)
    gated.let()
    waiter.join(60)
    again.stop()
    assert found[0].frame["count"].tolist() == [120]


# --- whoever should not get in ---


class Caller:
    """Raw calls over TLS, as whoever holds the authority's certificate."""

    def __init__(self, opened, port):
        self.opened = opened
        self.client = httpx.Client(
            base_url=port.url, verify=ssl.create_default_context(cafile=str(port.authority)), trust_env=False
        )

    def fields(self, method, target, body=b"", *, name="analyst", key=None, at=None):
        path, _, query = target.partition("?")
        to = signatures.coordinator(self.opened.roster)
        now = int(time.time()) if at is None else at
        return signatures.sign(key or self.opened.keys[name], name, to, method, path, query, body, now)

    def send(self, method, target, body=b"", fields=None, **headers):
        return self.client.request(method, target, content=body, headers={**(fields or {}), **headers})

    def signed(self, method, target, body=b"", **options):
        return self.send(method, target, body, self.fields(method, target, body, **options))


@pytest.fixture(scope="module")
def caller(demonstration):
    return Caller(*demonstration)


def targets():
    for route in ROUTES:
        table = "?table=t" if route.name == "contract" else ""
        yield route.method, route.path.format(digest="0" * 64) + table


@pytest.mark.parametrize(("method", "target"), list(targets()), ids=str)
def test_a_stranger_with_the_authoritys_certificate_reads_nothing(caller, method, target):
    stranger = keys.SigningKey.generate()
    for fields in ({}, caller.fields(method, target, key=stranger), caller.fields(method, target, name="bo")):
        if fields and "bo" in fields["signature-input"]:
            fields |= {"signature": caller.fields(method, target)["signature"]}
        answer = caller.send(method, target, fields=fields)
        if target in OPEN:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["accept-signature"].startswith('sandbox=("@method" "@path"')
            assert answer.json()["error"] in ("SignatureInvalid", "Malformed")
            text = answer.text.lower()
            assert not any(name in text for name in (*demo.DEPARTMENTS, demo.TABLE, "public-health"))


def test_health_says_nothing_private(caller):
    assert caller.send("GET", "/health").json() == {"status": "ok", "waiting": 0, "connected": None}


def test_a_call_seen_on_the_way_cannot_be_made_again(caller):
    target = "/api/v1/requests"
    fields = caller.fields("GET", target)
    assert caller.send("GET", target, fields=fields).status_code == 200
    again = caller.send("GET", target, fields=fields)
    assert (again.status_code, again.json()["error"]) == (401, "Expired")


def test_an_old_call_is_refused(caller):
    now = int(time.time())
    for at in (now - 61, now + 120):
        answer = caller.signed("GET", "/api/v1/offers", at=at)
        assert (answer.status_code, answer.json()["error"]) == (401, "Expired")


def test_a_proxy_may_change_host_and_add_fields(caller):
    target = "/api/v1/federation"
    answer = caller.send(
        "GET", target, fields=caller.fields("GET", target), host="inside.example", via="1.1 x"
    )
    assert answer.json()["roster"] == caller.opened.roster.dumps()


def test_a_changed_call_is_refused(caller):
    fields = caller.fields("GET", f"/api/v1/requests/{'0' * 64}")
    for method, target, body in (
        ("DELETE", f"/api/v1/requests/{'0' * 64}", b""),
        ("GET", f"/api/v1/requests/{'1' * 64}", b""),
        ("GET", f"/api/v1/requests/{'0' * 64}?wait=1", b""),
        ("GET", f"/api/v1/requests/{'0' * 64}", b"x"),
    ):
        answer = caller.send(method, target, body, fields)
        assert (answer.status_code, answer.json()["error"]) == (401, "SignatureInvalid")
    fields = caller.fields("GET", f"/api/v1/requests/{'0' * 64}")
    twice = [*fields.items(), ("Signature", fields["signature"])]
    answer = caller.client.get(f"/api/v1/requests/{'0' * 64}", headers=twice)
    assert (answer.status_code, answer.json()["error"]) == (401, "Malformed")


def test_what_one_analyst_signed_another_cannot_send(caller):
    city = caller.opened.here("bo")
    body = msgspec.json.encode(city._signed(city._request(_query(demo.TABLE), "public-health", None, None)))
    before = caller.opened.desk.tickets("bo")
    for path in ("requests", "explain", "contracts"):
        answer = caller.signed("POST", f"/api/v1/{path}", body)
        assert (answer.status_code, answer.json()["error"]) == (403, "UnknownSigner")
    forged = msgspec.structs.replace(msgspec.json.decode(body, type=keys.Signed), signer="analyst")
    answer = caller.signed("POST", "/api/v1/requests", msgspec.json.encode(forged))
    assert (answer.status_code, answer.json()["error"]) == (403, "SignatureInvalid")
    assert caller.opened.desk.tickets("bo") == before


def test_another_analysts_request_is_unknown(opened, port):
    pending = opened.city(port).table("t").agg(count()).release(purpose=PURPOSE, wait=False)
    pending.result(timeout=60)
    eve, one = Caller(opened, port), f"/api/v1/requests/{pending.digest}"
    for method, target in (
        ("GET", one),
        ("DELETE", one),
        ("GET", f"{one}/release"),
        ("GET", f"{one}/events"),
    ):
        answer = eve.signed(method, target, name="eve")
        nobody = eve.signed(method, target.replace(pending.digest, "0" * 64), name="eve")
        assert answer.status_code == nobody.status_code == 404
        assert answer.text.replace(pending.digest[:16], "") == nobody.text.replace("0" * 16, "")
    assert opened.remote(port, "eve").tickets("eve") == ()
    with pytest.raises(QueryError, match="0 requests of 'eve'"):
        opened.city(port, "eve").request(pending.digest)
    assert pending.state == "released"


def test_large_bodies_are_refused_and_a_strangers_are_not_read(caller):
    large = b"x" * (2**20 + 1)
    answer = caller.signed("POST", "/api/v1/requests", large)
    assert (answer.status_code, answer.json()["error"]) == (413, "ParameterError")

    def chunks():
        yield b"x" * 2**20
        yield b"x"

    fields = caller.fields("POST", "/api/v1/requests", large)
    assert caller.client.post("/api/v1/requests", content=chunks(), headers=fields).status_code == 413
    # A stranger's call is answered while its body is still to come.
    address = httpx.URL(str(caller.client.base_url))
    context = caller.client._transport._pool._ssl_context
    with (
        socket.create_connection((address.host, address.port), 60) as raw,
        context.wrap_socket(raw, server_hostname=address.host) as connection,
    ):
        head = f"POST /api/v1/requests HTTP/1.1\r\nhost: {address.host}\r\ncontent-length: 1000000\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_one_analyst_cannot_fill_the_queue(opened, port, monkeypatch):
    monkeypatch.setattr("federated.desk.QUEUED", 3)
    gated = opened.gate("decide")
    city = opened.city(port)
    query = city.table("t").agg(count())
    first = query.release(purpose=PURPOSE, wait=False)
    assert gated.reached.wait(60)
    pending = [query.release(purpose=PURPOSE, wait=False) for _ in range(3)]
    with pytest.raises(Refused, match="3 requests of yours are queued"):
        query.release(purpose=PURPOSE, wait=False)
    assert len(city.requests()) == 4
    other = opened.city(port, "bo").table("t").agg(count()).release(purpose=PURPOSE, wait=False)
    gated.let()
    for one in (first, other, *pending):
        assert one.result(timeout=60).frame["count"].tolist() == [120]


# --- who is not the coordinator ---


def test_only_the_federations_authority_is_trusted(opened, port, tmp_path):
    (tmp_path / "other").mkdir()
    with served(api.app(opened.desk), tmp_path / "other") as other:
        port.authority = other.authority
        with pytest.raises(Unreachable, match="does not prove who it is") as caught:
            opened.remote(port)
    assert port.url in str(caught.value)


def test_the_certificate_must_name_the_host(opened, port):
    port.url = f"https://localhost:{port.number}"
    with pytest.raises(Unreachable, match="does not prove who it is"):
        opened.remote(port)


def test_another_roster_than_ones_own_is_told(opened, port):
    mine = Roster(opened.roster.federation, opened.roster.members[:-1])
    with pytest.raises(Unreachable) as caught:
        opened.remote(port, roster=mine)
    assert mine.fingerprint() in str(caught.value)
    assert opened.roster.fingerprint() in str(caught.value)


def test_nobody_answers(opened, port):
    city = opened.city(port, patience=0.0)
    port.stop()
    for call in (city.refresh, city.requests):
        with pytest.raises(Unreachable) as caught:
            call()
        assert str(caught.value) == f"the coordinator at {port.url} does not answer: ConnectionRefusedError"


def test_something_else_answers(opened, tmp_path):
    async def app(scope, receive, send):
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
        )
        await send({"type": "http.response.body", "body": b"<html>"})

    with served(app, tmp_path) as port, pytest.raises(errors.Malformed, match="of another version"):
        opened.remote(port)


def test_another_key_than_the_rosters(opened, port):
    opened.keys["analyst"] = keys.SigningKey.generate()
    with pytest.raises(errors.SignatureInvalid, match="not signed by an analyst of 'city'"):
        opened.remote(port)


# --- events ---


def events(lines):
    """The (event, data) pairs of a stream's lines."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_events_tell_each_stage_and_the_end(opened, port):
    gated = opened.gate("masked")
    caller, city = Caller(opened, port), opened.city(port)
    pending = city.table("t").agg(count()).release(purpose=PURPOSE, epsilon=0.5, wait=False)
    target = f"/api/v1/requests/{pending.digest}/events"
    with caller.client.stream("GET", target, headers=caller.fields("GET", target), timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = events(stream.iter_lines())
        early = [next(told) for _ in range(3)]
        assert early[-1] == ("stage", "computing and masking")
        gated.let()
        rest = list(told)
    ticket = opened.desk.ticket("analyst", pending.digest)
    assert tuple(stage for name, stage in early + rest if name == "stage") == ticket.stages
    assert rest[-1] == ("end", json.loads(msgspec.json.encode(ticket)))
    assert ticket.state in ENDED


def test_a_stream_ends_with_its_reader_and_shows_signs_of_life(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "ALIVE", 0.01)
    app = api.app(opened.desk)
    with served(app, tmp_path) as port:
        gated = opened.gate("decide")
        caller, city = Caller(opened, port), opened.city(port)
        pending = city.table("t").agg(count()).release(purpose=PURPOSE, wait=False)
        target = f"/api/v1/requests/{pending.digest}/events"
        with caller.client.stream("GET", target, headers=caller.fields("GET", target), timeout=60) as stream:
            lines = stream.iter_lines()
            assert sum(next(lines) == ": still here" for _ in range(12)) >= 2
            places = app.state.served._places._taken
            assert places["analyst"] == 1
        caller.client.close()
        until(lambda: not places)
        gated.let()
        assert pending.result(timeout=60).frame["count"].tolist() == [120]

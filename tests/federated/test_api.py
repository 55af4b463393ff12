"""The API against its own OpenAPI document: generated calls, signed and not, and mutated requests that an analyst did sign."""

from __future__ import annotations

import copy
import json
import random
import time
from urllib.parse import urlsplit

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from over_https import Opened
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.python.asgi import ASGIClient

from federated.desk import Desk
from federated.http import api, openapi, problems, signatures
from federated.http.problems import Answered
from federated.http.routes import PREFIX, ROUTES
from federated.requests import Requests
from federated.session import City
from sandbox import col, count, errors, keys
from sandbox.contract import CONTRACT, Contract
from sandbox.errors import Refused, SandboxError
from sandbox.request import REQUEST
from sandbox.table import JointTable

PURPOSE = "research"
MUTATIONS = 400


class Signer(requests.auth.AuthBase):
    """Signs each call as an analyst, whatever it is."""

    def __init__(self, opened, name="analyst"):
        self.opened, self.name = opened, name

    def __call__(self, request):
        parts = urlsplit(request.url)
        body = request.body or b""
        body = body.encode() if isinstance(body, str) else body
        to, key = signatures.coordinator(self.opened.roster), self.opened.keys[self.name]
        now = int(time.time())
        request.headers.update(
            signatures.sign(key, self.name, to, request.method, parts.path, parts.query, body, now)
        )
        return request


@pytest.fixture(scope="module")
def opened(people):
    everyone = people(departments=3)
    return Opened(everyone.catalogs, everyone.frames)


@pytest.fixture(scope="module")
def client(opened):
    client = ASGIClient(api.app(opened.desk))
    client.auth = Signer(opened)
    return client


@pytest.fixture(scope="module")
def ended(opened):
    """Digests of a released, a refused and a cancelled request."""
    table = opened.here().table("t")
    released = table.agg(count()).release(purpose=PURPOSE, wait=False)
    released.result()
    refused = table.agg(count()).release(purpose="taxes", wait=False)
    with pytest.raises(Refused):
        refused.result()
    gated = opened.gate("decide")
    running = table.agg(count()).release(purpose=PURPOSE, wait=False)
    assert gated.reached.wait(60)
    cancelled = table.agg(count()).release(purpose=PURPOSE, wait=False)
    assert cancelled.cancel() == "cancelled"
    gated.let()
    running.result()
    return tuple(pending.digest for pending in (released, refused, cancelled))


# --- the document ---


def test_the_document_has_every_call_and_every_path_of_the_app(opened):
    document = json.loads(openapi.document())
    told = {(path, method.upper()) for path, operations in document["paths"].items() for method in operations}
    assert told == {(route.path, route.method) for route in ROUTES}
    assert {path.path for path in api.app(opened.desk).routes} == set(document["paths"])
    assert [
        route.name for route in ROUTES if not document["paths"][route.path][route.method.lower()]["security"]
    ] == ["health", "openapi"]
    names = set(document["components"]["schemas"])
    used = {part.split('"')[0] for part in openapi.document().decode().split("#/components/schemas/")[1:]}
    assert used == names


load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "allow_header_conformance",
    ]
)
MODES = {"valid": GenerationMode.POSITIVE, "invalid": GenerationMode.NEGATIVE}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_generated_calls_are_answered_as_the_document_says(client, ended, route, mode):
    document = json.loads(openapi.document())
    # The session signs, whatever is generated: a signature is no part of what may be wrong.
    del document["paths"][route.path][route.method.lower()]["security"]
    schema = schemathesis.openapi.from_dict(document)
    schema.app = client.app
    operation = schema[route.path][route.method]
    stranger, statuses = ASGIClient(client.app), set()

    @seed(20261124)
    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), st.sampled_from((*ended, None, ended[0], ended[0])))
    def calls(case, digest):
        if digest and "digest" in case.path_parameters and mode is GenerationMode.POSITIVE:
            case.path_parameters["digest"] = digest
        answer = case.call(session=client)
        case.validate_response(answer, checks=CHECKED)
        statuses.add(answer.status_code)
        unsigned = case.call(session=stranger)
        case.validate_response(unsigned, checks=CHECKED)
        assert unsigned.status_code in ((200, 422) if route.open else (401, 404))

    if mode is GenerationMode.NEGATIVE and not (route.parameters or route.takes or "{" in route.path):
        return  # nothing in it can be wrong
    calls()
    if mode is GenerationMode.POSITIVE and route.takes is None:
        assert statuses & {200, 422}
    if mode is GenerationMode.NEGATIVE:
        assert statuses & {400, 404, 415, 422}


# --- what an analyst did sign ---


def mutated(value, generator):
    """JSON with one part replaced by a part from elsewhere, a value of another kind, dropped, doubled or nested."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    container, key = generator.choice(places)
    alike = [part for part in (c[k] for c, k in places) if type(part) is type(container[key])]
    if (
        generator.random() < 0.6
    ):  # a value of its own kind, from elsewhere: most such requests are well-formed
        container[key] = copy.deepcopy(generator.choice(alike))
        return value
    other, other_key = generator.choice(places)
    odd = [
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        "",
        "x" * 200,
        "t",
        [],
        {},
        "\u0000",
        0.5,
        copy.deepcopy(other[other_key]),
    ]
    match generator.randrange(4):
        case 0:
            container[key] = generator.choice(odd)
        case 1 if isinstance(container, dict):
            del container[key]
        case 2:
            container[key] = [container[key], container[key]]
        case _ if isinstance(container, dict):
            container[generator.choice(("more", "node", "op", "values"))] = generator.choice(odd)
        case _:
            container.append(copy.deepcopy(container[key]))
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(items):
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def test_mutated_requests_of_an_analyst_are_answered_or_refused_in_words(opened, client):
    city, generator = opened.here(), random.Random(20261124)
    table = JointTable(None, "t").with_columns(band=col("age").cut([30, 60]))
    query = (
        table.filter((col("age") >= 18) & ~col("smokes") & col("region").is_in(["north", "south"]))
        .group_by("band")
        .agg(count(), col("income").mean(), col("age").quantile(0.5), col("income").std())
        .query
    )
    request = msgspec.to_builtins(city._request(query, PURPOSE, 0.5, None))
    contract = msgspec.to_builtins(
        Contract(query, PURPOSE, "act", "analyst", request["expires"], 2, (0.1, 0.5), 1.0)
    )
    statuses = dict.fromkeys(("explain", "requests", "contracts"), frozenset())
    for i in range(MUTATIONS):
        path = ("explain", "requests", "contracts")[i % 3]
        domain, value = (CONTRACT, contract) if path == "contracts" else (REQUEST, request)
        for _ in range(generator.randrange(1, 3)):
            value = mutated(value, generator)
        body = msgspec.json.encode(value)
        signed = keys.Signed(body, "analyst", opened.keys["analyst"].sign(domain, body))
        answer = client.post(f"{PREFIX}/{path}", data=msgspec.json.encode(signed), headers=JSON)
        assert answer.status_code < 500, (path, value, answer.text)
        if answer.status_code >= 400:
            told = msgspec.json.decode(answer.content, type=problems.Problem)
            assert told.error in problems.CLASSES
            assert told.detail
        statuses[path] |= {answer.status_code}
    assert all(400 in seen for seen in statuses.values())
    assert all(422 in seen for seen in statuses.values())
    for pending in opened.desk.tickets("analyst"):  # what was accepted ends, and the desk goes on
        city.request(pending.digest)
        assert city.watch(pending.digest, None, 0).digest == pending.digest
    assert city.table("t").agg(count()).release(purpose=PURPOSE).frame["count"].tolist() == [120]
    failed = [ticket.error for ticket in opened.desk.tickets("analyst") if ticket.state == "failed"]
    assert set(failed) <= set(problems.CLASSES)


JSON = {"content-type": "application/json"}

# --- errors ---


@pytest.mark.parametrize("kind", sorted(problems.CLASSES))
def test_every_error_of_ours_is_the_same_on_the_other_side(kind):
    kind = problems.CLASSES[kind]
    error = kind(["one", "two"]) if issubclass(kind, Refused) else kind("some text")
    told = problems.problem(error)
    back = problems.rebuilt(msgspec.json.decode(msgspec.json.encode(told), type=problems.Problem))
    assert (type(back), str(back)) == (kind, str(error))
    assert getattr(back, "reasons", ()) == getattr(error, "reasons", ())
    assert 400 <= told.status < 600
    assert told.title
    if issubclass(kind, Refused | errors.CallerError):
        assert told.status < 500


def test_the_place_in_an_sql_text_stays_in_the_words():
    error = errors.SQLError("no joins", 3, 7)
    assert str(problems.rebuilt(problems.problem(error))) == "no joins (line 3, column 7)"


def test_an_unknown_class_is_our_bug_and_says_no_more_than_its_name():
    for error in (KeyError("a patient"), SystemError("a patient")):
        told = problems.problem(error)
        assert (told.status, told.detail, told.reasons) == (500, "", ())
        assert "patient" not in str(problems.rebuilt(told))
    forged = msgspec.structs.replace(told, error="SystemExit", detail="x")
    assert type(problems.rebuilt(forged)) is errors.InternalError


def test_what_a_stopped_coordinator_left_is_told_after_its_start(people, tmp_path):
    everyone = people(departments=3)
    opened = Opened(everyone.catalogs, everyone.frames)
    before = Desk(opened.broker, Requests(tmp_path / "requests.db"))
    gated, city = opened.gate("masked"), City(before, opened.keys["analyst"])
    pending = city.table("t").agg(count()).release(purpose=PURPOSE, epsilon=0.5, wait=False)
    assert gated.reached.wait(60)
    # Another process on the same store, as after a kill.
    client = ASGIClient(api.app(Desk(opened.broker, Requests(tmp_path / "requests.db"))))
    client.auth = Signer(opened)
    ticket = client.get(f"{PREFIX}/requests/{pending.digest}").json()
    assert (ticket["state"], ticket["error"]) == ("interrupted", "Cancelled")
    answer = client.get(f"{PREFIX}/requests/{pending.digest}/release")
    assert (answer.status_code, answer.json()["error"]) == (409, "Cancelled")
    assert "what they charged is spent" in answer.json()["detail"]
    gated.let()
    pending.result(timeout=60)


# --- limits, and what is asked for in another way ---


def test_too_large_headers_unknown_parameters_paths_methods_and_types(client, opened):
    assert client.get(f"{PREFIX}/offers", headers={"x": "y" * 17_000}).status_code == 431
    for query in ("fresh=yes", "fresh=true&fresh=true", "other=1"):
        assert client.get(f"{PREFIX}/offers?{query}").status_code == 422
    for wait in ("-1", "31", "nan", "inf", "1_0", "", "x"):
        assert client.get(f"{PREFIX}/requests/{'0' * 64}?wait={wait}").status_code == 422
    answer = client.put(f"{PREFIX}/requests")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    for path in ("/", "/api", f"{PREFIX}/requests/", f"{PREFIX}/requests/{'0' * 64}/other", "/docs"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, problems.MEDIA_TYPE)
    for digest in ("0" * 63, "G" * 64, "0" * 65, "%00", "..%2f"):
        assert client.get(f"{PREFIX}/requests/{digest}").status_code == 404
    answer = client.post(f"{PREFIX}/explain", data=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    for body in (b"", b"[]", b"{}", b"\xff", b"[" * 100_000):
        assert client.post(f"{PREFIX}/explain", data=body, headers=JSON).status_code == 400


def test_answers_are_not_kept_by_those_between(client):
    for path in ("/health", f"{PREFIX}/offers", f"{PREFIX}/requests/{'0' * 64}"):
        answer = client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_places_and_backlog_are_bounded(opened, monkeypatch):
    application = api.app(opened.desk)
    client = ASGIClient(application)
    client.auth = Signer(opened)
    target = f"{PREFIX}/requests/{'0' * 64}"
    places = application.state.served._places
    monkeypatch.setattr(places, "_most", 2)
    with places.one("analyst"), places.one("analyst"):
        for path in (target, f"{target}/events"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        client.auth = Signer(opened, "bo")
        assert client.get(target).status_code == 404
    assert client.get(target).status_code == 404
    monkeypatch.setattr("federated.http.waiting.BACKLOG", 0)
    answer = client.get(f"{PREFIX}/offers")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "is busy" in answer.json()["detail"]


def test_a_status_may_be_told_apart_from_the_class():
    told = problems.problem(Answered(404, errors.QueryError("nobody's")))
    assert (told.status, told.error, told.title) == (404, "QueryError", "Not Found")
    assert isinstance(problems.rebuilt(told), SandboxError)

"""Who holds the federation's CA certificate and no key, and who holds another department's: what the coordinator's port gives them. Nothing."""

from __future__ import annotations

import base64
import datetime
import hashlib
import pathlib
import ssl
from concurrent.futures import ThreadPoolExecutor

import deployed
import httpx
import pytest
import rig
import village
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, message_pb2, node_pb2
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from federated import messages, up
from federated.deploy.config import CityConfig, CoordinatorConfig, NodeConfig
from federated.flower.fleet import Fleet, LinkRefused
from federated.gateway import PATHS, QUIET
from federated.http.client import RemoteDesk
from federated.http.routes import ROUTES
from federated.network import Failure, Network, pack
from federated.worker import link_key
from sandbox import count
from sandbox.errors import SandboxError
from sandbox.keys import SigningKey
from sandbox.roster import load as load_roster

FLOWERS = sorted(path for _, path in PROTOBUF_REQUEST_TYPES)
OUTSIDE = [path for path in FLOWERS if path not in PATHS]
OTHERS = (
    "/", "/docs", "/redoc", "/openapi", "/v1/openapi.json", "/metrics", "/v1", "/v1/fleet", "/v1/fleet/", "/v1/fleet/docs",
    "/v1/fleet/pull-messages/", "//v1/fleet/pull-messages", "/V1/FLEET/PULL-MESSAGES", "/v1/fleet/../control/start-run",
    "/v1/fleet/pull-messages/../get-fab", "/v1/fleet/pull-messages;x", "/v1//fleet/get-fab", "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet%2fget-fab", "/v1/fleet/get-fab%00", "/api", "/api/v1", "/api/v1/", "/api/v1/requests/..", "/favicon.ico",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A federation that runs, and a client that trusts its authority."""
    directory = tmp_path_factory.mktemp("running") / "city"
    deployed.ready(directory)
    with up.Processes(directory) as processes:
        config = CoordinatorConfig.load(processes.place(up.COORDINATOR) / "coordinator.toml")
        trust = ssl.create_default_context(cafile=str(config.authority))
        with httpx.Client(base_url=config.url, verify=trust, trust_env=False, timeout=30) as client:
            processes.client, processes.config = client, config
            yield processes
        before = processes.connected()
        assert before == set(deployed.DEPARTMENTS), "nobody was driven out"
        assert deployed.people(processes.city())[1] == deployed.DEPARTMENTS


def signed(key: ec.EllipticCurvePrivateKey, public: bytes | None = None) -> dict[str, str]:
    """The headers of a call by this key, as a node makes them; `public`: as if it were another's."""
    own = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    time = datetime.datetime.now(datetime.UTC).isoformat()
    signature = key.sign(time.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: base64.b64encode(public or own).decode(),
        FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode(),
        TIMESTAMP_HEADER: time,
        "content-type": PROTOBUF_MEDIA_TYPE,
    }


def own_key(running, name: str = "ash") -> ec.EllipticCurvePrivateKey:
    return link_key(running.place(name) / "link.key")


def public_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


# --- without a key ---


def test_without_the_authority_nobody_even_talks(running):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{running.config.url}/health", trust_env=False)
    with pytest.raises(httpx.HTTPError):
        httpx.get(running.config.url.replace("https", "http") + "/health", trust_env=False)


@pytest.mark.parametrize("path", [*OUTSIDE, *OTHERS])
def test_every_path_outside_the_list_is_not_there(running, path):
    """Neither for a stranger nor for a department: Control, Runtime, registration, app bundles, and Flower's own documents."""
    for method in ("POST", "GET", "PUT"):
        for headers in ({}, signed(own_key(running))):
            response = running.client.request(method, path, headers=headers)
            assert response.status_code == 404, (method, path)
            assert b"flwr" not in response.content.lower()
            assert b"swagger" not in response.content.lower()


def test_the_list_is_what_a_node_needs_and_flower_knows(running):
    assert set(FLOWERS) >= PATHS
    assert not any(word in path for path in PATHS for word in ("register", "fab", "control", "runtime"))
    assert len(OUTSIDE) > 60, "Flower's Control and Runtime APIs are tried"


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_fleet_path_is_for_registered_keys_alone(running, path):
    stranger, ash = ec.generate_private_key(ec.SECP384R1()), own_key(running)
    body = PROTOBUF_REQUEST_TYPES["POST", path]()
    if hasattr(body, "public_key"):
        body.public_key, body.heartbeat_interval = public_of(ash), 30
    good = signed(ash)
    late = signed(ash) | {TIMESTAMP_HEADER: "2020-01-01T00:00:00+00:00"}
    for headers in (
        {},
        {"content-type": PROTOBUF_MEDIA_TYPE},
        signed(stranger),
        signed(stranger, public_of(ash)),
        late,
        good | {FLEET_HTTP_SIGNATURE_HEADER: "AAAA"},
        {name: value for name, value in good.items() if name != TIMESTAMP_HEADER},
        {name: value for name, value in good.items() if name != FLEET_HTTP_SIGNATURE_HEADER},
        good | {FLEET_HTTP_PUBLIC_KEY_HEADER: "not base64"},
    ):
        response = running.client.post(path, headers=headers, content=body.SerializeToString())
        assert response.status_code == 401, headers
    assert running.client.get(path, headers=good).status_code == 404


def test_a_stranger_with_a_key_of_its_own_neither_activates_nor_pulls(running):
    fleet = Fleet(
        running.config.url, running.config.authority.read_bytes(), ec.generate_private_key(ec.SECP384R1())
    )
    calls = (fleet.activate, fleet.heartbeat, fleet.receive)
    for call in calls:
        with pytest.raises(LinkRefused) as refused:
            call()
        assert refused.value.status == 401
    fleet.close()


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.open], ids=lambda route: route.name)
def test_the_analysts_api_is_for_analysts_alone(running, route):
    path = route.path.replace("{digest}", "0" * 64)
    for headers in (
        {},
        signed(own_key(running)),
        {"authorization": "Bearer x"},
        {"signature-input": "sig=()", "signature": "sig=:AAAA:"},
    ):
        response = running.client.request(
            route.method, path, headers=headers, json={} if route.takes else None
        )
        assert response.status_code == 401
        assert response.json()["error"] in ("Malformed", "SignatureInvalid", "UnknownSigner", "Expired")


def test_what_is_open_tells_no_names_and_no_numbers_of_data(running):
    assert {route.name for route in ROUTES if route.open} == {"health", "openapi"}
    told = running.client.get("/health").json()
    assert set(told) == {"status", "waiting", "connected"}


def test_nobody_passes_for_an_analyst(running):
    """With another key, under another name, and with a department's key."""
    place = running.directory / "analysts" / "analyst"
    config, roster = CityConfig.load(place / "city.toml"), load_roster(place / "roster.toml")
    node = SigningKey.load(running.place("ash") / "node.key")
    analyst = SigningKey.load(config.key)
    for name, key in (
        ("analyst", SigningKey.generate()),
        ("analyst", node),
        ("ash", node),
        ("wu", analyst),
        ("coordinator", analyst),
    ):
        with pytest.raises(SandboxError) as refused:
            RemoteDesk(config.url, config.authority, name, key, roster)
        assert type(refused.value).__name__ in ("SignatureInvalid", "UnknownSigner"), refused.value
    RemoteDesk(config.url, config.authority, "analyst", analyst, roster)


def test_garbage_with_a_departments_key_does_no_harm(running):
    """A department is known, and may still send anything."""
    key = own_key(running)
    for path in sorted(PATHS - {"/v1/fleet/pull-messages"}):
        for body in (b"", b"\xff" * 100, b"\x0a" * 1000, bytes(5000), b"\x08\x96\x01"):
            response = running.client.post(path, headers=signed(key), content=body)
            assert 400 <= response.status_code < 600, path
            assert b"Traceback" not in response.content
    response = running.client.post("/v1/fleet/pull-messages", headers=signed(key), content=bytes(2000))
    assert response.status_code == 413
    assert running.client.get("/health").json()["connected"] == 3


def test_processes_listen_on_one_public_port_and_nodes_on_none(running):
    """Metrics are the other port, on loopback; a node calls out alone."""
    for name in (up.COORDINATOR, *deployed.DEPARTMENTS):
        listening = ports(running.process(name).pid)
        config = running.place(name) / ("coordinator.toml" if name == up.COORDINATOR else "node.toml")
        kind = CoordinatorConfig if name == up.COORDINATOR else NodeConfig
        loaded = kind.load(config)
        expected = {int(loaded.metrics.rpartition(":")[2])}
        if name == up.COORDINATOR:
            expected.add(int(loaded.address.rpartition(":")[2]))
        assert listening == expected, name


def ports(process: int) -> set[int]:
    """TCP ports on which a process listens (Linux)."""
    sockets = {
        link.readlink().name for link in pathlib.Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()
    }
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in pathlib.Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        int(line[1].rpartition(":")[2], 16)
        for line in lines
        if line[3] == "0A" and f"socket:[{line[9]}]" in sockets
    }


# --- with another department's key ---


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    made = rig.Rig(tmp_path_factory.mktemp("town"))
    try:
        yield made
        release = made.city().table("t").agg(count()).release(purpose=village.PURPOSE)
        assert release.missing == ()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def waiting(town):
    """A message that lies at the link for birch, whose process is away; and all that ash could know of it."""
    town.away("birch")
    message = town.grid.create_message(pack(b"for birch"), "query.catalog", town.link.node_ids["birch"], "")
    [message_id] = town.grid.push_messages([message])
    yield message, message_id
    town.grid._forget({message_id})
    town.back("birch")


def test_no_department_pulls_anothers_messages(town, waiting):
    _, message_id = waiting
    fleet = town.fleet("ash")
    client, birch = fleet._client, node_pb2.Node(node_id=town.link.node_ids["birch"])
    run_id = town.grid.run.run_id
    calls = (
        (client.PullMessages, fleet_pb2.PullMessagesRequest(node=birch)),
        (client.PullObject, message_pb2.PullObjectRequest(node=birch, run_id=run_id, object_id=message_id)),
        (
            client.ConfirmMessageReceived,
            message_pb2.ConfirmMessageReceivedRequest(
                node=birch, run_id=run_id, message_object_id=message_id
            ),
        ),
        (client.DeactivateNode, fleet_pb2.DeactivateNodeRequest(node_id=birch.node_id)),
    )
    for method, request in calls:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            method(request)
        assert refused.value.response.status_code == 401
    fleet.close()
    assert town.link.state.object_store.get_object_tree(message_id).object_id == message_id, (
        "it is still there"
    )


def test_no_department_answers_in_anothers_name(town, waiting):
    """Even if ash knew the message that birch was sent, and says that birch replies."""
    message, message_id = waiting
    reply = Message(pack(messages.encode(messages.Done(b"lies"))), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = town.link.node_ids["birch"]
    fleet = town.fleet("ash")
    with pytest.raises(LinkRefused) as refused:
        fleet.reply(reply)
    assert refused.value.status == 403
    assert list(town.grid.pull_messages([message_id])) == []
    fleet.node_id = town.link.node_ids["birch"]
    with pytest.raises(LinkRefused) as refused:
        fleet.reply(reply)
    assert refused.value.status == 401
    reply.metadata.__dict__["_src_node_id"] = fleet.node_id = town.link.node_ids["ash"]
    fleet.reply(reply)  # taken, since ash says that it is ash; and no answer to what birch was asked
    assert list(town.grid.pull_messages([message_id])) == []
    fleet.node_id = None
    fleet.close()


BAD = ("another tree", "no content", "other content", "not a message")


def test_a_department_that_replies_with_what_is_no_message_is_missing_and_nothing_else(town):
    """Cedar is played by the test, with cedar's own key."""
    town.away("cedar")
    fleet, cedar, ash = town.fleet("cedar"), town.link.node_ids["cedar"], town.link.node_ids["ash"]
    network = Network(town.grid, {"ash": ash, "cedar": cedar}, 1.5)
    fleet.node_id = None
    fleet.activate()
    town.gateway._came(cedar)
    try:
        for what in BAD:
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(network.call, "catalog", {"ash": b"", "cedar": b""})
                message = None
                while message is None:
                    message = fleet.receive()
                bad_reply(fleet, message, what)
                replies = asked.result()
            assert isinstance(replies["cedar"], Failure), what
            assert isinstance(messages.decode_reply(replies["ash"]), messages.Done), what
    finally:
        town.gateway._went(cedar, QUIET)
        fleet.goodbye()
        fleet.close()
    town.back("cedar")


def test_a_node_that_says_goodbye_is_gone_at_once(town):
    fleet, cedar = town.fleet("cedar"), town.link.node_ids["cedar"]
    town.away("cedar")
    fleet.node_id = None
    fleet.activate()
    town.gateway._came(cedar)
    town.gateway._went(cedar, QUIET)  # as after a message that it took
    assert town.gateway.here(cedar)
    fleet.goodbye()
    assert not town.gateway.here(cedar)
    fleet.close()
    town.back("cedar")


def bad_reply(fleet: Fleet, message, what: str) -> None:
    reply = Message(pack(b"x"), reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    objects, tree = get_all_nested_objects(reply), get_object_tree(reply)
    if what == "another tree":
        tree.object_id = hashlib.sha256(b"another").hexdigest()
    if what == "not a message":
        other = pack(b"y")
        objects, tree = get_all_nested_objects(other), get_object_tree(other)
    node, run_id = node_pb2.Node(node_id=fleet.node_id), message.metadata.run_id
    bare = message_to_proto(remove_content_from_message(reply))
    if what == "not a message":
        bare.metadata.message_id = tree.object_id
    pushed = fleet._client.PushMessages(
        fleet_pb2.PushMessagesRequest(node=node, messages_list=[bare], message_object_trees=[tree])
    )
    for object_id in pushed.objects_to_push:
        content = objects[object_id].deflate() if object_id in objects else b"x"
        if what == "no content":
            continue
        if what == "other content":
            content = content[:-1] + b"!"
        try:
            fleet._client.PushObject(
                message_pb2.PushObjectRequest(
                    node=node,
                    run_id=run_id,
                    session_id=pushed.session_id,
                    object_id=object_id,
                    object_content=content,
                )
            )
        except httpx.HTTPStatusError:
            assert what in ("another tree", "other content")

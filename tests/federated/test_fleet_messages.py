"""Mutated messages to a node: 10,000 in this process, and hundreds on the wire to processes. It lives, refuses, charges nothing, and works."""

from __future__ import annotations

import random
import threading
import time

import pytest
import rig
import village
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.proto.run_pb2 import GetRunResponse, Run
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from google.protobuf.message import DecodeError

from federated import local, messages
from federated.desk import Desk
from federated.flower import PROTOCOL
from federated.flower.fleet import BadMessage, Fleet, LinkDown, LinkRefused
from federated.flower.local import context, local_run
from federated.network import pack, unpack
from federated.session import City
from federated.worker import Worker
from sandbox import col, count
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.entries import Charge

NUMBER = 10_000
RUN, NODE = 7, 11
OPEN = frozenset(
    {"catalog", "explain", "decide", "advertise", "overlaps"}
)  # not all of the body is signed, or matters
SECRETS = ("north", "south", "123456")


def mutated(data: bytes, random_: random.Random) -> bytes:
    """One of what goes wrong with bytes: bits, cuts, copies, insertions, extremes."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 8))):
        place = random_.randrange(len(changed) + 1)
        match random_.randrange(7):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << random_.randrange(8)
            case 1 if changed:
                changed[place % len(changed)] = random_.choice((0, 127, 128, 255, 0xC1, 0x7B))
            case 2:
                del changed[place:]
            case 3:
                del changed[place : place + random_.randrange(1, 40)]
            case 4:
                changed[place:place] = changed[place : place + random_.randrange(1, 60)]
            case 5:
                changed[place:place] = random_.randbytes(random_.randrange(1, 20))
            case _:
                changed[place : place + 8] = random_.choice(
                    (b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"[" * 200)
                )
    return bytes(changed)


class Wire:
    """In the place of the HTTP client: what the coordinator would answer, the next message among it, with one part mutated."""

    def __init__(self):
        self.next: tuple[PullMessagesResponse, dict[str, bytes]] | None = None
        self.fab_hash = PROTOCOL

    def offer(self, kind: str, body: bytes, part: str, random_: random.Random) -> None:
        if part == "body":
            body = mutated(body, random_)
        message = Message(pack(body), NODE, f"query.{kind}")
        message.metadata.__dict__.update(_run_id=RUN, _src_node_id=1)
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)
        contents = {name: part_.deflate() for name, part_ in get_all_nested_objects(message).items()}
        bare = message_to_proto(remove_content_from_message(message))
        response = PullMessagesResponse(messages_list=[bare], message_object_trees=[tree])
        if part == "object":
            name = random_.choice(sorted(contents))
            contents[name] = mutated(contents[name], random_)
        elif part == "tree":
            changed = mutated(tree.SerializeToString(), random_)
            try:
                response.message_object_trees[0].CopyFrom(ObjectTree.FromString(changed))
            except DecodeError:
                del response.message_object_trees[:]
        elif part == "pulled":
            try:
                response = PullMessagesResponse.FromString(mutated(response.SerializeToString(), random_))
            except DecodeError:
                response = PullMessagesResponse(messages_list=[bare])
        self.next = response, contents

    def PullMessages(self, _request):
        return self.next[0]

    def GetRun(self, _request):
        return GetRunResponse(run=Run(run_id=RUN, fab_hash=self.fab_hash))

    def PullObject(self, request):
        content = self.next[1].get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )

    def ConfirmMessageReceived(self, _request):
        return ConfirmMessageReceivedResponse()

    def ActivateNode(self, _request):
        return ActivateNodeResponse(node_id=NODE)

    def close(self) -> None:
        pass


def opened_fleet(wire: Wire) -> Fleet:
    fleet = unopened_fleet(wire)
    fleet.activate()
    return fleet


def unopened_fleet(wire: Wire) -> Fleet:
    fleet = Fleet("https://127.0.0.1:1", AUTHORITY, ec.generate_private_key(ec.SECP384R1()))
    fleet.close()
    fleet._client = wire
    return fleet


@pytest.fixture(scope="module", autouse=True)
def authority(tmp_path_factory):
    from federated.deploy.authority import new_authority

    place = tmp_path_factory.mktemp("ca")
    local_run(RUN)  # Flower makes messages under a global identity
    new_authority(place, "city")
    global AUTHORITY
    AUTHORITY = (place / "ca.crt").read_bytes()


@pytest.fixture(scope="module")
def federation():
    """Three departments in this process, with releases behind them; what ash was sent for those."""
    columns = {
        "region": Column("category", categories=("north", "south")),
        "age": Column("integer", (0, 100)),
    }
    dataset = DataSet("general-2", (village.PURPOSE,), columns, budget=Budget(20.0, 1e-6), max_rows=10_000)
    catalogs = {name: Catalog(name, {"t": dataset}) for name in village.NAMES}
    frames = {name: {"t": village.rows(seed)} for seed, name in enumerate(village.NAMES)}
    made = local.open_federation(catalogs, frames)
    seen: list[tuple[str, bytes]] = []

    def recorded(network, kind, bodies):
        if "ash" in bodies:
            seen.append((kind, bodies["ash"]))
        return network.call(kind, bodies)

    apps = made.broker.network._grid._apps
    made.broker.attach(rig.Tap(made.broker.network, recorded))
    city = City(Desk(made.broker, here=True), made.parties.analyst)
    query = city.table("t").group_by("region").agg(count(), col("age").mean())
    query.explain()
    for privacy in ({}, {}, {"epsilon": 0.2}):
        query.release(purpose=village.PURPOSE, **privacy)
    return made, apps[1], list(seen), query


def test_ten_thousand_mutated_messages(federation):
    """Parsed as a node does it, answered by a node's own app: refusals, nothing else happens, and then it works."""
    made, app, seen, query = federation
    ash, random_ = made.gates["ash"], random.Random(1)
    assert {kind for kind, _ in seen} >= {
        "explain",
        "decide",
        "advertise",
        "share",
        "receive",
        "overlaps",
        "masked",
        "unmask",
        "record",
    }
    wire = Wire()
    fleet = opened_fleet(wire)
    charged = [entry for entry in ash.state.log.entries() if isinstance(entry, Charge)]
    told: dict[str, int] = {}
    for number in range(NUMBER):
        kind, body = random_.choice(seen)
        part = random_.choice(("body", "body", "object", "tree", "pulled"))
        wire.offer(kind, body, part, random_)
        try:
            message = fleet.receive()
        except (BadMessage, LinkRefused, LinkDown) as error:
            told[type(error).__name__] = told.get(type(error).__name__, 0) + 1
            continue
        if message is None:
            told["nothing"] = told.get("nothing", 0) + 1
            continue
        try:
            reply = app(message, context(RUN, NODE))
        except (
            ValueError
        ):  # Flower's own: no handler for a kind of message that does not exist; the worker drops it
            assert message.metadata.message_type != f"query.{kind}"
            continue
        answer = messages.decode_reply(unpack(reply))
        told[type(answer).__name__] = told.get(type(answer).__name__, 0) + 1
        if isinstance(answer, messages.Done):
            same = unpack(message) == body
            assert same or kind in OPEN, (number, kind)
        else:
            assert not any(secret in answer.text for secret in SECRETS), (number, answer)
            assert answer.error != "InternalError", (number, kind, answer)
    assert told["Refusal"] > 2000, told
    assert told["BadMessage"] > 2000, told
    ash.state.log.verify()
    assert [entry for entry in ash.state.log.entries() if isinstance(entry, Charge)] == charged, (
        "nothing was charged"
    )
    made.broker.attach(made.broker.network)  # slots that the coordinator has spoilt by itself are gone
    assert query.release(purpose=village.PURPOSE).missing == ()


@pytest.mark.parametrize("fab_hash", ["", "0" * 64, PROTOCOL.upper(), PROTOCOL + " "])
def test_a_run_of_another_protocol_is_refused_before_anything_of_it_is_pulled(fab_hash):
    wire = Wire()
    wire.fab_hash = fab_hash
    fleet = opened_fleet(wire)
    wire.offer("catalog", b"", "", random.Random(0))
    wire.PullObject = lambda _request: pytest.fail("an object was pulled")
    with pytest.raises(LinkRefused, match="another protocol"):
        fleet.receive()


# --- the worker goes on ---


class Falling(Wire):
    """A coordinator that answers with every kind of failure, one after the other, and at last with a message."""

    def __init__(self, failures):
        super().__init__()
        self.failures, self.refusing = list(failures), list(failures)
        self.replied = threading.Event()

    def ActivateNode(self, request):
        if self.refusing:
            raise self.refusing.pop(0)
        return super().ActivateNode(request)

    def PullMessages(self, request):
        if self.failures:
            raise self.failures.pop(0)
        return super().PullMessages(request)

    def SendNodeHeartbeat(self, _request):
        raise AssertionError("not within this test")

    def DeactivateNode(self, _request):
        return None

    def PushMessages(self, _request):
        self.replied.set()
        raise OSError("enough")


def test_a_worker_survives_whatever_is_raised_and_answers_the_next_message(tmp_path, federation, monkeypatch):
    """A node that falls silent for ever is the worst of all failures."""
    monkeypatch.setattr("federated.worker.LONGEST_PAUSE", 0.05)
    monkeypatch.setattr("federated.worker.FIRST_PAUSE", 0.01)
    errors = (
        RuntimeError("x"),
        ValueError("x"),
        OSError("x"),
        KeyError("x"),
        IndexError(),
        RecursionError(),
        MemoryError(),
        TypeError(),
    )
    wire = Falling(errors)
    wire.offer("catalog", b"", "", random.Random(0))
    worker = Worker(lambda: unopened_fleet(wire), federation[1], 1, tmp_path / "memory")
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        assert wire.replied.wait(30)
        assert wire.failures == wire.refusing == []
    finally:
        worker.stop()
        thread.join(30)
    assert not thread.is_alive()


# --- on the wire ---


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    made = rig.Rig(tmp_path_factory.mktemp("town"))
    yield made
    made.stop()


def test_processes_survive_hundreds_of_mutated_answers_on_the_wire(town):
    """The same as bytes of HTTP answers, to nodes of their own: they live, and answer the next honest request."""
    random_, lock, changed = random.Random(2), threading.Lock(), [0]

    def mangle(path: str, body: bytes) -> bytes:
        if not body or not path.endswith(("pull-object", "pull-messages", "get-run", "push-messages")):
            return body
        with lock:
            if random_.random() < 0.08:  # not even protobuf: the node connects anew
                changed[0] += 1
                return mutated(body, random_)
            if path.endswith("pull-object"):
                changed[0] += 1
                pulled = PullObjectResponse.FromString(body)
                pulled.object_content = mutated(pulled.object_content, random_)
                return pulled.SerializeToString()
        return body

    town.mangle = mangle
    end, sent = time.monotonic() + 60, set[str]()
    while changed[0] < 300 and time.monotonic() < end:
        for name in town.names:
            message = town.grid.create_message(pack(b"x"), "query.catalog", town.link.node_ids[name], "")
            sent.update(town.grid.push_messages([message]))
        time.sleep(0.05)
    town.mangle = None
    town.grid._forget(sent)
    assert changed[0] >= 300
    for name in town.names:
        assert town.processes.process(name).poll() is None
    town.wait()
    release = town.city().table("t").agg(count()).release(purpose=village.PURPOSE)
    assert int(release.frame["count"].sum()) == 3 * village.ROWS
    for name in town.names:
        text = (town.directory / "nodes" / name / "log.jsonl").read_text()
        assert "Traceback" not in text
        assert '"event": "dropped"' in text
        assert '"event": "failed"' not in text

"""A coordinator that does as it likes, against real node processes: it forges, alters, replays, reorders and withholds.

No department answers what no analyst signed, none charges twice, and no department's own values are seen. In-process attacks with each
defence off are in tests/attacks; here the departments are processes behind TLS, as they run in earnest.
"""

from __future__ import annotations

import secrets
import time

import msgspec
import numpy as np
import pytest
import rig
import village
from flwr.app import RecordDict
from rig import digest

from federated import messages
from federated.flower import PROTOCOL
from federated.flower.link import NOOP_FEDERATION_ID, NOOP_FLWR_AID, TaskType
from federated.messages import Ask, Done, Masked, Refusal, Setup, Unmask
from federated.network import Failure, pack
from mpc.secagg.messages import HEADER, Survivors
from mpc.secagg.messages import encode as mpc_encode
from sandbox import col, count, dp, keys
from sandbox.errors import TooFewDepartments
from sandbox.keys import SigningKey
from sandbox.query import canonical
from sandbox.receipt import Statement
from sandbox.request import CLEARANCE, RECORD, Clearance, Privacy, Record, Request

NAMES = village.NAMES
STAGES = ("advertise", "share", "receive", "overlaps", "masked", "confirm", "unmask", "record")


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    made = rig.Rig(tmp_path_factory.mktemp("town"))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def afterwards(town):
    """Whatever was tried, the departments answer as before, and have charged nothing twice."""
    yield
    for name in NAMES:
        assert town.processes.process(name).poll() is None
        assert isinstance(town.ask("catalog", name, b""), Done)
        charged = town.charges(name)
        assert len(charged) == len(set(charged))


def batch(town):
    """A batch that all departments have set up, and its aggregator."""
    town.broker.attach(town.network)
    return town.broker._sums._batch(NAMES, 3, {}, lambda _stage: None)


def masked(town, made, signed, slot=0, names=NAMES) -> dict[str, Done | Refusal]:
    body = Masked(made.session, slot, canonical(signed))
    return {name: town.ask("masked", name, body) for name in names}


# --- what no analyst signed ---


def forgeries(town):
    """Requests that an analyst did not sign as they are."""
    good = town.request(epsilon=0.1)
    asked = keys.decode(good.body, Request)
    node = SigningKey.load(town.directory / "nodes" / "ash" / "node.key")

    def changed(**fields):
        body = canonical(msgspec.structs.replace(asked, **fields))
        return msgspec.structs.replace(good, body=body)

    return {
        "another epsilon": changed(privacy=Privacy(9.0, 1e-9)),
        "exact instead": changed(privacy=None),
        "another purpose": changed(purpose="teaching"),
        "another nonce": changed(nonce=secrets.token_hex(16)),
        "later": changed(expires=asked.expires + 3600),
        "another query": changed(query=msgspec.structs.replace(asked.query, keys=("region",))),
        "the coordinator's signature": town.request(key=town.key),
        "the coordinator as analyst": keys.seal(town.key, "coordinator", "request", asked),
        "a node as analyst": keys.seal(node, "ash", "request", asked),
        "nobody's key": town.request(key=SigningKey.generate()),
        "nobody's name": town.request(analyst="nobody"),
        "signed for another use": keys.seal(town.analyst, rig.ANALYST, "card", asked),
        "no signature": msgspec.structs.replace(good, signature=bytes(64)),
        "expired": town.request(expires=int(time.time()) - 1),
        "good for ever": town.request(expires=int(time.time()) + 10**7),
        "for another analyst": keys.seal(town.analyst, "wu", "request", asked),
    }


def test_nothing_is_answered_that_no_analyst_signed(town):
    made, before = batch(town), {name: town.charges(name) for name in NAMES}
    for slot, (what, signed) in enumerate(forgeries(town).items()):
        for reply in (
            town.ask("explain", "ash", Ask(canonical(signed), 2)),
            town.ask("decide", "ash", Ask(canonical(signed), 2)),
            *masked(town, made, signed, slot).values(),
        ):
            assert isinstance(reply, Refusal), what
            assert reply.error in ("SignatureInvalid", "UnknownSigner", "Expired", "Denied"), (what, reply)
    assert {name: town.charges(name) for name in NAMES} == before


def test_a_clearance_and_a_record_are_the_coordinators_alone(town):
    made, signed, thief = batch(town), town.request(), SigningKey.generate()
    clearance = Clearance(digest(signed), (), 1)
    forged = canonical(keys.seal(thief, "coordinator", CLEARANCE, clearance))
    for name in NAMES:
        reply = town.ask("masked", name, Masked(made.session, 0, canonical(signed), forged))
        assert isinstance(reply, Refusal)
        assert reply.error == "SignatureInvalid"
        reply = town.ask("refused", name, canonical(keys.seal(thief, "coordinator", CLEARANCE, clearance)))
        assert isinstance(reply, Refusal)
        assert reply.error == "SignatureInvalid"


def test_a_record_says_what_was_answered_or_is_refused(town):
    """The coordinator cannot have a department attest another purpose, analyst or cost than it answered."""
    made, signed = batch(town), town.request(epsilon=0.1)
    assert all(isinstance(reply, Done) for reply in masked(town, made, signed).values())
    true = Statement(
        federation="city",
        request=digest(signed),
        release="0" * 64,
        analyst=rig.ANALYST,
        purpose=village.PURPOSE,
        code="0",
        departments=NAMES,
        issued=int(time.time()),
        epsilon=0.1,
        delta=1e-9,
        rho=dp.rho_of(0.1, 1e-9),
    )
    lies = (
        {"purpose": "teaching"},
        {"analyst": "wu"},
        {"epsilon": 0.01},
        {"delta": 0.5},
        {"rho": 0.0},
        {"request": "1" * 64},
    )
    for changes in (*lies, {"federation": "town"}, {}):
        statement = msgspec.structs.replace(true, **changes)
        record = keys.seal(town.key, "coordinator", RECORD, Record(statement, NAMES, ()))
        reply = town.ask("record", "ash", canonical(record))
        assert isinstance(reply, Refusal if changes else Done), (changes, reply)


# --- again ---


def test_a_request_runs_once_whatever_slot_batch_and_process(town):
    made, signed = batch(town), town.request(epsilon=0.1)
    assert all(isinstance(reply, Done) for reply in masked(town, made, signed).values())
    again = masked(town, made, signed) | {
        f"{n} in another slot": r for n, r in masked(town, made, signed, 1).items()
    }
    second = batch(town)
    assert second.session != made.session
    again |= {f"{n} in another batch": r for n, r in masked(town, second, signed).items()}
    town.away("ash", "birch", kill=True)
    town.back("ash", "birch")
    third = batch(town)
    again |= {f"{n} started anew": r for n, r in masked(town, third, signed).items()}
    for what, reply in again.items():
        assert isinstance(reply, Refusal), what
        assert reply.error == "ScheduleError", (what, reply)
    for name in NAMES:
        assert town.charges(name).count(digest(signed)) == 1


def test_the_bytes_of_a_whole_release_sent_again_get_nothing(town):
    """All messages of a release, recorded and sent again in order and backwards: no department computes again."""
    seen: list[tuple[str, dict[str, bytes]]] = []

    def recorded(network, kind, bodies):
        seen.append((kind, dict(bodies)))
        return network.call(kind, bodies)

    town.broker.attach(rig.Tap(town.network, recorded))
    town.city().table("t").agg(count()).release(purpose=village.PURPOSE, epsilon=0.1)
    town.broker.attach(town.network)
    before = {name: len(town.charges(name)) for name in NAMES}
    kinds = {kind for kind, _ in seen}
    assert {"decide", "advertise", "share", "receive", "masked", "unmask", "record"} <= kinds
    for kind, bodies in (*seen, *reversed(seen)):
        for name, data in town.network.call(kind, bodies).items():
            reply = messages.decode_reply(data)
            if kind not in ("catalog", "decide", "explain", "record"):
                assert isinstance(reply, Refusal), (kind, name)
    assert {name: len(town.charges(name)) for name in NAMES} == before


# --- out of order ---


@pytest.mark.parametrize("kind", STAGES)
def test_no_stage_comes_before_those_that_it_needs(town, kind):
    signed, session = town.request(), secrets.token_bytes(16)
    survivors = mpc_encode(Survivors(0, NAMES))
    body = {
        "overlaps": messages.Overlaps(session, 0, canonical(signed), b"[]"),
        "masked": Masked(session, 0, canonical(signed)),
        "confirm": Unmask(session, 0, survivors),
        "unmask": Unmask(session, 0, survivors),
    }.get(kind, Setup(session, b""))
    for name in NAMES:
        assert isinstance(town.ask(kind, name, body), Refusal)
        assert digest(signed) not in town.charges(name)


def test_unmasking_comes_after_masking_and_once(town):
    made, signed = batch(town), town.request()
    body = Unmask(made.session, 0, mpc_encode(Survivors(0, NAMES)))
    assert all(isinstance(town.ask("unmask", name, body), Refusal) for name in NAMES)
    assert all(isinstance(reply, Done) for reply in masked(town, made, signed).values())
    assert all(isinstance(town.ask("unmask", name, body), Done) for name in NAMES)
    assert all(isinstance(town.ask("unmask", name, body), Refusal) for name in NAMES)


# --- withheld ---

ALONE = [(name,) for name in NAMES]
PAIRS = [("ash", "birch"), ("ash", "cedar"), ("birch", "cedar")]


@pytest.mark.parametrize(
    "claimed", [(), *ALONE, *PAIRS, ("ash", "birch", "cedar", "elm"), ("ash", "ash", "birch")]
)
def test_an_exact_sum_over_fewer_than_three_is_never_unmasked(town, claimed):
    """The coordinator says that the others vanished; each department still holds what takes its mask off, and keeps it."""
    made, signed = batch(town), town.request()
    replies = masked(town, made, signed)
    assert all(isinstance(reply, Done) for reply in replies.values())
    body = Unmask(made.session, 0, mpc_encode(Survivors(0, claimed)))
    for name in NAMES:
        reply = town.ask("unmask", name, body)
        assert isinstance(reply, Refusal), (claimed, name)


def test_no_departments_values_are_among_the_words_that_the_coordinator_sees(town):
    """Masked words are uniform: ones and zeros alike, none small as counts are; the same question again gives others."""
    query = town.city().table("t").group_by("region").agg(count(), col("age").quantile(0.5)).query
    seen: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for _ in range(2):
        made, signed = batch(town), town.request(query=query)
        for name, reply in masked(town, made, signed).items():
            assert isinstance(reply, Done), reply
            words = np.frombuffer(reply.body[HEADER.size : -16], dtype="<u8")
            assert len(words) > 150
            seen[name].append(words)
    for name, (first, second) in seen.items():
        region = town.frames[name]["region"].value_counts()
        for words in (first, second):
            assert words.min() > 2**24, "a small word has a chance of 1e-9"
            assert not set(region) & set(words.tolist())
            ones = np.unpackbits(words.view(np.uint8)).mean()
            assert abs(ones - 0.5) < 6 * 0.5 / np.sqrt(64 * len(words)), "6 sigma"
        assert not set(first.tolist()) & set(second.tolist())


@pytest.mark.parametrize("kind", ["share", "receive"])
def test_keys_and_shares_that_were_altered_on_the_way_are_refused(town, kind):
    """The coordinator relays the departments' keys: it can put none of its own in their place."""
    refused = []

    def altering(network, sent, bodies):
        if sent == kind:
            setups = {name: messages.decode(body, Setup) for name, body in bodies.items()}
            bodies = {name: messages.encode(Setup(s.session, flipped(s.body))) for name, s in setups.items()}
        replies = network.call(sent, bodies)
        if sent == kind:
            refused.extend(isinstance(messages.decode_reply(data), Refusal) for data in replies.values())
        return replies

    town.broker.attach(rig.Tap(town.network, altering))
    with pytest.raises(TooFewDepartments, match="vanished while setting up"):
        town.city().table("t").agg(count()).release(purpose=village.PURPOSE)
    assert refused == [True] * 3
    town.broker.attach(town.network)


def flipped(body: bytes) -> bytes:
    """One bit in the middle: of a key, a signature or a sealed share."""
    place = len(body) * 2 // 3
    return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]


# --- code ---


def run_of(town, fab_hash: str) -> int:
    """A run that is under way at the link, with this bundle."""
    state = town.link.state
    run_id = state.create_run(
        fab_id="somebody/app",
        fab_version="1",
        fab_hash=fab_hash,
        override_config={},
        federation_id=NOOP_FEDERATION_ID,
        federation_config=None,
        flwr_aid=NOOP_FLWR_AID,
        primary_task_type=TaskType.SERVER_APP,
    )
    task_id = state.get_run_info(run_ids=[run_id])[0].primary_task_id
    assert state.claim_task(task_id)
    assert state.activate_task(task_id)
    return run_id


def test_a_run_with_code_is_refused_and_the_code_never_fetched(town):
    from flwr.supercore.fab import Fab

    bundle = b"import os; os.abort()"
    hashed = town.link.state.store_fab(Fab(None, bundle, {}))
    town.paths.clear()
    own, town.grid._run_id = town.grid._run_id, run_of(town, hashed)
    try:
        message = town.grid.create_message(pack(b""), "query.catalog", town.link.node_ids["ash"], "")
        [message_id] = town.grid.push_messages([message])
        end = time.monotonic() + 20
        log = town.directory / "nodes" / "ash" / "log.jsonl"
        while "another protocol" not in log.read_text():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert list(town.grid.pull_messages([message_id])) == []
    finally:
        town.grid._run_id = own
    town.wait("ash")
    assert isinstance(town.ask("catalog", "ash", b""), Done)
    assert not any("fab" in path for path in town.paths)
    assert hashed != PROTOCOL
    assert town.processes.process("ash").poll() is None


@pytest.mark.parametrize(
    "kind", ["train", "evaluate", "query", "query.nothing", "query.shell", "train.catalog"]
)
def test_messages_of_other_kinds_are_not_answered(town, kind):
    node_id = town.link.node_ids["ash"]
    message = town.grid.create_message(pack(b""), kind, node_id, "")
    answers = town.grid.send_and_receive([message], timeout=0.3)
    assert list(answers) == []
    empty = town.grid.create_message(RecordDict(), "query.catalog", node_id, "")
    [answer] = town.grid.send_and_receive([empty], timeout=20)
    assert isinstance(messages.decode_reply(answer.content["body"]["body"]), Done), "it needs no body"
    assert not isinstance(town.network.call("catalog", {"ash": b""})["ash"], Failure)


def test_after_all_this_an_honest_request_works(town):
    town.broker.attach(town.network)
    release = town.city().table("t").agg(count()).release(purpose=village.PURPOSE)
    assert int(release.frame["count"].sum()) == len(NAMES) * village.ROWS
    assert release.missing == ()
    assert release.verify(town.roster).ok
    assert all(len(town.charges(name)) > 10 for name in NAMES), "all the time it was these that were attacked"

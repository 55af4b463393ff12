"""Joint sums under one shared key: what arrives where, who may be missing, what is refused, and the stated limit of it."""

from __future__ import annotations

import hashlib
import pickle

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc.errors import (
    BadSignature,
    FloorViolation,
    Malformed,
    OutOfOrder,
    OutOfRange,
    ProtocolError,
    Replayed,
    Tampered,
    UnknownPeer,
    WrongLength,
)
from mpc.he.aggregation import Coordinator, Node
from mpc.he.packed import PackedSum

NAMES = ("hills", "harbour", "river", "town")
IDENTITIES = {name: hashlib.sha256(name.encode()).digest() for name in NAMES}
ROSTER = {
    name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    for name, key in IDENTITIES.items()
}
SESSION = hashlib.sha256(b"a training").digest()
ROUNDS = [hashlib.sha256(bytes([i])).digest() for i in range(3)]
SUMS = PackedSum.reals(-1, 1, addends=4)
LEADER = "harbour"


class Training:
    def __init__(self):
        self.nodes = {name: Node(name, IDENTITIES[name], ROSTER, SESSION, SUMS) for name in NAMES}
        self.coordinator = Coordinator(ROSTER, SESSION, SUMS)
        self.advertisements = [node.advertise() for node in self.nodes.values()]

    def share(self):
        self.bundles = self.nodes[LEADER].distribute(self.advertisements)
        self.coordinator.relay_key(self.bundles)
        for name in set(NAMES) - {LEADER}:
            self.nodes[name].receive(self.advertisements, self.bundles)
        return self


@pytest.fixture
def training():
    return Training().share()


@pytest.fixture
def values():
    generator = np.random.default_rng(1)
    return {name: generator.uniform(-1, 1, 5000) for name in NAMES}


def test_every_node_gets_the_sum_of_those_who_sent(training, values):
    for number, missing in enumerate([(), ("river",)]):
        round_digest = ROUNDS[number]
        present = [name for name in NAMES if name not in missing]
        for name in present:
            message = training.nodes[name].encrypt(round_digest, values[name])
            assert training.coordinator.accept(round_digest, message) == name
        total = training.coordinator.total(round_digest)
        exact = sum(values[name] for name in present)
        for name in present:
            found, names = training.nodes[name].decrypt(round_digest, total)
            assert names == tuple(sorted(present))
            assert np.abs(found - exact).max() <= SUMS.error


def test_the_coordinator_holds_no_key_and_messages_show_nothing(training, values):
    messages = [training.bundles, *training.advertisements]
    messages += [training.nodes[name].encrypt(ROUNDS[0], values[name]) for name in NAMES]
    secret = training.nodes[LEADER]._key.expose()[-200:-150]
    assert not any(secret in message for message in messages)
    state = repr(vars(training.coordinator))
    assert secret.hex() not in state
    assert "SecretKey" not in state
    with pytest.raises((OutOfRange, TypeError)):
        pickle.dumps(training.nodes[LEADER])


def test_the_stated_limit_one_dishonest_node_with_the_messages_reads_everybody(training, values):
    message = training.nodes["town"].encrypt(ROUNDS[0], values["town"])
    body = msgspec.msgpack.decode(msgspec.msgpack.decode(message)[1])
    spy = training.nodes["river"]._key
    seen = SUMS.decrypt(SUMS.read(body[2], spy.fingerprint), spy)
    assert np.abs(seen - values["town"]).max() <= SUMS.error


def test_keys_reach_only_whom_they_are_sealed_to():
    training = Training()
    bundles = training.nodes[LEADER].distribute(training.advertisements)
    stranger = Node("town", IDENTITIES["town"], ROSTER, SESSION, SUMS)  # a fresh sealing key
    with pytest.raises(Malformed, match="this node's own"):
        stranger.receive(training.advertisements, bundles)
    swapped = [m for m in training.advertisements if msgspec.msgpack.decode(m)[0] != "town"]
    with pytest.raises(Tampered, match="does not open"):
        stranger.receive([*swapped, stranger.advertise()], bundles)


def test_a_relay_cannot_put_its_own_key_in_between():
    training = Training()
    forged = msgspec.msgpack.decode(training.advertisements[0])
    body = msgspec.msgpack.decode(forged[1])
    body[1] = bytes(range(32))
    forged[1] = msgspec.msgpack.encode(body)
    messages = [msgspec.msgpack.encode(forged), *training.advertisements[1:]]
    with pytest.raises(BadSignature):
        training.nodes[LEADER].distribute(messages)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_messages_are_refused_and_the_round_goes_on(training, values, seed):
    generator = np.random.default_rng(seed)
    good = training.nodes["town"].encrypt(ROUNDS[0], values["town"][:10])
    for _ in range(100):
        bad = bytearray(good)
        bad[int(generator.integers(len(bad)))] ^= 1 + int(generator.integers(255))
        with pytest.raises(ProtocolError):
            training.coordinator.accept(ROUNDS[0], bytes(bad))
    assert training.coordinator.accept(ROUNDS[0], good) == "town"


def test_replays_and_foreign_rounds_are_refused(training, values):
    nodes, coordinator = training.nodes, training.coordinator
    message = nodes["town"].encrypt(ROUNDS[0], values["town"])
    with pytest.raises(Replayed, match="another or a closed round"):
        coordinator.accept(ROUNDS[1], message)
    coordinator.accept(ROUNDS[0], message)
    with pytest.raises(Replayed, match="second of this one"):
        coordinator.accept(ROUNDS[0], message)
    with pytest.raises(Replayed, match="contributed to already"):
        nodes["town"].encrypt(ROUNDS[0], values["town"])
    with pytest.raises(WrongLength, match="5000 values"):
        coordinator.accept(ROUNDS[0], nodes["river"].encrypt(ROUNDS[0], values["river"][:7]))
    for name in ("hills", "harbour"):
        coordinator.accept(ROUNDS[0], nodes[name].encrypt(ROUNDS[0], values[name]))
    total = coordinator.total(ROUNDS[0])
    with pytest.raises(Replayed, match="closed round"):
        coordinator.accept(ROUNDS[0], message)
    with pytest.raises(OutOfOrder, match="nothing has arrived"):
        coordinator.total(ROUNDS[0])
    with pytest.raises(Replayed, match="another session or round"):
        nodes["town"].decrypt(ROUNDS[1], total)
    with pytest.raises(FloorViolation, match="this node among them"):
        nodes["river"].decrypt(ROUNDS[0], total)  # it sent, but was left out


def test_too_few_contributors_are_not_decrypted(training, values):
    for name in ("town", "river"):
        training.coordinator.accept(ROUNDS[0], training.nodes[name].encrypt(ROUNDS[0], values[name]))
    total = training.coordinator.total(ROUNDS[0])
    with pytest.raises(FloorViolation, match="at least 3"):
        training.nodes["town"].decrypt(ROUNDS[0], total)
    claim = msgspec.msgpack.decode(total)
    claim[2] = ["town", "river", "hills"]
    with pytest.raises(Malformed, match="other contributors"):
        training.nodes["town"].decrypt(ROUNDS[0], msgspec.msgpack.encode(claim))
    claim[2] = ["town", "river", "nowhere"]
    with pytest.raises(UnknownPeer):
        training.nodes["town"].decrypt(ROUNDS[0], msgspec.msgpack.encode(claim))


def test_steps_out_of_order_are_refused(values):
    training = Training()
    with pytest.raises(OutOfOrder, match="relay_key"):
        training.coordinator.accept(ROUNDS[0], b"")
    with pytest.raises(OutOfOrder, match="comes first"):
        training.nodes["town"].encrypt(ROUNDS[0], values["town"])
    with pytest.raises(OutOfOrder, match="first node's"):
        training.nodes["town"].distribute(training.advertisements)
    training.share()
    with pytest.raises(OutOfOrder, match="once"):
        training.nodes[LEADER].distribute(training.advertisements)
    with pytest.raises(OutOfOrder, match="once"):
        training.nodes["town"].receive(training.advertisements, training.bundles)
    for bad in (b"", b"\x00" * 31):
        with pytest.raises(OutOfRange, match="round"):
            training.nodes["town"].encrypt(bad, values["town"])


def test_another_session_s_messages_are_refused():
    training = Training()
    elsewhere = Node("town", IDENTITIES["town"], ROSTER, bytes(32), SUMS)
    messages = [m for m in training.advertisements if msgspec.msgpack.decode(m)[0] != "town"]
    with pytest.raises(Replayed, match="another session"):
        training.nodes[LEADER].distribute([*messages, elsewhere.advertise()])


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(OutOfRange, match="roster"):
        Coordinator(ROSTER, SESSION, PackedSum.reals(-1, 1, addends=3))
    with pytest.raises(OutOfRange, match="session"):
        Coordinator(ROSTER, b"short", SUMS)
    with pytest.raises(OutOfRange, match="identity"):
        Node("town", IDENTITIES["river"], ROSTER, SESSION, SUMS)
    with pytest.raises(OutOfRange, match="least"):
        Node("town", IDENTITIES["town"], ROSTER, SESSION, SUMS, least=5)

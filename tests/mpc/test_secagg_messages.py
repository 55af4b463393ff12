"""What aggregator and clients refuse: messages that are unsigned, tampered with, of the wrong length, swapped or of another batch.

Each is a specific error that names the peer, and each refusal leaves the state as it was: the good message is accepted afterwards.
"""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc import errors
from mpc.secagg import Aggregator, Client, keys, messages
from mpc.secagg.messages import Advertisement, Answer, Confirmation, Shares, Signed, Survivors

NAMES = "abcde"
IDENTITIES = {name: hashlib.sha256(name.encode()).digest() for name in NAMES}
ROSTER = {
    name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    for name, key in IDENTITIES.items()
}
REQUEST = hashlib.sha256(b"a request").digest()
VALUES = np.arange(4, dtype=np.uint64)


class Start:
    """A batch that has come to its first masked inputs, with one message of each kind from b."""

    def __init__(self, setting="active"):
        self.aggregator = Aggregator(ROSTER, threshold=4, setting=setting, slots=2)
        self.clients = {name: Client(name, IDENTITIES[name], ROSTER) for name in NAMES}

    def before(self, kind):
        """Runs up to b's message of this kind; returns it and the call that takes it."""
        aggregator, clients = self.aggregator, self.clients
        rounds = {
            "advertisement": (
                lambda name: clients[name].advertise(aggregator.announce()),
                aggregator.accept_advertisement,
            ),
            "shares": (
                lambda name: clients[name].share(aggregator.advertisements()),
                aggregator.accept_shares,
            ),
            "masked input": (lambda name: clients[name].mask(0, REQUEST, VALUES), aggregator.accept_masked),
            "confirmation": (
                lambda name: clients[name].confirm(0, aggregator.survivors(0)),
                aggregator.accept_confirmation,
            ),
            "answer": (
                lambda name: clients[name].unmask(0, aggregator.survivors(0), aggregator.confirmations(0)),
                aggregator.accept_answer,
            ),
        }
        for step, (speak, accept) in rounds.items():
            if step == "masked input":
                for name, delivery in aggregator.deliveries().items():
                    clients[name].receive(delivery)
                aggregator.open(0, REQUEST, VALUES.size)
            for name in NAMES:
                message = speak(name)
                if step == kind and name == "b":
                    return message, accept
                accept(name, message)
        raise AssertionError(kind)


KINDS = ["advertisement", "shares", "masked input", "confirmation", "answer"]
SIGNED = [kind for kind in KINDS if kind != "masked input"]
CONTENTS = {"advertisement": Advertisement, "shares": Shares, "confirmation": Confirmation, "answer": Answer}


@pytest.mark.parametrize("kind", SIGNED)
def test_a_flipped_bit_is_found_anywhere_in_a_signed_message(kind):
    message, accept = Start().before(kind)
    signed = messages.decode(message, Signed)
    covered = [range(at := message.index(part), at + len(part)) for part in (signed.body, signed.signature)]
    for position in range(0, len(message), max(1, len(message) // 97)):
        damaged = bytearray(message)
        damaged[position] ^= 1
        inside = any(position in part for part in covered)  # else a length, or the sender's name
        expected = errors.BadSignature if inside else (errors.BadSignature, errors.Malformed)
        with pytest.raises(expected, match="b: "):
            accept("b", bytes(damaged))
    accept("b", message)


@pytest.mark.parametrize(
    ("field", "at", "length", "expected"),
    [
        ("magic", 0, 8, errors.Malformed),
        ("slot", 8, 4, errors.Replayed),
        ("point", 12, 4, errors.Malformed),
        ("words", 16, 8, errors.WrongLength),
        ("context", 24, 32, errors.Replayed),
        ("request", 56, 32, errors.Replayed),
        ("payload", 88, 8 * VALUES.size, errors.Tampered),
        ("tag", 88 + 8 * VALUES.size, 16, errors.Tampered),
    ],
)
def test_a_flipped_bit_is_found_anywhere_in_a_masked_input(field, at, length, expected):
    message, accept = Start().before("masked input")
    for position in range(at, at + length):
        for bit in range(8):
            damaged = bytearray(message)
            damaged[position] ^= 1 << bit
            with pytest.raises(expected, match="b: masked input"):
                accept("b", bytes(damaged))
    accept("b", message)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_or_lengthened_messages(kind):
    message, accept = Start().before(kind)
    expected = errors.WrongLength if kind == "masked input" else errors.Malformed
    for damaged in (message[:-1], message + b"\0", b""):
        with pytest.raises(expected, match="b: "):
            accept("b", damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_counts_once_and_for_its_sender_only(kind):
    message, accept = Start().before(kind)
    with pytest.raises(errors.Malformed if kind == "masked input" else errors.BadSignature, match="c: "):
        accept("c", message)
    with pytest.raises(errors.UnknownPeer, match="stranger"):
        accept("stranger", message)
    accept("b", message)
    with pytest.raises(errors.Replayed, match="b: "):
        accept("b", message)


@pytest.mark.parametrize("kind", SIGNED)
def test_nobody_signs_for_another(kind):
    """c sends b's content under its own signature: as b it is not signed by b, as c it names b."""
    message, accept = Start().before(kind)
    content = messages.verify(message, CONTENTS[kind], "b", ROSTER)
    forged = messages.sign(content, keys.identity_key(IDENTITIES["c"]))
    with pytest.raises(errors.BadSignature, match=f"b: {kind}"):
        accept("b", forged)
    with pytest.raises(errors.Malformed, match="c: sender"):
        accept("c", forged)


@pytest.mark.parametrize("kind", SIGNED)
def test_a_signature_serves_one_kind_of_message(kind):
    message, accept = Start().before(kind)
    body = messages.decode(message, Signed).body
    for other in set(SIGNED) - {kind}:
        signature = keys.identity_key(IDENTITIES["b"]).sign(keys.framed(other.encode(), body))
        with pytest.raises(errors.BadSignature, match=f"b: {kind}"):
            accept("b", messages.encode(Signed("b", body, signature)))


@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_another_batch(kind):
    message, _ = Start().before(kind)
    _, accept = Start().before(kind)
    with pytest.raises(errors.Replayed, match="b: "):
        accept("b", message)


@pytest.mark.parametrize("kind", SIGNED)
def test_unsigned_messages(kind):
    message, accept = Start().before(kind)
    signed = messages.decode(message, Signed)
    for signature in (b"", bytes(64)):
        with pytest.raises(errors.BadSignature, match=f"b: {kind}"):
            accept("b", messages.encode(msgspec.structs.replace(signed, signature=signature)))


@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        ("advertisement", {"sealing_key": bytes(31)}, "sealing_key"),
        ("advertisement", {"mask_keys": (bytes(32),)}, "mask_keys"),
        ("advertisement", {"mask_keys": (bytes(32), bytes(33))}, "mask_keys"),
        ("advertisement", {"commitments": ()}, "commitments"),
        ("shares", {"bundles": {}}, "bundles"),
        ("shares", {"bundles": {name: bytes(10) for name in "acde"}}, "bundles"),
        ("answer", {"seed_shares": {}}, "seed_shares"),
        ("answer", {"key_shares": {"a": bytes(33)}}, "key_shares"),
        ("answer", {"seed_shares": {name: bytes(32) for name in NAMES}}, "share"),
        ("answer", {"seed_shares": dict.fromkeys(NAMES, b"\xff" * 33)}, "share"),
    ],
)
def test_signed_messages_with_fields_of_the_wrong_length(kind, changes, field):
    message, accept = Start().before(kind)
    content = messages.verify(message, CONTENTS[kind], "b", ROSTER)
    identity = keys.identity_key(IDENTITIES["b"])
    with pytest.raises(errors.WrongLength, match=f"b: {field}"):
        accept("b", messages.sign(msgspec.structs.replace(content, **changes), identity))


def test_bundles_that_were_changed_or_swapped_do_not_open():
    start = Start()
    _, accept = start.before("shares")
    for name in NAMES[2:]:
        accept(name, start.clients[name].share(start.aggregator.advertisements()))
    bundles = messages.decode(start.aggregator.deliveries()["a"], dict[str, bytes])
    client = start.clients["a"]
    damaged = bundles | {"c": bundles["c"][:-1] + bytes([bundles["c"][-1] ^ 1])}
    swapped = bundles | {"c": bundles["d"], "d": bundles["c"]}
    for delivery in (damaged, swapped):
        with pytest.raises(errors.Tampered, match="c: bundle: does not open"):
            client.receive(messages.encode(delivery))
    with pytest.raises(errors.UnknownPeer, match="delivery"):
        client.receive(messages.encode(bundles | {"stranger": b""}))
    client.receive(messages.encode(bundles))
    with pytest.raises(errors.Replayed, match="delivery"):
        client.receive(messages.encode(bundles))


def test_clients_take_part_once_in_one_batch():
    start = Start()
    start.before("shares")
    for again in (
        lambda client: client.advertise(start.aggregator.announce()),
        lambda client: client.share(start.aggregator.advertisements()),
    ):
        with pytest.raises(errors.Replayed):
            again(start.clients["a"])


def test_other_advertisements_than_ones_own():
    start, other = Start(), Start()
    announcement = start.aggregator.announce()
    signed = [messages.decode(start.clients[name].advertise(announcement), Signed) for name in NAMES]
    foreign = messages.decode(other.clients["b"].advertise(other.aggregator.announce()), Signed)
    client = start.clients["a"]
    with pytest.raises(errors.Replayed, match="b: advertisement: belongs to another batch"):
        client.share(messages.encode([signed[0], foreign, *signed[2:]]))
    with pytest.raises(errors.Malformed, match="must contain this party's own"):
        client.share(messages.encode(signed[1:]))


def test_a_confirmation_of_another_set():
    message, accept = Start().before("confirmation")
    content = messages.verify(message, Confirmation, "b", ROSTER)
    other = msgspec.structs.replace(content, survivors=content.survivors[:-1])
    with pytest.raises(errors.Malformed, match="b: confirmation: confirms another set"):
        accept("b", messages.sign(other, keys.identity_key(IDENTITIES["b"])))


def test_a_client_confirms_and_unmasks_one_set_only():
    start = Start()
    start.before("confirmation")
    client = start.clients["c"]
    claims = [messages.encode(Survivors(0, tuple(claim))) for claim in ("abcd", "abce")]
    with pytest.raises(errors.BadSignature, match="this party confirmed no such set"):
        client.unmask(0, claims[0], messages.encode([]))
    client.confirm(0, claims[0])
    client.confirm(0, claims[0])  # the same again is harmless
    with pytest.raises(errors.Replayed, match="another set was confirmed"):
        client.confirm(0, claims[1])
    with pytest.raises(errors.BadSignature, match="this party confirmed no such set"):
        client.unmask(0, claims[1], messages.encode([]))


def test_repeated_confirmations_count_once():
    start = Start()
    message, _ = start.before("confirmation")
    claim = messages.encode(Survivors(0, tuple(NAMES)))
    signed = messages.encode([messages.decode(message, Signed)] * 4)
    with pytest.raises(errors.TooFewSurvivors, match="4 parties are needed, 1 are present"):
        start.clients["b"].unmask(0, claim, signed)


def test_members_that_did_not_survive_neither_confirm_nor_answer():
    start = Start()
    masked, accept = start.before("masked input")
    accept("b", masked)
    aggregator, clients = start.aggregator, start.clients
    for name in "cd":
        aggregator.accept_masked(name, clients[name].mask(0, REQUEST, VALUES))
    assert aggregator.survivor_names(0) == tuple("abcd")
    claim, outsider = aggregator.survivors(0), keys.identity_key(IDENTITIES["e"])
    confirmation = Confirmation("e", aggregator._context, 0, REQUEST, tuple("abcd"))
    answer = Answer("e", aggregator._context, 0, REQUEST, {}, {})
    with pytest.raises(errors.UnknownPeer, match="e: sender: not a survivor"):
        aggregator.accept_confirmation("e", messages.sign(confirmation, outsider))
    with pytest.raises(errors.UnknownPeer, match="e: sender: not a survivor"):
        aggregator.accept_answer("e", messages.sign(answer, outsider))
    confirmed = [messages.decode(clients[name].confirm(0, claim), Signed) for name in "abc"]
    confirmed.append(messages.decode(messages.sign(confirmation, outsider), Signed))
    with pytest.raises(errors.UnknownPeer, match="e: confirmations"):
        clients["a"].unmask(0, claim, messages.encode(confirmed))

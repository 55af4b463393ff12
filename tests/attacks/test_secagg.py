"""Attacks on secure aggregation. Each succeeds with one defence removed and fails with it in place.

The attacker is the coordinator: it relays every byte, chooses the parameters and says who survived. What it computes below
uses public advertisements, messages on the wire and what it talks the clients into; in one attack also a node that colludes.
"""

from __future__ import annotations

import copy
import hashlib
import secrets

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc import errors, prg, shamir
from mpc.prg import Keystream
from mpc.secagg import Aggregator, Client, Floors, keys, least_threshold, messages, parameters
from mpc.secagg.messages import Advertisement, Answer, Confirmation, Shares, Signed, Survivors

NAMES = "abcde"
TEN = "abcdefghij"
IDENTITIES = {name: hashlib.sha256(name.encode()).digest() for name in TEN}
PUBLIC = {
    name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    for name, key in IDENTITIES.items()
}
ROSTER = {name: PUBLIC[name] for name in NAMES}
REQUEST = hashlib.sha256(b"the analyst's request").digest()
SECRET = np.array([1200, 7, 88, 45_000], dtype=np.uint64)  # what a would rather keep
ALARM = 1e-6  # false-alarm rate of the statistical test


class Coordinator:
    """A coordinator that keeps everything it relays, over clients of the given class."""

    def __init__(
        self,
        kind=Client,
        setting="honest-but-curious",
        *,
        names=NAMES,
        threshold=None,
        floors=None,
        draw=secrets.token_bytes,
    ):
        self.names, self.roster = names, {name: PUBLIC[name] for name in names}
        self.threshold = threshold or least_threshold(setting, len(names))
        self.aggregator = Aggregator(
            self.roster, threshold=self.threshold, setting=setting, slots=2, random_bytes=draw
        )
        self.clients = {name: kind(name, IDENTITIES[name], self.roster, floors, draw) for name in names}
        announcement = self.aggregator.announce()
        self.advertised = {}
        for name, client in self.clients.items():
            message = client.advertise(announcement)
            self.advertised[name] = messages.verify(message, Advertisement, name, self.roster)
            self.aggregator.accept_advertisement(name, message)
        advertisements = self.aggregator.advertisements()
        for name, client in self.clients.items():
            self.aggregator.accept_shares(name, client.share(advertisements))
        for name, delivery in self.aggregator.deliveries().items():
            self.clients[name].receive(delivery)
        self.context = self.aggregator._context
        self.wire = {}

    def collect(self, slot=0, request=REQUEST):
        values = {name: SECRET + np.uint64(i) for i, name in enumerate(self.names)}
        for name, vector in values.items():
            self.wire[name] = self.clients[name].mask(slot, request, vector)
        return values

    def sum(self, slot, survivors):
        """What the protocol is for: everybody masks, and the sum over those that the coordinator says survived."""
        self.aggregator.open(slot, REQUEST, SECRET.size)
        self.collect(slot)
        for name in survivors:
            self.aggregator.accept_masked(name, self.wire[name])
        claim = self.aggregator.survivors(slot)
        for name in survivors:
            self.aggregator.accept_answer(name, self.clients[name].unmask(slot, claim))
        return self.aggregator.result(slot)

    def ask(self, name, survivors, confirmations=b""):
        claim = messages.encode(Survivors(0, tuple(survivors)))
        return self.read(name, self.clients[name].unmask(0, claim, confirmations))

    def read(self, name, message):
        return messages.verify(message, Answer, name, self.roster)

    def combine(self, owner, shares):
        """A secret from answers' shares of it: {answering party: share}."""
        some = dict(list(shares.items())[: self.threshold])
        points = {self.aggregator.parameters.point(name): share for name, share in some.items()}
        assert len(points) == self.threshold, f"too few shares of {owner}"
        return shamir.combine(points, self.threshold)

    def strip(self, names, seeds, mask_keys):
        """The sum of `names`' inputs, given their self seeds and one mask key of each pair that leads outside."""
        total = sum(payload(self.wire[name]) for name in names)
        for name in names:
            prg.add_streams(total, minus=[keys.self_key(seeds[name], self.context, 0, REQUEST, name)])
            for peer in set(self.names) - set(names):
                holder, other = (peer, name) if peer in mask_keys else (name, peer)
                secret = keys.agree(mask_keys[holder], self.advertised[other].mask_keys[0], peer=other)
                first, second = sorted((name, peer))
                stream = keys.pairwise_key(secret, self.context, 0, REQUEST, first, second)
                if name == first:
                    prg.add_streams(total, minus=[stream])
                else:
                    prg.add_streams(total, plus=[stream])
        return total


def payload(message):
    return np.frombuffer(message[messages.HEADER.size : -keys.TAG_BYTES], dtype="<u8").copy()


# reading one node's values from the wire


def test_without_masks_the_wire_shows_the_values(monkeypatch):
    monkeypatch.setattr(prg, "add_streams", lambda into, plus=(), minus=(): None)
    coordinator = Coordinator()
    values = coordinator.collect()
    assert all((payload(coordinator.wire[name]) == values[name]).all() for name in NAMES)


@pytest.mark.parametrize("value", [0, 123_456_789])
def test_with_masks_the_wire_shows_uniform_words_whatever_the_value(value):
    """Chi-square of the bytes on the wire, and of the bytes after subtracting a perfect guess of the value."""
    from scipy import stats

    stream = Keystream(hashlib.sha256(b"fixed").digest())
    draw = lambda size: stream.read(size // 8 + 1).tobytes()[:size]  # noqa: E731
    coordinator = Coordinator(draw=draw)
    message = coordinator.clients["a"].mask(0, REQUEST, np.full(50_000, value, dtype=np.uint64))
    words = payload(message)
    assert not (words == value).any()
    for guess in {0, value}:
        counts = np.bincount((words - np.uint64(guess)).view(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > ALARM


# unmasking one node with both of its secrets


class AnswersTwice(Client):
    """A client without the rule of one answer a slot."""

    def _close(self, slot):
        pass


def both_shares(coordinator):
    """Everyone is told that all survived, then that a vanished: shares of a's self seed, and of its mask key."""
    seeds = {name: coordinator.ask(name, NAMES).seed_shares["a"] for name in NAMES}
    mask_keys = {name: coordinator.ask(name, NAMES[1:]).key_shares["a"] for name in NAMES[1:]}
    seed, mask_key = coordinator.combine("a", seeds), coordinator.combine("a", mask_keys)
    return coordinator.strip(["a"], {"a": seed}, {"a": mask_key})


def test_both_shares_of_one_node_reveal_its_values():
    coordinator = Coordinator(AnswersTwice)
    coordinator.collect()
    assert (both_shares(coordinator) == SECRET).all()


def test_a_client_gives_one_answer_a_slot():
    coordinator = Coordinator()
    coordinator.collect()
    with pytest.raises(errors.Replayed, match="slot: has already been answered"):
        both_shares(coordinator)


def test_one_answer_never_holds_both_shares_of_a_node():
    coordinator = Coordinator()
    coordinator.collect()
    answer = coordinator.ask("b", ["a", "b", "c"])
    assert set(answer.seed_shares) == {"a", "b", "c"}
    assert set(answer.key_shares) == {"d", "e"}


# telling different clients of different survivors

FORGED = {
    "a": "abe",
    "b": "abd",
    "c": "abc",
    "d": "abd",
    "e": "abe",
}  # each sees itself and two others survive


def forge(coordinator, confirmations=b""):
    """No client sees fewer than three survivors, yet together they unmask the sum of a and b alone."""
    answers = {name: coordinator.ask(name, claim, confirmations) for name, claim in FORGED.items()}
    seeds = {
        owner: coordinator.combine(owner, {n: answer.seed_shares[owner] for n, answer in answers.items()})
        for owner in "ab"
    }
    mask_keys = {
        owner: coordinator.combine(
            owner, {n: a.key_shares[owner] for n, a in answers.items() if owner in a.key_shares}
        )
        for owner in "cde"
    }
    return coordinator.strip(["a", "b"], seeds, mask_keys)


def test_forged_survivors_isolate_two_nodes_from_a_lying_coordinator():
    coordinator = Coordinator(setting="honest-but-curious")
    values = coordinator.collect()
    assert (forge(coordinator) == values["a"] + values["b"]).all()


def test_forged_survivors_and_one_colluding_node_isolate_one_node():
    """e pools what it knows. Its self seed share and mask key share of a, with two honest answers of each kind, are enough."""
    coordinator = Coordinator(setting="honest-but-curious")
    values = coordinator.collect()
    colluder = dict(coordinator.clients["e"]._slots[0].shares)
    claims = {"a": "abe", "b": "abe", "c": "bce", "d": "bde"}
    answers = {name: coordinator.ask(name, claim) for name, claim in claims.items()}
    seed_shares = {n: answers[n].seed_shares["a"] for n in "ab"} | {"e": colluder["a"][1]}
    key_shares = {n: answers[n].key_shares["a"] for n in "cd"} | {"e": colluder["a"][0]}
    seed, mask_key = coordinator.combine("a", seed_shares), coordinator.combine("a", key_shares)
    assert (coordinator.strip(["a"], {"a": seed}, {"a": mask_key}) == values["a"]).all()


class Unconfirmed(Client):
    """An active client that unmasks without looking for confirmations."""

    def _check_confirmations(self, slot, state, names, confirmations):
        pass


# Ten departments, of which seven must survive; h, i and j collude. Each of the others is told of seven survivors, itself among
# them, yet c to g are each given up by at least four: with the three colluders that makes seven shares of their mask keys.
COLLUDERS = "hij"
CLAIMS = ("abfghij", "abdehij", "abcghij", "abcdhij", "abdehij", "abefhij", "abfghij")
SPLIT = dict(zip("abcdefg", CLAIMS, strict=True))


def split_active(coordinator, confirmations=lambda claim: b""):
    """Seed shares of a, b and the colluders, mask key shares of the rest: the sum of a and b, where no fewer than four honest
    departments should ever be summed."""
    answers = {name: coordinator.ask(name, claim, confirmations(claim)) for name, claim in SPLIT.items()}
    known = {name: coordinator.clients[name]._slots[0].shares for name in COLLUDERS}
    seeds, mask_keys = {}, {}
    for owner in "ab" + COLLUDERS:
        told = {name: answer.seed_shares[owner] for name, answer in answers.items()}
        seeds[owner] = coordinator.combine(owner, told)
    for owner in "cdefg":
        told = {name: a.key_shares[owner] for name, a in answers.items() if owner in a.key_shares}
        pooled = told | {name: shares[owner][0] for name, shares in known.items()}
        mask_keys[owner] = coordinator.combine(owner, pooled)
    return coordinator.strip("ab" + COLLUDERS, seeds, mask_keys)


def test_without_confirmations_different_survivors_isolate_two_nodes():
    coordinator = Coordinator(Unconfirmed, "active", names=TEN)
    values = coordinator.collect()
    total = split_active(coordinator) - sum(values[name] for name in COLLUDERS)
    assert (total == values["a"] + values["b"]).all()


def test_confirmations_hold_everyone_to_one_set():
    """The coordinator passes on every confirmation of a set that it can get; its colluders confirm whatever it likes."""
    coordinator = Coordinator(setting="active", names=TEN)
    coordinator.collect()
    confirmed = {}
    for name, claim in SPLIT.items():
        message = coordinator.clients[name].confirm(0, messages.encode(Survivors(0, tuple(claim))))
        confirmed[name] = messages.decode(message, Signed)

    def confirmations(claim):
        willing = [signed for name, signed in confirmed.items() if SPLIT[name] == claim]
        for name in COLLUDERS:
            lie = Confirmation(name, coordinator.context, 0, REQUEST, tuple(claim))
            willing.append(messages.decode(messages.sign(lie, keys.identity_key(IDENTITIES[name])), Signed))
        return messages.encode(willing)

    with pytest.raises(errors.TooFewSurvivors, match="confirmations: 7 parties are needed"):
        split_active(coordinator, confirmations)
    for name, claim in SPLIT.items():
        with pytest.raises(errors.TooFewSurvivors, match="confirmations: 7 parties are needed"):
            coordinator.ask(name, claim, confirmations(claim))


@pytest.mark.parametrize("claims", [("abce", "abde"), ("abcd", "abcde")])
def test_two_clients_that_were_told_differently_both_refuse(claims):
    """Neither accepts the other's confirmation for its own, whoever else confirmed."""
    coordinator = Coordinator(setting="active")
    coordinator.collect()
    told = {name: claims[name == "b"] for name in claims[0]} | {"b": claims[1]}
    confirmed = []
    for name, claim in told.items():
        message = coordinator.clients[name].confirm(0, messages.encode(Survivors(0, tuple(claim))))
        confirmed.append(messages.decode(message, Signed))
    for name in "ab":
        with pytest.raises((errors.BadSignature, errors.UnknownPeer), match="confirmations"):
            coordinator.ask(name, told[name], messages.encode(confirmed))


# the same slot, or the same request, for a second time


class Forgetful(Client):
    """A client that does not remember which slots and requests it has served."""

    def mask(self, slot, request, values, **options):
        before = copy.deepcopy(self._slots)
        message = super().mask(slot, request, values, **options)
        self._slots, self._requests = before, set()
        return message


def ask_again(coordinator):
    """The difference of two inputs under the same masks is the difference of the values."""
    client = coordinator.clients["a"]
    first = client.mask(0, REQUEST, SECRET)
    second = client.mask(0, REQUEST, np.zeros_like(SECRET))
    return payload(first) - payload(second)


def test_masks_used_twice_reveal_the_difference():
    assert (ask_again(Coordinator(Forgetful)) == SECRET).all()


def test_a_slot_serves_one_request():
    with pytest.raises(errors.Replayed, match="slot: has already served a request"):
        ask_again(Coordinator())


class Repeats(Client):
    """A client that serves a request in every slot in which it is asked."""

    def mask(self, slot, request, values, **options):
        self._requests.clear()
        return super().mask(slot, request, values, **options)


def replay_without(coordinator, vanished):
    """A request that was unmasked is sent again, and one input dropped: the difference of the sums is that input."""
    survivors = [name for name in NAMES if name != vanished]
    return coordinator.sum(0, NAMES) - coordinator.sum(1, survivors)


def test_a_request_that_is_served_again_reveals_whom_it_drops():
    assert (replay_without(Coordinator(Repeats), "a") == SECRET).all()


def test_a_request_that_was_unmasked_is_not_served_again():
    with pytest.raises(errors.Replayed, match="request: has already been served"):
        replay_without(Coordinator(), "a")


# parameters chosen by the coordinator


def low_threshold(monkeypatch):
    monkeypatch.setattr(parameters, "least_threshold", lambda setting, parties: 1)


def test_a_low_threshold_gives_both_shares_to_a_divided_federation(monkeypatch):
    low_threshold(monkeypatch)
    coordinator = Coordinator(threshold=2)
    coordinator.collect()
    seeds = {name: coordinator.ask(name, "abc").seed_shares["a"] for name in "bc"}
    mask_keys = {name: coordinator.ask(name, "bde").key_shares["a"] for name in "de"}
    seed, mask_key = coordinator.combine("a", seeds), coordinator.combine("a", mask_keys)
    assert (coordinator.strip("a", {"a": seed}, {"a": mask_key}) == SECRET).all()


def test_clients_refuse_a_low_threshold(monkeypatch):
    low_threshold(monkeypatch)  # at the coordinator, which runs what code it likes
    announcement = Aggregator(ROSTER, threshold=2, setting="honest-but-curious", slots=1).announce()
    monkeypatch.undo()
    with pytest.raises(errors.FloorViolation, match=r"threshold: must be 3 \.\.\. 5"):
        Client("a", IDENTITIES["a"], ROSTER).advertise(announcement)


def subtract_own_part(floors):
    """Of three, one is dropped; what remains is the sum of a and b, and b knows its own part."""
    coordinator = Coordinator(names="abc", floors=floors)
    total = coordinator.sum(0, "ab")
    return total - (SECRET + np.uint64(1))


def test_of_two_survivors_each_learns_the_others_values():
    assert (subtract_own_part(Floors(parties=2)) == SECRET).all()


def test_clients_refuse_to_unmask_fewer_than_their_owners_floor():
    with pytest.raises(errors.FloorViolation, match="survivors: must be at least 3"):
        subtract_own_part(Floors(parties=3))


# a relay that changes what it passes on


def change_one_word(coordinator):
    coordinator.aggregator.open(0, REQUEST, SECRET.size)
    coordinator.collect()
    changed = bytearray(coordinator.wire["b"])
    changed[messages.HEADER.size] ^= 1
    return coordinator.aggregator.accept_masked("b", bytes(changed))


def test_without_tags_a_relay_changes_the_sum_unnoticed(monkeypatch):
    monkeypatch.setattr(keys, "verify_tag", lambda expected, received, peer: None)
    assert change_one_word(Coordinator()) == 0


def test_tags_keep_every_word_as_it_was():
    with pytest.raises(errors.Tampered, match="b: masked input"):
        change_one_word(Coordinator())


def impersonate():
    """The relay shows a its own key as b's, then opens what a seals for b: shares of a's secrets."""
    announcement = Aggregator(ROSTER, threshold=3, setting="honest-but-curious", slots=2).announce()
    clients = {name: Client(name, IDENTITIES[name], ROSTER) for name in NAMES}
    signed = {n: messages.decode(client.advertise(announcement), Signed) for n, client in clients.items()}
    own_key = bytes(range(32))
    content = messages.decode(signed["b"].body, Advertisement)
    forged = msgspec.structs.replace(content, sealing_key=keys.public_key(own_key))
    signed["b"] = msgspec.structs.replace(signed["b"], body=messages.encode(forged))
    reply = clients["a"].share(messages.encode(list(signed.values())))
    shares = messages.decode(messages.decode(reply, Signed).body, Shares)
    sealing_key = messages.decode(signed["a"].body, Advertisement).sealing_key
    secret = keys.agree(own_key, sealing_key, peer="a")
    return keys.unseal(secret, shares.context, "a", "b", shares.bundles["b"])


def test_without_signatures_a_relay_reads_what_is_sealed_for_others(monkeypatch):
    """In the bundle are b's shares of both secrets of a, in both slots; with the threshold of such bundles a has no secrets left."""
    monkeypatch.setattr(messages, "verify_signature", lambda *arguments, peer: None)
    dealt = []
    split = shamir.split
    monkeypatch.setattr(shamir, "split", lambda *arguments: dealt.append(split(*arguments)) or dealt[-1])
    assert impersonate() == b"".join(shares[NAMES.index("b")] for shares in dealt)


def test_signatures_keep_the_relay_out():
    with pytest.raises(errors.BadSignature, match="b: advertisement"):
        impersonate()

"""The coordinator's half of secure aggregation: verifies, relays, adds, and takes off the masks of one
survivor set a slot.

    once a batch:   announce -> accept_advertisement* -> advertisements -> accept_shares* -> deliveries
    each request:   open -> accept_masked* -> survivors [-> accept_confirmation* -> confirmations]
                    -> accept_answer* -> result

Protects the sum: a message that is unsigned, tampered, replayed or of another length raises a PeerError
that names the peer, so that the broker can treat it as vanished; a lying share is found out by commitments
and public keys instead of yielding a wrong sum. Does not protect: the sum against a party that lies about
its own values. What it must not learn it never receives: see `LEAKAGE` and the client's refusals. Not for
concurrent calls.

`sender` is always the peer from whom the network took the message.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, combinations, islice

import numpy as np
from numpy.typing import NDArray

from mpc import prg, shamir
from mpc.errors import (
    InconsistentShares,
    Malformed,
    OutOfOrder,
    OutOfRange,
    Replayed,
    UnknownPeer,
    WrongLength,
)
from mpc.secagg import keys, messages
from mpc.secagg.messages import Advertisement, Answer, Confirmation, Shares, Signed, Survivors
from mpc.secagg.parameters import Parameters, Setting
from mpc.secagg.rounds import (
    advertised_context,
    check_advertisement,
    check_among,
    check_enough,
    check_request,
    check_slot,
    members_context,
)

MAX_SUBSETS = 512  # of shares tried before giving up on a secret


class _Slot:
    """One request under way."""

    def __init__(self, request: bytes, length: int) -> None:
        self.request = request
        self.total: NDArray[np.uint64] = np.zeros(length, dtype="<u8")
        self.masked: list[str] = []
        self.survivors: tuple[str, ...] = ()
        self.confirmations: dict[str, Signed] = {}
        self.answers: dict[str, Answer] = {}


class Aggregator:
    """One batch of `slots` sums over the parties of `roster` (name -> Ed25519 public key)."""

    def __init__(
        self,
        roster: Mapping[str, bytes],
        *,
        threshold: int,
        setting: Setting,
        slots: int,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._roster = dict(roster)
        self._private = random_bytes(keys.PRIVATE_BYTES)
        self.parameters = Parameters(
            session=random_bytes(16),
            names=tuple(sorted(roster)),
            threshold=threshold,
            setting=setting,
            slots=slots,
            aggregator=keys.public_key(self._private),
        )
        self._signed: dict[str, Signed] = {}
        self._advertised: dict[str, Advertisement] = {}
        self._tag_secrets: dict[str, bytes] = {}
        self._context = b""
        self._bundles: dict[str, dict[str, bytes]] = {}
        self._slots: dict[int, _Slot] = {}
        self._served: set[int] = set()
        self.members: tuple[str, ...] = ()

    # set-up, once a batch

    def announce(self) -> bytes:
        """The parameters, for every party's `Client.advertise`."""
        return messages.encode(self.parameters)

    def accept_advertisement(self, sender: str, message: bytes) -> None:
        if self._context:
            raise OutOfOrder("advertisement", "the advertisements have already been sent out")
        if sender in self._advertised:
            raise Replayed("advertisement", "already received", peer=sender)
        signed = messages.decode(message, Signed, peer=sender)
        advertisement = messages.verify_signed(signed, Advertisement, sender, self._roster)
        if advertisement.context != self.parameters.digest:
            raise Replayed("advertisement", "belongs to another batch", peer=sender)
        check_advertisement(advertisement, self.parameters)
        self._tag_secrets[sender] = keys.agree(self._private, advertisement.sealing_key, peer=sender)
        self._signed[sender], self._advertised[sender] = signed, advertisement

    def advertisements(self) -> bytes:
        """For `Client.share` of everyone who advertised; closes round 0."""
        check_enough("advertisements", len(self._signed), self.parameters.threshold)
        self._context = self._context or advertised_context(self.parameters, self._signed)
        return messages.encode([self._signed[name] for name in sorted(self._signed)])

    def accept_shares(self, sender: str, message: bytes) -> None:
        if not self._context or self.members:
            raise OutOfOrder("shares", "come between advertisements() and deliveries()")
        if sender in self._bundles:
            raise Replayed("shares", "already received", peer=sender)
        check_among("shares", [sender], self._advertised, peer=sender)
        shares = messages.verify(message, Shares, sender, self._roster)
        if shares.context != self._context:
            raise Replayed("shares", "belong to another batch or another set of keys", peer=sender)
        if set(shares.bundles) != set(self._advertised) - {sender}:
            raise WrongLength("bundles", "must be one for each other advertiser", peer=sender)
        length = self.parameters.slots * 2 * shamir.SHARE_BYTES + keys.TAG_BYTES
        if any(len(bundle) != length for bundle in shares.bundles.values()):
            raise WrongLength("bundles", f"must be {length} bytes each", peer=sender)
        self._bundles[sender] = shares.bundles

    def deliveries(self) -> dict[str, bytes]:
        """For `Client.receive` of each member: whoever has sent its shares; closes round 1."""
        check_enough("shares", len(self._bundles), self.parameters.threshold)
        if not self.members:
            self.members = tuple(sorted(self._bundles))
            self._context = members_context(self._context, self.members)
        return {
            name: messages.encode({m: self._bundles[m][name] for m in self.members if m != name})
            for name in self.members
        }

    # for each request

    def open(self, slot: int, request: bytes, length: int) -> None:
        """Begins one request: a fresh slot, a 32-byte digest, the number of words of every input."""
        if not self.members:
            raise OutOfOrder("slot", "deliveries() comes first")
        check_slot(slot, self.parameters)
        check_request(request)
        if length < 1:
            raise OutOfRange("length", "must be >= 1")
        if slot in self._served:
            raise Replayed("slot", "has already served a request")
        self._served.add(slot)
        self._slots[slot] = _Slot(request, length)

    def accept_masked(self, sender: str, message: bytes) -> int:
        """Adds one masked input to the sum of its slot, which is returned."""
        check_among("masked input", [sender], self.members, peer=sender)
        size = messages.HEADER.size
        if len(message) < size + keys.TAG_BYTES:
            raise WrongLength("masked input", f"must be at least {size + keys.TAG_BYTES} bytes", peer=sender)
        header = message[:size]
        magic, slot, point, words, context, request = messages.HEADER.unpack(header)
        if magic != messages.MAGIC or point != self.parameters.point(sender):
            raise Malformed("masked input", "not a masked input of this sender", peer=sender)
        state = self._slots.get(slot)
        if state is None or context != self._context or request != state.request:
            raise Replayed("masked input", "of a batch, slot or request that is not open", peer=sender)
        expected = state.total.size
        if words != expected or len(message) != size + 8 * expected + keys.TAG_BYTES:
            raise WrongLength("masked input", f"must carry {expected} words", peer=sender)
        if state.survivors:
            raise OutOfOrder("masked input", "the survivors of this slot are already fixed")
        if sender in state.masked:
            raise Replayed("masked input", "already received", peer=sender)
        payload = memoryview(message)[size : -keys.TAG_BYTES]
        tag = keys.tag(self._tag_secrets[sender], self._context, slot, sender, header, payload)
        keys.verify_tag(tag, message[-keys.TAG_BYTES :], peer=sender)
        state.total += np.frombuffer(payload, dtype="<u8")
        state.masked.append(sender)
        return int(slot)

    def survivor_names(self, slot: int) -> tuple[str, ...]:
        """Whose inputs are in the sum; closes the slot to further ones."""
        state = self._open_slot(slot)
        check_enough("survivors", len(state.masked), self.parameters.threshold)
        state.survivors = state.survivors or tuple(sorted(state.masked))
        return state.survivors

    def survivors(self, slot: int) -> bytes:
        """For the `Client.confirm` (active setting) and `Client.unmask` of each survivor."""
        return messages.encode(Survivors(slot, self.survivor_names(slot)))

    def accept_confirmation(self, sender: str, message: bytes) -> int:
        """Active setting: collects the signatures that survivors want to see before they unmask; returns the slot."""
        signed = messages.decode(message, Signed, peer=sender)
        confirmation = messages.verify_signed(signed, Confirmation, sender, self._roster)
        state = self._fixed_slot(confirmation, sender)
        if confirmation.survivors != state.survivors:
            raise Malformed("confirmation", "confirms another set", peer=sender)
        if sender in state.confirmations:
            raise Replayed("confirmation", "already received", peer=sender)
        state.confirmations[sender] = signed
        return confirmation.slot

    def confirmations(self, slot: int) -> bytes:
        """For the `Client.unmask` of each survivor, in the active setting."""
        confirmations = self._open_slot(slot).confirmations
        check_enough("confirmations", len(confirmations), self.parameters.threshold)
        return messages.encode([confirmations[name] for name in sorted(confirmations)])

    def accept_answer(self, sender: str, message: bytes) -> int:
        """Collects one survivor's shares; returns the slot."""
        answer = messages.verify(message, Answer, sender, self._roster)
        state = self._fixed_slot(answer, sender)
        if sender in state.answers:
            raise Replayed("answer", "already received", peer=sender)
        if set(answer.seed_shares) != set(state.survivors):
            raise WrongLength("seed_shares", "must be one for each survivor", peer=sender)
        if set(answer.key_shares) != set(self.members) - set(state.survivors):
            raise WrongLength("key_shares", "must be one for each vanished member", peer=sender)
        for share in (*answer.seed_shares.values(), *answer.key_shares.values()):
            try:
                shamir.element(share)
            except OutOfRange as error:
                raise WrongLength("share", error.reason, peer=sender) from error
        state.answers[sender] = answer
        return answer.slot

    def result(self, slot: int) -> NDArray[np.uint64]:
        """The sum over the survivors, modulo 2^64. Needs `threshold` answers; closes the slot."""
        state = self._open_slot(slot)
        check_enough("answers", len(state.answers), self.parameters.threshold)
        added: list[bytes] = []
        subtracted: list[bytes] = []
        for name in state.survivors:
            seed = self._self_seed(slot, state, name)
            subtracted.append(keys.self_key(seed, self._context, slot, state.request, name))
        for vanished in set(self.members) - set(state.survivors):
            private = self._mask_key(slot, state, vanished)
            for name in state.survivors:
                public = self._advertised[name].mask_keys[slot]
                secret = keys.agree(private, public, peer=name)
                first, second = sorted((name, vanished))
                stream = keys.pairwise_key(secret, self._context, slot, state.request, first, second)
                # the survivor's input carries +stream when its name comes first
                (subtracted if name == first else added).append(stream)
        prg.add_streams(state.total, added, subtracted)
        del self._slots[slot]
        return state.total

    # what the rounds need

    def _open_slot(self, slot: int) -> _Slot:
        if slot not in self._slots:
            raise OutOfOrder("slot", "is not open")
        return self._slots[slot]

    def _fixed_slot(self, message: Confirmation | Answer, sender: str) -> _Slot:
        """The slot that a survivor's message is about, its survivors fixed."""
        state = self._slots.get(message.slot)
        if state is None or message.context != self._context or message.request != state.request:
            raise Replayed("message", "of a batch, slot or request that is not open", peer=sender)
        if sender not in state.survivors:
            raise UnknownPeer("sender", "not a survivor of this slot", peer=sender)
        return state

    def _self_seed(self, slot: int, state: _Slot, owner: str) -> bytes:
        expected = self._advertised[owner].commitments[slot]
        digest = self.parameters.digest
        shares = {self.parameters.point(n): a.seed_shares[owner] for n, a in state.answers.items()}
        return self._recover(
            shares, lambda seed: keys.commitment(seed, digest, slot, owner) == expected, "self seed", owner
        )

    def _mask_key(self, slot: int, state: _Slot, owner: str) -> bytes:
        expected = self._advertised[owner].mask_keys[slot]
        shares = {self.parameters.point(n): a.key_shares[owner] for n, a in state.answers.items()}
        return self._recover(shares, lambda private: keys.public_key(private) == expected, "mask key", owner)

    def _recover(
        self, shares: Mapping[int, bytes], matches: Callable[[bytes], bool], field: str, owner: str
    ) -> bytes:
        """The secret that its owner committed to, from any `threshold` of the shares: one liar does not spoil it."""
        threshold = self.parameters.threshold
        for points in _subsets(sorted(shares), threshold):
            try:
                secret = shamir.combine({point: shares[point] for point in points}, threshold)
            except OutOfRange:
                continue
            if matches(secret):
                return secret
        raise InconsistentShares(field, "no set of the returned shares opens it", peer=owner)


def _subsets(points: Sequence[int], size: int) -> Iterator[tuple[int, ...]]:
    """Some subsets of the points: first the cyclic windows, which leave out each point in turn, then others."""
    twice = [*points, *points]
    windows = (tuple(sorted(twice[i : i + size])) for i in range(len(points)))
    return islice(chain(windows, combinations(points, size)), MAX_SUBSETS)

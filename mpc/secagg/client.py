"""One party of secure aggregation: a state machine without input or output; bytes in, bytes out.

    advertise -> share -> receive -> for each slot: mask [-> confirm] -> unmask

Protects the party's values as `LEAKAGE` says, by what it refuses: parameters below its owner's floors,
unsigned or foreign keys, a slot or request for the second time, a survivor set that is too small or differs
from the one it confirmed, and above all both shares of one peer in one slot. Does not protect: values that
its own caller passes unchecked. Not for concurrent calls.

Every method checks all it was given before it changes anything; a refused call can be repeated with a good
message. Bonawitz et al., CCS 2017, Figure 4; deviations: a commitment to each self seed, parameters and
members bound into every key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mpc import prg, shamir
from mpc.errors import (
    BadSignature,
    FloorViolation,
    Malformed,
    OutOfOrder,
    OutOfRange,
    Replayed,
    UnknownPeer,
    WrongLength,
)
from mpc.secagg import keys, messages
from mpc.secagg.messages import Advertisement, Answer, Confirmation, Shares, Signed, Survivors
from mpc.secagg.parameters import COORDINATOR, Floors, Parameters, read_parameters
from mpc.secagg.rounds import (
    advertised_context,
    check_advertisement,
    check_among,
    check_enough,
    check_request,
    check_slot,
    members_context,
)

_WORD = np.dtype("<u8")
_PAIR_BYTES = 2 * shamir.SHARE_BYTES  # of one slot in a bundle: mask key share | self seed share


class _Slot:
    """The secrets of one slot, all forgotten once it has answered."""

    def __init__(self, mask_key: bytes, seed: bytes) -> None:
        self.mask_key = mask_key
        self.seed = seed
        self.pairs: dict[str, bytes] = {}  # peer -> X25519 secret
        self.shares: dict[str, tuple[bytes, bytes]] = {}  # owner -> share of its mask key, of its self seed
        self.request: bytes | None = None  # set once masked
        self.contributors = 0
        self.confirmed: tuple[str, ...] | None = None


class Client:
    """One party in one batch.

    `identity` is its Ed25519 private key (32 bytes); `roster` maps every party, itself included, to its
    Ed25519 public key as this owner installed them; `floors` is the least protection that the owner
    accepts.
    """

    def __init__(
        self,
        name: str,
        identity: bytes,
        roster: Mapping[str, bytes],
        floors: Floors | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._identity = keys.identity_key(identity)
        if roster.get(name) != self._identity.public_key().public_bytes_raw():
            raise OutOfRange("roster", "must list this party under the public key of its identity")
        self.name = name
        self._roster = dict(roster)
        self._floors = floors or Floors()
        self._random = random_bytes
        self._parameters: Parameters | None = None
        self._sealing_key = b""
        self._tag_secret = b""
        self._sealing: dict[str, bytes] = {}  # advertiser -> X25519 secret
        self._advertised: dict[str, Advertisement] = {}
        self._context = b""
        self._members: tuple[str, ...] = ()
        self._slots: dict[int, _Slot] = {}
        self._requests: set[bytes] = set()

    # set-up, once a batch

    def advertise(self, parameters: bytes) -> bytes:
        """Round 0. Fresh keys for every slot, signed, in answer to the coordinator's parameters."""
        if self._parameters is not None:
            raise Replayed("parameters", "this batch has already begun", peer=COORDINATOR)
        checked = read_parameters(parameters, self._roster, self._floors)
        digest = checked.digest
        sealing_key = self._random(keys.PRIVATE_BYTES)
        self._tag_secret = keys.agree(sealing_key, checked.aggregator, peer=COORDINATOR)
        self._parameters, self._sealing_key = checked, sealing_key
        self._slots = {
            slot: _Slot(self._random(keys.PRIVATE_BYTES), self._random(keys.SEED_BYTES))
            for slot in range(checked.slots)
        }
        advertisement = Advertisement(
            sender=self.name,
            context=digest,
            sealing_key=keys.public_key(self._sealing_key),
            mask_keys=tuple(keys.public_key(s.mask_key) for s in self._slots.values()),
            commitments=tuple(
                keys.commitment(s.seed, digest, slot, self.name) for slot, s in self._slots.items()
            ),
        )
        return messages.sign(advertisement, self._identity)

    def share(self, advertisements: bytes) -> bytes:
        """Round 1. Checks everybody's keys; for every slot, shares of the mask key and the self seed, sealed to each peer."""
        parameters = self._begun()
        if self._advertised:
            raise Replayed("advertisements", "already shared in this batch", peer=COORDINATOR)
        signed = {s.sender: s for s in messages.decode(advertisements, list[Signed])}
        check_enough("advertisements", len(signed), max(parameters.threshold, self._floors.parties))
        advertised = {}
        for name, message in signed.items():
            advertised[name] = messages.verify_signed(message, Advertisement, name, self._roster)
            if advertised[name].context != parameters.digest:
                raise Replayed("advertisement", "belongs to another batch", peer=name)
            check_advertisement(advertised[name], parameters)
        own = advertised.get(self.name)
        if own is None or own.sealing_key != keys.public_key(self._sealing_key):
            raise Malformed("advertisements", "must contain this party's own", peer=COORDINATOR)
        sealing = {
            name: keys.agree(self._sealing_key, peer.sealing_key, peer=name)
            for name, peer in advertised.items()
            if name != self.name
        }
        context = advertised_context(parameters, signed)
        bundles = self._deal(parameters, sorted(advertised))
        self._slots_keep_own_share(bundles.pop(self.name))
        self._advertised, self._sealing, self._context = advertised, sealing, context
        sealed = {
            name: keys.seal(sealing[name], context, self.name, name, bundle)
            for name, bundle in bundles.items()
        }
        return messages.sign(Shares(self.name, context, sealed), self._identity)

    def receive(self, delivery: bytes) -> None:
        """Round 2. Opens the bundles of the others; whoever sent one is a member of the batch. Ready to mask afterwards."""
        parameters = self._begun()
        if not self._advertised:
            raise OutOfOrder("delivery", "share() comes first")
        if self._members:
            raise Replayed("delivery", "already received in this batch", peer=COORDINATOR)
        sealed = messages.decode(delivery, dict[str, bytes])
        check_among("delivery", sealed, self._sealing, peer=COORDINATOR)
        check_enough("bundles", len(sealed) + 1, max(parameters.threshold, self._floors.parties))
        bundles = {
            name: keys.unseal(self._sealing[name], self._context, name, self.name, bundle)
            for name, bundle in sealed.items()
        }
        for name, bundle in bundles.items():
            if len(bundle) != _PAIR_BYTES * parameters.slots:
                raise WrongLength("bundle", f"must be {_PAIR_BYTES * parameters.slots} bytes", peer=name)
        pairs = {
            (slot, name): keys.agree(secret.mask_key, self._advertised[name].mask_keys[slot], peer=name)
            for slot, secret in self._slots.items()
            for name in bundles
        }
        for (slot, name), pair in pairs.items():
            self._slots[slot].pairs[name] = pair
            self._slots[slot].shares[name] = _pair_of(bundles[name], slot)
        for secret in self._slots.values():
            secret.mask_key = b""
        self._members = tuple(sorted([*bundles, self.name]))
        self._context = members_context(self._context, self._members)
        self._sealing_key, self._sealing = b"", {}

    # for each request

    def mask(
        self, slot: int, request: bytes, values: NDArray[np.uint64], *, contributors: int | None = None
    ) -> bytes:
        """This party's input to one request (a 32-byte digest) under fresh masks. Uses up the slot and the
        request.

        `values` is a vector of uint64, of a length that all parties share. `contributors` is the least
        number of survivors that this party helps to unmask; by default its owner's `Floors.parties`.
        """
        check_slot(slot, self._ready())
        check_request(request)
        if values.dtype != np.uint64 or values.ndim != 1 or not values.size:
            raise OutOfRange("values", "must be a non-empty vector of uint64")
        least = self._floors.parties if contributors is None else contributors
        if not 2 <= least <= len(self._roster):
            raise OutOfRange("contributors", f"must be 2 ... {len(self._roster)}")
        state = self._slots.get(slot)
        if state is None or state.request is not None:
            raise Replayed("slot", "has already served a request", peer=COORDINATOR)
        if request in self._requests:
            raise Replayed("request", "has already been served in this batch", peer=COORDINATOR)
        self._requests.add(request)
        state.request, state.contributors = request, least

        masked = values.astype(_WORD)  # a copy, also when nothing needs converting
        plus, minus = self._stream_keys(slot, state, request)
        prg.add_streams(masked, plus, minus)
        state.pairs, state.seed = {}, b""
        point = self._ready().point(self.name)
        header = messages.HEADER.pack(messages.MAGIC, slot, point, masked.size, self._context, request)
        payload = masked.data.cast("B")
        tag = keys.tag(self._tag_secret, self._context, slot, self.name, header, payload)
        return b"".join((header, payload, tag))

    def confirm(self, slot: int, survivors: bytes) -> bytes:
        """Consistency check (active setting): signs the one survivor set that this party will help to unmask."""
        if self._ready().setting != "active":
            raise OutOfOrder("confirm", "only the active setting confirms")
        state, request, names = self._survivors(slot, survivors)
        if state.confirmed not in (None, names):
            raise Replayed("survivors", "another set was confirmed for this slot", peer=COORDINATOR)
        state.confirmed = names
        return messages.sign(Confirmation(self.name, self._context, slot, request, names), self._identity)

    def unmask(self, slot: int, survivors: bytes, confirmations: bytes = b"") -> bytes:
        """One answer a slot: for survivors a share of the self seed, for vanished members one of the mask key, never both."""
        state, request, names = self._survivors(slot, survivors)
        if self._ready().setting == "active":
            self._check_confirmations(slot, state, names, confirmations)
        answer = Answer(
            sender=self.name,
            context=self._context,
            slot=slot,
            request=request,
            seed_shares={name: state.shares[name][1] for name in names},
            key_shares={name: state.shares[name][0] for name in self._members if name not in names},
        )
        self._close(slot)
        return messages.sign(answer, self._identity)

    # what the rounds need

    def _begun(self) -> Parameters:
        if self._parameters is None:
            raise OutOfOrder("parameters", "advertise() comes first")
        return self._parameters

    def _ready(self) -> Parameters:
        if not self._members:
            raise OutOfOrder("members", "receive() comes first")
        return self._begun()

    def _deal(self, parameters: Parameters, recipients: list[str]) -> dict[str, bytes]:
        bundles = {name: bytearray() for name in recipients}
        for secret in self._slots.values():
            n, threshold = len(parameters.names), parameters.threshold
            key_shares = shamir.split(secret.mask_key, threshold, n, self._random)
            seed_shares = shamir.split(secret.seed, threshold, n, self._random)
            for name in recipients:
                at = parameters.point(name) - 1
                bundles[name] += key_shares[at] + seed_shares[at]
        return {name: bytes(bundle) for name, bundle in bundles.items()}

    def _slots_keep_own_share(self, bundle: bytes) -> None:
        for slot, secret in self._slots.items():
            secret.shares[self.name] = _pair_of(bundle, slot)

    def _stream_keys(self, slot: int, state: _Slot, request: bytes) -> tuple[list[bytes], list[bytes]]:
        """y = x + PRG(self) + sum over later names of PRG(pair) - sum over earlier names of PRG(pair)."""
        plus = [keys.self_key(state.seed, self._context, slot, request, self.name)]
        minus: list[bytes] = []
        for peer, secret in state.pairs.items():
            first, second = sorted((self.name, peer))
            stream = keys.pairwise_key(secret, self._context, slot, request, first, second)
            (plus if first == self.name else minus).append(stream)
        return plus, minus

    def _survivors(self, slot: int, message: bytes) -> tuple[_Slot, bytes, tuple[str, ...]]:
        """A masked slot that has not answered, its request and the set of survivors, if this party may accept it."""
        parameters = self._ready()
        check_slot(slot, parameters)
        claim = messages.decode(message, Survivors)
        names = tuple(sorted(claim.names))
        if claim.slot != slot or len(set(names)) != len(names):
            raise Malformed("survivors", "must be distinct names, for this slot", peer=COORDINATOR)
        state = self._slots.get(slot)
        if state is None:
            raise Replayed("slot", "has already been answered", peer=COORDINATOR)
        if state.request is None:
            raise OutOfOrder("slot", "mask() comes first")
        check_among("survivors", names, self._members, peer=COORDINATOR)
        check_enough("survivors", len(names), parameters.threshold)
        if len(names) < state.contributors:
            raise FloorViolation("survivors", f"must be at least {state.contributors}", peer=COORDINATOR)
        if self.name not in names:
            raise UnknownPeer("survivors", "must contain this party, which masked", peer=COORDINATOR)
        return state, state.request, names

    def _check_confirmations(
        self, slot: int, state: _Slot, names: tuple[str, ...], confirmations: bytes
    ) -> None:
        """The active setting's guard: at least `threshold` members signed exactly this set, this party among them."""
        if state.confirmed != names:
            raise BadSignature("survivors", "this party confirmed no such set", peer=COORDINATOR)
        expected = (self._context, slot, state.request, names)
        confirmed = set()
        for signed in messages.decode(confirmations, list[Signed]):
            check_among("confirmations", [signed.sender], names, peer=signed.sender)
            message = messages.verify_signed(signed, Confirmation, signed.sender, self._roster)
            if (message.context, message.slot, message.request, message.survivors) != expected:
                raise BadSignature("confirmations", "confirms another set", peer=signed.sender)
            confirmed.add(signed.sender)
        check_enough("confirmations", len(confirmed), self._ready().threshold)

    def _close(self, slot: int) -> None:
        del self._slots[slot]


def _pair_of(bundle: bytes, slot: int) -> tuple[bytes, bytes]:
    pair = bundle[slot * _PAIR_BYTES : (slot + 1) * _PAIR_BYTES]
    return pair[: shamir.SHARE_BYTES], pair[shamir.SHARE_BYTES :]

"""Sums for joint training under one shared key: the coordinator adds ciphertexts and sees not even the sum.

    1  node -> all         a fresh X25519 key, signed by its roster identity             Node.advertise
    2  first node -> each  the BFV secret key, sealed: X25519 -> HKDF -> ChaCha20-Poly1305  Node.distribute
    3  each node           opens its copy                                                Node.receive
    then, each round:
    4  node -> coordinator its vector, encrypted, signed                                 Node.encrypt
    5  coordinator         adds what arrived: any number of nodes may be missing          Coordinator.accept, .total
    6  coordinator -> all  the sum, encrypted; each node decrypts it                      Node.decrypt

Protects: vectors and sums from the coordinator and from outsiders, as long as no node helps them; a relay cannot
forge or swap keys, since everything is signed by identities that owners installed. One round trip, and nodes may
vanish at any time: unlike masking, nothing has to be unmasked.

Does not protect, and this is the price: **every node holds the key.** One dishonest node that obtains other nodes'
messages, from the coordinator or from the network, reads each node's vector in the clear. A dishonest
coordinator that sends one node's vector as "the sum" lets an honest node decrypt it; that node cannot tell, as
contributors are counted by the coordinator. Use secure aggregation (`mpc.secagg`) where the coordinator and t - 1
nodes might pool what they see; use this where all nodes trust each other, and the coordinator must learn nothing,
the sum included.

Why joint training (`federated.broker`) does not offer this as `aggregation="he"`: its guarantee is against a coordinator
that pools what it sees with fewer than t departments, and here one department suffices. What the coordinator must do
with a sum would have no place either: disclosure rules of exact models look at joint numbers, a department that
sends nonsense is told by the decoded sum, the state of the next round and the analyst's model follow from it. Were
departments to decrypt, each would see the exact joint update of every round, which the rules would not have passed,
and one of them could hand the analyst whatever weights it likes.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import (
    FloorViolation,
    Malformed,
    OutOfOrder,
    OutOfRange,
    Replayed,
    Tampered,
    UnknownPeer,
    WrongLength,
)
from mpc.he import envelope
from mpc.he.keys import SecretKey
from mpc.he.packed import EncryptedVector, PackedSum
from mpc.he.parameters import FINGERPRINT_BYTES, SUM
from mpc.prepared import prepared
from mpc.secagg import keys

LEAKAGE = (
    "The coordinator learns who took part and how long the vectors are: neither a vector nor the sum. All departments "
    "hold the key: each learns the sum, and any one of them that gets hold of the others' messages, from the coordinator "
    "or the network, can read every single vector."
)
_ROUND_BYTES = 32


class _Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    sender: str
    body: bytes
    signature: bytes


class _Advertisement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    session: bytes
    key: bytes


class _Bundles(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    session: bytes
    fingerprint: bytes
    sealed: dict[str, bytes]


class _Contribution(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    session: bytes
    round: bytes
    vector: bytes


class _Total(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    session: bytes
    round: bytes
    contributors: tuple[str, ...]
    vector: bytes


class Node:
    """One department in one training. `identity` is its Ed25519 private key, `roster` everybody's public ones.

    `session` is a digest of what is being trained; `least` is how many contributors this owner wants in a sum.
    """

    def __init__(
        self,
        name: str,
        identity: bytes,
        roster: Mapping[str, bytes],
        session: bytes,
        sums: PackedSum,
        *,
        least: int = 3,
    ) -> None:
        self._identity = keys.identity_key(identity)
        if roster.get(name) != self._identity.public_key().public_bytes_raw():
            raise OutOfRange("roster", "must list this party under the public key of its identity")
        _check_setting(roster, session, sums)
        if not 1 <= least <= len(roster):
            raise OutOfRange("least", f"must be 1 ... {len(roster)}")
        self.name = name
        self._roster = dict(roster)
        self._session = session
        self._sums = sums
        self._least = least
        self._sealing_key = secrets.token_bytes(keys.PRIVATE_BYTES)
        self._peers: dict[str, bytes] = {}
        self._context = b""
        self._key: SecretKey | None = None
        self._rounds: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<Node {self.name} of {len(self._roster)}{', with the key' if self._key else ''}>"

    @property
    def leads(self) -> bool:
        """Whether this node makes the key: the first of the roster does."""
        return self.name == min(self._roster)

    def advertise(self) -> bytes:
        body = _Advertisement(self._session, keys.public_key(self._sealing_key))
        return self._sign(b"he advertisement", body)

    def distribute(self, advertisements: Sequence[bytes]) -> bytes:
        """The leader's step: makes the key and seals it to each of the others."""
        if not self.leads or self._key is not None:
            raise OutOfOrder("distribute", "is the first node's, once")
        self._meet(advertisements)
        key = SecretKey.generate(SUM)
        exposed = key.expose()
        sealed = {
            name: keys.seal(
                keys.agree(self._sealing_key, public, peer=name), self._context, self.name, name, exposed
            )
            for name, public in self._peers.items()
            if name != self.name
        }
        self._key = key
        return self._sign(b"he key", _Bundles(self._session, key.fingerprint, sealed))

    def receive(self, advertisements: Sequence[bytes], bundles: bytes) -> None:
        """Opens the key that the leader sealed to this node."""
        if self.leads or self._key is not None:
            raise OutOfOrder("receive", "is every other node's, once")
        leader = min(self._roster)
        opened = _verify(bundles, b"he key", _Bundles, leader, self._roster)
        self._meet(advertisements)
        if opened.session != self._session:
            raise Replayed("key", "belongs to another session", peer=leader)
        if self.name not in opened.sealed:
            raise UnknownPeer("key", "is not sealed to this node", peer=leader)
        shared = keys.agree(self._sealing_key, self._peers[leader], peer=leader)
        exposed = keys.unseal(shared, self._context, leader, self.name, opened.sealed[self.name])
        key = SecretKey.from_exposed(exposed, SUM)
        if key.fingerprint != opened.fingerprint:
            raise Tampered("key", "is not the one that the leader signed for", peer=leader)
        self._key = key

    def encrypt(self, round_digest: bytes, values: NDArray[Any]) -> bytes:
        """This node's vector for one round, which it contributes to once."""
        key = self._ready()
        _check_round(round_digest)
        if round_digest in self._rounds:
            raise Replayed("round", "has been contributed to already")
        vector = self._sums.encrypt(values, key).to_bytes()
        self._rounds.add(round_digest)
        return self._sign(b"he vector", _Contribution(self._session, round_digest, vector))

    def decrypt(self, round_digest: bytes, total: bytes) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """The sum, and who is said to be in it: this node among them, and at least `least`."""
        key = self._ready()
        try:
            claim = msgspec.msgpack.decode(total, type=prepared(_Total))
        except envelope.UNREADABLE as error:
            raise Malformed("total", "not a sum of this protocol") from error
        if claim.session != self._session or claim.round != round_digest:
            raise Replayed("total", "belongs to another session or round")
        names = set(claim.contributors)
        if len(names) != len(claim.contributors) or not names <= set(self._roster):
            raise UnknownPeer("contributors", "must be distinct names of the roster")
        if len(names) < self._least or (round_digest in self._rounds and self.name not in names):
            raise FloorViolation("contributors", f"must be at least {self._least}, this node among them")
        vector = self._sums.read(claim.vector, key.fingerprint)
        if vector.addends != len(names):
            raise Malformed("total", "counts other contributors than it names")
        return self._sums.decrypt(vector, key), tuple(sorted(names))

    def _sign(self, label: bytes, body: msgspec.Struct) -> bytes:
        encoded = msgspec.msgpack.encode(body)
        signature = self._identity.sign(keys.framed(label, encoded))
        return msgspec.msgpack.encode(_Signed(self.name, encoded, signature))

    def _ready(self) -> SecretKey:
        if self._key is None:
            raise OutOfOrder("key", "distribute() or receive() comes first")
        return self._key

    def _meet(self, advertisements: Sequence[bytes]) -> None:
        """Everybody's sealing keys, each signed by its roster identity."""
        peers, seen = {}, []
        for message in advertisements:
            sender = _decode(message, _Signed, "advertisement").sender
            opened = _verify(message, b"he advertisement", _Advertisement, sender, self._roster)
            if opened.session != self._session:
                raise Replayed("advertisement", "belongs to another session", peer=sender)
            if len(opened.key) != keys.PUBLIC_BYTES or sender in peers:
                raise Malformed("advertisement", "must be one X25519 key a node", peer=sender)
            peers[sender] = opened.key
            seen.append(keys.framed(b"he peer", sender, opened.key))
        if peers.get(self.name) != keys.public_key(self._sealing_key) or min(self._roster) not in peers:
            raise Malformed("advertisements", "must hold this node's own and the leader's")
        self._peers = peers
        self._context = hashlib.sha256(keys.framed(b"he aggregation", self._session, *sorted(seen))).digest()


class Coordinator:
    """Adds. Holds no key, only the fingerprint of the one in use."""

    def __init__(self, roster: Mapping[str, bytes], session: bytes, sums: PackedSum) -> None:
        _check_setting(roster, session, sums)
        self._roster = dict(roster)
        self._session = session
        self._sums = sums
        self._fingerprint = b""
        self._sums_of: dict[bytes, tuple[tuple[str, ...], EncryptedVector]] = {}
        self._closed: set[bytes] = set()

    def relay_key(self, bundles: bytes) -> None:
        """Notes the fingerprint that the leader signed, so that vectors under other keys are refused."""
        leader = min(self._roster)
        opened = _verify(bundles, b"he key", _Bundles, leader, self._roster)
        if opened.session != self._session or len(opened.fingerprint) != FINGERPRINT_BYTES:
            raise Replayed("key", "belongs to another session", peer=leader)
        self._fingerprint = opened.fingerprint

    def accept(self, round_digest: bytes, message: bytes) -> str:
        """Adds one node's vector to a round, and says whose it was. A refused one leaves the sum as it was."""
        if not self._fingerprint:
            raise OutOfOrder("vector", "relay_key() comes first")
        _check_round(round_digest)
        sender = _decode(message, _Signed, "vector").sender
        opened = _verify(message, b"he vector", _Contribution, sender, self._roster)
        names, total = self._sums_of.get(round_digest, ((), None))
        stale = round_digest in self._closed or sender in names
        if stale or (opened.session, opened.round) != (self._session, round_digest):
            raise Replayed(
                "vector", "belongs to another or a closed round, or is the second of this one", peer=sender
            )
        vector = self._sums.read(opened.vector, self._fingerprint)
        if vector.addends != 1:
            raise Malformed("vector", "must be one node's own", peer=sender)
        if total is not None and total.length != vector.length:
            raise WrongLength("vector", f"must have {total.length} values", peer=sender)
        added = vector if total is None else total + vector
        self._sums_of[round_digest] = ((*names, sender), added)
        return sender

    def total(self, round_digest: bytes) -> bytes:
        """The encrypted sum of all vectors that arrived, for the nodes. Closes the round."""
        if round_digest not in self._sums_of:
            raise OutOfOrder("round", "nothing has arrived")
        names, vector = self._sums_of.pop(round_digest)
        self._closed.add(round_digest)
        return msgspec.msgpack.encode(_Total(self._session, round_digest, names, vector.to_bytes()))


def _check_setting(roster: Mapping[str, bytes], session: bytes, sums: PackedSum) -> None:
    if not 2 <= len(roster) <= sums.packing.addends:
        raise OutOfRange("roster", f"must be 2 ... {sums.packing.addends} nodes, the packing's addends")
    if len(session) != _ROUND_BYTES:
        raise OutOfRange("session", f"must be a digest of {_ROUND_BYTES} bytes")


def _check_round(digest: bytes) -> None:
    if len(digest) != _ROUND_BYTES:
        raise OutOfRange("round", f"must be a digest of {_ROUND_BYTES} bytes")


def _decode(message: bytes, kind: Any, field: str, peer: str | None = None) -> Any:
    try:
        return msgspec.msgpack.decode(message, type=prepared(kind))
    except envelope.UNREADABLE as error:
        raise Malformed(field, "not a message of this protocol", peer=peer) from error


def _verify(message: bytes, label: bytes, kind: Any, sender: str, roster: Mapping[str, bytes]) -> Any:
    """The body of a message, once its sender's signature is checked."""
    field = label.decode().removeprefix("he ")
    signed = _decode(message, _Signed, field, sender)
    if signed.sender != sender or sender not in roster:
        raise UnknownPeer(field, "must come from a node of the roster", peer=sender)
    keys.verify_signature(roster[sender], signed.signature, label, signed.body, peer=sender)
    return _decode(signed.body, kind, field, sender)

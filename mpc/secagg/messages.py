"""What travels between parties and coordinator: frozen values in msgpack, signed by their sender's roster
identity.

Protects: a relay cannot forge, alter, mix up or move a message to another batch, slot, request or kind: the
signature covers a label for the kind, and the body carries the context. Does not protect: against dropping
or delaying, nor contents from whoever relays (what must stay secret is sealed before it gets here).

A masked input is raw: a header of fixed size, the words (little-endian), a 16-byte tag; 104 bytes in all
beside the words.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc.errors import Malformed, UnknownPeer
from mpc.prepared import prepared
from mpc.secagg.keys import framed, verify_signature
from mpc.secagg.parameters import COORDINATOR

T = TypeVar("T", bound="Signable")
V = TypeVar("V")


class Signed(msgspec.Struct, frozen=True, array_like=True):
    sender: str
    body: bytes
    signature: bytes


class Signable(msgspec.Struct, frozen=True, array_like=True):
    """A message with a sender; `context` is the digest that ties it to a batch and, later, to its members."""

    sender: str
    context: bytes


class Advertisement(Signable, frozen=True, array_like=True):
    """Round 0. One sealing key a batch; a mask key and a commitment to the self seed a slot."""

    sealing_key: bytes
    mask_keys: tuple[bytes, ...]
    commitments: tuple[bytes, ...]


class Shares(Signable, frozen=True, array_like=True):
    """Round 1. A sealed bundle for each other advertiser: for every slot its shares of mask key and self seed."""

    bundles: dict[str, bytes]


class Confirmation(Signable, frozen=True, array_like=True):
    """Consistency check of the active setting: the one survivor set that the sender will help to unmask."""

    slot: int
    request: bytes
    survivors: tuple[str, ...]


class Answer(Signable, frozen=True, array_like=True):
    """Unmasking. A share of the self seed of each survivor, of the mask key of each member that vanished."""

    slot: int
    request: bytes
    seed_shares: dict[str, bytes]
    key_shares: dict[str, bytes]


class Survivors(msgspec.Struct, frozen=True, array_like=True):
    """The coordinator's claim of who remained in a slot; unsigned, checked by each party."""

    slot: int
    names: tuple[str, ...]


LABELS: dict[type[Signable], bytes] = {
    Advertisement: b"advertisement",
    Shares: b"shares",
    Confirmation: b"confirmation",
    Answer: b"answer",
}

HEADER = struct.Struct("<8sIIQ32s32s")  # magic, slot, sender's point, words, context, request: 88 bytes
MAGIC = b"masked01"


def encode(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


def decode(message: bytes, kind: type[V], *, peer: str = COORDINATOR) -> V:
    try:
        return msgspec.msgpack.decode(message, type=prepared(kind))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed("message", "not a message of the expected kind", peer=peer) from error


def sign(message: Signable, identity: Ed25519PrivateKey) -> bytes:
    body = encode(message)
    signature = identity.sign(framed(LABELS[type(message)], body))
    return encode(Signed(message.sender, body, signature))


def verify(message: bytes, kind: type[T], sender: str, roster: Mapping[str, bytes]) -> T:
    """The message of `sender`, once its signature is checked."""
    return verify_signed(decode(message, Signed, peer=sender), kind, sender, roster)


def verify_signed(signed: Signed, kind: type[T], sender: str, roster: Mapping[str, bytes]) -> T:
    if sender not in roster:
        raise UnknownPeer("sender", "not in the roster", peer=sender)
    verify_signature(roster[sender], signed.signature, LABELS[kind], signed.body, peer=sender)
    content = decode(signed.body, kind, peer=sender)
    if content.sender != sender or signed.sender != sender:
        raise Malformed("sender", "names another party than the one that signed", peer=sender)
    return content

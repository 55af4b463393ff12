"""What travels in a join: frozen values in msgpack, signed where a relay could lie, and raw arrays under a header.

Protects: the ephemeral keys of departments are signed by their roster identities over the announcement, so that
C, which relays, cannot put its own in between; arrays carry the digest of all of them and have one length only.
Does not protect: arrays against the channel between a department and C, which must be authentic.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc.errors import Malformed, Replayed, UnknownPeer, WrongLength
from mpc.join.question import Question
from mpc.prepared import prepared
from mpc.secagg.keys import PUBLIC_BYTES, framed, verify_signature

V = TypeVar("V")
COORDINATOR = "coordinator"
_HELLO = b"join hello"
_HEADER = struct.Struct("<8s32sI")  # kind, context, parts; then the length of each part


class Announcement(msgspec.Struct, frozen=True, array_like=True):
    session: bytes
    request: bytes
    question: Question
    key: bytes

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(framed(b"join announcement", encode(self))).digest()


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """A department's fresh X25519 key and its padded number of rows."""

    sender: str
    context: bytes
    key: bytes
    capacity: int


class Signed(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    signature: bytes


def encode(message: object) -> bytes:
    return msgspec.msgpack.encode(message)


def decode(message: bytes, kind: type[V], *, peer: str = COORDINATOR) -> V:
    try:
        return msgspec.msgpack.decode(message, type=prepared(kind))
    except (msgspec.MsgspecError, TypeError) as error:
        raise Malformed("message", "not a message of the expected kind", peer=peer) from error


def sign_hello(hello: Hello, identity: Ed25519PrivateKey) -> bytes:
    body = encode(hello)
    return encode(Signed(body, identity.sign(framed(_HELLO, body))))


def read_hello(message: bytes, sender: str, roster: Mapping[str, bytes], context: bytes) -> Hello:
    """A hello that its sender signed for this announcement."""
    if sender not in roster:
        raise UnknownPeer("hello", "the sender is not in the roster", peer=sender)
    signed = decode(message, Signed, peer=sender)
    verify_signature(roster[sender], signed.signature, _HELLO, signed.body, peer=sender)
    hello = decode(signed.body, Hello, peer=sender)
    if hello.sender != sender or hello.context != context:
        raise Replayed("hello", "belongs to another sender or session", peer=sender)
    if len(hello.key) != PUBLIC_BYTES:
        raise WrongLength("key", f"must be {PUBLIC_BYTES} bytes", peer=sender)
    return hello


def joint_context(announcement: bytes, hellos: Mapping[str, bytes]) -> bytes:
    """The digest that ties everything after the hellos to all of them."""
    parts = [part for name in sorted(hellos) for part in (name, hellos[name])]
    return hashlib.sha256(framed(b"join context", announcement, *parts)).digest()


def pack_parts(kind: bytes, context: bytes, parts: Sequence[bytes | bytearray | memoryview]) -> bytes:
    lengths = struct.pack(f"<{len(parts)}Q", *(len(part) for part in parts))
    return b"".join((_HEADER.pack(kind, context, len(parts)), lengths, *parts))


def unpack_parts(
    message: bytes, kind: bytes, context: bytes, lengths: Sequence[int | None], *, peer: str
) -> list[memoryview]:
    """The parts, of exactly these lengths (None: any)."""
    if not isinstance(message, (bytes, bytearray, memoryview)) or len(message) < _HEADER.size:
        raise Malformed("message", "is shorter than its header", peer=peer)
    found, its_context, count = _HEADER.unpack_from(message)
    if found != kind:
        raise Malformed("message", "is not one of this kind", peer=peer)
    if its_context != context:
        raise Replayed("message", "belongs to another session", peer=peer)
    start = _HEADER.size + 8 * len(lengths)
    if count != len(lengths) or len(message) < start:
        raise Malformed("message", f"must have {len(lengths)} parts", peer=peer)
    stated = struct.unpack_from(f"<{count}Q", message, _HEADER.size)
    if any(want is not None and want != length for want, length in zip(lengths, stated, strict=True)):
        raise WrongLength("message", "a part has another length than the sizes say", peer=peer)
    ends = [start]
    for length in stated:
        ends.append(ends[-1] + length)
    if ends[-1] != len(message):
        raise WrongLength("message", "must have the length that its header states", peer=peer)
    view = memoryview(message)
    return [view[begin:end] for begin, end in pairwise(ends)]

"""The container of everything that travels: what it is, under which parameters and key, and a digest over all.

    "mpc-he01" | SHA-256 of the rest | msgpack [kind, digest of the parameters, key fingerprint, header, parts]

Protects: damaged, truncated, swapped and foreign bytes are refused before SEAL sees any of them: the digest
first, then kind, parameters and key, each before the parts are read. Does not protect: against a sender who
means harm, since anybody can compute a digest. Who sent it is for the signatures of the network to say; what
a hostile sender's well-formed parts may do is limited by the length checks here, SEAL's own checks on load
(sizes, moduli, every coefficient in range), and the checks of level and scale at each use. A ciphertext by
itself is malleable: nothing here proves that its plaintext is honest.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from mpc.errors import Malformed, Tampered, WrongLength
from mpc.he.parameters import FINGERPRINT_BYTES, Parameters
from mpc.prepared import prepared

T = TypeVar("T", bound=msgspec.Struct)

# what msgspec raises on bytes that are no message: it lets invalid UTF-8 and deep nesting through as they are
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
_MAGIC = b"mpc-he01"
_DIGEST_BYTES = 32


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: str
    parameters: bytes
    key: bytes
    header: msgspec.Raw
    parts: list[bytes]


class NoHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Of kinds that need none."""


def pack(
    kind: str, parameters: Parameters, fingerprint: bytes, header: msgspec.Struct, parts: Sequence[bytes]
) -> bytes:
    body = msgspec.msgpack.encode(
        _Body(kind, parameters.digest, fingerprint, msgspec.Raw(msgspec.msgpack.encode(header)), list(parts))
    )
    return b"".join((_MAGIC, hashlib.sha256(body).digest(), body))


def unpack(
    message: bytes,
    kind: str,
    parameters: Parameters,
    fingerprint: bytes | None,
    header: type[T],
    *,
    most_part_bytes: int,
) -> tuple[bytes, T, list[bytes]]:
    """Fingerprint, header and parts of a message of this kind, under these parameters and, unless None, this key."""
    start = len(_MAGIC) + _DIGEST_BYTES
    if not isinstance(message, (bytes, bytearray, memoryview)) or bytes(message[: len(_MAGIC)]) != _MAGIC:
        raise Malformed(kind, "not a message of homomorphic encryption")
    view = memoryview(message)
    if not hmac.compare_digest(hashlib.sha256(view[start:]).digest(), bytes(view[len(_MAGIC) : start])):
        raise Tampered(kind, "the digest does not match: damaged or truncated")
    try:
        body = msgspec.msgpack.decode(view[start:], type=prepared(_Body))
        read = msgspec.msgpack.decode(body.header, type=prepared(header)) if body.kind == kind else None
    except UNREADABLE as error:
        raise Malformed(kind, "not a message of this kind") from error
    if read is None:
        raise Malformed(kind, "a message of another kind")
    if body.parameters != parameters.digest:
        raise Malformed(kind, "made with other parameters")
    if len(body.key) != FINGERPRINT_BYTES:
        raise WrongLength(kind, f"the key's fingerprint must be {FINGERPRINT_BYTES} bytes")
    if fingerprint is not None and not hmac.compare_digest(body.key, fingerprint):
        raise Tampered(kind, "made under another key")
    if any(not 0 < len(part) <= most_part_bytes for part in body.parts):
        raise WrongLength(kind, f"each part must be 1 ... {most_part_bytes} bytes")
    return body.key, read, body.parts

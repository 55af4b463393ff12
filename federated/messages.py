"""What the broker and the nodes say to each other, beside the secure-aggregation messages that they wrap.

A reply is `Done` with a body, or `Refusal` with the class of the error and, for errors whose text is safe by construction, the text.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import msgspec

from sandbox.approvals import State
from sandbox.errors import QueryError
from sandbox.gate import Decision
from sandbox.prepared import prepared
from sandbox.request import Request

KINDS = (
    "catalog",
    "explain",
    "propose",
    "contract",
    "decide",
    "advertise",
    "share",
    "receive",
    "overlaps",
    "refused",
    "masked",
    "fit",
    "train",
    "confirm",
    "unmask",
    "record",
    "models",
    "score",
    "join",
)


class Setup(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A set-up round of one batch."""

    session: bytes
    body: bytes


class Ask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed request, as canonical JSON, to be decided. `honest` departments add noise enough for all."""

    request: bytes
    honest: int


class Overlaps(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed request whose cells are to be compared, in a slot of a batch, with earlier releases (canonical JSON)."""

    session: bytes
    slot: int
    request: bytes
    released: bytes


class Masked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed request to be run in a slot of a batch, with the coordinator's signed clearance where one is needed."""

    session: bytes
    slot: int
    request: bytes
    clearance: bytes = b""


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed request for a model, and the state (`fitting.Round`) of the round that is to be answered in a slot of a batch."""

    session: bytes
    slot: int
    request: bytes
    state: bytes
    clearance: bytes = b""


class Unmask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The survivors of a slot, to be confirmed or unmasked, with the others' confirmations in the active setting."""

    session: bytes
    slot: int
    survivors: bytes
    confirmations: bytes = b""


class Decided(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One department's decision, and the digest of the schema under which it was made.

    `instance` is drawn when the node's process starts: with another one, the keys of a batch that it was in are gone.
    """

    decision: Decision
    schema: bytes
    instance: bytes


class ContractState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a usage contract stands at one department: what its analyst may know."""

    state: State
    approvals: int
    needed: int
    reasons: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    body: bytes = b""


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    error: str
    text: str = ""


T = TypeVar("T")


def overlaps_digest(request: Request) -> bytes:
    """What names the sum of a request's overlaps: another than its own."""
    return hashlib.sha256(b"overlaps" + request.digest()).digest()


def encode(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """Strictly decode; raises `QueryError`."""
    try:
        return msgspec.msgpack.decode(data, type=prepared(kind))
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise QueryError(f"malformed {getattr(kind, '__name__', 'union')} message") from None


def decode_json(data: bytes, kind: type[T]) -> T:
    """The same for JSON, which decisions and catalogues travel in."""
    try:
        return msgspec.json.decode(data, type=prepared(kind))
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise QueryError("malformed JSON in a reply") from None


def decode_reply(data: bytes) -> Done | Refusal:
    try:
        return msgspec.msgpack.decode(data, type=prepared(Done | Refusal))
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return Refusal("MalformedReply", "the reply is no message of this protocol")

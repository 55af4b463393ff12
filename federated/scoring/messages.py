"""What crosses when scores are asked for. `signed` fields hold the canonical JSON of a `keys.Signed`; rows and scores are ciphertexts."""

from __future__ import annotations

import hashlib

import msgspec

MOST_BYTES = 2**27  # of one message: keys of the deepest models fit


class _Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what analyst and department exchange through the coordinator."""


class Begin(_Message, frozen=True, tag="begin"):
    """`signed`: a `Request`. `keys`: what the department needs to compute under the analyst's key. Answered with nothing."""

    signed: bytes
    keys: bytes


class Rows(_Message, frozen=True, tag="rows"):
    """`signed`: a `Block`. Answered with `Scores`."""

    signed: bytes
    rows: bytes


class End(_Message, frozen=True, tag="end"):
    """`signed`: the `Request` again; `release`: the digest of all answers. Answered, by the coordinator, with the receipt."""

    signed: bytes
    release: str


class Recorded(_Message, frozen=True, tag="record"):
    """`signed`: the coordinator's `Record`, to the department, in place of `End`. Answered with its `Evidence`."""

    signed: bytes


class Scores(_Message, frozen=True, tag="scores"):
    """`signed`: the department's `Answer`."""

    signed: bytes
    scores: bytes


class Models(msgspec.Struct, frozen=True):
    """Each department's offers, signed by it; `unreachable`: who did not answer, and why."""

    offers: dict[str, bytes]
    unreachable: dict[str, str] = {}


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal: what signed values name ciphertexts and keys by."""
    return hashlib.sha256(data).hexdigest()

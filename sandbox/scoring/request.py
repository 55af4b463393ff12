"""What is said when scores are asked for: values that each side signs and the other verifies, with a coordinator in between.

    department -> all      Offers      its models, each with what a client must know to encrypt for it
    analyst -> department  Request     which model, by which offer, how many rows, for what; runs once
    analyst -> department  Block       the digest of one block of encrypted rows
    department -> analyst  Answer      the digest of the encrypted scores of that block
    coordinator -> department  `sandbox.request.Record`, with `released` as the release: what the receipt is about

A coordinator can drop any of it. It cannot change a row or a score, swap a model or its offer, or ask in an analyst's name.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..keys import Digest, Seconds
from ..query import Name, digest

OFFERS, REQUEST, BLOCK, ANSWER = "score-offers", "score-request", "score-block", "score-answer"
MOST_ROWS = 2**31
Number = Annotated[int, msgspec.Meta(ge=0, lt=MOST_ROWS)]


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what is signed."""


class Published(_Value, frozen=True):
    """One model as others may know it. `offer` is for the client's protocol; `version`: the digest of the model."""

    description: str
    purposes: tuple[str, ...]
    rows: int
    rows_per_analyst: int
    rows_per_request: int | None
    version: Digest
    offer: bytes


class Offers(_Value, frozen=True):
    """All models of a department."""

    department: Name
    models: dict[str, Published]


class Request(_Value, frozen=True, kw_only=True):
    """Scores of `rows` rows. `offer`: the digest of the offer that they are encrypted for; `keys`: that of the keys sent with this."""

    model: Name
    department: Name
    offer: Digest
    keys: Digest
    rows: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)]
    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    analyst: Name
    nonce: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    expires: Seconds

    def digest(self) -> bytes:
        return digest(self)


class Block(_Value, frozen=True):
    """One block of rows of a request. `rows`: the digest of the ciphertexts."""

    request: Digest
    number: Number
    rows: Digest


class Answer(_Value, frozen=True):
    """The scores of one block. `rows`: of what was asked; `scores`: the digest of the ciphertexts that answer it."""

    request: Digest
    number: Number
    rows: Digest
    scores: Digest


class _Released(_Value, frozen=True):
    request: Digest
    answers: tuple[Digest, ...]


def released(request: str, answers: tuple[str, ...]) -> str:
    """The digest of what left: the digests of the answers' ciphertexts, in their order."""
    return digest(_Released(request, answers)).hex()

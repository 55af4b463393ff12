"""What is asked of a department, and what the coordinator later says of it: signed values that every node verifies for itself.

The coordinator relays an analyst's `Request` and can drop it, but not change it or make one up; a request runs once at a department.
The coordinator's own words are a `Clearance` before exact values are computed (the joint differences from earlier releases were looked
at), and a `Record` afterwards (who was in the sum, which cells were shown, the digest of the release).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .catalog import Schema
from .keys import Digest
from .model import Model, analysis
from .query import Query, digest
from .receipt import Statement

REQUEST = "request"
CLEARANCE = "clearance"
RECORD = "record"
LONGEST = 24 * 3600


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a DP release asks to spend, per unit."""

    epsilon: float
    delta: float


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question. Without `privacy` it asks for exact joint values. `expires` is in UTC seconds, at most `LONGEST` ahead.

    Of a joined query `schemas` are what its tables declare, in order: each department answers if it declares its own so.
    With a `model` that is what is asked for, and `query` its cohort: the count of the rows that take part (`sandbox.cohort`).
    """

    query: Query
    purpose: str
    analyst: str
    nonce: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    expires: int
    privacy: Privacy | None = None
    model: Model | None = None
    schemas: tuple[Schema, ...] = ()

    @property
    def analysis(self) -> str:
        """What kind of question it is, as owners' policies name it."""
        return self.query.analysis if self.model is None else analysis(self.model)

    def digest(self) -> bytes:
        return digest(self)


class Clearance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The coordinator saw the joint differences of an exact request from the releases named, and none was of 1 to `least` - 1 units.

    Where there are `reasons`, some was, and the request is refused.
    """

    request: Digest
    released: tuple[str, ...]
    least: int
    reasons: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release was made, and this is its receipt's statement: `departments` are in its sums, the cells `shown` passed disclosure control."""

    statement: Statement
    departments: tuple[str, ...]
    shown: tuple[int, ...]

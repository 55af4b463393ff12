"""What a node's audit log says: one frozen value an event, with times, digests and reasons, never data.

An entry's canonical JSON is the leaf of the Merkle tree (`sandbox.merkle`). Digests are SHA-256, hexadecimal; times are UTC seconds. A reader who
holds the named request, policy or release can check its digest against the log; who does not, learns nothing from it.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal, Union

import msgspec

from .keys import Digest, Seconds
from .query import Name

LONGEST = 2000
MOST = 64

Text = Annotated[str, msgspec.Meta(max_length=LONGEST)]
Reasons = Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="entry", kw_only=True):
    """Base of every entry."""

    time: Seconds


class Start(_Entry, frozen=True, tag="start"):
    """The node started. `code`: its version; `ledger`: how many charges its ledger holds."""

    department: Name
    code: Name
    roster: Digest
    ledger: Annotated[int, msgspec.Meta(ge=0)] = 0


class Stop(_Entry, frozen=True, tag="stop"):
    """The node stopped in good order."""

    reason: Text = ""


class Catalogue(_Entry, frozen=True, tag="catalogue"):
    """The catalogue was loaded or changed."""

    catalogue: Digest


class Policy(_Entry, frozen=True, tag="policy"):
    """A data set's policy was loaded or changed."""

    dataset: Name
    policy: Digest


class Request(_Entry, frozen=True, tag="request"):
    """A signed request arrived."""

    request: Digest
    dataset: Name
    analyst: Name
    purpose: Text


class Decision(_Entry, frozen=True, tag="decision"):
    """What the policy says of a request, with every reason."""

    request: Digest
    policy: Digest
    verdict: Literal["allow", "deny", "needs approval"]
    reasons: Reasons = ()


class Approval(_Entry, frozen=True, tag="approval"):
    """An approver's signed word on a usage contract."""

    contract: Digest
    approver: Name
    verdict: Literal["approve", "reject"]
    reason: Text = ""


class Charge(_Entry, frozen=True, tag="charge"):
    """The ledger was charged, before anything was computed. `number`: of the charge in the ledger. No epsilon means exact.

    `cohorts`: whether the rows of its cells were kept, to compare later releases with. `contract`: under which it runs.
    """

    request: Digest
    dataset: Name
    analyst: Name
    number: Annotated[int, msgspec.Meta(ge=1)]
    epsilon: float | None = None
    delta: float | None = None
    rho: float | None = None
    contract: Digest | None = None
    cohorts: bool = False
    data_version: Text = ""
    purpose: Text = ""


class Quota(_Entry, frozen=True, tag="quota"):
    """Rows were charged to a model's quotas, before any was scored. `number`: of the charge in the table. `version`: of the model."""

    request: Digest
    model: Name
    analyst: Name
    purpose: Text
    number: Annotated[int, msgspec.Meta(ge=1)]
    rows: Annotated[int, msgspec.Meta(ge=1)]
    version: Text = ""


class Release(_Entry, frozen=True, tag="release"):
    """A result left. `statement`: what the joint receipt says (`sandbox.receipt.Statement`); the rest is this node's own.

    `approvers`: how many the policy asks for; `approved_by`: who they were, sorted; `contract`: what they approved.
    """

    department: Name
    statement: Digest
    request: Digest
    release: Digest
    dataset: Name
    policy: Digest
    data_version: Text
    code: Name
    epsilon: float | None = None
    delta: float | None = None
    rho: float | None = None
    contract: Digest | None = None
    approvers: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    approved_by: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()


class Refusal(_Entry, frozen=True, tag="refusal"):
    """Nothing left, and why: denied, out of budget, suppressed by disclosure control, or failed."""

    request: Digest
    reasons: Reasons
    charged: bool = False


Entry = Union[
    Start, Stop, Catalogue, Policy, Request, Decision, Approval, Charge, Quota, Release, Refusal
]  # what a log may hold
KIND: Any = Entry  # as an argument of `keys.decode`


def when(seconds: float) -> str:
    """A time in words: UTC, to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")

"""A receipt: one file per release, with which anybody who has the roster checks offline that the rules were kept.

    statement   what was asked and released (digests), by whom, for what, at which cost, by which departments
    nodes       of each department: its log entry on this release (which holds the statement's digest), the Merkle proof that its log
                holds the entry, the head that it signed, and the approvals it acted on
    issuer      the coordinator's signature over all of the above

    witnessed   added afterwards: later heads of departments' logs that witnesses co-signed, and the proofs that they continue those above

The file is the one canonical encoding of its content and every byte of it is signed, so no byte can change unnoticed. Cosignatures alone
are not under the issuer's signature: with or without them it is the same receipt (`sandbox.cosigned` says how they come in).

Protects against: altered, swapped, replayed and invented receipts; a coordinator alone (each department's own log must hold the release);
a department that later disowns its entry; approvals by too few, by the asker, or for another contract. Does not protect against: all
departments lying together, or a department that runs other code than it states. Holds no data.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec

from . import checkpoint as notes
from . import entries, keys, merkle
from .approvals import DECISION, OwnerDecision
from .audit import AuditLog
from .contract import CONTRACT, Contract
from .errors import EvidenceError, Malformed, ParameterError, ProofInvalid, SignatureInvalid
from .keys import Digest, Seconds, Signed
from .query import Name, canonical, digest
from .roster import Roster

DOMAIN = "receipt"
CLOCK_SKEW = 300  # seconds by which the clocks of a federation may differ

Hash = Annotated[bytes, msgspec.Meta(min_length=merkle.HASH_BYTES, max_length=merkle.HASH_BYTES)]


class _Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what a receipt is made of."""


class Statement(_Value, frozen=True, kw_only=True):
    """What the departments together say of a release. `code`: what the coordinator ran, each department's own is in its part; no epsilon means exact."""

    federation: Name
    request: Digest
    release: Digest
    analyst: Name
    purpose: Annotated[str, msgspec.Meta(max_length=2000)]
    code: Name
    departments: tuple[Name, ...]
    issued: Seconds
    epsilon: float | None = None
    delta: float | None = None
    rho: float | None = None

    def digest(self) -> str:
        """SHA-256 of the canonical form, hexadecimal."""
        return digest(self).hex()


class Evidence(_Value, frozen=True, kw_only=True):
    """One department's part: its entry, where that stands in its log, and the signed head that says so.

    Where its policy asks for approvers: the usage contract, signed by the analyst, and the owners' signed decisions on it.
    """

    department: Name
    entry: entries.Release
    index: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    proof: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=64)]
    checkpoint: str
    contract: Signed | None = None
    decisions: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=64)] = ()


class Body(_Value, frozen=True, kw_only=True):
    """All that the issuer signs."""

    format: Literal["joint-sandbox/receipt/v1"] = "joint-sandbox/receipt/v1"
    statement: Statement
    nodes: tuple[Evidence, ...]
    issuer: Name


class Witnessed(_Value, frozen=True, kw_only=True):
    """A head of one department's log with witnesses' cosignatures, and the proof that it continues the head in the department's part."""

    department: Name
    checkpoint: str
    proof: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=128)] = ()


class Receipt(_Value, frozen=True, omit_defaults=True):
    """The file. `witnessed` in the order of the departments, and of one department the earlier head first."""

    receipt: Body
    signature: Annotated[
        bytes, msgspec.Meta(min_length=keys.SIGNATURE_BYTES, max_length=keys.SIGNATURE_BYTES)
    ]
    witnessed: tuple[Witnessed, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """One thing that was checked, and what was found."""

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok    ' if self.ok else 'FAILED'} {self.name}: {self.detail}"


class Report(msgspec.Struct, frozen=True):
    """What was checked, in order."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    def __str__(self) -> str:
        verdict = "The receipt holds." if self.ok else "THE RECEIPT DOES NOT HOLD."
        return "\n".join([*map(str, self.checks), verdict])


def attest(
    log: AuditLog, entry: entries.Release, contract: Signed | None = None, decisions: Sequence[Signed] = ()
) -> Evidence:
    """A node's part: log the release, sign a head, prove that the head covers the entry.

    `decisions` are those of `entry.approved_by`, in that order.
    """
    if tuple(signed.signer for signed in decisions) != entry.approved_by:
        raise ParameterError("'decisions' must be those of the entry's 'approved_by', in that order")
    index = log.append(entry)
    note = log.head()
    size = notes.parse(note).checkpoint.size
    return Evidence(
        department=entry.department,
        entry=entry,
        index=index,
        proof=log.prove(index, size),
        checkpoint=note,
        contract=contract,
        decisions=tuple(decisions),
    )


def issue(statement: Statement, nodes: Sequence[Evidence], key: keys.SigningKey, issuer: str) -> bytes:
    """The receipt's file, signed by the coordinator. Nodes are put into the statement's order."""
    parts = {evidence.department: evidence for evidence in nodes}
    if len(parts) != len(nodes) or set(parts) != set(statement.departments):
        raise ParameterError("'nodes' must hold one part of each department of the statement")
    ordered = tuple(parts[name] for name in statement.departments)
    body = Body(statement=statement, nodes=ordered, issuer=issuer)
    return canonical(Receipt(body, key.sign(DOMAIN, canonical(body))))


def read(data: bytes) -> Receipt:
    """Decode strictly, unverified; raises `Malformed`."""
    receipt: Receipt = keys.decode(data, Receipt)
    return receipt


def add(data: bytes, department: str, note: str, proof: Sequence[bytes]) -> bytes:
    """The receipt with a co-signed head of a department's log; raises `ProofInvalid` unless it continues the one in the receipt.

    Signatures are for `verify` to check.
    """
    receipt = read(data)
    heads = {part.department: part.checkpoint for part in receipt.receipt.nodes}
    if department not in heads:
        raise ParameterError(f"the receipt holds no head of {department!r}")
    _continues(heads[department], note, proof)
    places = {name: place for place, name in enumerate(heads)}

    def place(part: Witnessed) -> tuple[int, int]:
        return places[part.department], notes.parse(part.checkpoint).checkpoint.size

    parts = {place(part): part for part in receipt.witnessed if part.department in places}
    new = Witnessed(department=department, checkpoint=note, proof=tuple(proof))
    if (at := place(new)) in parts:
        new = msgspec.structs.replace(new, checkpoint=notes.merge(parts[at].checkpoint, note))
    parts[at] = new
    ordered = tuple(parts[at] for at in sorted(parts))
    return canonical(msgspec.structs.replace(receipt, witnessed=ordered))


def verify(
    data: bytes,
    roster: Roster,
    *,
    request: str | None = None,
    release: str | None = None,
    witnesses: int = 0,
    now: int | None = None,
) -> Report:
    """Check a receipt against a roster; a failure is a line of the report, never an exception.

    `request` and `release` are digests that it must be about: without them, a receipt that holds may be another release's. `witnesses`:
    how many must have co-signed each head. `now`: UTC seconds, this machine's clock by default.
    """
    checks: list[Check] = []

    def check(name: str, test: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, True, test()))
        except EvidenceError as error:
            checks.append(Check(name, False, str(error)))
        return checks[-1].ok

    if not check("format", lambda: f"{len(canonical(read(data)))} bytes, canonical"):
        return Report(tuple(checks))
    receipt = read(data)
    body, statement = receipt.receipt, receipt.receipt.statement
    now = int(clock.time()) if now is None else now
    check("issuer", lambda: _issuer(receipt, roster))
    check("statement", lambda: _statement(statement, roster, now))
    if request is not None:
        check("request", lambda: _same("request", statement.request, request))
    if release is not None:
        check("release", lambda: _same("release", statement.release, release))
    check("departments", lambda: _departments(receipt, roster))
    for evidence in body.nodes:
        name = evidence.department if evidence.department.isprintable() else ascii(evidence.department)
        check(f"{name}: head", lambda part=evidence: _head(part, roster))  # type: ignore[misc]
        check(f"{name}: log", lambda part=evidence: _included(part))  # type: ignore[misc]
        check(f"{name}: entry", lambda part=evidence: _entry(part, statement))  # type: ignore[misc]
        check(f"{name}: approvals", lambda part=evidence: _approvals(part, statement, roster))  # type: ignore[misc]
        check(f"{name}: witnesses", lambda part=evidence: _witnessed(part, receipt, roster, witnesses))  # type: ignore[misc]
    return Report(tuple(checks))


def _issuer(receipt: Receipt, roster: Roster) -> str:
    body = receipt.receipt
    public = roster.public(body.issuer, "coordinator")
    keys.verify(public, DOMAIN, canonical(body), receipt.signature)
    return f"signed by coordinator {body.issuer!r}, key {keys.fingerprint(public)}"


def _statement(statement: Statement, roster: Roster, now: int) -> str:
    if statement.federation != roster.federation:
        raise Malformed(f"of federation {statement.federation!r}; the roster is of {roster.federation!r}")
    roster.entry(statement.analyst, "analyst")
    if statement.issued > now + CLOCK_SKEW:
        raise Malformed(f"issued at {statement.issued}; it is {now}")
    costs = (statement.epsilon, statement.delta, statement.rho)
    if any(cost is not None for cost in costs):
        if statement.epsilon is None or statement.delta is None:
            raise Malformed("a DP release states epsilon and delta")
        if not all(cost is None or cost > 0 for cost in costs) or statement.delta >= 1:
            raise Malformed("epsilon, delta and rho are positive, and delta is below 1")
        cost = f"differentially private, epsilon {statement.epsilon:g}, delta {statement.delta:g}"
    else:
        cost = "exact"
    return f"{cost}; asked by {statement.analyst!r} for {statement.purpose!r}"


def _same(what: str, stated: str, expected: str) -> str:
    if stated != expected:
        raise Malformed(f"about {what} {stated[:16]}…, not {expected[:16]}…")
    return f"about {what} {stated[:16]}…"


def _departments(receipt: Receipt, roster: Roster) -> str:
    body = receipt.receipt
    names = body.statement.departments
    if not names or list(names) != sorted(set(names)):
        raise Malformed("the departments are not a sorted list of distinct names")
    if tuple(evidence.department for evidence in body.nodes) != names:
        raise Malformed("there is not one part of each department, in the order of the statement")
    for name in names:
        roster.entry(name, "node")
    _order(receipt)
    return ", ".join(names)


def _head(evidence: Evidence, roster: Roster) -> str:
    public = roster.public(evidence.department, "node")
    origin = notes.origin(roster.federation, evidence.department)
    head = notes.verify(evidence.checkpoint, public, origin)
    return f"{head.size} entries, signed with key {keys.fingerprint(public)}"


def _included(evidence: Evidence) -> str:
    head = notes.parse(evidence.checkpoint).checkpoint
    leaf = merkle.leaf_hash(canonical(evidence.entry))
    merkle.verify_inclusion(leaf, evidence.index, head.size, evidence.proof, head.root)
    return f"entry {evidence.index} of {head.size} is this release"


def _entry(evidence: Evidence, statement: Statement) -> str:
    entry = evidence.entry
    stated = {
        "department": evidence.department,
        "statement": statement.digest(),
        "request": statement.request,
        "release": statement.release,
        "epsilon": statement.epsilon,
        "delta": statement.delta,
        "rho": statement.rho,
    }
    differing = [name for name, value in stated.items() if getattr(entry, name) != value]
    if differing:
        raise Malformed(f"the log says otherwise than the statement of: {', '.join(differing)}")
    if abs(entry.time - statement.issued) > CLOCK_SKEW:
        raise Malformed(f"logged at {entry.time}, but issued at {statement.issued}")
    return f"policy {entry.policy[:16]}…, data version {entry.data_version!r}, code {entry.code!r}"


def _approvals(evidence: Evidence, statement: Statement, roster: Roster) -> str:
    entry = evidence.entry
    if entry.contract is not None:
        _contract(evidence, statement, roster)
    elif entry.approvers or evidence.contract is not None or evidence.decisions:
        raise Malformed("approvals without a contract in the log")
    organisation = roster.entry(evidence.department, "node").organisation
    for signed in evidence.decisions:
        owner = roster.entry(signed.signer, "owner")
        decision = keys.open_(signed, DECISION, OwnerDecision, owner.public)
        if decision.contract != entry.contract:
            raise Malformed(f"{owner.name!r} decided on another contract")
        if not decision.approved:
            raise Malformed(f"{owner.name!r} rejected the contract")
        if owner.organisation != organisation:
            raise Malformed(f"{owner.name!r} is of {owner.organisation!r}, not of {organisation!r}")
        if owner.name == statement.analyst:
            raise Malformed(f"{owner.name!r} approved their own request")
        if decision.time > entry.time:
            raise Malformed(f"{owner.name!r} approved at {decision.time}, after the release at {entry.time}")
    approvers = tuple(signed.signer for signed in evidence.decisions)
    if approvers != entry.approved_by or list(approvers) != sorted(set(approvers)):
        raise Malformed("the approvers are not those in the log, sorted and each once")
    if len(approvers) < entry.approvers:
        raise Malformed(f"{len(approvers)} approved; the policy asks for {entry.approvers}")
    return ", ".join(approvers) or "none asked for"


def _contract(evidence: Evidence, statement: Statement, roster: Roster) -> None:
    """The contract is the one in the log, the analyst's own, and covers what a receipt tells of the request."""
    signed, entry = evidence.contract, evidence.entry
    if signed is None:
        raise Malformed("the contract is missing")
    if signed.signer != statement.analyst:
        raise SignatureInvalid(f"the contract is signed by {signed.signer!r}, not by the analyst")
    contract = keys.open_(signed, CONTRACT, Contract, roster.public(signed.signer, "analyst"))
    if contract.digest() != entry.contract or contract.analyst != statement.analyst:
        raise Malformed("the log names another contract")
    keys.unexpired("the contract", contract.expires, entry.time)
    why = contract.differs(
        contract.query,
        statement.purpose,
        statement.epsilon,
        entry.data_version,
        entry.time,
        contract.model,
    )
    if why:
        raise Malformed(f"the contract does not cover this release: {why}")


def _witnessed(evidence: Evidence, receipt: Receipt, roster: Roster, least: int) -> str:
    """Who co-signed the head in the receipt, or one that is proven to continue it, and at which size."""
    origin = notes.origin(roster.federation, evidence.department)
    public = roster.public(evidence.department, "node")
    witnesses = {notes.origin(roster.federation, m.name): m.public for m in roster.of("witness")}
    found = {}
    for name, key in witnesses.items():
        time = notes.cosigned(evidence.checkpoint, key, name)
        if time is not None:
            found[name] = (time, notes.parse(evidence.checkpoint).checkpoint.size)
    for part in receipt.witnessed:
        if part.department == evidence.department:
            _continues(evidence.checkpoint, part.checkpoint, part.proof)
            size = notes.verify(part.checkpoint, public, origin).size
            found |= {
                name: (time, size) for name, time in notes.known(part.checkpoint, public, witnesses).items()
            }
    if len(found) < least:
        raise SignatureInvalid(f"{len(found)} witnesses co-signed this head; asked for are {least}")
    said = (f"{name.rpartition('/')[2]} at {time}, {size} entries" for name, (time, size) in found.items())
    return "; ".join(said) or "none co-signed this head"


def _continues(note: str, later: str, proof: Sequence[bytes]) -> None:
    """Raise unless the later head is of the same log and continues the other."""
    old, new = notes.parse(note).checkpoint, notes.parse(later).checkpoint
    if old.origin != new.origin or new.size < old.size:
        raise ProofInvalid(
            f"a head of {new.size} entries of {new.origin!r} continues no head of {old.size} of {old.origin!r}"
        )
    merkle.verify_consistency(old.size, new.size, old.root, new.root, proof)


def _order(receipt: Receipt) -> None:
    """Raise unless the co-signed heads are of departments of this receipt, in order, each once."""
    places = {part.department: place for place, part in enumerate(receipt.receipt.nodes)}
    strange = [part.department for part in receipt.witnessed if part.department not in places]
    if strange:
        raise Malformed(f"a co-signed head of {strange[0]!r}, which has no part in this receipt")
    order = [
        (places[part.department], notes.parse(part.checkpoint).checkpoint.size) for part in receipt.witnessed
    ]
    if order != sorted(set(order)):
        raise Malformed("the co-signed heads are not in order, each once")

"""Who gave leave for what: usage contracts with their owners' signed decisions, at one node, in SQLite.

An analyst signs a contract and it waits here; owners of the department sign a yes or a no to its digest; when enough
have said yes and none no, requests that it covers may run, each counted before it happens.

Protects against: leave for one thing used for another; one person counted as two; approving one's own request; a contract
changed after its approval; a contract used more often, or for more epsilon, than it says; decisions that are written into the store
by anybody but the owner who signed them: each is verified again before it counts, and those of owners who have left the roster
approve nothing. Does not protect against owners who approve without reading, or one person to whom the roster gives two names.
"""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from . import query as q
from .contract import CONTRACT, Contract
from .errors import Denied, InternalError, LedgerError, ParameterError, SandboxError, UnknownSigner
from .keys import Signed, SigningKey, decode, open_, seal
from .model import Model
from .roster import Roster

DECISION = "usage-decision"
LONGEST = 2000  # characters of a reason, as in the audit log
PATIENCE = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS contracts (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, signed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS decisions (
    contract TEXT NOT NULL REFERENCES contracts (digest), owner TEXT NOT NULL, signed BLOB NOT NULL,
    PRIMARY KEY (contract, owner)) STRICT;
CREATE TABLE IF NOT EXISTS runs (
    request TEXT PRIMARY KEY, contract TEXT NOT NULL REFERENCES contracts (digest), epsilon REAL NOT NULL) STRICT;
"""

State = Literal["pending", "approved", "rejected", "expired", "used up"]


class OwnerDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One owner's yes or no to one contract, named by its digest. `time` is in UTC seconds."""

    contract: str
    approved: bool
    reason: str
    time: int


class Status(msgspec.Struct, frozen=True):
    """A contract as it stands at one node."""

    digest: str
    contract: Contract
    state: State
    approved_by: tuple[str, ...]
    rejected_by: tuple[str, ...]
    needed: int
    runs: int
    epsilon: float


def propose(key: SigningKey, contract: Contract) -> Signed:
    """The analyst's signature under a contract."""
    return seal(key, contract.analyst, CONTRACT, contract)


def sign_decision(
    key: SigningKey, owner: str, contract: str, approved: bool, reason: str = "", now: float | None = None
) -> Signed:
    """An owner's signed yes or no."""
    at = int(time.time() if now is None else now)
    _check_reason(reason)
    return seal(key, owner, DECISION, OwnerDecision(contract, approved, reason, at))


class Approvals:
    """The contracts at `department`. `needed` gives the number of approvers that a data set's policy asks for."""

    def __init__(
        self,
        path: str | pathlib.Path,
        department: str,
        roster: Roster,
        needed: Callable[[str], int],
        clock: Callable[[], float] = time.time,
    ):
        self._organisation = roster.entry(department, "node").organisation
        self._department, self._roster, self._needed, self._clock = department, roster, needed, clock
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("PRAGMA foreign_keys = ON")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._database.close()
            raise LedgerError(f"approvals {str(path)!r} cannot be used: {error}") from None

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def propose(self, signed: Signed) -> str:
        """Store a contract signed by its analyst; returns its digest. Storing it again changes nothing."""
        contract = open_(signed, CONTRACT, Contract, self._roster.public(signed.signer, "analyst"))
        if contract.analyst != signed.signer:
            raise ParameterError("contract: 'analyst' must be the one who signs it")
        if contract.expires <= self._clock():
            raise ParameterError("contract: 'expires' lies in the past")
        digest = contract.digest()
        with self._transaction():
            self._database.execute(
                "INSERT OR IGNORE INTO contracts (digest, signed) VALUES (?, ?)",
                (digest, q.canonical(signed)),
            )
        return digest

    def decide(self, signed: Signed) -> Status:
        """Store an owner's signed decision: one an owner, and the first stands."""
        decision = self._opened(signed)
        _check_reason(decision.reason)
        with self._transaction():
            stored = self._database.execute(
                "INSERT OR IGNORE INTO decisions VALUES (?, ?, ?)",
                (decision.contract, signed.signer, q.canonical(signed)),
            )
            if not stored.rowcount:
                raise Denied([f"{signed.signer} has decided on this contract before"])
        return self.status(decision.contract)

    def contract(self, digest: str) -> Contract:
        """The contract of a digest; raises `ParameterError`."""
        contract: Contract = decode(self.proposed(digest).body, Contract)
        return contract

    def proposed(self, digest: str) -> Signed:
        """The contract as its analyst signed it; raises `ParameterError`."""
        row = self._database.execute("SELECT signed FROM contracts WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise ParameterError(f"no contract {digest[:12]!r} waits here")
        signed: Signed = decode(row[0], Signed)
        return signed

    def status(self, digest: str) -> Status:
        contract, decisions = self.contract(digest), self.decisions(digest)
        approved = tuple(sorted(signed.signer for signed in self.consents(digest)))
        rejected = tuple(sorted(name for name, decision in decisions.items() if not decision.approved))
        runs, epsilon = self._database.execute(
            "SELECT count(*), coalesce(sum(epsilon), 0) FROM runs WHERE contract = ?", (digest,)
        ).fetchone()
        needed = self._needed(contract.query.table_at(self._department))
        state: State = "pending"
        if rejected:
            state = "rejected"
        elif self._clock() >= contract.expires:
            state = "expired"
        elif runs >= contract.runs:
            state = "used up"
        elif len(approved) >= needed:
            state = "approved"
        return Status(digest, contract, state, approved, rejected, needed, runs, epsilon)

    def all(self, analyst: str | None = None) -> tuple[Status, ...]:
        """Every contract, or one analyst's, the oldest first."""
        rows = self._database.execute("SELECT digest FROM contracts ORDER BY number").fetchall()
        statuses = [self.status(digest) for (digest,) in rows]
        return tuple(s for s in statuses if analyst is None or s.contract.analyst == analyst)

    def find(
        self,
        query: q.Query,
        purpose: str,
        analyst: str,
        epsilon: float | None,
        data_version: str,
        model: Model | None = None,
    ) -> tuple[Status | None, str]:
        """The contract under which a request may run now; or None, and why the nearest does not do."""
        reason = "no contract covers this request: propose one"
        for status in self.all(analyst):
            contract, name = status.contract, f"contract {status.digest[:12]}"
            if contract.query.table != query.table or contract.differs(
                query, purpose, epsilon, data_version, self._clock(), model
            ):
                continue
            if status.state != "approved":
                reason = (
                    f"{name} is {status.state}: {len(status.approved_by)} of {status.needed} approvals given"
                )
            elif not _affordable(status, epsilon):
                reason = f"{name} has epsilon {(contract.budget or 0) - status.epsilon:.4g} left"
            else:
                return status, ""
        return None, reason

    def use(self, digest: str, request: str, epsilon: float | None) -> None:
        """Count one run, before it happens; the same request is counted once. Raises `Denied` where none is left."""
        with self._transaction():
            if self._database.execute("SELECT 1 FROM runs WHERE request = ?", (request,)).fetchone():
                return
            status = self.status(digest)
            if status.state != "approved" or not _affordable(status, epsilon):
                raise Denied([f"contract {digest[:12]} is {status.state}, or its budget is used up"])
            self._database.execute("INSERT INTO runs VALUES (?, ?, ?)", (request, digest, epsilon or 0.0))

    def runs(self) -> frozenset[tuple[str, str]]:
        """Every counted run: its request, and the contract that it ran under."""
        return frozenset(self._database.execute("SELECT request, contract FROM runs").fetchall())

    def decisions(self, digest: str) -> dict[str, OwnerDecision]:
        """Each owner's decision on a contract, of those too who have left the roster since."""
        return {signed.signer: decode(signed.body, OwnerDecision) for signed in self.signed(digest)}

    def signed(self, digest: str) -> tuple[Signed, ...]:
        """The decisions on a contract as signed: evidence for a receipt."""
        rows = self._database.execute(
            "SELECT signed FROM decisions WHERE contract = ? ORDER BY owner", (digest,)
        )
        return tuple(decode(blob, Signed) for (blob,) in rows.fetchall())

    def consents(self, digest: str) -> tuple[Signed, ...]:
        """Those that approve it, of people who are owners of this department now."""
        return tuple(signed for signed in self.signed(digest) if self._approves(signed, digest))

    def _approves(self, signed: Signed, digest: str) -> bool:
        """Raises `LedgerError` where the decision in the store is not one that `decide` took."""
        try:
            decision = self._opened(signed)
        except UnknownSigner:
            return False
        except SandboxError as error:
            raise LedgerError(
                f"approvals: a decision on contract {digest[:12]} does not hold: {error}"
            ) from None
        if decision.contract != digest:
            raise LedgerError(f"approvals: a decision on contract {digest[:12]} is on another one")
        return decision.approved

    def _opened(self, signed: Signed) -> OwnerDecision:
        """A decision, once it is found to be signed by an owner of this department who may take it."""
        owner = self._roster.entry(signed.signer, "owner")
        decision = open_(signed, DECISION, OwnerDecision, owner.public)
        if owner.organisation != self._organisation:
            raise Denied(
                [f"{signed.signer} is an owner at {owner.organisation}, not at {self._organisation}"]
            )
        if signed.signer == self.contract(decision.contract).analyst:
            raise Denied(["no one decides on a request of their own"])
        return decision

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._database.execute("COMMIT")
                finally:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise InternalError(f"approvals: the database failed ({type(error).__name__})") from None


def _affordable(status: Status, epsilon: float | None) -> bool:
    budget = status.contract.budget
    return epsilon is None or budget is None or status.epsilon + epsilon <= budget * (1 + 1e-9)


def _check_reason(reason: str) -> None:
    if len(reason) > LONGEST:
        raise ParameterError(f"'reason' has {len(reason)} characters; allowed are at most {LONGEST}")

"""Every error a user can meet, in one tree.

    SandboxError
    ├── CallerError             the caller can mend it
    │   ├── QueryError          outside the algebra: unknown column, wrong type, no bounds, no domain
    │   │   └── SQLError        the same, with the position in the SQL text
    │   ├── ParameterError      a number or name outside its allowed range
    │   └── CatalogError        an owner's catalogue contradicts itself, or its data
    ├── Refused                 a rule said no; every reason is in `reasons`
    │   ├── Denied              by a department's policy
    │   ├── ApprovalNeeded      owners must approve a usage contract that covers it first
    │   ├── BudgetExceeded      by a department's privacy budget
    │   └── TooFewDepartments   fewer departments than an exact joint value, or the protocol, needs
    ├── FederationError         what should have run together did not
    │   ├── DepartmentFailed    a department raised an error; only its class and safe text are known
    │   ├── Cancelled           stopped by its analyst, or by the coordinator's own stop; the text says whether anything was spent
    │   ├── Unreachable         the coordinator does not answer, or is not the one that it should be
    │   ├── ScheduleError       a message that does not fit the state of its request: replayed, or out of order
    │   └── SchemaMismatch      departments declare the same table differently
    ├── EvidenceError           keys, signatures, proofs and logs that do not hold
    │   ├── SignatureInvalid    signed by another key, for another use, or not at all
    │   ├── ProofInvalid        a Merkle proof does not lead to the root, or a log was forked
    │   ├── Malformed           bytes that are not the one canonical encoding of a value
    │   ├── Expired             used after its time, or older than what was seen before
    │   ├── UnknownSigner       nobody of that name and role in the roster
    │   ├── KeyUnusable         a key file that others can read, or a wrong passphrase
    │   ├── LedgerError         a privacy ledger, or the store of released cohorts, that is damaged or cannot be written
    │   └── LogError            an audit log that cannot be used: locked, or its storage failed
    │       └── LogCorrupt      an audit log that was damaged, rewritten or rolled back
    └── InternalError           our bug

Messages carry the offending name and the allowed range, never a value taken from the data.
"""

from __future__ import annotations

from collections.abc import Sequence


class SandboxError(Exception):
    """Base of every error raised by this library on purpose; its text is safe to show to anyone."""


class CallerError(SandboxError):
    """The call can be mended by the one who made it."""


class QueryError(CallerError):
    """The query cannot be bounded, typed or answered by the closed algebra."""


class SQLError(QueryError):
    """SQL that does not map onto the algebra; `line` and `column` (1-based) say where."""

    def __init__(self, reason: str, line: int | None = None, column: int | None = None):
        self.line, self.column = line, column
        place = f" (line {line}, column {column})" if line is not None else ""
        super().__init__(f"{reason}{place}")


class ParameterError(CallerError):
    """A parameter is outside its allowed range."""


class CatalogError(CallerError):
    """A catalogue is not valid, or the data does not keep what it declares."""


class Refused(SandboxError):
    """A rule refused the request. `reasons` holds each of them, in words the analyst can act on."""

    def __init__(self, reasons: Sequence[str]):
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


class Denied(Refused):
    """At least one department's policy denies the request. Nothing was spent."""


class ApprovalNeeded(Refused):
    """At least one department's owners must approve a usage contract that covers the request first. Nothing was spent."""


class BudgetExceeded(Refused):
    """At least one department's privacy budget does not cover the request. Nothing was spent."""


class TooFewDepartments(Refused):
    """Fewer departments take part than the request needs."""


class FederationError(SandboxError):
    """The departments could not carry out the request together."""


class DepartmentFailed(FederationError):
    """A department answered with an error."""


class Cancelled(FederationError):
    """The request was stopped; the text says by what, and whether anything was spent."""


class Unreachable(FederationError):
    """The coordinator cannot be reached, or does not prove that it is the one that the configuration names."""


class ScheduleError(FederationError):
    """A message does not fit the state of the request that it names."""


class SchemaMismatch(FederationError):
    """Departments declare the same table with different columns, bounds, units or limits."""


class EvidenceError(SandboxError):
    """What should prove that the rules were kept does not."""


class SignatureInvalid(EvidenceError):
    """A signature does not hold for this key, this use and these bytes."""


class ProofInvalid(EvidenceError):
    """A Merkle proof does not hold, or two heads of one log contradict each other."""


class Malformed(EvidenceError):
    """Bytes that are not the one canonical encoding of what they should be."""


class Expired(EvidenceError):
    """Used after its time, or older than what was seen before."""


class UnknownSigner(EvidenceError):
    """The roster has nobody of that name and role."""


class KeyUnusable(EvidenceError):
    """A key file that others can read, that is not a key, or whose passphrase is another."""


class LedgerError(EvidenceError):
    """A privacy ledger, or the store of released cohorts, is damaged, of another format, or cannot be written."""


class LogError(EvidenceError):
    """An audit log that cannot be used now: another process holds it, or its storage failed."""


class LogCorrupt(LogError):
    """An audit log that was damaged, rewritten or rolled back."""


class InternalError(SandboxError):
    """A broken invariant of this library."""

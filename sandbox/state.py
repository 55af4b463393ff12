"""All that a node must not forget, in one directory: ledger, released cohorts, contracts, audit log. Opening it settles them.

A crash may leave a charge that the log does not tell of, never the reverse, since the ledger is written first. So opening

- logs every charge and every owner's decision that the log lacks;
- refuses a ledger whose totals are not the sums of its charges, or that holds fewer charges than the log, or others: it was edited, put
  back from a copy, or replaced;
- refuses a store of cohorts that lacks an exact release that the log knows;
- refuses a store of contracts that lacks an owner's decision, or a run under a contract, that the log knows.

    ledger.db   sandbox.ledger       cohorts.db   sandbox.cohorts
    approvals.db  sandbox.approvals  audit/       sandbox.audit
    joins.db   sandbox.joining.earlier
    version.key   the secret under which versions of the data have their names (`sandbox.engine`)

Every batch of entries stands under a signed head as soon as it is logged (0.5 ms), what was refused too: see `append`.

Protects against: crashes at any instant; budgets, cohorts and contracts reset by copying an older file back. Does not protect against an owner who puts
the whole directory back: witnesses and receipts show that.
"""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Mapping

from . import code, entries
from .accounting import Event, Zcdp
from .approvals import Approvals
from .audit import AuditLog
from .catalog import Catalog
from .checkpoint import origin
from .cohorts import Cohorts
from .errors import LedgerError
from .joining.earlier import Joins
from .keys import SigningKey, secret
from .ledger import Entry, Ledger
from .policy import Policy
from .query import digest
from .roster import Roster


class State:
    """The state of one department's node. `key` is the node's own; one process at a time holds the directory."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        catalog: Catalog,
        policies: Mapping[str, Policy],
        roster: Roster,
        key: SigningKey,
        clock: Callable[[], float] = time.time,
    ):
        self.directory, self.roster, self.clock = pathlib.Path(directory), roster, clock
        self.department = catalog.department
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log = AuditLog(self.directory / "audit", origin(roster.federation, self.department), key=key)
        self._policies = {name: digest(policy).hex() for name, policy in policies.items()}
        try:
            self.secret = secret(self.directory / "version.key")
            self.ledger = Ledger(self.directory / "ledger.db")
            self.cohorts = Cohorts(self.directory / "cohorts.db")
            self.joins = Joins(self.directory / "joins.db")
            self.approvals = Approvals(
                self.directory / "approvals.db",
                self.department,
                roster,
                lambda dataset: policies[dataset].approvers if dataset in policies else 0,
                clock,
            )
            self._settle(catalog)
        except BaseException:
            self.log.close()
            raise

    def close(self, reason: str = "") -> None:
        """Log that the node stops, and release the files."""
        self.append(entries.Stop(time=self.now(), reason=reason))
        for part in (self.ledger, self.cohorts, self.joins, self.approvals, self.log):
            part.close()

    def now(self) -> int:
        """UTC seconds."""
        return int(self.clock())

    def policy_digest(self, dataset: str) -> str:
        """The digest of a data set's policy, as logged when the state was opened."""
        return self._policies[dataset]

    def append(self, *new: entries.Entry) -> None:
        """Log entries, all or none, and sign a head over them: a refusal can no more be cut off or rewritten than a release."""
        self.log.append_many(new)
        for entry in new:
            self.know(entry)
        self.log.head()

    def know(self, entry: entries.Entry) -> None:
        """Remember what later requests and records are held to, of an entry that is in the log."""
        match entry:
            case entries.Charge():
                self._charges[entry.request] = entry
            case entries.Approval():
                self._decided.add((entry.contract, entry.approver))
            case entries.Decision(verdict="allow"):
                self._allowed[entry.request] = entry.policy
            case entries.Release():
                self._released[entry.request] = entry.release
            case _:
                pass

    def log_decisions(self) -> None:
        """Log what owners have decided since the last call; they sign in processes of their own."""
        new = [
            entries.Approval(
                time=self.now(),
                contract=status.digest,
                approver=owner,
                verdict="approve" if decision.approved else "reject",
                reason=decision.reason[: entries.LONGEST],
            )
            for status in self.approvals.all()
            for owner, decision in self.approvals.decisions(status.digest).items()
            if (status.digest, owner) not in self._decided
        ]
        if new:
            self.append(*new)

    def charge_of(self, request: str) -> entries.Charge | None:
        """The logged charge of a request, the digest of which is given."""
        return self._charges.get(request)

    def release_of(self, request: str) -> str | None:
        """The digest of the release that came of a request, as logged."""
        return self._released.get(request)

    def allowed_under(self, request: str) -> str | None:
        """The digest of the policy under which a request was last allowed, as logged."""
        return self._allowed.get(request)

    def _settle(self, catalog: Catalog) -> None:
        self._charges: dict[str, entries.Charge] = {}
        self._decided: set[tuple[str, str]] = set()
        self._allowed: dict[str, str] = {}
        self._released: dict[str, str] = {}
        catalogue, policies = "", dict[str, str]()
        for entry in self.log.entries():
            self.know(entry)
            match entry:
                case entries.Catalogue():
                    catalogue = entry.catalogue
                case entries.Policy():
                    policies[entry.dataset] = entry.policy
                case _:
                    pass
        self.ledger.verify()
        charged = {entry.number: entry for entry in self.ledger.entries()}
        if charged and not len(self.log):
            raise LedgerError(
                f"ledger of {self.department!r}: it holds {len(charged)} charges, and there is no audit log: put the log back"
            )
        self._check_ledger(charged)
        self._check_cohorts()
        self._check_approvals()
        now = self.now()
        logged = {charge.number for charge in self._charges.values()}
        lost = [_charge(entry, now) for number, entry in sorted(charged.items()) if number not in logged]
        new: list[entries.Entry] = [
            entries.Start(
                time=now,
                department=self.department,
                code=code.version(),
                roster=self.roster.digest(),
                ledger=len(charged),
            ),
            *lost,
        ]
        if catalogue != (ours := digest(catalog).hex()):
            new.append(entries.Catalogue(time=now, catalogue=ours))
        new += [
            entries.Policy(time=now, dataset=name, policy=ours)
            for name, ours in self._policies.items()
            if policies.get(name) != ours
        ]
        self.append(*new)
        self.log_decisions()

    def _check_ledger(self, charged: Mapping[int, Entry]) -> None:
        for charge in self._charges.values():
            entry = charged.get(charge.number)
            if entry is None:
                raise LedgerError(
                    f"ledger of {self.department!r}: it lacks charge {charge.number}, which the audit log holds: it was put back from a copy"
                )
            paid = entry.charge
            ours = (paid.request.hex(), paid.dataset, paid.analyst, paid.epsilon, _rho(paid.event))
            if ours != (charge.request, charge.dataset, charge.analyst, charge.epsilon, charge.rho):
                raise LedgerError(
                    f"ledger of {self.department!r}: charge {charge.number} is another one than in the audit log"
                )

    def _check_cohorts(self) -> None:
        kept = {release.request for name in self._policies for release in self.cohorts.released(name)}
        kept |= {release.request for name in self._policies for release in self.joins.released(name)}
        for charge in self._charges.values():
            if charge.cohorts and charge.dataset in self._policies and charge.request not in kept:
                raise LedgerError(
                    f"cohorts of {self.department!r}: a release that the audit log holds is missing: they were put back from a copy"
                )

    def _check_approvals(self) -> None:
        decided = {
            (status.digest, owner)
            for status in self.approvals.all()
            for owner in self.approvals.decisions(status.digest)
        }
        runs = self.approvals.runs()
        under = {(charge.request, charge.contract) for charge in self._charges.values() if charge.contract}
        if not (self._decided <= decided and under <= runs):
            raise LedgerError(
                f"approvals of {self.department!r}: they lack what the audit log holds: they were put back from a copy"
            )


def _charge(entry: Entry, now: int) -> entries.Charge:
    """What the log should have said of a charge when a crash came between; nothing was answered for it."""
    charge = entry.charge
    return entries.Charge(
        time=now,
        request=charge.request.hex(),
        dataset=charge.dataset,
        analyst=charge.analyst,
        purpose=charge.purpose[: entries.LONGEST],
        number=entry.number,
        epsilon=charge.epsilon,
        rho=_rho(charge.event),
    )


def _rho(event: Event | None) -> float | None:
    return event.rho if isinstance(event, Zcdp) else None

"""An owner's desk: what waits for a decision, what was spent by whom and for what, and what the audit log says.

It reads the state of the department's node, also while the node runs, and writes one thing: the owner's signed yes or no to a contract.
The node takes it up, and logs it, at the next request.

Protects against decisions by anybody but the department's owners: each is signed, and every node and receipt checks it again. Does not
protect what it reads: whoever may read the node's directory sees who asked what for which purpose, though no row of data.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from typing import TYPE_CHECKING

from . import cosigned, entries, policy, report
from .approvals import Approvals, Status, sign_decision
from .audit import AuditLog
from .catalog import Catalog
from .checkpoint import Checkpoint, origin
from .errors import LogError, ParameterError
from .keys import SigningKey
from .ledger import Entry, Ledger
from .roster import Roster
from .scoring.books import FILE as QUOTAS
from .scoring.quota import Quotas
from .wording import printable

if TYPE_CHECKING:
    import pandas as pd

SHORTEST = 8  # digits by which a contract may be named
SHOWN = 12  # digits of a digest that people are shown


class Owner:
    """The owner `name` of the department whose node keeps its state in `directory`. `key` is needed to decide, not to read."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        catalog: Catalog,
        roster: Roster,
        name: str = "",
        key: SigningKey | None = None,
    ):
        self._directory, self._catalog, self._roster = pathlib.Path(directory), catalog, roster
        self._name, self._key = name, key
        if key is not None and roster.public(name, "owner") != key.public:
            raise ParameterError(f"the key is not that of owner {name!r} in the roster")
        for part in ("ledger.db", "approvals.db"):
            if not (self._directory / part).is_file():
                raise LogError(f"{str(directory)!r} is no node's state: it holds no {part}")
        self._policies = {name: policy.of(name, dataset) for name, dataset in catalog.datasets.items()}
        self._approvals = Approvals(
            self._directory / "approvals.db",
            catalog.department,
            roster,
            lambda dataset: self._policies[dataset].approvers if dataset in self._policies else 0,
        )
        self._ledger = Ledger(self._directory / "ledger.db")

    def __repr__(self) -> str:
        waiting = sum(status.state == "pending" for status in self.statuses())
        name = f"{self._name} of " if self._name else ""
        return (
            f"<Owner {name}{self._catalog.department}: {waiting} contract{'s' * (waiting != 1)} to decide on>"
        )

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._approvals.close()
        self._ledger.close()

    # --- contracts ---

    def contracts(self) -> pd.DataFrame:
        """Every usage contract and how it stands, the oldest first."""
        import pandas as pd

        rows = [
            (
                status.digest[:SHOWN],
                status.contract.query.title,
                status.contract.analyst,
                status.contract.purpose,
                status.state,
                f"{len(status.approved_by)} of {status.needed}",
                f"{status.runs} of {status.contract.runs}",
            )
            for status in self.statuses()
        ]
        columns = ["contract", "data set", "analyst", "purpose", "state", "approvals", "runs"]
        return pd.DataFrame(rows, columns=columns)

    def statuses(self) -> tuple[Status, ...]:
        """The same as values."""
        return self._approvals.all()

    def contract(self, digest: str) -> Status:
        """The contract whose digest begins so (8 digits and more). `print(owner.contract(…).contract.text())` is what to read before deciding."""
        found = [s for s in self.statuses() if len(digest) >= SHORTEST and s.digest.startswith(digest)]
        if len(found) != 1:
            raise ParameterError(
                f"'digest' {digest!r} names {len(found)} contracts here; give {SHORTEST} digits or more of one"
            )
        return found[0]

    def approve(self, digest: str, reason: str = "") -> Status:
        """Sign a yes. One decision an owner, and it stands."""
        return self._decide(digest, True, reason)

    def reject(self, digest: str, reason: str) -> Status:
        """Sign a no, and why: both go into the audit log."""
        return self._decide(digest, False, reason)

    # --- budget ---

    def budget(self) -> pd.DataFrame:
        """Per data set: the budget, what is spent and left, and how many releases there were."""
        import pandas as pd

        rows = []
        for name, dataset in self._catalog.datasets.items():
            spent = self._ledger.spent(name, _delta(self._catalog, name))
            budget = dataset.budget
            left = max(budget.epsilon - spent.epsilon, 0.0) if budget else None
            rows.append(
                (name, budget.epsilon if budget else None, spent.epsilon, left, spent.exact, spent.private)
            )
        columns = ["data set", "epsilon", "spent", "left", "exact releases", "DP releases"]
        return pd.DataFrame(rows, columns=columns)

    def statement(self) -> pd.DataFrame:
        """By whom and for what: per data set, analyst and purpose. Epsilons do not add up: composition is below the sum."""
        import pandas as pd

        deltas = {name: _delta(self._catalog, name) for name in self._catalog.datasets}
        rows = [
            (
                line.dataset,
                line.analyst,
                line.purpose,
                line.analysis,
                line.spent.epsilon,
                line.spent.exact,
                line.spent.private,
                entries.when(line.last),
            )
            for line in self._ledger.statement(deltas)
        ]
        columns = [
            "data set",
            "analyst",
            "purpose",
            "analysis",
            "epsilon",
            "exact releases",
            "DP releases",
            "last",
        ]
        return pd.DataFrame(rows, columns=columns)

    def quotas(self) -> pd.DataFrame:
        """Per model that the department gives scores of, and analyst: rows that were scored, and how many more may be."""
        import pandas as pd

        rows = []
        path = self._directory / QUOTAS
        with contextlib.closing(Quotas(path)) if path.is_file() else contextlib.nullcontext() as table:
            charged = [charge for _, charge in table.entries()] if table else []
        for name, model in self._catalog.models.items():
            left = model.rows - sum(charge.rows for charge in charged if charge.model == name)
            analysts = sorted({charge.analyst for charge in charged if charge.model == name})
            for analyst in analysts or [""]:
                used = sum(c.rows for c in charged if (c.model, c.analyst) == (name, analyst))
                mine = max(min(left, model.rows_per_analyst - used), 0)
                rows.append((name, model.rows, max(left, 0), analyst, used, mine))
        columns = ["model", "rows", "left", "analyst", "rows of the analyst", "left to the analyst"]
        return pd.DataFrame(rows, columns=columns)

    def charges(self) -> tuple[Entry, ...]:
        """Every charge, the first first."""
        return self._ledger.entries()

    # --- evidence ---

    def log(self, last: int = 50) -> pd.DataFrame:
        """The latest entries of the audit log, in words."""
        import pandas as pd

        with self._audit() as audit:
            rows = lines(audit, last)
        return pd.DataFrame(rows, columns=["entry", "time", "what", "detail"])

    def head(self) -> str:
        """The last signed head, as a note to hand to a witness."""
        with self._audit() as audit:
            return audit.last()

    def proof(self, since: int, until: int | None = None) -> tuple[bytes, ...]:
        """That a head of `until` entries, the last signed by default, continues that of `since`: what a witness who saw that one asks for."""
        with self._audit() as audit:
            return audit.consistency(since, audit.signed.size if until is None else until)

    def keep(self, note: str) -> dict[str, int]:
        """Keep a head that a witness co-signed; who did, and when. See `sandbox.cosigned`."""
        federation = self._roster.federation
        witnesses = {origin(federation, member.name): member.public for member in self._roster.of("witness")}
        with self._audit() as audit:
            return cosigned.keep(audit, note, witnesses)

    def complete(self, receipt: bytes) -> bytes:
        """The receipt with the co-signed heads of this department's log that cover it."""
        with self._audit() as audit:
            return cosigned.complete(receipt, audit)

    def verify(self) -> Checkpoint:
        """Read and hash the whole log anew; the head that it leads to, or `LogCorrupt`."""
        with self._audit() as audit:
            return audit.verify()

    def report(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Write one page for an auditor: budgets over time, releases, refusals, contracts, the log's head. It needs nothing else."""
        with self._audit() as audit:
            history, head = list(audit.entries()), audit.last()
        text = report.page(self._catalog, self.charges(), self.statuses(), history, head, time.time())
        place = pathlib.Path(path)
        try:
            place.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ParameterError(f"{str(path)!r} cannot be written: {error.strerror}") from None
        return place

    def _audit(self) -> AuditLog:
        department = self._catalog.department
        return AuditLog(
            self._directory / "audit",
            origin(self._roster.federation, department),
            public=self._roster.public(department, "node"),
        )

    def _decide(self, digest: str, approved: bool, reason: str) -> Status:
        if self._key is None:
            raise ParameterError("an owner decides with a key: give 'name' and 'key'")
        signed = sign_decision(self._key, self._name, self.contract(digest).digest, approved, reason)
        return self._approvals.decide(signed)


def lines(audit: AuditLog, last: int) -> list[tuple[int, str, str, str]]:
    """Index, time, kind and detail of the latest entries, in words."""
    if last < 1:
        raise ParameterError(f"'last' is {last}; allowed are numbers from 1")
    start = max(0, len(audit) - last)
    return [
        (start + i, entries.when(entry.time), str(entry.__struct_config__.tag), detail(entry))
        for i, entry in enumerate(audit.entries(start))
    ]


def detail(entry: entries.Entry) -> str:
    """What an entry says, in words; digests are cut to what tells them apart."""
    match entry:
        case entries.Start():
            return f"{entry.code}; {entry.ledger} charges in the ledger; roster {_short(entry.roster)}"
        case entries.Stop():
            return printable(entry.reason) or "in good order"
        case entries.Catalogue():
            return f"now {_short(entry.catalogue)}"
        case entries.Policy():
            return f"of {entry.dataset}: now {_short(entry.policy)}"
        case entries.Request():
            return f"{_short(entry.request)}: {entry.analyst} asks {entry.dataset!r} for purpose {entry.purpose!r}"
        case entries.Decision():
            return f"{_short(entry.request)}: {entry.verdict}: {printable('; '.join(entry.reasons))}"
        case entries.Approval():
            reason = f": {printable(entry.reason)}" if entry.reason else ""
            return f"{entry.approver} says {entry.verdict} to contract {_short(entry.contract)}{reason}"
        case entries.Charge():
            return f"{_short(entry.request)}: number {entry.number}, {_cost(entry.epsilon)}{_under(entry.contract)}"
        case entries.Quota():
            return f"{_short(entry.request)}: number {entry.number}, {entry.rows} rows of {entry.model!r}"
        case entries.Release():
            return f"{_short(entry.request)}: {_short(entry.release)}, {_cost(entry.epsilon)}{_under(entry.contract)}"
        case entries.Refusal():
            charged = " (and charged)" if entry.charged else ""
            return f"{_short(entry.request)}: refused{charged}: {printable('; '.join(entry.reasons))}"


def _short(digest: str) -> str:
    return digest[:SHOWN]


def _cost(epsilon: float | None) -> str:
    return "exact" if epsilon is None else f"epsilon {epsilon:g}"


def _under(contract: str | None) -> str:
    return f" under contract {_short(contract)}" if contract else ""


def _delta(catalog: Catalog, name: str) -> float:
    budget = catalog.datasets[name].budget
    return budget.delta if budget else 1e-6

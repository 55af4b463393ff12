"""What a department must not forget of its models: the table of quotas beside the audit log, settled with it when they are opened.

A crash may leave a charge that the log does not tell of, never the reverse, since the table is written first. So opening logs every
charge that the log lacks, and refuses a table that lacks what the log holds: it was put back from a copy, or replaced.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import entries
from ..errors import LedgerError
from ..query import digest
from ..state import State
from .declared import Declared
from .quota import Charge, Charged, Quotas
from .request import Request

FILE = "scores.db"


class Books:
    """`declared`: the models of the catalogue; `versions`: the digest of each one's file."""

    def __init__(self, declared: Mapping[str, Declared], versions: Mapping[str, str], state: State):
        self._declared, self._versions, self._state = declared, versions, state
        self._policies = {name: digest(model).hex() for name, model in declared.items()}
        self.quotas = Quotas(state.directory / FILE)
        try:
            self._settle()
        except BaseException:
            self.quotas.close()
            raise

    def policy(self, model: str) -> str:
        """The digest of a model's declaration, as it was logged."""
        return self._policies[model]

    def paid(self, request: str) -> entries.Quota | None:
        """The logged charge of a request, the digest of which is given."""
        return self._logged.get(request)

    def against(self, request: Request) -> tuple[str, ...]:
        """Each quota that a request would pass, had it not been charged before."""
        declared = self._declared[request.model]
        return self.quotas.against(self._charge(request), declared.rows, declared.rows_per_analyst)

    def charge(self, request: Request) -> Charged:
        """Charge and log a request's rows; raises `BudgetExceeded`. One that was charged before is not charged again."""
        declared = self._declared[request.model]
        charge = self._charge(request)
        charged = self.quotas.charge(charge, declared.rows, declared.rows_per_analyst)
        if not charged.repeated:
            entry = self._entry(charged.number, charge)
            self._state.append(entry)
            self._logged[entry.request] = entry
        return charged

    def _charge(self, request: Request) -> Charge:
        now = self._state.clock()
        return Charge(request.digest(), request.model, request.analyst, request.purpose, request.rows, now)

    def _entry(self, number: int, charge: Charge) -> entries.Quota:
        return entries.Quota(
            time=self._state.now(),
            request=charge.request.hex(),
            model=charge.model,
            analyst=charge.analyst,
            purpose=charge.purpose,
            number=number,
            rows=charge.rows,
            version=self._versions.get(charge.model, ""),
        )

    def _settle(self) -> None:
        self._logged: dict[str, entries.Quota] = {}
        policies: dict[str, str] = {}
        for entry in self._state.log.entries():
            match entry:
                case entries.Quota():
                    self._logged[entry.request] = entry
                case entries.Policy():
                    policies[entry.dataset] = entry.policy
        kept = dict(self.quotas.entries())
        for logged in self._logged.values():
            charge = kept.get(logged.number)
            if charge is None or (charge.request.hex(), charge.rows) != (logged.request, logged.rows):
                raise LedgerError(
                    f"quotas of {self._state.department!r}: they lack charge {logged.number}, which the audit log holds: "
                    "they were put back from a copy"
                )
        known = {logged.number for logged in self._logged.values()}
        lost = [self._entry(number, charge) for number, charge in kept.items() if number not in known]
        self._logged.update((entry.request, entry) for entry in lost)
        changed = [
            entries.Policy(time=self._state.now(), dataset=name, policy=ours)
            for name, ours in self._policies.items()
            if policies.get(name) != ours
        ]
        if lost or changed:
            self._state.append(*lost, *changed)

"""The analyst's handle on a federation: what exists, what a query would do, and its release.

`City` holds no data and no department's values. It signs requests and gives them to the coordinator's desk, in this process
(`sandbox.demo()`) or over HTTPS (`sandbox.connect()`), and checks what comes back.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from mpc.secagg import Setting
from sandbox import contract, dp, fit, keys
from sandbox import query as q
from sandbox.approvals import propose
from sandbox.catalog import Schema
from sandbox.cohort import cohort
from sandbox.errors import ParameterError, QueryError
from sandbox.gate import Entry
from sandbox.model import Model
from sandbox.pending import Pending, Ticket
from sandbox.plan import compile as compile_plan
from sandbox.ranges import plain
from sandbox.release import Explanation, Proposal, Release
from sandbox.request import REQUEST, Privacy, Request
from sandbox.roster import Roster
from sandbox.table import JointQuery, JointTable

from .joining import offered
from .messages import ContractState
from .offers import Offers
from .scoring.messages import Models

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from sandbox.training import Training

    from .results import Trained
    from .scoring.result import Scored

LIFETIME = 3600  # seconds that a request may take to reach every department
DAY = 24 * 3600


class Desk(Protocol):
    """The coordinator's desk: `federated.desk.Desk` in this process, `federated.http.client.RemoteDesk` over HTTPS."""

    @property
    def roster(self) -> Roster: ...
    @property
    def setting(self) -> Setting: ...
    def offers(self, *, fresh: bool = True) -> Offers: ...
    def explain(self, signed: keys.Signed) -> Explanation: ...
    def submit(self, signed: keys.Signed) -> Ticket: ...
    def watch(self, analyst: str, digest: str, seen: Ticket | None, timeout: float) -> Ticket: ...
    def tickets(self, analyst: str) -> tuple[Ticket, ...]: ...
    def release(self, analyst: str, digest: str) -> Any: ...
    def cancel(self, analyst: str, digest: str) -> Ticket: ...
    def propose(self, signed: keys.Signed) -> dict[str, str]: ...
    def contract(self, digest: str, table: str) -> dict[str, ContractState]: ...
    def models(self) -> Models: ...
    def score(self, analyst: str, department: str, body: bytes) -> bytes: ...


class City:
    """A session with several departments, as `analyst`, whose requests are signed with `key`.

    Made by `sandbox.demo()`, `sandbox.connect()` or `federated.local.open_federation`. `progress` is told each stage of a request: `sandbox.progress.Bar()` draws them.
    """

    def __init__(
        self,
        desk: Desk,
        key: keys.SigningKey,
        analyst: str = "analyst",
        *,
        mock: Callable[[City, q.Query], City] | None = None,
    ):
        self._desk, self._key, self._analyst, self._mock = desk, key, analyst, mock
        self.progress: Callable[[str], None] = lambda _stage: None
        self.refresh()

    def __repr__(self) -> str:
        return f"<City {', '.join(sorted(self._offers.entries))}: {', '.join(self._offers.tables())}>"

    def refresh(self) -> None:
        """Ask every department again what it offers. Departments that do not answer are in `unreachable`."""
        self._offers = self._desk.offers()

    @property
    def unreachable(self) -> dict[str, str]:
        """Who did not answer when last asked, and why."""
        return dict(self._offers.unreachable)

    def catalog(self) -> pd.DataFrame:
        """What exists, whose it is, its level, what may be asked, and the budget as it stands."""
        import pandas as pd

        self.refresh()
        rows = [
            {
                "table": table,
                "department": name,
                "level": entry.level,
                "purposes": ", ".join(entry.purposes),
                "unit": entry.schema.unit or "row",
                "columns": len(entry.schema.columns),
                "epsilon": entry.budget.epsilon if entry.budget else None,
                "epsilon_left": entry.budget.epsilon - entry.epsilon_spent if entry.budget else None,
                "description": entry.description,
            }
            for name, entries in sorted(self._offers.entries.items())
            for table, entry in sorted(entries.items())
        ]
        return pd.DataFrame(rows).sort_values(["table", "department"], ignore_index=True)

    def columns(self, table: str, joined: q.Joined | None = None) -> pd.DataFrame:
        """The declared columns of a table."""
        import pandas as pd

        wide = None if joined is None else offered.offered(self._offers, joined)
        rows = [
            {
                "column": name,
                **({} if wide is None else {"department": wide.sources.get(name, ("all",))[0]}),
                "type": column.type,
                "domain": ", ".join(column.categories)
                if column.categories
                else ""
                if column.bounds is None
                else f"{column.bounds[0]:g} to {column.bounds[1]:g}",
                "nullable": column.nullable,
                "description": column.description,
            }
            for name, column in (self.schema(table) if wide is None else wide.schema).columns.items()
        ]
        return pd.DataFrame(rows)

    def table(self, name: str) -> JointTable:
        """One logical table whose rows live at several departments."""
        self.schema(name)
        return JointTable(self, name)

    def join(self, *tables: str, on: str) -> JointTable:
        """One table whose columns live at several departments, each given as "department.table"; nothing moves yet.

        Rows are matched on the identifier `on`, without anyone learning who matched; a person is a row where every table knows that person. The
        first table is the one whose people are looked up in the others. A column that several tables have is called "department.column".
        Raises `QueryError` where a table is unknown, or its owner opens it to no join.
        """
        joined = offered.joined(tables, on)
        offered.offered(self._offers, joined)
        return JointTable(self, joined.tables[0], joined=joined)

    def sql(self, text: str) -> JointQuery:
        """The same queries in SQL: one table, aggregates, WHERE and GROUP BY; anything else is refused with its position."""
        from sandbox.sql import parse

        query = parse(text)
        self.schema(query.table)
        return JointQuery(self, query)

    def departments(self, table: str) -> tuple[str, ...]:
        """The departments that hold rows of a table."""
        return self._offers.departments(table)

    def schema(self, table: str) -> Schema:
        """What the departments declare alike; raises `QueryError` for an unknown table, `SchemaMismatch` where they differ."""
        return self._offers.schema(table)

    def entry(self, department: str, table: str) -> Entry:
        """What one department publishes of a table."""
        return self._offers.entries[department][table]

    @property
    def setting(self) -> Setting:
        """The adversary that secure aggregation is set against."""
        return self._desk.setting

    @property
    def roster(self) -> Roster:
        """Who is who: names, roles and public keys. What a receipt is checked against."""
        return self._desk.roster

    # --- scores of departments' models ---

    def models(self) -> pd.DataFrame:
        """The models that departments publish, and what each asks for."""
        import pandas as pd

        from .scoring.client import described

        return pd.DataFrame(described(self._desk))

    def score(self, *, model: str, table: Any, purpose: str, publishable: bool = False) -> Scored:
        """Scores of rows of one's own by a department's model, "name@department"; neither shows the other what it has.

        `table`: a frame, columns by name, or rows; only the model's features are read, and each value must lie in its declared bounds. The
        department sees ciphertexts, decides, and charges its quotas by the row. With `publishable` the scores carry noise
        that lets them be shown to that department; without, they must not be. Needs the extra `he` (package tenseal).

        Raises `Denied`, `BudgetExceeded`, … as a release does, `ParameterError` for a value outside its bounds; then nothing is spent.
        """
        from .scoring.client import score

        return score(
            self._desk,
            self._key,
            self._analyst,
            model,
            table,
            purpose,
            publishable=publishable,
            progress=self.progress,
        )

    # --- requests ---

    def explain(self, query: q.Query, epsilon: float | None, delta: float | None) -> Explanation:
        # The purpose is judged at release: here each request names one that is permitted.
        purpose = next(iter(self.asked(query).values())).purposes[0]
        return self._desk.explain(self._signed(self._request(query, purpose, epsilon, delta)))

    def mock(self, query: q.Query, epsilon: float | None, delta: float | None) -> Release:
        if self._mock is None:
            raise ParameterError("this session has no mock data")
        city = self._mock(self, query)
        purpose = next(iter(city.asked(query).values())).purposes[0]
        return msgspec.structs.replace(city.release(query, purpose, epsilon, delta), mock=True)

    def release(self, query: q.Query, purpose: str, epsilon: float | None, delta: float | None) -> Release:
        """Submit, and wait for the result."""
        found: Release = self.submit(query, purpose, epsilon, delta).result(progress=self.progress)
        return found

    def submit(self, query: q.Query, purpose: str, epsilon: float | None, delta: float | None) -> Pending:
        self.asked(query)
        return Pending(self, self._desk.submit(self._signed(self._request(query, purpose, epsilon, delta))))

    def model(
        self,
        model: Model,
        purpose: str,
        epsilon: float | None,
        delta: float | None,
        wait: bool = True,
        joined: q.Joined | None = None,
    ) -> Any:
        """Fit or train a model together: a `Fitted` or `Trained`, or without `wait` a `Pending` of it."""
        request = self._request(self._cohort(model, joined), purpose, epsilon, delta, model)
        pending = Pending(self, self._desk.submit(self._signed(request)))
        return pending.result(progress=self.progress) if wait else pending

    def train(
        self,
        module: nn.Module,
        fields: dict[str, Any],
        purpose: str,
        epsilon: float | None,
        delta: float | None,
    ) -> Trained:
        found: Trained = self.model(self.training(module, fields, epsilon, delta), purpose, epsilon, delta)
        return found

    def training(
        self, module: nn.Module, fields: dict[str, Any], epsilon: float | None, delta: float | None
    ) -> Training:
        """The training of a module, with the noise for `epsilon` in all."""
        from sandbox.training import Training, with_epsilon

        from .neural import spec

        _check_fields(fields, Training)
        training = Training(layers=spec.describe(module), **fields)
        if (epsilon is None) != (training.privacy is None):
            raise ParameterError("'epsilon' and 'privacy' belong together: give both, or neither")
        if epsilon is not None:
            delta = self._delta(cohort(training, self.schema(training.table))) if delta is None else delta
            training = with_epsilon(training, plain(epsilon), plain(delta))
        return training

    def formula(
        self, estimator: fit.Estimator, text: str, table: str, derived: Mapping[str, q.Expression]
    ) -> tuple[fit.Estimator, tuple[q.Derived, ...], q.Derived | None]:
        from .learn.formula import parse

        parsed = parse(text, self.schema(table), derived)
        if not parsed.intercept:
            if not hasattr(estimator, "fit_intercept"):
                raise QueryError(f"formula: {type(estimator).__name__} has no intercept to leave out")
            estimator = msgspec.structs.replace(estimator, fit_intercept=False)
        return estimator, parsed.features, parsed.target

    def request(self, digest: str) -> Pending:
        """A request of this analyst's by its digest, or the first characters of it: also one that another notebook sent."""
        found = [ticket for ticket in self._desk.tickets(self._analyst) if ticket.digest.startswith(digest)]
        if len(found) != 1 or not digest:
            raise QueryError(f"{len(found)} requests of {self._analyst!r} begin with {digest!r}; 1 is needed")
        return Pending(self, found[0])

    def requests(self) -> pd.DataFrame:
        """This analyst's requests of the last month, the latest first."""
        import pandas as pd

        columns = ["digest", "table", "purpose", "epsilon", "submitted", "state", "reasons"]
        rows = [
            (
                t.digest,
                t.table,
                t.purpose,
                t.epsilon,
                pd.Timestamp(t.submitted, unit="s", tz="UTC"),
                t.state,
                "; ".join(t.reasons),
            )
            for t in self._desk.tickets(self._analyst)
        ]
        return pd.DataFrame(rows, columns=columns)

    def watch(self, digest: str, seen: Ticket | None, timeout: float) -> Ticket:
        return self._desk.watch(self._analyst, digest, seen, timeout)

    def cancel(self, digest: str) -> Ticket:
        return self._desk.cancel(self._analyst, digest)

    def released(self, digest: str) -> Any:
        return self._desk.release(self._analyst, digest)

    def propose(
        self,
        asked: q.Query | Model,
        purpose: str,
        legal_basis: str,
        *,
        epsilon: float | tuple[float, float] | None,
        budget: float | None,
        runs: int,
        ranges: tuple[tuple[float, float], ...],
        days: float,
        joined: q.Joined | None = None,
    ) -> Proposal:
        model = None if isinstance(asked, q.Query) else asked
        query = asked if isinstance(asked, q.Query) else self._cohort(asked, joined)
        compile_plan(query, offered.shape(self._offers, query)[0], exact=epsilon is None)
        if not 0 < days <= 3660:
            raise ParameterError(f"'days' is {days}; allowed are numbers above 0, to 3660")
        if epsilon is not None:
            low, high = epsilon if isinstance(epsilon, tuple) else (epsilon, epsilon)
            budget = high * runs if budget is None else budget
            epsilon = (float(low), float(high))
        wanted = contract.Contract(
            query=query,
            purpose=purpose,
            legal_basis=legal_basis,
            analyst=self._analyst,
            expires=int(time.time() + days * DAY),
            runs=runs,
            epsilon=epsilon,
            budget=budget,
            ranges=ranges,
            model=model,
        )
        failed = self._desk.propose(propose(self._key, wanted))
        return Proposal(wanted, failed, lambda: self._states(wanted.digest(), query.table))

    def _states(self, digest: str, table: str) -> dict[str, tuple[str, int, int, str]]:
        states = self._desk.contract(digest, table)
        return {name: (s.state, s.approvals, s.needed, "; ".join(s.reasons)) for name, s in states.items()}

    def _cohort(self, model: Model, joined: q.Joined | None) -> q.Query:
        """Which rows take part in a model, of one table or of a joined one."""
        if joined is None:
            return cohort(model, self.schema(model.table))
        query = cohort(model, offered.offered(self._offers, joined).schema)
        return msgspec.structs.replace(query, join=joined)

    def _signed(self, request: Request) -> keys.Signed:
        return keys.seal(self._key, self._analyst, REQUEST, request)

    def _request(
        self,
        query: q.Query,
        purpose: str,
        epsilon: float | None,
        delta: float | None,
        model: Model | None = None,
    ) -> Request:
        if not isinstance(purpose, str) or not purpose:
            raise ParameterError("'purpose' must be a non-empty text")
        privacy, epsilon, delta = None, plain(epsilon), plain(delta)
        if isinstance(model, fit.Fit) and model.rounds is not None and epsilon is None:
            raise ParameterError(
                "'rounds' is of a differentially private fit: give 'epsilon' too; an exact one ends by 'tol' or 'max_iter'"
            )
        if epsilon is not None:
            dp.check_epsilon(epsilon)
            privacy = Privacy(float(epsilon), self._delta(query) if delta is None else delta)
            dp.check_delta(privacy.delta)
        elif delta is not None:
            raise ParameterError("'delta' belongs to a DP release: give 'epsilon' too")
        expires = int(time.time()) + LIFETIME
        schemas = () if query.joined is None else offered.schemas(self._offers, query.joined)
        return Request(query, purpose, self._analyst, secrets.token_hex(16), expires, privacy, model, schemas)

    def asked(self, query: q.Query) -> dict[str, Entry]:
        """What each department publishes of what a query asks."""
        if query.joined is not None:
            return offered.entries(self._offers, query.joined)
        self.schema(query.table)
        return {name: self.entry(name, query.table) for name in self.departments(query.table)}

    def _delta(self, query: q.Query) -> float:
        budgets = [entry.budget for entry in self.asked(query).values()]
        return min((budget.delta for budget in budgets if budget is not None), default=1e-6)


def _check_fields(fields: dict[str, Any], kind: type[Training]) -> None:
    """Raise `ParameterError` for a setting that no training has, or that each must have."""
    known = [name for name in kind.__struct_fields__ if name != "layers"]
    if unknown := sorted(set(fields) - set(known)):
        raise ParameterError(f"a training has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    required = [
        field.name for field in msgspec.structs.fields(kind) if field.required and field.name in known
    ]
    if absent := [name for name in required if name not in fields]:
        raise ParameterError(f"a training needs {', '.join(map(repr, absent))} too")

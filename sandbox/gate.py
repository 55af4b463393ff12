"""The one door of a node: decide, charge, log, run. Nothing about a data set leaves a department but through here.

    explain   what the gate would say; nothing is logged, and it depends on no row
    decide    the same for a request that is to run: logged with every reason
    overlaps  exact releases: counts for the differencing defence, to be summed securely (`sandbox.differencing`)
    run       charge the ledger, keep the cohorts, log, compute: the caller masks what it gets, and adds the noise where there is one
    record    what came of it: shown cells are kept, the release is logged, and the department's evidence goes into the receipt

Requests are signed by analysts, clearances and records by the coordinator; the gate verifies each itself. Everything that could still
fail is tried before the ledger is charged; a charge is on the disk, and logged, before anything is computed. A request runs once.

Protects against: analysts who ask for what the owner does not permit, or again, or differently under another name; a coordinator that
makes up or alters requests. Relies on the coordinator to report joint differences and shown cells honestly. Does not protect against
the owner's own machine.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NoReturn

import msgspec

from . import code, differencing, disclosure, dp, entries, keys, plan, policy
from .accounting import Zcdp
from .catalog import Budget, Catalog, DataSet, Level, Schema
from .cohort import rows as rows_of
from .design_matrix import Rows, read
from .engine import Engine, LocalSums
from .errors import ApprovalNeeded, BudgetExceeded, CatalogError, Denied, Refused, ScheduleError
from .joining.declared import Join
from .joining.earlier import Earlier, scope_of
from .judge import Case, Judge, caps, policies
from .members import Members, members
from .members import keys as row_keys
from .query import Node
from .receipt import Evidence, attest
from .request import CLEARANCE, RECORD, Clearance, Record, Request
from .state import State
from .training import Training

KEPT = 64  # requests whose cells are kept between `overlaps` and `run`

_VERDICTS: dict[type, Literal["allow", "deny", "needs approval"]] = {
    policy.Allow: "allow",
    policy.NeedsApproval: "needs approval",
    policy.Deny: "deny",
}


class Allow(Node, frozen=True, tag="allow"):
    """Permitted. An exact result must keep `rules`, and be compared with `released`, of a joined table with `earlier`; a DP one costs
    `rho`, leaving `epsilon_left`."""

    rules: disclosure.Rules | None = None
    rho: float = 0.0
    epsilon_left: float | None = None
    released: tuple[differencing.Released, ...] = ()
    earlier: tuple[Earlier, ...] = ()


class NeedsApproval(Node, frozen=True, tag="needs_approval"):
    """Permitted once `missing` more owners approve a contract that covers it."""

    reasons: tuple[str, ...]
    missing: int


class Deny(Node, frozen=True, tag="deny"):
    """Refused, with every reason that the owner publishes. `budget`: nothing but a budget stands against it."""

    reasons: tuple[str, ...]
    budget: bool = False


Decision = Allow | NeedsApproval | Deny


class Entry(msgspec.Struct, frozen=True):
    """What a department publishes of one data set."""

    level: Level
    purposes: tuple[str, ...]
    schema: Schema
    description: str
    budget: Budget | None
    epsilon_spent: float
    approvers: int = 0
    join: Join | None = None


class Answer(msgspec.Struct, frozen=True):
    """A department's own sums, not yet fit to leave: `noise` must be added where there is one."""

    plan: plan.Plan
    sums: LocalSums
    noise: dp.Noise | None


class Begun(msgspec.Struct, frozen=True, eq=False):
    """A model that was charged, and the rows that it is fitted on. They, and sums over them, are not fit to leave. `rules`: where exact."""

    request: Request
    schema: Schema
    rows: Rows
    rules: disclosure.Rules | None


class Gate:
    """The door of one department. `engines` maps each data set to its engine. `step` is told each step that `run` has made durable.

    `models` holds the files of the models that the catalogue declares: they have a door of their own (`sandbox.scoring.door`).
    """

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, Engine],
        state: State,
        step: Callable[[str], None] = lambda _name: None,
        models: Mapping[str, bytes] | None = None,
    ):
        self.catalog, self.state = catalog, state
        self.models = dict(models or {})
        self._engines = {name: engine.keyed(state.secret) for name, engine in engines.items()}
        self._step = step
        self._policies = policies(catalog)
        self._judge = Judge(catalog, self._engines, state, self._policies)
        self._cells: OrderedDict[str, Members] = OrderedDict()
        self._logged: OrderedDict[str, policy.Decision] = OrderedDict()
        self._lock = threading.RLock()

    # --- what reveals nothing of any row ---

    def describe(self) -> dict[str, Entry]:
        """The published side of the catalogue, with budgets as they stand."""
        return {name: self._entry(name, dataset) for name, dataset in self.catalog.datasets.items()}

    def explain(self, signed: keys.Signed, honest: int) -> Decision:
        """What `decide` would say. `honest`: see `dp.noise_for`."""
        with self._lock:
            return self._published(self._judge.judge(self._judge.open(signed), honest))

    def decide(self, signed: keys.Signed, honest: int) -> Decision:
        """Whether the request may run, with the reasons if not; logged, unless the same was decided before."""
        with self._lock:
            request = self._judge.open(signed)
            case = self._judge.judge(request, honest)
            self._log_decision(case)
            return self._published(case)

    # --- a release ---

    def overlaps(
        self, signed: keys.Signed, honest: int, released: tuple[differencing.Released, ...]
    ) -> differencing.Counts:
        """This department's counts for the differencing defence, not yet fit to leave: the caller masks them.

        `released` must name every release that this department knows. Raises `Denied` where the owner refuses on local differences alone and
        these are too small.
        """
        with self._lock:
            case = self._admitted(self._judge.open(signed), honest)
            if not case.exact:
                raise ScheduleError("only exact requests are compared with earlier releases")
            cells = self._members(case)
            self._check_local(case, cells)
            return self.state.cohorts.vector(case.table, cells, released)

    def refused(self, signed: keys.Signed) -> None:
        """Log that the coordinator refused a request on joint differences; `signed`: its `Clearance`, with the reasons."""
        public = self.state.roster.public(signed.signer, "coordinator")
        clearance = keys.open_(signed, CLEARANCE, Clearance, public)
        if not clearance.reasons:
            raise ScheduleError("a clearance without reasons refuses nothing")
        self.state.append(
            entries.Refusal(
                time=self.state.now(), request=clearance.request, reasons=_texts(clearance.reasons)
            )
        )

    def run(self, signed: keys.Signed, honest: int, clearance: keys.Signed | None = None) -> Answer:
        """Charge, keep the cohorts, log, compute. Raises before charging where the request could not run."""
        with self._lock:
            case = self._admitted(self._judge.open(signed), honest)
            assert case.plan is not None
            assert case.charge is not None
            if case.request.model is not None:
                raise ScheduleError("a model is fitted in rounds of its own")
            name, noise = case.table, None
            if case.charge.event is not None:
                assert isinstance(case.charge.event, Zcdp)
                noise = dp.noise_for(case.plan, case.dataset.rows_per_unit, case.charge.event.rho, honest)
            kept = self._charge(case, clearance)
        sums = self._engines[name].sums(case.plan, bounded=noise is not None)
        if (kept or case.pinned) and self._engines[name].version() != case.version:
            raise CatalogError(f"data set {name!r}: the data changed while they were read")
        self._step("computed")
        return Answer(case.plan, sums, noise)

    def joined(self, signed: keys.Signed) -> tuple[Case, Engine]:
        """A request on a joined table that may run, and where its rows are. Nothing is charged yet."""
        with self._lock:
            case = self._admitted(self._judge.open(signed), 1, joined=True)
        return case, self._engines[case.table]

    def join(self, signed: keys.Signed, clearance: keys.Signed | None = None) -> Case:
        """Charge for such a request, keep its question where it is exact, log: once that is durable its shares may leave."""
        with self._lock:
            case = self._admitted(self._judge.open(signed), 1, joined=True)
            self._charge(case, clearance, signed)
        self._step("computed")
        return case

    def begin(self, signed: keys.Signed, honest: int, clearance: keys.Signed | None = None) -> Begun:
        """The same for a model: charge all of its rounds, keep its cohort, log, read its rows. They stay here: only sums over them leave."""
        with self._lock:
            case = self._admitted(self._judge.open(signed), honest)
            if case.request.model is None:
                raise ScheduleError("the request is of no model")
            self._charge(case, clearance)
        return self._begun(case)

    def resume(self, signed: keys.Signed) -> Begun:
        """The rows of a training that was charged here before, by whatever process, while the data are the same. Charges nothing."""
        with self._lock:
            case = self._judge.recall(self._judge.open(signed))
            charge = self.state.charge_of(case.digest)
        if charge is None or not isinstance(case.request.model, Training):
            raise ScheduleError("no such training has begun here")
        if charge.data_version != case.version:
            raise CatalogError("the data have changed since this training began: it cannot go on")
        return self._begun(case)

    def _begun(self, case: Case) -> Begun:
        assert case.request.model is not None
        name, schema = case.table, case.dataset.schema()
        version, rows = read(self._engines[name], rows_of(case.request.model, schema), bounded=not case.exact)
        if version != case.version:
            raise CatalogError(f"data set {name!r}: the data changed while they were read")
        self._step("computed")
        return Begun(case.request, schema, rows, case.terms.rules if case.exact else None)

    def _charge(self, case: Case, clearance: keys.Signed | None, joined: keys.Signed | None = None) -> bool:
        """All of that but to compute; whether cohorts were kept, or of a joined table the request."""
        assert case.charge is not None
        name, event = case.table, case.charge.event
        cells, cleared, keep = None, tuple[str, ...](), False
        if case.exact and (case.compared or clearance is not None):
            cleared = self._cleared(case, clearance)
            earlier = self.state.cohorts if case.wide is None else self.state.joins
            if not {release.request for release in earlier.released(name)} <= set(cleared):
                raise ScheduleError("an earlier release was not compared with: ask again")
            keep = True
            if case.wide is None:
                cells = self._members(case)
                self._check_local(case, cells)
        charged = self.state.ledger.charge(case.charge, caps(case.terms))
        if charged.repeated:
            raise ScheduleError("this request has run before: it is answered once")
        self._step("charged")
        if case.contract is not None:
            self.state.approvals.use(case.contract, case.digest, case.charge.epsilon)
            self._step("counted")
        if cells is not None:
            self.state.cohorts.add(name, case.digest, cells, cleared)
        elif keep and joined is not None and case.plan is not None:
            scope = scope_of(case.request)
            self.state.joins.add(name, case.digest, scope, case.version, joined, case.plan.cells, cleared)
        if keep:
            self._step("kept")
        privacy = case.request.privacy
        self.state.append(
            entries.Charge(
                time=self.state.now(),
                request=case.digest,
                dataset=name,
                analyst=case.request.analyst,
                purpose=case.request.purpose[: entries.LONGEST],
                number=charged.number,
                epsilon=privacy.epsilon if privacy else None,
                delta=privacy.delta if privacy else None,
                rho=event.rho if isinstance(event, Zcdp) else None,
                contract=case.contract,
                cohorts=keep,
                data_version=case.version,
            )
        )
        self._step("logged")
        return keep

    def record(self, signed: keys.Signed) -> Evidence | None:
        """Log what came of a request that ran here, and prove it; None where this department is not in the sums.

        `signed`: the coordinator's `Record`.
        """
        public = self.state.roster.public(signed.signer, "coordinator")
        record = keys.open_(signed, RECORD, Record, public)
        statement = record.statement
        with self._lock:
            charge = self.state.charge_of(statement.request)
            if charge is None:
                raise ScheduleError("no such request was answered here")
            answered = {
                "federation": self.state.roster.federation,
                "analyst": charge.analyst,
                "purpose": charge.purpose,
                "epsilon": charge.epsilon,
                "delta": charge.delta,
                "rho": charge.rho,
            }
            for field, value in answered.items():
                if getattr(statement, field) != value:
                    raise ScheduleError(f"the record's {field!r} is not what was answered here")
            if self.state.release_of(statement.request) not in (None, statement.release):
                raise ScheduleError("another release of this request is recorded here: a request has one")
            included = self.state.department in record.departments
            if charge.cohorts and self.state.joins.knows(charge.request):
                self.state.joins.settle(charge.request, record.shown)
            elif charge.cohorts:
                self.state.cohorts.settle(charge.dataset, charge.request, record.shown, included=included)
            if not included:
                return None
            allowed = self.state.allowed_under(charge.request)
            if charge.dataset not in self._policies or allowed != self.state.policy_digest(charge.dataset):
                raise ScheduleError(
                    f"the policy of {charge.dataset!r} has changed since this request ran: its release is not attested under another"
                )
            contract, decisions = None, tuple[keys.Signed, ...]()
            if charge.contract is not None:
                contract = self.state.approvals.proposed(charge.contract)
                decisions = self.state.approvals.consents(charge.contract)
            entry = entries.Release(
                time=self.state.now(),
                department=self.state.department,
                statement=statement.digest(),
                request=statement.request,
                release=statement.release,
                dataset=charge.dataset,
                policy=self.state.policy_digest(charge.dataset),
                data_version=charge.data_version,
                code=code.version(),
                epsilon=charge.epsilon,
                delta=charge.delta,
                rho=charge.rho,
                contract=charge.contract,
                approvers=self._policies[charge.dataset].approvers,
                approved_by=tuple(decision.signer for decision in decisions),
            )
            evidence = attest(self.state.log, entry, contract, decisions)
            self.state.know(entry)
            return evidence

    # --- judging ---

    def _admitted(self, request: Request, honest: int, *, joined: bool = False) -> Case:
        """The case of a request that may run, or its refusal; logged whether or not the coordinator asked for a decision first."""
        if (request.query.joined is not None) != joined:
            raise ScheduleError("a joined table has rounds of its own, and no other has those")
        case = self._judge.judge(request, honest)
        self._log_decision(case)
        if isinstance(case.verdict, policy.Allow):
            return case
        error: type[Refused] = Denied
        if isinstance(case.verdict, policy.NeedsApproval):
            error = ApprovalNeeded
        elif _only_budget(case.verdict):
            error = BudgetExceeded
        raise error(policy.explainable(case.verdict))

    def _published(self, case: Case) -> Decision:
        """The part of a verdict that leaves the department."""
        reasons = policy.explainable(case.verdict)
        match case.verdict:
            case policy.Deny():
                return Deny(reasons, _only_budget(case.verdict))
            case policy.NeedsApproval(missing=missing):
                return NeedsApproval(reasons, missing)
        assert case.charge is not None
        joined = case.wide is not None
        released = self.state.cohorts.released(case.table) if case.exact and not joined else ()
        earlier = self.state.joins.released(case.table) if case.exact and joined else ()
        event = case.charge.event
        rho = event.rho if isinstance(event, Zcdp) else 0.0
        return Allow(case.verdict.rules, rho, case.epsilon_left, released, earlier)

    # --- differencing ---

    def _cleared(self, case: Case, signed: keys.Signed | None) -> tuple[str, ...]:
        """The releases from which the joint differences were looked at, by no smaller measure than this department's own."""
        if signed is None:
            return ()
        public = self.state.roster.public(signed.signer, "coordinator")
        clearance = keys.open_(signed, CLEARANCE, Clearance, public)
        if clearance.request != case.digest or clearance.reasons or clearance.least < case.least:
            raise ScheduleError("the clearance is of another request, or of a smaller difference")
        return clearance.released

    def _check_local(self, case: Case, cells: Members) -> None:
        """Refuse where the owner looks at this department's own rows alone, and they differ by too few."""
        if not case.terms.own.refuse_local_difference:
            return
        name, rows_per_unit = case.table, case.dataset.rows_per_unit
        reasons = self.state.cohorts.local_refusals(name, cells, case.least, rows_per_unit)
        if reasons:
            self._refuse(case, [f"of this department's own rows: {reason}" for reason in reasons])

    def _members(self, case: Case) -> Members:
        """The cell of every row, worked out once a request."""
        found = self._cells.get(case.digest)
        if found is None or found.version != case.version:
            assert case.plan is not None
            name = case.table
            engine = self._engines[name]
            if not self.state.cohorts.knows(name, case.version):
                self.state.cohorts.identify(name, *row_keys(engine))
            found = self._cells[case.digest] = members(engine, case.plan)
            while len(self._cells) > KEPT:
                self._cells.popitem(last=False)
        return found

    # --- budget, catalogue, log ---

    def _entry(self, name: str, dataset: DataSet) -> Entry:
        spent = self.state.ledger.spent(name, dataset.budget.delta).epsilon if dataset.budget else 0.0
        return Entry(
            dataset.level,
            dataset.purposes,
            dataset.schema(),
            dataset.description,
            dataset.budget,
            spent,
            self._policies[name].approvers,
            dataset.join,
        )

    def _log_decision(self, case: Case) -> None:
        """Log a request and what was decided, unless that was logged last."""
        if self._logged.get(case.digest) == case.verdict:
            return
        self.state.log_decisions()
        now, request = self.state.now(), case.request
        self.state.append(
            entries.Request(
                time=now,
                request=case.digest,
                dataset=case.table,
                analyst=request.analyst,
                purpose=request.purpose[: entries.LONGEST],
            ),
            entries.Decision(
                time=now,
                request=case.digest,
                policy=self.state.policy_digest(case.table),
                verdict=_VERDICTS[type(case.verdict)],
                reasons=_texts(reason.text for reason in case.verdict.reasons),
            ),
        )
        self._logged[case.digest] = case.verdict
        while len(self._logged) > 1024:
            self._logged.popitem(last=False)

    def _refuse(self, case: Case, reasons: Sequence[str]) -> NoReturn:
        self.state.append(
            entries.Refusal(time=self.state.now(), request=case.digest, reasons=_texts(reasons))
        )
        raise Denied(reasons)


def _only_budget(verdict: policy.Deny) -> bool:
    """Whether an analyst may know that nothing but a budget stands against it."""
    return verdict.budget and not any(reason.hidden for reason in verdict.reasons)


def _texts(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(reason[: entries.LONGEST] for reason in reasons)[: entries.MOST]

"""What stands for and against a request at one department: signature, policy, contract, plan, budget. Changes nothing.

Protects against: requests that the owner's policy does not allow, that no analyst of the roster signed, or that could not run; each is
found here, with every reason, before anything is charged.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

import msgspec

from . import approvals, disclosure, dp, fit, keys, plan, policy, training
from .accounting import Event, Zcdp
from .assessment import Contribution, Evaluation
from .catalog import Catalog, DataSet, Schema
from .cohort import cohort
from .engine import Engine
from .errors import BudgetExceeded, CallerError, Denied, ParameterError, QueryError
from .joining import door
from .joining.products import apart
from .joining.split import Split
from .joining.wide import Wide
from .ledger import Caps, Charge
from .request import LONGEST, REQUEST, Privacy, Request
from .state import State
from .training import Training

SKEW = 300  # seconds by which clocks may differ


class Case(msgspec.Struct, frozen=True):
    """One request at this data set, judged: what `decide` tells and `run` needs. `table` is its name here.

    Of a joined table `wide` is what it is, and `split` its plan, apart. `pinned`: its owner opened this version of the data alone, or its contract covers no other.
    """

    request: Request
    table: str
    dataset: DataSet
    terms: policy.Policy
    verdict: policy.Decision
    version: str
    plan: plan.Plan | None = None
    charge: Charge | None = None
    epsilon_left: float | None = None
    contract: str | None = None
    pinned: bool = False
    wide: Wide | None = None
    split: Split | None = None

    @property
    def digest(self) -> str:
        return self.request.digest().hex()

    @property
    def exact(self) -> bool:
        return self.request.privacy is None

    @property
    def compared(self) -> bool:
        """Whether this owner asks that its cohorts be compared with released ones. Where another does, they are too."""
        rules = self.terms.rules
        return self.exact and rules is not None and rules.min_cell > 1

    @property
    def least(self) -> int:
        """Units by which cohorts must differ, if at all."""
        assert self.terms.rules is not None
        return self.terms.rules.min_cell


class Judge:
    """Judges requests at one department. `engines` maps each data set to its engine."""

    def __init__(
        self,
        catalog: Catalog,
        engines: Mapping[str, Engine],
        state: State,
        policies: Mapping[str, policy.Policy],
    ):
        self._catalog, self._engines, self._state, self._policies = catalog, engines, state, policies

    def open(self, signed: keys.Signed) -> Request:
        """The request, once its analyst's signature is checked, and its time. A training that was charged in time may run for longer."""
        public = self._state.roster.public(signed.signer, "analyst")
        request = keys.open_(signed, REQUEST, Request, public)
        if request.analyst != signed.signer:
            raise Denied(["a request is signed by the analyst that it names"])
        now = self._state.now()
        if not isinstance(request.model, Training) or self._state.charge_of(request.digest().hex()) is None:
            keys.unexpired("the request", request.expires, now)
        if request.expires > now + LONGEST + SKEW:
            raise Denied([f"'expires' lies more than {LONGEST} seconds ahead"])
        return request

    def judge(self, request: Request, honest: int) -> Case:
        """The verdict of policy, plan and budget, with every reason. Changes nothing."""
        name = request.query.table_at(self._catalog.department)
        dataset = self._catalog.datasets.get(name)
        if dataset is None:
            known = ", ".join(sorted(self._catalog.datasets))
            raise Denied([f"no data set {name or request.query.table!r} here; there are: {known}"])
        rules, version = self._policies[name], self._engines[name].version()
        privacy, contract, why = request.privacy, None, ""
        epsilon = privacy.epsilon if privacy else None
        if rules.approvers:
            status, why = self._state.approvals.find(
                request.query, request.purpose, request.analyst, epsilon, version, request.model
            )
            contract = status
        facts = policy.Facts(
            request.purpose,
            request.analyst,
            self._state.roster.entry(request.analyst, "analyst").organisation,
            request.analysis,
            version,
            datetime.datetime.fromtimestamp(self._state.clock(), datetime.UTC),
            epsilon,
            privacy.delta if privacy else None,
        )
        verdict = policy.decide(rules, facts, self._history(name, dataset, request, contract))
        if isinstance(verdict, policy.NeedsApproval):
            reasons = (*verdict.reasons, policy.Reason("approvers", why))
            verdict = policy.NeedsApproval(reasons, verdict.missing)
        pinned = rules.own.data_version is not None or bool(contract and contract.contract.data_version)
        digest = contract.digest if contract else None
        case = Case(request, name, dataset, rules, verdict, version, contract=digest, pinned=pinned)
        return self._planned(case, honest)

    def recall(self, request: Request) -> Case:
        """A request that ran here before, as far as that needs no verdict."""
        name = request.query.table
        dataset = self._catalog.datasets.get(name)
        if dataset is None:
            raise Denied([f"no data set {name!r} here"])
        verdict = policy.Deny(())
        return Case(request, name, dataset, self._policies[name], verdict, self._engines[name].version())

    def _planned(self, case: Case, honest: int) -> Case:
        """The case with its plan and its charge, or with what stands against them."""
        request, dataset, privacy = case.request, case.dataset, case.request.privacy
        against = list(case.verdict.reasons) if isinstance(case.verdict, policy.Deny) else []
        wide, pieces = None, None
        against += door.against(case.request, case.table, dataset, case.terms, self._state, case.version)
        try:
            schema = dataset.schema()
            if request.query.joined is not None:
                wide = door.wide_at(request, self._catalog.department, dataset)
                schema = wide.schema
            compiled = plan.compile(request.query, schema, exact=privacy is None)
            if wide is not None:
                pieces = apart(request, compiled, wide)
            if request.model is not None and not _cohort_of(request, schema):
                raise QueryError("the request's query is not the cohort of its model")
            self._assess(request)
        except CallerError as error:
            return _denied(case, [*against, policy.Reason("query", str(error))])
        if case.compared and disclosure.choosing(compiled, schema):
            text = (
                "an exact aggregate may not choose among a group's rows by a condition: move the condition to filter() or group_by(), "
                "or give an epsilon"
            )
            against.append(policy.Reason("conditions", text))
        if case.compared and fit.places(request.model):
            text = "'init': an exact k-means begins from centres that are drawn; leave 'init' out, or give an epsilon"
            against.append(policy.Reason("init", text))
        event: Event | None = None
        left = None
        if privacy is not None and dataset.budget is not None:
            event = cost(request, privacy)
            if request.model is None:
                assert isinstance(event, Zcdp)
                if wide is None:
                    dp.noise_for(compiled, dataset.rows_per_unit, event.rho, honest)
                else:
                    dp.joined_noise(compiled, event.rho, len(wide.departments))
        charge = Charge(
            request.digest(),
            case.table,
            request.analyst,
            request.purpose,
            self._state.clock(),
            event,
            privacy.epsilon if privacy else None,
            request.analysis,
        )
        try:
            left = self._state.ledger.preview(charge, caps(case.terms)).left
        except BudgetExceeded as error:
            said = {_what(reason.text) for reason in against}
            spent = self._unaffordable(charge, case.terms, error.reasons)
            against += [reason for reason in spent if _what(reason.text) not in said]
        if against:
            return _denied(case, against)
        left = left if event is not None else None
        return msgspec.structs.replace(
            case, plan=compiled, charge=charge, epsilon_left=left, wide=wide, split=pieces
        )

    def _assess(self, request: Request) -> None:
        """Raise `CallerError` unless what is evaluated was released, and contributions are asked for exactly."""
        if isinstance(request.model, Evaluation):
            request.model.check(self._state.roster)
        if isinstance(request.model, Contribution) and request.privacy is not None:
            raise ParameterError("'epsilon': contributions are exact; give none")

    def _unaffordable(
        self, charge: Charge, rules: policy.Policy, reasons: Sequence[str]
    ) -> list[policy.Reason]:
        """The ledger's reasons. One that would not be given but for a hidden setting is hidden too."""
        told: tuple[str, ...] = ()
        try:
            self._state.ledger.preview(charge, caps(rules, hidden=False))
        except BudgetExceeded as error:
            told = error.reasons
        return [policy.Reason("budget", reason, reason not in told) for reason in reasons]

    def _history(
        self, name: str, dataset: DataSet, request: Request, contract: approvals.Status | None
    ) -> policy.History:
        delta = dataset.budget.delta if dataset.budget else 1e-6
        everyone = self._state.ledger.spent(name, delta)
        mine = self._state.ledger.spent(name, delta, request.analyst)
        approved = frozenset(contract.approved_by) if contract else frozenset()
        return policy.History(everyone.releases, mine.releases, everyone.epsilon, mine.epsilon, approved)


def policies(catalog: Catalog) -> dict[str, policy.Policy]:
    """The policy of every data set; raises `CatalogError` where an owner's settings loosen their level's."""
    return {name: policy.of(name, dataset) for name, dataset in catalog.datasets.items()}


def cost(request: Request, privacy: Privacy) -> Event:
    """What a DP request costs in all. Raises `ParameterError` where a training costs more than its request says."""
    if not isinstance(request.model, Training):
        return Zcdp(dp.rho_of(privacy.epsilon, privacy.delta))
    charged, spent = training.event(request.model), training.epsilon(request.model, privacy.delta)
    if charged is None or spent is None or spent > privacy.epsilon * (1 + 1e-9):
        raise ParameterError(
            f"'epsilon' is {privacy.epsilon:g}, and the training costs {'nothing' if spent is None else f'{spent:g}'}: they must agree"
        )
    return charged


def caps(rules: policy.Policy, *, hidden: bool = True) -> Caps:
    """What the ledger must not let pass, with the owner's `hidden` settings or without."""
    budget, own = rules.budget, rules.own
    left_out = () if hidden else own.hidden
    return Caps(
        epsilon=budget.epsilon if budget else None,
        delta=budget.delta if budget else None,
        analyst_epsilon=None if "epsilon_per_analyst" in left_out else own.epsilon_per_analyst,
        releases=None if "releases" in left_out else own.releases,
        analyst_releases=None if "releases_per_analyst" in left_out else own.releases_per_analyst,
    )


def _what(reason: str) -> str:
    """What a reason is about: policy and ledger may both speak of one budget."""
    return reason.partition(":")[0]


def _denied(case: Case, reasons: Sequence[policy.Reason]) -> Case:
    return msgspec.structs.replace(case, verdict=policy.Deny(tuple(reasons)))


def _cohort_of(request: Request, schema: Schema) -> bool:
    """Whether a request's query is the cohort of its model, on the same table."""
    assert request.model is not None
    wanted = cohort(request.model, schema)
    return msgspec.structs.replace(wanted, join=request.query.join) == request.query

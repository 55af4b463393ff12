"""The broker: drives one request through its rounds, as the coordinator does. It sees masked words and joint sums.

    decide ── every department says yes or no, and nothing is spent
    overlaps ── exact: the joint differences from earlier releases, as a secure sum; one that is too small ends it, and nothing is spent
    masked, unmask ── each charges its budget, computes, adds noise, masks; survivors take the masks off the sum (`summing`)
    record ── each logs what was released, and gives its evidence for the receipt

A department that fails or vanishes after `decide` is left out, visibly, as long as enough remain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from mpc.errors import ProtocolError
from mpc.fixedpoint import Encoding
from mpc.secagg import Setting
from sandbox import code, cohorts, differencing, disclosure, dp, keys, receipt
from sandbox.catalog import Schema
from sandbox.differencing import Released
from sandbox.errors import (
    ApprovalNeeded,
    BudgetExceeded,
    Denied,
    DepartmentFailed,
    QueryError,
    Refused,
    SchemaMismatch,
    TooFewDepartments,
)
from sandbox.fit import Fit
from sandbox.gate import Allow, Deny, NeedsApproval
from sandbox.joining import products
from sandbox.joining.products import apart
from sandbox.joining.wide import Wide
from sandbox.members import layers
from sandbox.plan import Plan
from sandbox.plan import compile as compile_plan
from sandbox.query import canonical
from sandbox.request import CLEARANCE, RECORD, Clearance, Record, Request
from sandbox.roster import Roster

from . import encoding, messages, rounds
from .admission import Admitted, Poll
from .fitting import Asked
from .joining import driving
from .joining import question as asking
from .network import Failure, Network
from .node import EXACT_CONTRIBUTORS
from .rounds import Modelled
from .summing import Progress, Sum, Summation, ask, named

NAME = "coordinator"
NOISY_DEPARTMENTS = 2
T = TypeVar("T")


class Outcome(msgspec.Struct, frozen=True):
    """What the coordinator holds at the end of a request."""

    joint: encoding.JointSums
    rules: disclosure.Rules | None
    noise: dp.Noise | None
    present: tuple[str, ...]
    missing: dict[str, str]
    epsilon_left: dict[str, float]
    sizes: dict[str, int] = {}  # of a join: each table's padded rows

    @property
    def rho(self) -> float | None:
        return self.noise.rho if self.noise else None


class Broker:
    """Runs requests over a network, one at a time. `key` is the coordinator's own, under `name` in the roster."""

    def __init__(
        self,
        network: Network,
        roster: Roster,
        key: keys.SigningKey,
        setting: Setting = "honest-but-curious",
        name: str = NAME,
    ):
        self.setting, self.roster = setting, roster
        self.key, self.name = key, name
        self._lock = threading.Lock()
        self._untold: dict[str, list[bytes]] = {}
        self.attach(network)

    def attach(self, network: Network) -> None:
        """Go on over another network to the same departments, with a new set-up."""
        self.network = network
        self._sums = Summation(network, {m.name: m.public for m in self.roster.of("node")}, self.setting)

    def threshold(self, departments: int) -> int:
        """How many departments must remain; as many add noise enough for all."""
        return self._sums.threshold(departments)

    def noise(self, request: Request, plan: Plan, schema: Schema, departments: int) -> dp.Noise | None:
        """The noise of a DP query; raises `ParameterError` where none serves. Models have noise of their own."""
        if request.privacy is None or request.model is not None:
            return None
        if request.query.joined is not None:
            noise = dp.joined_noise(
                plan, dp.rho_of(request.privacy.epsilon, request.privacy.delta), departments
            )
            encoding.check_distance(noise, plan.entries, request.privacy.delta)
            return noise
        rho, delta = dp.rho_of(request.privacy.epsilon, request.privacy.delta), request.privacy.delta
        return encoding.check_noise(plan, schema.rows_per_unit, rho, self.threshold(departments), delta)

    def explain(self, signed: keys.Signed, departments: tuple[str, ...], schema: Schema) -> Poll:
        """What every department would decide; logged nowhere."""
        return self._poll("explain", signed, departments, schema)

    def run(
        self,
        signed: keys.Signed,
        departments: tuple[str, ...],
        schema: Schema,
        progress: Progress = lambda _: None,
    ) -> Outcome:
        """The joint sums of a request, or an error with every reason; before `masked` nothing is spent."""
        with self._lock:
            return self._run(signed, departments, schema, progress)

    def join(
        self, signed: keys.Signed, wide: Wide, progress: Progress = lambda _: None
    ) -> Outcome | Modelled:
        """The joint sums, or the model, of a request on a joined table: of all its departments, or an error; before they compute nothing is spent."""
        with self._lock:
            return self._join(signed, wide, progress)

    def model(
        self,
        signed: keys.Signed,
        asked: Asked,
        departments: tuple[str, ...],
        schema: Schema,
        progress: Progress = lambda _: None,
        save: Callable[[bytes], None] = lambda _: None,
    ) -> Modelled:
        """A model, round by round. Departments charge for all rounds at the first; before that nothing is spent.

        A department that vanishes from a fit stays out of it. From a training it stays out for a while: one that was started anew goes on.
        `save` is given what another process of the coordinator's needs to go on, before each round.
        """
        with self._lock:
            case = self._admit(signed, departments, schema, progress)
            return rounds.run(self._sums, case, asked, progress, save)

    def compared(self, plan: Plan, poll: Poll) -> int:
        """How many counts each department would send to be compared with earlier releases; 0 where there are none."""
        released = _merged(poll.allowed)
        if not released or _least(poll) <= 1:
            return 0
        return len(layers(plan)) * differencing.layout(plan.cells, released)

    def propose(self, signed: keys.Signed, departments: tuple[str, ...]) -> dict[str, str]:
        """Hand a usage contract to every department; who failed to take it, and why."""
        return self._each("propose", canonical(signed), departments, bytes)[1]

    def contract(self, digest: str, departments: tuple[str, ...]) -> dict[str, messages.ContractState]:
        """How a contract stands at each department that answers."""
        return self._each("contract", digest.encode(), departments, messages.ContractState)[0]

    def record(
        self, request: Request, release: str, outcome: Outcome | Modelled, shown: tuple[int, ...]
    ) -> tuple[bytes, dict[str, str]]:
        """Have the release logged by every department in it. Returns the receipt, and who gave no evidence and why.

        The statement names the departments that attest it: where one does not answer, the others attest anew without it.
        Whoever did not hear of it, or vanished before the sum and may have kept its cohorts, is told before the next request.
        """
        missing: dict[str, str] = {}
        with self._lock:
            while names := tuple(name for name in outcome.present if name not in missing):
                statement = receipt.Statement(
                    federation=self.roster.federation,
                    request=request.digest().hex(),
                    release=release,
                    analyst=request.analyst,
                    purpose=request.purpose,
                    code=code.version(),
                    departments=names,
                    issued=int(time.time()),
                    epsilon=request.privacy.epsilon if request.privacy else None,
                    delta=request.privacy.delta if request.privacy else None,
                    rho=outcome.rho,
                )
                record = keys.seal(self.key, self.name, RECORD, Record(statement, outcome.present, shown))
                evidence, failed = self._each("record", canonical(record), names, receipt.Evidence)
                if len(names) == len(outcome.present):
                    for name in (*outcome.missing, *failed):
                        self._untold.setdefault(name, []).append(canonical(record))
                if not failed:
                    return receipt.issue(statement, list(evidence.values()), self.key, self.name), missing
                missing.update(failed)
        return b"", missing

    # --- the rounds ---

    def _run(
        self, signed: keys.Signed, departments: tuple[str, ...], schema: Schema, progress: Progress
    ) -> Outcome:
        case = self._admit(signed, departments, schema, progress)
        noise = self.noise(case.request, case.plan, schema, len(departments))
        layout = {"max_rows": schema.max_rows, "parties": len(departments)}
        wanted = Sum(
            "masked",
            case.request.digest(),
            encoding.words(case.plan, **layout),
            lambda session, slot: messages.encode(
                messages.Masked(session, slot, canonical(signed), case.clearance)
            ),
            case.needed,
            "computing and masking",
        )
        vector = self._sums.run(wanted, departments, case.missing, progress)
        case.unchanged()
        try:
            joint = encoding.decode(case.plan, vector, noise, present=len(case.present), **layout)
        except ProtocolError as error:  # a department masked what is not its sums
            raise DepartmentFailed(f"the joint sums are none: {error}") from None
        return Outcome(joint, case.rules, noise, case.present, case.missing, case.epsilon_left)

    def _join(self, signed: keys.Signed, wide: Wide, progress: Progress) -> Outcome | Modelled:
        request: Request = keys.decode(signed.body, Request)
        exact, departments = request.privacy is None, wide.departments
        plan = compile_plan(request.query, wide.schema, exact=exact)
        pieces = apart(request, plan, wide)
        # Every department is in each row: none may be missing.
        needed = max(len(departments), EXACT_CONTRIBUTORS if exact else NOISY_DEPARTMENTS)
        poll = self._decided(signed, request, plan, departments, wide.schema, needed, progress)
        rules = disclosure.strictest([a.rules for a in poll.allowed.values() if a.rules]) if exact else None
        roster = {name: self.roster.public(name, "node") for name in departments}
        driver = driving.Driver(self.network, roster, signed, wide, progress)
        clearance = b""
        if (least := _least(poll)) > 1:
            names, reasons = driver.compared(plan, driving.merged(poll.allowed), least)
            clearance = self._sealed(request, names, least, reasons, poll)
        noise = self.noise(request, plan, wide.schema, len(departments))
        sums = driver.sums(pieces, clearance, noise=noise is not None)
        left = {name: a.epsilon_left for name, a in poll.allowed.items() if a.epsilon_left is not None}
        if isinstance(request.model, Fit):
            from .joining import regression

            asked = products.regression(request.model, plan, wide)
            found = regression.model(request.model, wide, asked, sums, rules)
            return Modelled(found, rules, tuple(sorted(departments)), {}, left, None, driver.sizes)
        joint = asking.joint(pieces, sums, noise, len(departments))
        return Outcome(joint, rules, noise, tuple(sorted(departments)), {}, left, driver.sizes)

    def _decided(
        self,
        signed: keys.Signed,
        request: Request,
        plan: Plan,
        departments: tuple[str, ...],
        schema: Schema,
        needed: int,
        progress: Progress,
    ) -> Poll:
        """Every department's yes, of `needed` at least; raises what they say otherwise."""
        self._tell(departments)
        if len(departments) < needed:
            raise TooFewDepartments([_too_few(request, len(departments), needed)])
        self.noise(request, plan, schema, len(departments))
        progress("deciding")
        poll = self._poll("decide", signed, departments, schema)
        if poll.denied or poll.waiting:
            raise _refusal(poll)
        if len(poll.allowed) < needed:
            raise TooFewDepartments([_too_few(request, len(poll.allowed), needed, poll.missing)])
        return poll

    def _admit(
        self, signed: keys.Signed, departments: tuple[str, ...], schema: Schema, progress: Progress
    ) -> Admitted:
        request: Request = keys.decode(signed.body, Request)
        exact = request.privacy is None
        plan = compile_plan(request.query, schema, exact=exact)
        needed = max(self.threshold(len(departments)), EXACT_CONTRIBUTORS if exact else NOISY_DEPARTMENTS)
        poll = self._decided(signed, request, plan, departments, schema, needed, progress)
        missing = dict(poll.missing)
        rules = disclosure.strictest([a.rules for a in poll.allowed.values() if a.rules]) if exact else None
        clearance = self._cleared(signed, request, plan, schema, departments, poll, needed, missing, progress)
        compared = frozenset(missing) if self.compared(plan, poll) else None
        return Admitted(signed, request, plan, departments, poll, needed, missing, rules, clearance, compared)

    def _cleared(
        self,
        signed: keys.Signed,
        request: Request,
        plan: Plan,
        schema: Schema,
        departments: tuple[str, ...],
        poll: Poll,
        needed: int,
        missing: dict[str, str],
        progress: Progress,
    ) -> bytes:
        """A signed clearance once no joint difference from an earlier release is too small; empty where no owner asks for that.

        Where one asks, all departments keep their cohorts: the joint ones are compared.
        """
        least = _least(poll)
        if least <= 1:
            return b""
        released, words = _merged(poll.allowed), self.compared(plan, poll)
        reasons: tuple[str, ...] = ()
        if words:
            reasons = self._close(
                signed, request, plan, schema, departments, released, least, words, needed, missing, progress
            )
        names = tuple(r.request for r in released)
        return self._sealed(request, names, least, reasons, poll)

    def _sealed(
        self, request: Request, released: tuple[str, ...], least: int, reasons: tuple[str, ...], poll: Poll
    ) -> bytes:
        """A signed clearance; one with reasons refuses, and every department is told."""
        clearance = Clearance(request.digest().hex(), released, least, reasons)
        sealed = canonical(keys.seal(self.key, self.name, CLEARANCE, clearance))
        if reasons:
            self._each("refused", sealed, tuple(poll.allowed), bytes)
            raise Denied(reasons)
        return sealed

    def _close(
        self,
        signed: keys.Signed,
        request: Request,
        plan: Plan,
        schema: Schema,
        departments: tuple[str, ...],
        released: tuple[Released, ...],
        least: int,
        words: int,
        needed: int,
        missing: dict[str, str],
        progress: Progress,
    ) -> tuple[str, ...]:
        """Why the joint differences from earlier releases are too small, if they are."""
        sets, shape = layers(plan), tuple(len(key.domain) for key in plan.keys)
        wanted = Sum(
            "overlaps",
            messages.overlaps_digest(request),
            words,
            lambda session, slot: messages.encode(
                messages.Overlaps(session, slot, canonical(signed), canonical(released))
            ),
            needed,
            "comparing with earlier releases",
        )
        vector = self._sums.run(wanted, departments, missing, progress)
        joint = Encoding(schema.max_rows * len(departments), len(departments)).decode(vector)
        return cohorts.refusals(joint.reshape(len(sets), -1), shape, released, least, schema.rows_per_unit)

    def _tell(self, departments: tuple[str, ...]) -> None:
        """Hand over the records that departments have not heard of; what they say to them does not matter any more."""
        for name in departments:
            untold = self._untold.pop(name, [])
            while untold:
                if isinstance(self.network.call("record", {name: untold[0]})[name], Failure):
                    self._untold[name] = untold
                    break
                untold.pop(0)

    def _poll(self, kind: str, signed: keys.Signed, departments: tuple[str, ...], schema: Schema) -> Poll:
        body = messages.encode(messages.Ask(canonical(signed), self.threshold(len(departments))))
        replies, missing = self._each(kind, body, departments, messages.Decided)
        poll, table = Poll({}, {}, {}, missing), keys.decode(signed.body, Request).query.table
        self._sums.met({name: decided.instance for name, decided in replies.items()})
        for name, decided in replies.items():
            match decided.decision:
                case Deny():
                    poll.denied[name] = decided.decision
                case NeedsApproval():
                    poll.waiting[name] = decided.decision
                case Allow() if decided.schema != schema.digest():
                    raise SchemaMismatch(f"{name} declares table {table!r} differently from the others")
                case Allow():
                    poll.allowed[name] = decided.decision
        return poll

    def _each(
        self, kind: str, body: bytes, departments: tuple[str, ...], reply: type[T]
    ) -> tuple[dict[str, T], dict[str, str]]:
        """One round of the same body to all: the replies, and who gave none that can be read."""
        found: dict[str, T] = {}
        missing: dict[str, str] = {}
        for name, data in ask(self.network, kind, dict.fromkeys(departments, body)).items():
            if isinstance(data, Failure):
                missing[name] = data.reason
                continue
            try:
                found[name] = data if reply is bytes else messages.decode_json(data, reply)  # type: ignore[assignment]
            except QueryError as error:
                missing[name] = str(error)
        return found, missing


def _least(poll: Poll) -> int:
    """The smallest difference that the strictest owner lets pass."""
    return max((allow.rules.min_cell for allow in poll.allowed.values() if allow.rules), default=0)


def _merged(allowed: Mapping[str, Allow]) -> tuple[Released, ...]:
    """The earlier releases of all departments. Where one has not heard yet which cells were shown, the others have."""
    merged: dict[str, Released] = {}
    for allow in allowed.values():
        for release in allow.released:
            other = merged.get(release.request, release)
            shown = tuple(sorted(set(other.shown) & set(release.shown)))
            merged[release.request] = Released(release.request, release.shape, shown)
    return tuple(merged[name] for name in sorted(merged))


def _refusal(poll: Poll) -> Refused:
    """Every reason of every department, those that all give said once."""
    against: Mapping[str, Deny | NeedsApproval] = poll.denied or poll.waiting
    by_reason: dict[str, list[str]] = {}
    for name, decision in sorted(against.items()):
        for reason in decision.reasons:
            by_reason.setdefault(reason, []).append(name)
    reasons = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    if not poll.denied:
        return ApprovalNeeded(reasons)
    return (BudgetExceeded if all(d.budget for d in poll.denied.values()) else Denied)(reasons)


def _too_few(request: Request, present: int, needed: int, missing: Mapping[str, str] | None = None) -> str:
    mode = "an exact joint value" if request.privacy is None else "this release"
    why = f"; missing: {named(missing)}" if missing else ""
    hint = (
        " (with fewer, each could subtract its own part: give an epsilon for a DP release)"
        if request.privacy is None
        else ""
    )
    return f"{present} departments take part; {mode} needs at least {needed}{hint}{why}"

"""The owner's policy: may this request be answered? A pure function of the policy, the request and what was released before.

Defaults follow from the data set's level (GB/T 43697-2024); the owner's own settings in the catalogue (`[datasets.x.policy]`) may only tighten
them, and `of` raises `CatalogError` for one that would loosen. `decide` gives *every* reason, not only the first, and denies before it asks
for approval, and asks for approval before it allows: nobody is asked to approve what could not run.

| level | kinds | approvers |
|---|---|---|
| core | none | |
| important | dp | 2 |
| general-4 to general-1 | exact (rules in `disclosure.RULES`), dp | 0 |

No clock and no storage: `now` is a fact, and what was spent before is the history. Whether a budget covers a release is for the ledger
alone to say, at the moment of charging; here a spent budget is only told early.

Protects against an analyst who asks for what the owner does not permit, and against one person who approves twice under two spellings
or approves his own request. That names are who they say is for the signatures on requests and approvals.
"""

from __future__ import annotations

import datetime
import unicodedata
from typing import Literal

import msgspec

from . import disclosure
from .catalog import Budget, DataSet, Level, Overrides
from .disclosure import Rules
from .errors import CatalogError, ParameterError
from .query import Node

Kind = Literal["exact", "dp"]

KINDS: dict[Level, tuple[Kind, ...]] = {"core": (), "important": ("dp",)}
APPROVERS: dict[Level, int] = {"important": 2}
_ALL: tuple[Kind, ...] = ("exact", "dp")
NAMED = frozenset({"evaluation_by_department", "contribution"})  # which show single departments' values
_BUDGET = frozenset({"budget", "releases", "releases_per_analyst", "epsilon_per_analyst"})


class Policy(msgspec.Struct, frozen=True):
    """What holds for one data set: the level's defaults, tightened by its owner's settings. None means no limit."""

    dataset: str
    level: Level
    purposes: tuple[str, ...]
    kinds: tuple[Kind, ...]
    approvers: int
    rules: Rules | None
    budget: Budget | None
    own: Overrides


class Facts(msgspec.Struct, frozen=True):
    """What a request asks. With `epsilon` and `delta` it is a DP request. `data_version` is the one that would be read."""

    purpose: str
    analyst: str
    organisation: str
    analysis: str
    data_version: str
    now: datetime.datetime
    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ParameterError("'now' needs a time zone")
        if (self.epsilon is None) != (self.delta is None):
            raise ParameterError("'epsilon' and 'delta' are given together, or neither")

    @property
    def kind(self) -> Kind:
        return "exact" if self.epsilon is None else "dp"


class History(msgspec.Struct, frozen=True):
    """What happened before on the data set, and who has approved this very request (approvals that were verified and are still valid)."""

    releases: int = 0
    releases_by_analyst: int = 0
    epsilon: float = 0.0
    epsilon_by_analyst: float = 0.0
    approvals: frozenset[str] = frozenset()


class Reason(msgspec.Struct, frozen=True):
    """One reason, in words the analyst can act on; `rule` names the setting it comes from. `hidden`: for the owner only."""

    rule: str
    text: str
    hidden: bool = False


class Allow(Node, frozen=True, tag="allow"):
    """Permitted, and why; an exact result must keep `rules`."""

    reasons: tuple[Reason, ...]
    rules: Rules | None = None


class NeedsApproval(Node, frozen=True, tag="needs_approval"):
    """Permitted once `missing` more people approve."""

    reasons: tuple[Reason, ...]
    missing: int


class Deny(Node, frozen=True, tag="deny"):
    """Refused, with every reason."""

    reasons: tuple[Reason, ...]

    @property
    def budget(self) -> bool:
        """Whether nothing but a budget, or a number of releases, stands against it."""
        return all(reason.rule in _BUDGET for reason in self.reasons)


Decision = Allow | NeedsApproval | Deny


def decide(policy: Policy, facts: Facts, history: History) -> Decision:
    """Deny before approval before allow, each with every reason."""
    hidden = frozenset(policy.own.hidden)
    against = [
        *_level(policy, facts),
        *_who(policy, facts),
        *_what(policy, facts),
        *_privacy(policy, facts),
        *_spent(policy, facts, history),
    ]
    if against:
        return Deny(tuple(_marked(against, hidden)))
    people = {person(name) for name in history.approvals} - {person(facts.analyst)}
    missing = policy.approvers - len(people)
    if missing > 0:
        text = (
            f"{policy.dataset!r} needs the approval of {policy.approvers} of its approvers, none of them the analyst; "
            f"{len(people)} given so far"
        )
        return NeedsApproval(tuple(_marked([("approvers", text)], hidden)), missing)
    reasons = [
        ("kinds", f"{facts.kind} releases of {policy.dataset!r} are permitted to {facts.analyst!r}"),
        ("purposes", f"purpose {facts.purpose!r} is permitted"),
    ]
    if policy.approvers:
        reasons.append(("approvers", f"approved by {', '.join(sorted(history.approvals))}"))
    return Allow(tuple(_marked(reasons, hidden)), policy.rules if facts.kind == "exact" else None)


def explainable(decision: Decision) -> tuple[str, ...]:
    """The reasons that an analyst may read. That some are hidden is said; which, is not."""
    shown = tuple(reason.text for reason in decision.reasons if not reason.hidden)
    if isinstance(decision, Deny) and len(shown) < len(decision.reasons):
        return (*shown, "the owner's policy refuses it for reasons that are not published: ask the owner")
    return shown


def person(name: str) -> str:
    """One spelling for one name: case, width and spaces do not make another person."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def of(name: str, dataset: DataSet) -> Policy:
    """The policy of a data set; raises `CatalogError` naming the setting that contradicts its level, its budget or itself."""
    own = dataset.policy or Overrides()
    kinds = KINDS.get(dataset.level, _ALL)
    approvers = APPROVERS.get(dataset.level, 0)
    rules = disclosure.RULES[dataset.level]
    for field, reason in _contradictions(own, dataset, kinds, approvers, rules):
        raise CatalogError(f"data set {name!r}, policy: {field!r} {reason}")
    if rules is not None:
        rules = msgspec.structs.replace(
            rules, min_cell=own.min_cell or rules.min_cell, rounding=own.rounding or rules.rounding
        )
    return Policy(
        name,
        dataset.level,
        dataset.purposes,
        own.kinds if own.kinds is not None else kinds,
        own.approvers if own.approvers is not None else approvers,
        rules,
        dataset.budget,
        own,
    )


_Rule = tuple[str, str]


def _marked(reasons: list[_Rule], hidden: frozenset[str]) -> list[Reason]:
    return [Reason(rule, text, rule in hidden) for rule, text in reasons]


def _level(policy: Policy, facts: Facts) -> list[_Rule]:
    if policy.level == "core":
        return [("level", f"{policy.dataset!r} is core data: it is never shared")]
    if facts.kind in policy.kinds:
        return []
    if policy.level == "important":
        return [("kinds", f"{policy.dataset!r} is important data: only DP releases, so give an epsilon")]
    if facts.kind == "exact":
        return [("kinds", f"{policy.dataset!r} is open to DP releases only: give an epsilon")]
    return [("kinds", f"{policy.dataset!r} is open to exact releases only: give no epsilon")]


def _who(policy: Policy, facts: Facts) -> list[_Rule]:
    own, found, today = policy.own, [], facts.now.astimezone(datetime.UTC).date()
    if own.analysts is not None and facts.analyst not in own.analysts:
        found.append(
            (
                "analysts",
                f"analyst {facts.analyst!r} is not among those whom the owner of {policy.dataset!r} permits",
            )
        )
    if own.organisations is not None and facts.organisation not in own.organisations:
        found.append(
            (
                "organisations",
                f"organisation {facts.organisation!r} is not among those that the owner of {policy.dataset!r} permits",
            )
        )
    if own.valid_from is not None and today < own.valid_from:
        found.append(
            ("valid_from", f"{policy.dataset!r} may be asked from {own.valid_from.isoformat()} (UTC) on")
        )
    if own.valid_until is not None and today > own.valid_until:
        found.append(
            ("valid_until", f"{policy.dataset!r} could be asked until {own.valid_until.isoformat()} (UTC)")
        )
    return found


def _what(policy: Policy, facts: Facts) -> list[_Rule]:
    own, found = policy.own, []
    if facts.purpose not in policy.purposes:
        permitted = ", ".join(map(repr, policy.purposes))
        found.append(
            (
                "purposes",
                f"purpose {facts.purpose!r} is not permitted for {policy.dataset!r}; permitted are: {permitted}",
            )
        )
    if own.analyses is not None and facts.analysis not in own.analyses:
        permitted = ", ".join(map(repr, own.analyses))
        found.append(
            (
                "analyses",
                f"analysis {facts.analysis!r} is not permitted for {policy.dataset!r}; permitted are: {permitted}",
            )
        )
    if own.analyses is None and facts.analysis in NAMED:
        text = f"analysis {facts.analysis!r} shows single departments' values, and the owner of {policy.dataset!r} does not name it in 'analyses'"
        found.append(("analyses", text))
    if own.data_version is not None and facts.data_version != own.data_version:
        found.append(
            (
                "data_version",
                f"the data of {policy.dataset!r} have changed since their owner opened this version: ask the owner",
            )
        )
    return found


def _privacy(policy: Policy, facts: Facts) -> list[_Rule]:
    if facts.epsilon is None or facts.delta is None:
        return []
    if policy.budget is None:
        return [("kinds", f"{policy.dataset!r} has no privacy budget: DP releases are not offered")]
    found = []
    most = policy.own.epsilon_per_release
    if not facts.epsilon > 0 or (most is not None and facts.epsilon > most):
        upto = "" if most is None else f", to {most:g} a release"
        found.append(
            (
                "epsilon_per_release",
                f"'epsilon' is {facts.epsilon:g}; {policy.dataset!r} allows above 0{upto}",
            )
        )
    if not 0 < facts.delta <= policy.budget.delta:
        found.append(
            (
                "delta",
                f"'delta' is {facts.delta:g}; {policy.dataset!r} allows at most {policy.budget.delta:g}",
            )
        )
    return found


def _spent(policy: Policy, facts: Facts, history: History) -> list[_Rule]:
    own, of, found = policy.own, f"of {policy.dataset!r}", []
    mine = f"{of} for analyst {facts.analyst!r}"
    if own.releases is not None and history.releases >= own.releases:
        found.append(("releases", f"releases {of}: {history.releases} of {own.releases} are used"))
    if own.releases_per_analyst is not None and history.releases_by_analyst >= own.releases_per_analyst:
        found.append(
            (
                "releases_per_analyst",
                f"releases {mine}: {history.releases_by_analyst} of {own.releases_per_analyst} are used",
            )
        )
    if facts.kind == "dp" and policy.budget is not None:
        if history.epsilon >= policy.budget.epsilon:
            found.append(
                (
                    "budget",
                    f"privacy budget {of}: epsilon {policy.budget.epsilon:g} is spent, nothing is left",
                )
            )
        if own.epsilon_per_analyst is not None and history.epsilon_by_analyst >= own.epsilon_per_analyst:
            found.append(
                (
                    "epsilon_per_analyst",
                    f"privacy budget {mine}: epsilon {own.epsilon_per_analyst:g} is spent, nothing is left",
                )
            )
    return found


def _contradictions(
    own: Overrides, dataset: DataSet, kinds: tuple[Kind, ...], approvers: int, rules: Rules | None
) -> list[_Rule]:
    """What the owner's settings may not say at this level."""
    found, level = [], dataset.level
    wider = [kind for kind in own.kinds or () if kind not in kinds]
    if wider:
        found.append(("kinds", f"adds {wider[0]!r}, which level {level} does not offer"))
    if own.approvers is not None and own.approvers < approvers:
        found.append(("approvers", f"is {own.approvers}; level {level} needs at least {approvers}"))
    floor = rules or disclosure.NONE
    if own.min_cell is not None and own.min_cell < floor.min_cell:
        found.append(("min_cell", f"is {own.min_cell}; level {level} needs at least {floor.min_cell}"))
    if own.rounding is not None and own.rounding < floor.rounding:
        found.append(("rounding", f"is {own.rounding}; level {level} needs at least {floor.rounding}"))
    for field in ("epsilon_per_release", "epsilon_per_analyst"):
        value = getattr(own, field)
        if value is not None and dataset.budget is None:
            found.append((field, "needs a budget, and the data set has none"))
        elif value is not None and dataset.budget is not None and value > dataset.budget.epsilon:
            found.append((field, f"is {value:g}; the budget of the data set is {dataset.budget.epsilon:g}"))
    if own.valid_from is not None and own.valid_until is not None and own.valid_until < own.valid_from:
        found.append(("valid_until", f"is {own.valid_until}, before 'valid_from'"))
    if own.kinds is not None and "dp" in own.kinds and dataset.budget is None:
        found.append(("kinds", "offers 'dp', and the data set has no budget"))
    return found

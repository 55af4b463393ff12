"""The promised speeds (`targets.toml`) beside what a run measured."""

from __future__ import annotations

import functools
import pathlib
from typing import Literal, NamedTuple

import msgspec

from benchmarks.derived import per_unit
from benchmarks.records import OURS, Entry, Results, Value
from benchmarks.tables import amount, digits, seconds

PATH = pathlib.Path(__file__).with_name("targets.toml")
LARGEST_PARTS = 3


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One promise; see the head of `targets.toml`."""

    part: str
    claim: str
    suite: str
    task: str
    where: dict[str, Value]
    measure: Literal["seconds", "each", "peak", "figure", "times", "faster", "smaller"]
    figure: str = ""
    against: str = ""
    against_where: dict[str, Value] = {}
    at_most: float | None = None
    at_least: float | None = None
    of: str = ""
    factor: float = 0.0
    plus: float = 0.0
    next: str = ""


class Outcome(NamedTuple):
    """A promise, what was measured, and the bound; `value` is None where the run has not measured it at that size."""

    target: Target
    value: float | None
    bound: float | None
    entry: Entry | None

    @property
    def met(self) -> bool | None:
        if self.value is None or self.bound is None:
            return None
        return self.value >= self.bound if self.target.at_least is not None else self.value <= self.bound

    @property
    def where_the_time_goes(self) -> str:
        """The largest parts of the entry and the functions of its profile, with their shares."""
        if self.entry is None:
            return ""
        whole = sum(self.entry.parts.values()) or 1.0
        parts = sorted(self.entry.parts.items(), key=lambda item: -item[1])[:LARGEST_PARTS]
        functions = list(self.entry.profile.items())[:LARGEST_PARTS]
        shares = [f"{name} {value / whole:.0%}" for name, value in parts]
        return ", ".join(shares + [f"`{name}` {value:.0%}" for name, value in functions])


@functools.cache
def targets() -> tuple[Target, ...]:
    """All promises, in the order of the file."""
    found = msgspec.toml.decode(PATH.read_bytes(), type=dict[str, tuple[Target, ...]])
    return found["target"]


def outcomes(results: Results) -> tuple[Outcome, ...]:
    return tuple(_outcome(results, target) for target in targets())


def _outcome(results: Results, target: Target) -> Outcome:
    entry = _find(results, target, OURS, target.where)
    other = target.against or target.of
    peer = _find(results, target, other, target.against_where or _shared(target)) if other else None
    if entry is None or (other and peer is None):
        return Outcome(target, None, None, entry)
    if target.of:
        assert peer is not None
        bound: float | None = target.factor * peer.median + target.plus
    else:
        bound = target.at_most if target.at_least is None else target.at_least
    return Outcome(target, _value(target, entry, peer), bound, entry)


def _shared(target: Target) -> dict[str, Value]:
    """Where work has no unit to compare by, a peer is looked up at our sizes."""
    return target.where if target.measure in ("seconds", "times", "faster") else {}


def _find(results: Results, target: Target, system: str, where: dict[str, Value]) -> Entry | None:
    for entry in results.measured():
        same = (entry.suite, entry.task, entry.system) == (target.suite, target.task, system)
        if same and where.items() <= entry.parameters.items():
            return entry
    return None


def _value(target: Target, entry: Entry, peer: Entry | None) -> float | None:
    match target.measure:
        case "seconds":
            return entry.median
        case "each":
            return per_unit(entry)
        case "peak":
            return entry.peak_bytes
        case "figure":
            return entry.figures.get(target.figure)
    assert peer is not None
    match target.measure:
        case "times":
            return per_unit(entry) / per_unit(peer)
        case "faster":
            return per_unit(peer) / per_unit(entry)
        case _:
            theirs, ours = peer.figures.get(target.figure), entry.figures.get(target.figure)
            return theirs / ours if theirs is not None and ours else None


def shown(target: Target, value: float | None) -> str:
    """A value in the measure's unit."""
    if value is None:
        return ""
    if target.measure in ("seconds", "each") or "seconds" in target.figure:
        return seconds(value)
    if target.measure == "peak":
        return f"{amount(value)}B"
    return f"{value:.0%}" if "share" in target.figure else digits(value)


def rows(results: Results) -> list[list[str]]:
    """Claim, bound, measured, met: one row a promise."""
    found = []
    for outcome in outcomes(results):
        target = outcome.target
        sign = "≥" if target.at_least is not None else "≤"
        bound = "" if outcome.bound is None else f"{sign} {shown(target, outcome.bound)}"
        nothing = "not measured at this size" if outcome.value is None else "no bound"
        verdict = {True: "yes", False: "**no**", None: nothing}[outcome.met]
        found.append([target.part, target.claim, bound, shown(target, outcome.value), verdict])
    return found


def misses(results: Results) -> tuple[Outcome, ...]:
    return tuple(outcome for outcome in outcomes(results) if outcome.met is False)

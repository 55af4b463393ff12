"""What is worked out from entries: the system beside which an entry stands, ratios, floors and shares of the limits."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.records import OURS, Entry, Results
from benchmarks.tables import amount, digits, seconds

LIMITS = "limits"
COLD = "no warm-up"


class Floor(NamedTuple):
    """The least time that a task can take at this machine's rates, and how that was worked out."""

    seconds: float
    arithmetic: str


def per_unit(entry: Entry) -> float:
    """Seconds for one unit of work."""
    return entry.median / entry.work


def over(entry: Entry, other: Entry) -> float:
    """Its time over the other's: for a unit of work, or, where they count work in different units, for a call of the same task."""
    alike = entry.unit == other.unit
    return per_unit(entry) / per_unit(other) if alike else entry.median / other.median


def ours_beside(results: Results, peer: Entry) -> Entry | None:
    """Our entry for the same task: at the same parameters where there is one, else, where work has a unit, the one with the most work."""
    if peer.system == OURS:
        return None
    same = [
        e for e in results.measured() if e.system == OURS and (e.suite, e.task) == (peer.suite, peer.task)
    ]
    for entry in same:
        common = entry.parameters.keys() & peer.parameters.keys()
        if all(entry.parameters[name] == peer.parameters[name] for name in common):
            return entry
    if not same or peer.unit == "call":
        return None
    return max(same, key=lambda entry: entry.work)


def peers_beside(results: Results, entry: Entry) -> tuple[Entry, ...]:
    """Entries of other systems that stand beside one of ours."""
    return tuple(peer for peer in results.measured() if ours_beside(results, peer) is entry)


def rates(results: Results) -> dict[str, tuple[float, str]]:
    """What each limit does in a second, and in which unit."""
    found = [entry for entry in results.measured() if entry.suite == LIMITS]
    return {entry.task: (entry.work / entry.median, entry.unit) for entry in found}


def floor(results: Results, entry: Entry) -> Floor | None:
    """None where the entry names no demands, or the run did not measure their limits."""
    known = rates(results)
    if not entry.demands or not entry.demands.keys() <= known.keys():
        return None
    total, terms = 0.0, []
    for name, needed in entry.demands.items():
        rate, unit = known[name]
        total += needed / rate
        terms.append(f"{amount(needed)}{unit} / {amount(rate)}{unit}/s {name}")
    return Floor(total, " + ".join(terms) + f" = {seconds(total)}")


def share(results: Results, entry: Entry) -> float | None:
    """Of the time of a call, what its limits alone would take."""
    least = floor(results, entry)
    return None if least is None else least.seconds / entry.median


def ratio_text(ratio: float) -> str:
    return f"{digits(ratio)} ×"

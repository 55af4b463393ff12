"""Two runs compared: the ratio of medians of each entry that both measured, with a bootstrap interval.

Samples of each run are drawn with replacement, the ratio of their medians taken; of many such ratios, the middle 95 % are the interval (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3). A regression is a ratio of ours whose whole interval lies above the threshold,
or a task of ours that fails now and did not fail before. What is not measured any more is shown, and no regression by itself. A single sample
on a side decides nothing. Few samples make wide intervals only so far as they differ: with fewer than
`ENOUGH` on a side the interval is widened by the largest spread seen there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from benchmarks import tables
from benchmarks.records import OURS, WHOLE, Entry, Results

DRAWS, LEVEL, ENOUGH = 4_000, 0.95, 5


class Ratio(NamedTuple):
    """Time after over time before."""

    entry: Entry
    before: float
    after: float
    ratio: float
    low: float
    high: float


class Comparison(NamedTuple):
    """All ratios, slowest first; the regressions among them; tasks of ours that fail; what is gone; what is not alike about the runs."""

    ratios: tuple[Ratio, ...]
    slower: tuple[Ratio, ...]
    broken: tuple[Entry, ...]  # fail now, and were measured before
    new: tuple[Entry, ...]  # fail, and were not there before
    still: tuple[Entry, ...]  # fail, as before
    gone: tuple[Entry, ...]  # measured before, and now neither measured nor failed
    threshold: float
    differences: tuple[str, ...]

    @property
    def regressions(self) -> int:
        return len(self.slower) + len(self.broken) + len(self.new)


def compare(before: Results, after: Results, threshold: float = 1.1) -> Comparison:
    """Raises ValueError if the runs have no measured entry in common and nothing of ours fails."""
    old = {entry.key: entry for entry in before.measured()}
    ratios = [_ratio(old[entry.key], entry) for entry in after.measured() if entry.key in old]
    ratios.sort(key=lambda found: -found.ratio)
    slower = tuple(found for found in ratios if found.low > threshold and found.entry.system == OURS)

    failing = [entry for entry in after.entries if entry.outcome == "failed" and entry.system == OURS]
    failed = {entry.key for entry in before.entries if entry.outcome == "failed"}
    ours = {name for e in old.values() if e.system == OURS for name in ((e.suite, e.task), (e.suite, None))}
    still = tuple(entry for entry in failing if entry.key in failed)
    broken = tuple(entry for entry in failing if entry not in still and _name(entry) in ours)
    new = tuple(entry for entry in failing if entry not in still + broken)
    if not ratios and not failing:
        raise ValueError("the two runs measured nothing in common")

    kept = {entry.key for entry in after.measured()}
    fails = {_name(entry) for entry in after.entries if entry.outcome == "failed" and entry.system == OURS}
    gone = tuple(
        entry
        for key, entry in old.items()
        if key not in kept and not (entry.system == OURS and {_name(entry), (entry.suite, None)} & fails)
    )
    alike = _differences(before, after)
    return Comparison(tuple(ratios), slower, broken, new, still, gone, threshold, alike)


def _name(entry: Entry) -> tuple[str, str | None]:
    """Suite and task, or the suite alone, where its run or a file of it failed as a whole."""
    whole = entry.task == WHOLE or entry.task.endswith(".py")
    return entry.suite, None if whole else entry.task


def _ratio(old: Entry, new: Entry) -> Ratio:
    if min(len(old.seconds), len(new.seconds)) < 2:
        return Ratio(new, old.median, new.median, new.median / old.median, 0.0, math.inf)
    generator = np.random.default_rng(0)
    medians = [
        np.median(generator.choice(np.array(entry.seconds), (DRAWS, len(entry.seconds))), axis=1)
        for entry in (old, new)
    ]
    low, high = np.quantile(medians[1] / medians[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    for entry in (old, new):
        if len(entry.seconds) < ENOUGH:
            spread = max(entry.seconds) / min(entry.seconds)
            low, high = low / spread, high * spread
    return Ratio(new, old.median, new.median, new.median / old.median, float(low), float(high))


def _differences(before: Results, after: Results) -> tuple[str, ...]:
    found = []
    for name in ("cpu", "cores", "memory_bytes", "kernel"):
        one, other = getattr(before.run.machine, name), getattr(after.run.machine, name)
        if one != other:
            found.append(f"{name}: {one} before, {other} after")
    for name in ("mode", "python"):
        one, other = getattr(before.run, name), getattr(after.run, name)
        if one != other:
            found.append(f"{name}: {one} before, {other} after")
    for name in ("environment", "versions"):
        found += _changes(name, getattr(before.run, name), getattr(after.run, name))
    olds = {entry.system: entry.versions for entry in before.entries if entry.versions}
    news = {entry.system: entry.versions for entry in after.entries if entry.versions}
    for system in sorted(olds.keys() & news.keys()):
        found += _changes(f"versions beside {system}", olds[system], news[system])
    busiest = [max((entry.load for entry in run.entries), default=0.0) for run in (before, after)]
    if max(busiest) > 1.5 * before.run.machine.cores:
        found.append(f"load average at most {busiest[0]:.1f} before, {busiest[1]:.1f} after: a busy machine")
    return tuple(found)


def _changes(what: str, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """One line of what both name, differently."""
    names = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    changes = ", ".join(f"{name} {before[name]} before, {after[name]} after" for name in names)
    return [f"{what}: {changes}"] if names else []


def _named(entry: Entry) -> str:
    system = "" if entry.system == OURS else f", {entry.system}"
    return f"{entry.suite}{system}, {entry.task} {tables.parameters(entry)}".rstrip()


def text(found: Comparison) -> str:
    """As a table in Markdown, with what is not alike and the verdict."""
    rows = [
        [
            r.entry.suite,
            r.entry.system,
            f"{r.entry.task} {tables.parameters(r.entry)}".strip(),
            tables.seconds(r.before),
            tables.seconds(r.after),
            f"{r.ratio:.2f} ({r.low:.2f} to {r.high:.2f})" if r.high < math.inf else f"{r.ratio:.2f}",
            "slower" if r in found.slower else "" if r.high < math.inf else "undecidable: a single sample",
        ]
        for r in found.ratios
    ]
    head = ["suite", "system", "task", "before", "after", f"ratio ({LEVEL:.0%})", ""]
    lines = [*(f"note: {difference}" for difference in found.differences), tables.markdown(head, rows)]
    failing = (
        ("fails now", found.broken),
        ("fails, and is new", found.new),
        ("fails, as before", found.still),
    )
    lines += [f"{how}: {_named(e)}: {e.reason}" for how, entries in failing for e in entries]
    lines += [f"not measured any more: {_named(e)}" for e in found.gone]
    verdict = f"{found.regressions} regressions" if found.regressions else "no regression"
    return "\n".join([*lines, "", f"{verdict} past {found.threshold:g}; {len(found.ratios)} compared"])

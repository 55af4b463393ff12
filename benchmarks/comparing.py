"""Two runs compared: the ratio of medians of each entry that both measured, with a bootstrap interval.

Samples of each run are drawn with replacement, the ratio of their medians taken; of many such ratios, the middle 95 % are the interval (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3). A regression is a ratio whose whole interval lies above the threshold,
or a task of ours that was measured before and fails now. Few samples make wide intervals only so far as they differ: with fewer than
`ENOUGH` on a side the interval is widened by the largest spread seen there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks import tables
from benchmarks.records import OURS, Entry, Results

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
    """All ratios, slowest first; the regressions among them; tasks that fail now; what is not alike about the runs."""

    ratios: tuple[Ratio, ...]
    slower: tuple[Ratio, ...]
    broken: tuple[Entry, ...]
    threshold: float
    differences: tuple[str, ...]

    @property
    def regressions(self) -> int:
        return len(self.slower) + len(self.broken)


def compare(before: Results, after: Results, threshold: float = 1.1) -> Comparison:
    """Raises ValueError if the runs have no measured entry in common."""
    old = {entry.key: entry for entry in before.measured()}
    ratios = [
        _ratio(old[entry.key], entry) for entry in after.measured() if entry.key in old and entry.seconds
    ]
    ours = {(e.suite, e.task) for e in before.measured() if e.system == OURS}
    broken = tuple(
        entry
        for entry in after.entries
        if entry.outcome == "failed" and entry.system == OURS and _was_measured(entry, ours)
    )
    if not ratios and not broken:
        raise ValueError("the two runs measured nothing in common")
    ratios.sort(key=lambda found: -found.ratio)
    slower = tuple(found for found in ratios if found.low > threshold and found.entry.system == OURS)
    return Comparison(tuple(ratios), slower, broken, threshold, _differences(before, after))


def _was_measured(entry: Entry, ours: set[tuple[str, str]]) -> bool:
    """A task that failed, or a suite whose run failed as a whole."""
    return (entry.suite, entry.task) in ours or any(suite == entry.suite for suite, _ in ours)


def _ratio(old: Entry, new: Entry) -> Ratio:
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
    if before.run.mode != after.run.mode:
        found.append(f"mode: {before.run.mode} before, {after.run.mode} after")
    busiest = [max((entry.load for entry in run.entries), default=0.0) for run in (before, after)]
    if max(busiest) > 1.5 * before.run.machine.cores:
        found.append(f"load average at most {busiest[0]:.1f} before, {busiest[1]:.1f} after: a busy machine")
    return tuple(found)


def text(found: Comparison) -> str:
    """As a table in Markdown, with what is not alike and the verdict."""
    rows = [
        [
            r.entry.suite,
            r.entry.system,
            f"{r.entry.task} {tables.parameters(r.entry)}".strip(),
            tables.seconds(r.before),
            tables.seconds(r.after),
            f"{r.ratio:.2f} ({r.low:.2f} to {r.high:.2f})",
            "slower" if r in found.slower else "",
        ]
        for r in found.ratios
    ]
    head = ["suite", "system", "task", "before", "after", f"ratio ({LEVEL:.0%})", ""]
    lines = [*(f"note: {difference}" for difference in found.differences), tables.markdown(head, rows)]
    lines += [f"fails now: {e.suite}, {e.task}: {e.reason}" for e in found.broken]
    verdict = f"{found.regressions} regressions" if found.regressions else "no regression"
    return "\n".join([*lines, "", f"{verdict} past {found.threshold:g}; {len(found.ratios)} compared"])

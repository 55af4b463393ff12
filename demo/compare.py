"""Released values beside the pooled truth.

An exact value agrees if the truth lies within the interval that the release states (a point, where nothing was rounded), up to
`TOLERANCE` relative. A DP value's interval covers the truth or not: 95 % of such intervals should.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sandbox.release import Release

TOLERANCE = 1e-9
Truth = Mapping[tuple[Any, ...], Mapping[str, float]]


class Compared(msgspec.Struct, frozen=True):
    """One released value, its interval, and what pandas or SciPy finds on the pooled rows."""

    statistic: str
    cell: str
    released: float
    low: float
    high: float
    truth: float

    @property
    def difference(self) -> float:
        return self.released - self.truth

    @property
    def covers(self) -> bool:
        return self.low <= self.truth <= self.high

    @property
    def agrees(self) -> bool:
        """Whether the truth is within the stated interval and `TOLERANCE`; never so for NaN."""
        outside = max(self.low - self.truth, self.truth - self.high, 0.0)
        return math.isfinite(self.difference) and outside <= TOLERANCE * abs(self.truth)


def compare(release: Release, truth: Truth) -> list[Compared]:
    """Every value of a release that is not suppressed and has a truth, which maps cell, then statistic, to the pooled value."""
    cells = list(zip(*release.keys.values(), strict=True)) or [()]
    return [
        Compared(series.name, named(release, cell), value, low, high, float(truth[cell][series.name]))
        for series in release.series
        for cell, value, low, high in zip(cells, series.values, series.low, series.high, strict=True)
        if value is not None and low is not None and high is not None and series.name in truth[cell]
    ]


def compare_test(release: Release, truth: tuple[float, float]) -> list[Compared]:
    """Statistic and p-value of an exact release's test."""
    test = release.test
    if test is None or test.statistic is None or test.p_value is None:
        return [Compared("test", "all", math.nan, math.nan, math.nan, truth[0])]
    pairs = (("statistic", test.statistic, truth[0]), ("p-value", test.p_value, truth[1]))
    return [Compared(name, "test", value, value, value, float(pooled)) for name, value, pooled in pairs]


def suppressed(release: Release) -> list[tuple[tuple[Any, ...], str]]:
    """The cells with a suppressed value, and why."""
    cells = list(zip(*release.keys.values(), strict=True)) or [()]
    reasons = {
        cell: reason
        for series in release.series
        for cell, reason in zip(cells, series.reasons, strict=True)
        if reason
    }
    return list(reasons.items())


def named(release: Release, cell: Iterable[Any]) -> str:
    """A cell in words: "sex female", "insurance yes"."""
    words = {True: "yes", False: "no", None: "null"}
    return (
        ", ".join(
            f"{key} {words.get(value, value) if not isinstance(value, int) or isinstance(value, bool) else value}"
            for key, value in zip(release.keys, cell, strict=True)
        )
        or "all"
    )

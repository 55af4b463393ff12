"""Tables of a chapter, from compared values and from a release's or a catalogue's frame."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import pandas as pd

from sandbox.release import Release

from .blocks import Mark, Strip, Table, difference, number
from .compare import Compared


def exact_table(title: str, compared: list[Compared]) -> Table:
    rows = tuple(
        (
            c.statistic,
            c.cell,
            _shown(c.released, c),
            _shown(c.truth, c),
            difference(c.difference),
            Mark(c.agrees, "equal" if c.agrees else "differs"),
        )
        for c in compared
    )
    return Table(title, ("statistic", "cell", "released", "pooled truth", "difference", ""), rows)


def noisy_table(title: str, epsilon: float, compared: list[Compared]) -> Table:
    rows = tuple(
        (
            c.statistic,
            c.cell,
            _rounded(c.released, c),
            f"{_rounded(c.low, c)} to {_rounded(c.high, c)}",
            _rounded(c.truth, c),
            Strip(c.low, c.high, c.released, c.truth),
            Mark(c.covers, "covered" if c.covers else "missed"),
        )
        for c in compared
    )
    return Table(
        f"{title}, ε = {epsilon:g}",
        ("statistic", "cell", "released", "95 % interval", "pooled truth", "", ""),
        rows,
    )


def frame(caption: str, frame: pd.DataFrame) -> Table:
    return Table(
        caption,
        tuple(map(str, frame.columns)),
        tuple(tuple(_cell(value) for value in row) for row in frame.itertuples(index=False)),
    )


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value is pd.NA or value != value:
        return "·"
    return number(float(value)) if isinstance(value, numbers.Real) else str(value)


def half_width(release: Release) -> float:
    low, high = release.series[0].low[0], release.series[0].high[0]
    assert low is not None
    assert high is not None
    return (high - low) / 2


def _shown(value: float, compared: Compared) -> str:
    return "< 1e-300" if compared.statistic == "p-value" and value == 0 else number(value)


def _rounded(value: float, compared: Compared) -> str:
    """To the digits that the interval supports: two of its half-width."""
    half = (compared.high - compared.low) / 2
    if not math.isfinite(value) or not math.isfinite(half) or half == 0:
        return number(value) if math.isfinite(value) else "unbounded"
    return f"{value:,.{max(0, 1 - math.floor(math.log10(half)))}f}"

"""What an analyst gets: a `Release` with its frame, intervals, privacy, leakage and cost, and how a notebook shows it.

An `Explanation` says the same things beforehand. Both are plain values; pandas and matplotlib load only inside the methods that need them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from . import query as q

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .contract import Contract
    from .receipt import Report
    from .roster import Roster

SUPPRESSED = "suppressed"
POINT = 1e-6  # an interval narrower than this, relative to its value, is not worth a reader's time


class Series(msgspec.Struct, frozen=True):
    """One statistic over all cells: a value and its 95 % interval each, None where suppressed, with the reasons."""

    name: str
    values: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    reasons: tuple[str, ...]


class PrivacyCost(msgspec.Struct, frozen=True):
    """What the release cost. Exact releases cost no epsilon and give no differential privacy."""

    mode: str
    epsilon: float | None = None
    delta: float | None = None
    rho: float | None = None
    unit: str = "row"
    epsilon_left: dict[str, float] = {}


class Cost(msgspec.Struct, frozen=True):
    """Rounds, bytes that each department sent and received, and seconds from request to release."""

    rounds: int
    sent: dict[str, int]
    received: dict[str, int]
    seconds: float


class Test(msgspec.Struct, frozen=True):
    """A test of hypothesis; `reason` says why it is missing, where it is, `note` what it leaves out."""

    __test__ = False  # not for pytest

    name: str
    statistic: float | None = None
    degrees_of_freedom: tuple[float, ...] = ()
    p_value: float | None = None
    reason: str = ""
    note: str = ""

    def __str__(self) -> str:
        if self.statistic is None:
            return f"{self.name}: none, since {self.reason}"
        freedom = ", ".join(f"{value:g}" for value in self.degrees_of_freedom)
        degrees = (
            f", degrees of freedom {freedom}" if freedom else ", null distribution simulated with the noise"
        )
        note = f" ({self.note})" if self.note else ""
        p = "p < 1e-300" if self.p_value == 0 else f"p = {self.p_value:.4g}"
        return f"{self.name}: statistic {self.statistic:.6g}{degrees}, {p}{note}"

    def __repr__(self) -> str:
        return str(self)


class Release(msgspec.Struct, frozen=True, tag_field="result", tag="query"):
    """The result of one request. `missing` names departments that vanished and are not in it.

    `receipt` is the file that `sandbox verify` checks; `unattested` says which departments in the sums gave no evidence for it, and why.
    """

    query: q.Query
    keys: dict[str, tuple[str | int | bool | None, ...]]
    series: tuple[Series, ...]
    privacy: PrivacyCost
    departments: tuple[str, ...]
    missing: tuple[str, ...]
    leakage: tuple[str, ...]
    test: Test | None = None
    mock: bool = False
    cost: Cost = Cost(0, {}, {}, 0.0)
    receipt: bytes = b""
    unattested: dict[str, str] = {}

    def digest(self) -> str:
        """SHA-256, hexadecimal, of what was released: what its receipt is about. Cost and receipt are not part of it."""
        bare = msgspec.structs.replace(
            self, cost=Cost(0, {}, {}, 0.0), receipt=b"", unattested={}, mock=False
        )
        return q.digest(bare).hex()

    def verify(self, roster: Roster) -> Report:
        """Check that the receipt is of this release and holds; `roster`: `city.roster`, or one read from a file."""
        from . import receipt

        return receipt.verify(self.receipt, roster, release=self.digest())

    @property
    def frame(self) -> pd.DataFrame:
        """One row per cell (a matrix for cov and corr, a table for crosstab); suppressed values are missing.

        Where anything is suppressed, a column `suppressed` gives the reason.
        """
        import pandas as pd

        if self.query.analysis in ("covariance", "correlation"):
            return self._matrix(pd)
        columns: dict[str, Any] = {name: list(values) for name, values in self.keys.items()}
        for series in self.series:
            columns[series.name] = _numbers(pd, series, self.query)
        if self.query.analysis == "crosstab":
            rows, across = self.keys
            wide = pd.DataFrame(columns).pivot(index=rows, columns=across, values=self.series[0].name)
            return wide.reindex(index=_unique(self.keys[rows]), columns=_unique(self.keys[across]))
        if self.suppressed:
            columns[SUPPRESSED] = ["; ".join(reasons) for reasons in self._cell_reasons()]
        return pd.DataFrame(columns)

    @property
    def intervals(self) -> pd.DataFrame:
        """The 95 % interval of each value for noise, rounding or resolution: `<name>_low` and `<name>_high`."""
        import pandas as pd

        columns: dict[str, Any] = {name: list(values) for name, values in self.keys.items()}
        for series in self.series:
            columns[f"{series.name}_low"] = pd.array(series.low, dtype="Float64").to_numpy(
                float, na_value=float("nan")
            )
            columns[f"{series.name}_high"] = pd.array(series.high, dtype="Float64").to_numpy(
                float, na_value=float("nan")
            )
        return pd.DataFrame(columns)

    @property
    def suppressed(self) -> bool:
        """Whether any value is suppressed."""
        return any(any(series.reasons) for series in self.series)

    def plot(self) -> Figure:
        """Bars per cell with the 95 % interval as error bars, one panel a statistic."""
        from .plotting import bars

        return bars(self)

    def __repr__(self) -> str:
        lines = [self._title(), "", self._shown().to_string(index=self._indexed, na_rep="·")]
        if self.test is not None:
            lines += ["", str(self.test)]
        lines += ["", *self._notes()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return (
            f"<div><p><b>{html.escape(self._title())}</b></p>{self._html_table()}"
            + (f"<p>{html.escape(str(self.test))}</p>" if self.test is not None else "")
            + "".join(
                f"<p style='margin:.2em 0;opacity:.75'>{html.escape(note)}</p>" for note in self._notes()
            )
            + "<details><summary>Who learned what</summary><ul>"
            + "".join(f"<li>{html.escape(line)}</li>" for line in self.leakage)
            + "</ul></details></div>"
        )

    @property
    def _indexed(self) -> bool:
        return self.query.analysis in ("crosstab", "covariance", "correlation")

    def _title(self) -> str:
        kind = "Mock data" if self.mock else ("DP" if self.privacy.mode == "dp" else "Exact")
        return f"{kind}: {self.query.title} over {', '.join(self.departments)}"

    def _notes(self) -> list[str]:
        notes = []
        if self.privacy.mode == "dp":
            left = ", ".join(
                f"{name} {value:.3g}" for name, value in sorted(self.privacy.epsilon_left.items())
            )
            notes.append(
                f"Differentially private per {self.privacy.unit}: ε = {self.privacy.epsilon:g}, δ = {self.privacy.delta:g} "
                f"(ρ = {self.privacy.rho:.3g} zCDP). ε left: {left}."
            )
        if self.missing:
            notes.append(f"Without {', '.join(self.missing)}: vanished during the request.")
        if self.suppressed and self._indexed:
            reasons = _unique([reason for series in self.series for reason in series.reasons if reason])
            notes.append(f"Missing values are suppressed: {'; '.join(reasons)}.")
        elif self.suppressed:
            notes.append("Missing values are suppressed; the reason stands in the row.")
        total = sum(self.cost.sent.values()) + sum(self.cost.received.values())
        notes.append(f"{self.cost.rounds} rounds, {total:,} bytes, {self.cost.seconds:.2f} s.")
        return notes

    def _cell_reasons(self) -> list[list[str]]:
        cells = zip(*(series.reasons for series in self.series), strict=True)
        return [_unique([reason for reason in cell if reason]) for cell in cells]

    def _matrix(self, pd: Any) -> pd.DataFrame:
        names = _unique([side for series in self.series for side in series.name.split("|")])
        matrix = pd.DataFrame(float("nan"), index=names, columns=names)
        for series in self.series:
            a, b = series.name.split("|")
            value = series.values[0]
            matrix.loc[a, b] = matrix.loc[b, a] = float("nan") if value is None else value
        return matrix

    def _html_table(self) -> str:
        return str(self._shown().to_html(index=self._indexed, na_rep="·", border=0))

    def _shown(self) -> pd.DataFrame:
        """The frame for a reader: where noise or rounding leaves an interval, as text to the digits that it supports."""
        frame = self.frame
        frame = frame.astype(object).where(frame.notna(), "·")
        for series in self.series:
            if all(_digits(series, i) is None for i in range(len(series.values))):
                continue
            texts = [_text(series, i, interval=not self._indexed) for i in range(len(series.values))]
            if not self._indexed:
                frame[series.name] = texts
            elif self.query.analysis == "crosstab":
                for row, column, text in zip(*self.keys.values(), texts, strict=True):
                    frame.loc[row, column] = text
            else:
                a, b = series.name.split("|")
                frame.loc[a, b] = frame.loc[b, a] = texts[0]
        return frame


class Explanation(msgspec.Struct, frozen=True):
    """What a release would do. `errors` gives per statistic the expected half-width of the 95 % interval, with its condition."""

    query: q.Query
    steps: tuple[str, ...]
    leakage: tuple[str, ...]
    decisions: dict[str, tuple[str, ...]]
    epsilon: float | None
    epsilon_left: dict[str, float]
    errors: dict[str, str]
    cells: int
    rounds: int
    bytes: int
    seconds: float

    def __repr__(self) -> str:
        lines = [f"Plan for {self.query.title}: {self.cells} cell{'s' * (self.cells != 1)}", ""]
        lines += [f"{i}. {step}" for i, step in enumerate(self.steps, 1)]
        lines += ["", "Who learns what"] + [f"- {line}" for line in self.leakage]
        lines += ["", "What the departments say"] + [f"- {line}" for line in self._decisions()]
        lines += ["", "Expected 95 % error per cell"] + [
            f"- {name}: {text}" for name, text in self.errors.items()
        ]
        return "\n".join([*lines, "", self._cost()])

    def _repr_html_(self) -> str:
        def listed(tag: str, lines: list[str]) -> str:
            return f"<{tag}>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + f"</{tag}>"

        errors = [f"{name}: {text}" for name, text in self.errors.items()]
        return (
            f"<div><p><b>Plan for {html.escape(self.query.title)}</b>, {self.cells} cells</p>{listed('ol', list(self.steps))}"
            f"<p>Who learns what</p>{listed('ul', list(self.leakage))}<p>What the departments say</p>"
            f"{listed('ul', self._decisions())}<p>Expected 95 % error per cell</p>{listed('ul', errors)}"
            f"<p>{html.escape(self._cost())}</p></div>"
        )

    def _decisions(self) -> list[str]:
        return [
            f"{name}: {'; '.join(reasons) or 'allowed'}" for name, reasons in sorted(self.decisions.items())
        ]

    def _cost(self) -> str:
        cost = f"Cost: {self.rounds} rounds, about {self.bytes:,} bytes in all, about {self.seconds:.2g} s"
        if self.epsilon is None:
            return f"{cost}; no ε."
        left = ", ".join(f"{name} {value:.3g}" for name, value in sorted(self.epsilon_left.items()))
        return f"{cost}; ε = {self.epsilon:g}, leaving {left}."


def _unique(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _numbers(pd: Any, series: Series, query: q.Query) -> Any:
    """Counts of exact releases as integers, everything else as floats."""
    counts = {named.name for named in query.aggregates if isinstance(named.aggregate, q.Count)}
    if series.name in counts and all(value is None or value == int(value) for value in series.values):
        whole = [None if value is None else int(value) for value in series.values]
        return pd.array(whole, dtype="Int64") if None in whole else whole
    return [float("nan") if value is None else value for value in series.values]


def _digits(series: Series, cell: int) -> int | None:
    """Decimals that an interval supports: two digits of its half-width. None without a value, or where it is a point to a reader."""
    value, low, high = series.values[cell], series.low[cell], series.high[cell]
    if value is None or low is None or high is None or high - low <= POINT * abs(value):
        return None
    return 2 if math.isinf(high - low) else min(9, max(0, 1 - math.floor(math.log10((high - low) / 2))))


def _text(series: Series, cell: int, *, interval: bool) -> str:
    """A value to the digits that its interval supports, and the interval."""
    value, low, high, digits = series.values[cell], series.low[cell], series.high[cell], _digits(series, cell)
    if value is None or low is None or high is None:
        return "·"
    if digits is None:
        return f"{value:,.6g}"
    if not interval:
        return f"{value:,.{digits}f}"
    ends = (
        f"{end:,.{digits}f}" if math.isfinite(end) else "∞".rjust(2, "-+"[end > 0]) for end in (low, high)
    )
    return f"{value:,.{digits}f} [{', '.join(ends)}]"


class Proposal:
    """A usage contract on its way: sent to every department, waiting for their owners. `failed`: who did not take it, and why."""

    def __init__(
        self,
        contract: Contract,
        failed: dict[str, str],
        states: Callable[[], dict[str, tuple[str, int, int, str]]],
    ):
        self.contract, self.failed, self._states = contract, failed, states

    @property
    def digest(self) -> str:
        """What owners approve by."""
        return self.contract.digest()

    @property
    def approved(self) -> bool:
        """Whether it holds at every department now."""
        states = self._states()
        return not self.failed and bool(states) and all(state == "approved" for state, *_ in states.values())

    def status(self) -> pd.DataFrame:
        """How it stands at each department."""
        import pandas as pd

        rows = [(name, *state) for name, state in sorted(self._states().items())]
        return pd.DataFrame(rows, columns=["department", "state", "approvals", "needed", "reasons"])

    def __repr__(self) -> str:
        return f"Contract {self.digest[:12]}\n\n{self.status().to_string(index=False)}"

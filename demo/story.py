"""The chapters of the demo. Each asks the departments something and returns blocks; every number in them is computed here and now."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pandas as pd

from federated import demo
from federated.session import City
from sandbox import col, corr, count
from sandbox.errors import Refused, SandboxError, SQLError
from sandbox.release import Release
from sandbox.table import JointQuery

from . import figures, questions, tables, wire
from .apart import apart
from .blocks import (
    Block,
    Cell,
    Chapter,
    Code,
    Items,
    Plot,
    Prose,
    Refusal,
    Table,
    Verdict,
)
from .compare import TOLERANCE, Compared, compare, compare_test, named, suppressed
from .evidence import evidence
from .models import trained
from .scores import scored

PURPOSE = "public-health"
EPSILON = 1.0
LADDER = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Narrator(Protocol):
    """Shows what is going on while a request runs."""

    def running(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """Within it, the function that takes each stage of the request."""
        ...


class Stage:
    """The city, the pooled rows that only the demo has, what has happened so far, and where its files go."""

    def __init__(self, narrator: Narrator, directory: pathlib.Path):
        self._narrator, self.directory = narrator, directory
        with narrator.running("opening three departments with real data"):
            self.federation = demo.federation()
            self.city: City = self.federation.city()  # as `sandbox.demo()` gives it
            self.rows: pd.DataFrame = demo.pooled()
        self.people = self.city.table(demo.TABLE)
        self.releases: list[tuple[str, Release]] = []
        self.exact: list[Compared] = []
        self.noisy: list[Compared] = []

    @property
    def agrees(self) -> bool:
        """Whether there are exact values, and every one agrees with the pooled truth."""
        return bool(self.exact) and all(compared.agrees for compared in self.exact)

    def ask(self, code: str) -> JointQuery:
        """The query that a shown text makes: what is shown is what runs."""
        names: dict[str, Any] = {
            "city": self.city,
            "people": self.people,
            "col": col,
            "count": count,
            "corr": corr,
        }
        query = eval(code, names)
        assert isinstance(query, JointQuery)
        return query

    def running(self, title: str) -> AbstractContextManager[Callable[[str], None]]:
        """What is going on, for whatever is no release."""
        return self._narrator.running(title)

    def release(self, title: str, query: JointQuery, epsilon: float | None = None) -> Release:
        with self._narrator.running(title) as stage:
            self.city.progress = stage
            release = query.release(purpose=PURPOSE, epsilon=epsilon)
        self.releases.append((title, release))
        return release


def tell(stage: Stage) -> Iterator[Chapter]:
    """All chapters, in order, as they are ready."""
    for chapter in CHAPTERS:
        yield chapter(stage)


def catalogue(stage: Stage) -> Chapter:
    frame = stage.city.catalog()
    shown = frame[["table", "department", "level", "purposes", "unit", "epsilon", "epsilon_left"]]
    return Chapter(
        "What exists",
        (
            Prose(
                "Three departments hold the same kind of data about different people. Each publishes a catalogue: "
                "what there is, at which level of protection, for which purposes, and how much privacy may still be spent."
            ),
            Code("city = sandbox.demo()\ncity.catalog()"),
            tables.frame("The catalogue", shown),
            Prose(
                f"{frame['description'].iloc[0]}. The split into departments is ours; the people are real."
            ),
            tables.frame("Declared columns of health_survey", stage.people.columns),
        ),
    )


def plan(stage: Stage) -> Chapter:
    query = stage.ask(questions.BY_SEX.code)
    explained, mock = query.explain(), query.mock()
    errors = tuple((name, text) for name, text in explained.errors.items())
    return Chapter(
        "Before asking: the plan",
        (
            Prose(
                "A query says beforehand what it will do, who will learn what, and what it costs. Nothing is spent by asking."
            ),
            Code(f"query = {questions.BY_SEX.code}\nquery.explain()"),
            Items("Steps", explained.steps, ordered=True),
            Items(
                "What the departments say",
                tuple(
                    f"{name}: {'; '.join(why) or 'allowed'}"
                    for name, why in sorted(explained.decisions.items())
                ),
            ),
            Table("Expected 95 % error per cell", ("statistic", "error"), errors),
            Prose(
                f"Expected: {explained.cells} cells, {explained.rounds} rounds, about {explained.bytes:,} bytes. "
                "The same query runs on made-up rows that keep the schema, to write code against first:"
            ),
            Code("query.mock()"),
            tables.frame("Mock data (the numbers mean nothing)", mock.frame),
        ),
    )


def exact(stage: Stage) -> Chapter:
    blocks: list[Block] = [
        Prose(
            "Exact joint results. The right-hand columns hold what pandas and SciPy find when the rows of all departments are "
            "pooled in one place: the demo may do that, since it plays every part; in earnest nobody can."
        )
    ]
    for question in questions.EXACT:
        release = stage.release(question.title, stage.ask(question.code))
        compared = compare(release, question.truth(stage.rows))
        if question.test is not None:
            compared += compare_test(release, question.test(stage.rows))
        stage.exact += compared
        blocks += [Code(question.code), tables.exact_table(question.title, compared)]
        if release.query.analysis == "correlation":
            blocks.append(Plot("release.plot()", figures.plot(release, question.title)))
        if release.test is not None:
            blocks.append(Prose(f"{release.test}."))
    return Chapter("Exact joint results beside the pooled truth", (*blocks, verdict(stage)))


def verdict(stage: Stage) -> Verdict:
    """Whether all exact results agree, and by how much they differ at most."""
    if not stage.agrees:
        wrong = ", ".join(f"{c.statistic} ({c.cell})" for c in stage.exact if not c.agrees)
        return Verdict(False, f"Exact results differ from the pooled truth: {wrong or 'there are none'}")
    largest = max(abs(c.difference) / abs(c.truth) for c in stage.exact if c.truth)
    return Verdict(
        True,
        f"All {len(stage.exact)} exact numbers equal the pooled truth within {TOLERANCE:g} "
        f"(largest relative difference {largest:.1e})",
    )


def private(stage: Stage) -> Chapter:
    question = questions.BY_SEX
    release = stage.release(f"{question.title}, ε = {EPSILON:g}", stage.ask(question.code), EPSILON)
    compared = compare(release, question.truth(stage.rows))
    ages = stage.ask(questions.AGES.code)
    decades = stage.release(f"{questions.AGES.title}, ε = {EPSILON:g}", ages, EPSILON)
    pooled = questions.AGES.truth(stage.rows)
    compared_decades = compare(decades, pooled)
    stage.noisy += compared + compared_decades
    cells = list(zip(*decades.keys.values(), strict=True))
    truth = {series.name: [pooled[cell][series.name] for cell in cells] for series in decades.series}
    people = len(stage.rows)
    total = stage.people.agg(count())
    halves = [tables.half_width(total.mock(epsilon=epsilon)) for epsilon in LADDER]
    covered = sum(c.covers for c in stage.noisy)
    privacy = release.privacy
    return Chapter(
        "Differentially private results",
        (
            Prose(
                f"With an ε every department adds its share of noise before masking: no result then depends noticeably on any one "
                f"{privacy.unit}. Each value comes with a 95 % interval for that noise, in which the pooled truth should lie 19 times out of 20. "
                "In the strips, the dot (o) is the release and the diamond (x) the truth."
            ),
            Code(f"query.release(purpose={PURPOSE!r}, epsilon={EPSILON:g})"),
            tables.noisy_table(question.title, EPSILON, compared),
            Code(
                f"release = {questions.AGES.code}.release(\n    purpose={PURPOSE!r}, epsilon={EPSILON:g}\n)"
            ),
            tables.noisy_table(questions.AGES.title, EPSILON, compared_decades),
            Plot(
                "release.plot(): values with their 95 % intervals; the diamonds are the pooled truth, added by the demo",
                figures.plot(decades, questions.AGES.title, truth),
            ),
            Prose(
                f"{covered} of {len(stage.noisy)} intervals cover the truth; noise is fresh in each run, and 95 % of intervals cover on average."
            ),
            Plot(
                "What ε buys, asked of mock data, which spends nothing",
                figures.ladder(LADDER, halves, people),
            ),
            Table(
                "What ε buys",
                ("ε", "95 % interval of a count", f"relative to {people:,} people"),
                tuple(
                    (f"{epsilon:g}", f"± {half:,.0f}", f"{half / people:.2%}")
                    for epsilon, half in zip(LADDER, halves, strict=True)
                ),
            ),
        ),
    )


def refused(stage: Stage) -> Chapter:
    small = stage.release("Days of illness by education", stage.ask(questions.SMALL_CELLS))
    hidden = suppressed(small)
    counts = questions.moments(stage.rows, "illdays", "education")
    agreed = compare(small, counts)
    stage.exact += agreed
    by_sex, few = stage.ask(questions.BY_SEX.code), int((stage.rows["age"] >= 95).sum())
    spent_before = stage.city.catalog()["epsilon_left"].tolist()
    refusals = (
        _refusal(
            stage,
            "A purpose that no department permits",
            'query.release(purpose="marketing")',
            by_sex,
            "marketing",
        ),
        _refusal(
            stage,
            "More privacy than is left",
            f"query.release(purpose={PURPOSE!r}, epsilon=10)",
            by_sex,
            PURPOSE,
            10.0,
        ),
        _refusal(
            stage,
            f"A count that differs from an earlier one by few: {few} of {len(stage.rows):,} people are 95 or older",
            f"{questions.DIFFERENCE}.release(purpose={PURPOSE!r})",
            stage.ask(questions.DIFFERENCE),
            PURPOSE,
        ),
        _refused_sql(stage, "SQL that joins", questions.JOIN),
        _refused_sql(stage, "SQL that would show one person's value", questions.MAXIMUM),
    )
    unchanged = stage.city.catalog()["epsilon_left"].tolist() == spent_before
    least = 20
    right = all(counts.get(cell, {"n": 0})["n"] < least for cell, _ in hidden)
    return Chapter(
        "What is refused",
        (
            Prose(
                "A group of too few people is not shown: its row stays and says why, and a test that needs it says so too."
            ),
            Code(questions.SMALL_CELLS),
            tables.frame("Days of illness by education", small.frame),
            Prose(f"{small.test}."),
            Verdict(
                right and bool(hidden),
                f"{len(hidden)} cells are suppressed ({'; '.join(named(small, cell) for cell, _ in hidden)}); in the pooled rows "
                f"each holds fewer than {least} people",
            ),
            Prose(
                "Other requests are refused as a whole, with the reason. One of them would be harmless alone: with the count by sex, which "
                "was released above, a subtraction would tell about the few people in between. The departments add up, under masks, by how "
                "many people the two differ."
            ),
            *refusals,
            Verdict(unchanged, "The refusals have spent nothing"),
        ),
    )


def seen(stage: Stage) -> Chapter:
    _, first = stage.releases[0]
    _, noisy = next((title, r) for title, r in stage.releases if r.privacy.mode == "dp")
    looked = wire.listen()
    sent: list[tuple[Cell, ...]] = [
        (name, f"{own:,}", f"{looked.words[0][name]:016x}", f"{looked.words[1][name]:016x}")
        for name, own in looked.own.items()
    ]
    sums = (
        "sum modulo 2^64",
        f"{sum(looked.own.values()):,}",
        *(f"{looked.total(time):016x}" for time in (0, 1)),
    )
    unmasked = ("after unmasking", "", *(f"{value:,}" for value in looked.released))
    return Chapter(
        "Who learned what",
        (
            Prose("Every release says it for itself. The exact one by sex:"),
            Items("release.leakage, exact", first.leakage),
            Items(
                "release.leakage, differentially private",
                tuple(x for x in noisy.leakage if x not in first.leakage),
            ),
            Prose(
                "And this is what went over the wire when two equal requests asked how many people there are. Each department's own count "
                "stays at home; it sends a word that tells nothing, and another one the next time. Only the sum is ever unmasked."
            ),
            Table(
                "The first word of each masked input",
                ("department", "its own count", "sent", "sent again"),
                (*sent, sums, unmasked),
            ),
            Verdict(
                looked.released == (len(stage.rows),) * 2 and looked.words[0] != looked.words[1],
                f"Both sums unmask to {looked.released[0]:,}; {looked.ones:.1%} of the {looked.bits:,} bits sent are ones",
            ),
        ),
    )


def cost(stage: Stage) -> Chapter:
    rows = tuple(
        (
            title,
            "exact" if release.privacy.mode == "exact" else f"ε = {release.privacy.epsilon:g}",
            str(release.cost.rounds),
            f"{sum(release.cost.sent.values()):,}",
            f"{sum(release.cost.received.values()):,}",
            f"{release.cost.seconds * 1000:,.0f}",
        )
        for title, release in stage.releases
    )
    left = stage.city.catalog()[["department", "epsilon", "epsilon_left"]]
    spent = [r.privacy.epsilon for _, r in stage.releases if r.privacy.epsilon is not None]
    return Chapter(
        "Bytes, time, and what is left",
        (
            Table(
                "Every release: bytes from and to all departments together",
                ("release", "mode", "rounds", "bytes sent", "bytes received", "ms"),
                rows,
            ),
            Prose("The first release includes the exchange of keys, which serves a batch of requests."),
            tables.frame("Privacy budget", left),
            Prose(
                f"{len(spent)} DP releases of ε = {EPSILON:g} have cost {left['epsilon'].iloc[0] - left['epsilon_left'].iloc[0]:.3g} "
                f"together, not {sum(spent):g}: their costs add up in zCDP, and only the total is converted to ε. Exact releases cost no ε, "
                "and promise no differential privacy."
            ),
        ),
    )


def _refusal(
    stage: Stage, title: str, code: str, query: JointQuery, purpose: str, epsilon: float | None = None
) -> Refusal:
    try:
        query.release(purpose=purpose, epsilon=epsilon)
    except Refused as error:
        return Refusal(title, code, type(error).__name__, error.reasons)
    raise AssertionError(f"not refused: {title}")


def _refused_sql(stage: Stage, title: str, text: str) -> Refusal:
    """The error, with a mark under the place in the text that it names."""
    try:
        stage.city.sql(text)
    except SandboxError as error:
        lines = text.splitlines()
        if isinstance(error, SQLError) and error.line and error.column:
            lines.insert(error.line, " " * (error.column - 1) + "^")
        return Refusal(title, "\n".join(lines), type(error).__name__, (str(error),))
    raise AssertionError(f"not refused: {title}")


CHAPTERS: tuple[Callable[[Stage], Chapter], ...] = (
    catalogue,
    plan,
    exact,
    private,
    refused,
    seen,
    evidence,
    cost,
    trained,
    scored,
    apart,
)

"""Attacks by subtraction: two exact releases that differ by one person give that person's income.

Each succeeds where nobody looks at cohorts, and is refused where every department keeps them and their joint differences are looked at.
The attacker is an analyst, or two who pool what they got; each release alone keeps every rule for cells.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from sandbox import cohorts, members, plan
from sandbox import query as q
from sandbox.catalog import Column, DataSet
from sandbox.cohorts import Cohorts
from sandbox.engine import Engine
from sandbox.errors import Denied

LEAST = 10
DATASET = DataSet(
    "general-2",
    ("p",),
    {
        "age": Column("integer", (0, 120)),
        "weight": Column("integer", (0, 300)),
        "income": Column("integer", (0, 1_000_000), nullable=True),
    },
    max_rows=10_000,
)
VICTIM = {"age": 97, "weight": 41, "income": 123_456}


@dataclasses.dataclass
class Asked:
    """An exact release as the analyst sees it."""

    count: int
    total: int


class City:
    """Three departments; the victim is known to one of them."""

    def __init__(self, path, defended: bool):
        random = np.random.default_rng(5)
        self.path, self.defended, self.asked = path, defended, 0
        self.engines: list[Engine] = []
        self.cohorts: list[Cohorts] = []
        for department in range(3):
            frame = pd.DataFrame(
                {
                    "age": random.integers(0, 97, 200),
                    "weight": random.integers(42, 120, 200),
                    "income": random.integers(0, 1_000_000, 200).astype(float),
                }
            )
            frame.loc[frame["age"] == 50, "income"] = np.nan
            if department == 1:
                frame = pd.concat([frame, pd.DataFrame([VICTIM])], ignore_index=True)
            self.engines.append(Engine("t", DATASET, frame))
            self.cohorts.append(Cohorts(path / f"{department}.db"))

    def ask(self, where: q.Expression | None, *, recorded: bool = True, request: str = "") -> Asked:
        """COUNT and SUM(income) over all departments, if the departments let them pass."""
        self.asked += 1
        request = request or f"request {self.asked}"
        aggregates = (q.Named("n", q.Count()), q.Named("s", q.Sum(q.Column("income"))))
        compiled = plan.compile(q.Query("t", aggregates, (), where), DATASET.schema(), exact=True)
        if self.defended:
            self._judge(compiled, request)
        sums = [engine.sums(compiled, bounded=False) for engine in self.engines]
        joint = [sum(int(part.components[i][0]) for part in sums) for i in range(len(compiled.components))]
        count, total = compiled.measures
        assert count.rows is not None
        assert total.rows is not None
        assert joint[count.rows] >= LEAST  # the rule for cells holds, always
        component = compiled.components[total.first[0]]
        value = (
            joint[total.first[0]] / 2**component.exponent + component.factors[0].center * joint[total.rows]
        )
        if self.defended and recorded:
            for kept in self.cohorts:
                kept.settle("t", request, [0])
        return Asked(joint[count.rows], round(value))

    def _judge(self, compiled: plan.Plan, request: str) -> None:
        joint, released, found = 0, None, []
        for engine, kept in zip(self.engines, self.cohorts, strict=True):
            if not kept.knows("t", engine.version()):
                kept.identify("t", *members.keys(engine))
            found.append(members.members(engine, compiled))
            released = released if released is not None else kept.released("t")
            joint = joint + kept.vector("t", found[-1], released)
        reasons = cohorts.refusals(joint, found[0].shape, released, LEAST)
        if reasons:
            raise Denied(reasons)
        for kept, own in zip(self.cohorts, found, strict=True):
            kept.add("t", request, own, {earlier.request for earlier in released})

    def restart(self, forget: bool = False) -> None:
        for i, kept in enumerate(self.cohorts):
            kept.close()
            if forget:
                (self.path / f"{i}.db").unlink()
            self.cohorts[i] = Cohorts(self.path / f"{i}.db")


@pytest.fixture
def city(tmp_path):
    made = []

    def make(defended: bool) -> City:
        directory = tmp_path / str(defended)
        directory.mkdir()
        made.append(City(directory, defended))
        return made[-1]

    yield make
    for one in made:
        for kept in one.cohorts:
            kept.close()


def compare(op, column, value) -> q.Compare:
    return q.Compare(op, q.Column(column), q.Value(value))


def both(*terms) -> q.Logic:
    return q.Logic("and", terms)


def two_analysts(city: City) -> int:
    """Everyone; then everyone but the victim, in words that look like nothing of the kind."""
    everyone = city.ask(None)
    others = city.ask(compare(">", "weight", 41))
    return everyone.total - others.total


def complement(city: City) -> int:
    """Everyone, and two groups that have nobody in common and leave out the victim alone."""
    everyone = city.ask(None)
    young = city.ask(compare("<", "age", 40))
    old = city.ask(both(compare(">=", "age", 40), compare("<", "age", 97)))
    return everyone.total - young.total - old.total


def nested_bands(city: City) -> int:
    """One group, and the same with one person more."""
    most = city.ask(both(compare(">=", "age", 60), compare("<=", "age", 96)))
    all_ = city.ask(compare(">=", "age", 60))
    return all_.total - most.total


def people_without_income(city: City) -> int:
    """The two cohorts differ by more than ten people, of whom only the victim has an income that is known."""
    everyone = city.ask(None)
    rest = city.ask(both(compare("!=", "age", 97), compare("!=", "age", 50)))
    assert everyone.count - rest.count >= LEAST
    return everyone.total - rest.total


def a_record_kept_back(city: City) -> int:
    """The coordinator never says what it released."""
    everyone = city.ask(None, recorded=False)
    return everyone.total - city.ask(compare(">", "weight", 41), recorded=False).total


def a_restart(city: City) -> int:
    everyone = city.ask(None)
    city.restart()
    return everyone.total - city.ask(compare(">", "weight", 41)).total


def two_versions(city: City) -> int:
    """The same question before and after the victim leaves the data."""
    before = city.ask(None)
    frame = city.engines[1].backend.connection.table("data").df()
    frame = frame[frame["age"] != 97].sample(frac=1, random_state=1, ignore_index=True)
    city.engines[1] = Engine("t", DATASET, frame)
    return before.total - city.ask(None).total


ATTACKS = (
    two_analysts,
    complement,
    nested_bands,
    people_without_income,
    a_record_kept_back,
    a_restart,
    two_versions,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_subtraction_gives_the_victims_income_unless_cohorts_are_compared(city, attack):
    assert attack(city(defended=False)) == VICTIM["income"]
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        attack(city(defended=True))


def test_cohorts_that_are_forgotten_protect_nobody(city):
    """What persistence is for: with it gone the attack across a restart succeeds."""
    defended = city(defended=True)
    everyone = defended.ask(None)
    defended.restart(forget=True)
    assert everyone.total - defended.ask(compare(">", "weight", 41)).total == VICTIM["income"]


def test_the_same_question_again_and_groups_far_apart_pass(city):
    defended = city(defended=True)
    assert defended.ask(None) == defended.ask(None)
    young, old = defended.ask(compare("<", "age", 40)), defended.ask(compare(">=", "age", 40))
    assert young.count + old.count == defended.ask(None).count


def test_a_difference_that_is_large_together_may_be_small_at_one_department(city):
    """Twelve people leave and four of them are at each department: it passes, but a department may refuse for its own four."""
    defended = city(defended=True)
    for department, engine in enumerate(defended.engines):
        frame = engine.backend.connection.table("data").df()
        frame = frame[frame["age"] < 97]
        frame.loc[frame.index[:4], "age"] = 111 + department
        defended.engines[department] = Engine("t", DATASET, frame)
    everyone = defended.ask(None)
    where = compare("<", "age", 111)
    compiled = plan.compile(q.Query("t", (q.Named("n", q.Count()),), (), where), DATASET.schema(), exact=True)
    local = [
        kept.local_refusals("t", members.members(engine, compiled), LEAST)
        for engine, kept in zip(defended.engines, defended.cohorts, strict=True)
    ]
    assert everyone.count - defended.ask(where).count == 12
    assert all(local)

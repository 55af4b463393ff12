"""Requests that cannot run are refused before anything is spent, each with a specific error and every department's reason."""

from __future__ import annotations

import math

import msgspec
import pytest

from federated import messages
from federated.messages import Done
from sandbox import col, count
from sandbox.catalog import Budget, Column
from sandbox.errors import (
    BudgetExceeded,
    CallerError,
    Denied,
    ParameterError,
    QueryError,
    Refused,
    SchemaMismatch,
    TooFewDepartments,
)

PURPOSE = "research"


@pytest.fixture
def federation(open_federation, people):
    everyone = people()
    return open_federation(everyone.catalogs, everyone.frames)


def test_refusals_spend_nothing(federation, subtests):
    table = federation.city.table("t")
    query = table.agg(count())
    before = federation.spent()
    refusals = {
        "purpose": (Denied, lambda: query.release(purpose="marketing", epsilon=1.0)),
        "no purpose": (ParameterError, lambda: query.release(purpose="", epsilon=1.0)),
        "unknown column": (
            QueryError,
            lambda: table.agg(col("wage").sum()).release(purpose=PURPOSE, epsilon=1.0),
        ),
        "unknown key": (
            QueryError,
            lambda: table.group_by("wage").agg(count()).release(purpose=PURPOSE, epsilon=1.0),
        ),
        "key without a domain": (
            QueryError,
            lambda: table.group_by("income").agg(count()).release(purpose=PURPOSE, epsilon=1.0),
        ),
        "text is no number": (
            QueryError,
            lambda: table.agg(col("region").sum()).release(purpose=PURPOSE, epsilon=1.0),
        ),
        "unknown data set": (QueryError, lambda: federation.city.table("taxes")),
        "delta above the budget's": (Denied, lambda: query.release(purpose=PURPOSE, epsilon=1.0, delta=1e-5)),
        "delta without epsilon": (ParameterError, lambda: query.release(purpose=PURPOSE, delta=1e-7)),
        "beyond the budget": (BudgetExceeded, lambda: query.release(purpose=PURPOSE, epsilon=21.0)),
        "noise out of range": (
            ParameterError,
            lambda: query.release(purpose=PURPOSE, epsilon=1e-9, delta=1e-12),
        ),
    }
    for epsilon in (0, -1.0, math.nan, math.inf, -math.inf, 101.0, "1", True, None):
        if epsilon is not None:
            refusals[f"epsilon {epsilon!r}"] = (
                ParameterError,
                lambda epsilon=epsilon: query.release(purpose=PURPOSE, epsilon=epsilon),
            )
    for delta in (0.0, -1e-7, math.nan, math.inf, 1.0):
        refusals[f"delta {delta!r}"] = (
            ParameterError,
            lambda delta=delta: query.release(purpose=PURPOSE, epsilon=1.0, delta=delta),
        )
    for name, (error, attempt) in refusals.items():
        with subtests.test(name), pytest.raises(error) as refused:
            attempt()
        assert isinstance(refused.value, CallerError | Refused)
    assert federation.spent() == before
    assert not federation.wire.count("advertise"), "no keys are exchanged for a request that is refused"
    query.release(purpose=PURPOSE, epsilon=1.0)
    assert all(after > before[name] for name, after in federation.spent().items())


def test_every_department_gives_its_reason(open_in_process, people):
    everyone = people()
    everyone.redeclare("ash", purposes=("teaching",))
    everyone.redeclare("cedar", level="core")
    federation = open_in_process(everyone.catalogs, everyone.frames)
    with pytest.raises(Denied) as refused:
        federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    reasons = "\n".join(refused.value.reasons)
    assert "ash: purpose 'research' is not permitted" in reasons
    assert "cedar: 't' is core data" in reasons
    assert "birch" not in reasons


def test_one_exhausted_budget_stops_all(open_in_process, people):
    everyone = people()
    everyone.redeclare("birch", budget=Budget(1.0, 1e-6))
    federation = open_in_process(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").agg(count())
    query.release(purpose=PURPOSE, epsilon=0.9)
    spent = federation.spent()
    with pytest.raises(BudgetExceeded, match=r"birch: privacy budget of 't': epsilon 0.9 of 1 is spent"):
        query.release(purpose=PURPOSE, epsilon=0.9)
    assert federation.spent() == spent


@pytest.mark.parametrize("departments", [1, 2])
def test_an_exact_value_needs_three_departments(open_federation, people, departments):
    everyone = people(departments=2)
    if departments == 1:
        everyone.catalogs["birch"] = msgspec.structs.replace(
            everyone.catalogs["birch"], datasets={"u": everyone.catalogs["birch"].datasets["t"]}
        )
        everyone.frames["birch"] = {"u": everyone.frames["birch"]["t"]}
    federation = open_federation(everyone.catalogs, everyone.frames)
    query = federation.city.table("t").agg(count())
    with pytest.raises(TooFewDepartments, match="needs at least 3"):
        query.release(purpose=PURPOSE)
    if departments == 1:
        with pytest.raises(TooFewDepartments, match="needs at least 2"):
            query.release(purpose=PURPOSE, epsilon=1.0)
    else:
        assert query.release(purpose=PURPOSE, epsilon=1.0).departments == ("ash", "birch")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("max_rows", {"max_rows": 9_999}),
        ("column 'age'", {"age": Column("integer", (0, 101))}),
        ("column 'smokes'", {"smokes": Column("boolean", nullable=True)}),
    ],
)
def test_departments_that_declare_a_table_differently(open_in_process, people, field, change):
    everyone = people()
    if "max_rows" in change:
        everyone.redeclare("cedar", **change)
    else:
        columns = everyone.catalogs["cedar"].datasets["t"].columns | change
        everyone.redeclare("cedar", columns=columns)
    federation = open_in_process(everyone.catalogs, everyone.frames)
    with pytest.raises(SchemaMismatch, match=f"ash and cedar declare table 't' differently: '?{field}"):
        federation.city.table("t")


def test_a_schema_that_changed_since_the_session_began(federation):
    query = federation.city.table("t").agg(count())

    def another(reply):
        decided = msgspec.json.decode(messages.decode_reply(reply).body, type=messages.Decided)
        return messages.encode(Done(msgspec.json.encode(msgspec.structs.replace(decided, schema=bytes(32)))))

    federation.wire.change("decide", "date", another)
    with pytest.raises(SchemaMismatch, match="date declares table 't' differently"):
        query.release(purpose=PURPOSE)

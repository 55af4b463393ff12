"""The door of one department: what it says of its data, whom it lets in, that it charges before it runs, and what it compares."""

from __future__ import annotations

import datetime
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from door import (
    BUDGET,
    COLUMNS,
    FRAME,
    HONEST,
    ask,
    clearance,
    dataset,
    digest,
    request,
)

from sandbox import col, disclosure, dp, entries
from sandbox import query as q
from sandbox.errors import (
    BudgetExceeded,
    Denied,
    Malformed,
    ParameterError,
    ScheduleError,
)
from sandbox.gate import Allow, Deny

ELDERS = q.Compare(">=", q.Column("x"), q.Value(2))  # 32 of 40 rows
ALL_BUT_FEW = q.Compare("<=", q.Column("x"), q.Value(8))  # 36 of 40 rows


# --- what it publishes and decides ---


def test_it_publishes_the_declaration_and_the_budget_as_it_stands(door):
    entry = door.gate.describe()["t"]
    assert (entry.level, entry.purposes, entry.description) == ("general-2", ("research", "care"), "40 rows")
    assert entry.budget == BUDGET
    assert entry.schema.columns == COLUMNS
    assert (entry.epsilon_spent, entry.approvers) == (0.0, 0)
    door.run(ask(epsilon=0.25))
    assert door.spent() == pytest.approx(0.25)


@pytest.mark.parametrize("level", ["general-1", "general-2", "general-3", "general-4"])
def test_an_exact_request_is_allowed_under_the_levels_rules(open_door, level):
    decision = open_door(level).gate.decide(ask(), HONEST)
    assert isinstance(decision, Allow)
    assert decision.rules == disclosure.RULES[level]


def test_a_dp_request_is_told_its_cost_and_what_it_leaves(door):
    decision = door.gate.decide(ask(epsilon=0.4), HONEST)
    assert isinstance(decision, Allow)
    assert decision.rules is None
    assert decision.rho == pytest.approx(dp.rho_of(0.4, 1e-6))
    assert decision.epsilon_left == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("level", "epsilon"), [("core", None), ("core", 0.5), ("important", None)], ids=lambda value: str(value)
)
def test_core_data_never_leave_and_important_data_never_exactly(open_door, level, epsilon):
    door, asked = open_door(level), ask(epsilon=epsilon)
    decision = door.gate.decide(asked, HONEST)
    assert isinstance(decision, Deny)
    assert any(level in reason for reason in decision.reasons)
    with pytest.raises(Denied):
        door.gate.run(asked, HONEST)
    assert door.spent() == 0.0
    assert not door.logged(entries.Charge)


def test_every_reason_is_given_at_once_and_logged(open_door):
    door = open_door(
        "general-2", analysts=("li",), epsilon_per_release=0.1, valid_until=datetime.date(2020, 1, 1)
    )
    asked = ask(purpose="marketing", epsilon=1.5, delta=1e-5)
    decision = door.gate.decide(asked, HONEST)
    assert isinstance(decision, Deny)
    text = "\n".join(decision.reasons)
    parts = (
        "analyst 'wu' is not among those",
        "could be asked until 2020-01-01",
        "'marketing' is not permitted",
        "permitted are: 'research', 'care'",
        "'epsilon' is 1.5",
        "privacy budget of 't': epsilon 0 of 1 is spent, and this release would bring it to 1.",
        "'delta' is 1e-05",
    )
    assert [part for part in parts if part not in text] == []
    [logged] = door.logged(entries.Decision)
    assert (logged.request, logged.verdict, logged.reasons) == (digest(asked), "deny", decision.reasons)


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda: ask(col("z").sum()), "'z'"),
        (lambda: ask(purpose=""), "not permitted"),
        (lambda: ask(epsilon=0.5, delta=1e-5), "'delta' is 1e-05"),
        (lambda: ask(col("z").sum(), purpose="marketing"), "'z'"),
    ],
)
def test_what_cannot_run_is_denied_and_costs_nothing(door, build, part):
    asked = build()
    decision = door.gate.decide(asked, HONEST)
    assert isinstance(decision, Deny)
    assert any(part in reason for reason in decision.reasons)
    with pytest.raises(Denied):
        door.gate.run(asked, HONEST)
    assert not door.logged(entries.Charge)


def test_a_data_set_that_is_not_here_is_denied_with_the_names_of_those_that_are(door):
    asked = ask(table="u")
    for attempt in (door.gate.explain, door.gate.decide, door.gate.run):
        with pytest.raises(Denied, match="no data set 'u' here; there are: t"):
            attempt(asked, HONEST)
    assert not door.logged(entries.Charge)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), 1e-12])
def test_epsilon_out_of_range_costs_nothing(door, epsilon):
    with pytest.raises((ParameterError, Malformed)):
        door.gate.run(ask(epsilon=epsilon, delta=1e-15), HONEST)
    assert door.spent() == 0.0
    assert not door.logged(entries.Charge)


def test_deciding_changes_nothing_and_is_logged_once(door):
    asked = ask(epsilon=0.9)
    decisions = [door.gate.decide(asked, HONEST) for _ in range(3)]
    assert decisions[0] == decisions[1] == decisions[2]
    assert door.spent() == 0.0
    assert [entry.verdict for entry in door.logged(entries.Decision)] == ["allow"]
    [logged] = door.logged(entries.Request)
    assert (logged.request, logged.dataset, logged.analyst, logged.purpose) == (
        digest(asked),
        "t",
        "wu",
        "research",
    )
    door.run(asked)


def test_an_exact_aggregate_may_not_choose_among_rows_where_cohorts_are_compared(open_door):
    choosing = (col("x") * (col("x") > 5)).sum().alias("s")
    decision = open_door("general-2").gate.decide(ask(choosing), HONEST)
    assert isinstance(decision, Deny)
    assert "may not choose among a group's rows by a condition" in decision.reasons[0]
    assert isinstance(open_door("general-2").gate.decide(ask(choosing, epsilon=0.5), HONEST), Allow)
    assert isinstance(open_door("general-1").gate.decide(ask(choosing), HONEST), Allow)


# --- explain ---


def test_explain_logs_nothing_and_spends_nothing(door):
    before = len(door.state.log)
    for asked in (ask(), ask(epsilon=0.5), ask(purpose="marketing"), ask(col("z").sum())):
        assert door.gate.explain(asked, HONEST) == door.gate.explain(asked, HONEST)
    assert len(door.state.log) == before
    assert door.spent() == 0.0
    assert not door.wanted()


def test_explain_says_what_decide_will_say(door):
    for asked in (ask(), ask(epsilon=0.5), ask(epsilon=1.5), ask(purpose="marketing")):
        assert door.gate.explain(asked, HONEST) == door.gate.decide(asked, HONEST)


def test_explain_depends_on_no_row(open_door):
    """Two departments with the same declaration and nothing else in common, one of them without any row."""
    full, empty = open_door(), open_door(frame=FRAME.head(0))
    other = open_door(frame=FRAME.assign(x=9, sex="m"))
    questions = [
        ask(),
        ask(col("x").sum(), keys=("sex",)),
        ask(where=ELDERS),
        ask(epsilon=0.5),
        ask(epsilon=2.0),
        ask(col("z").sum()),
    ]
    for asked in questions:
        said = [door.gate.explain(asked, HONEST) for door in (full, empty, other)]
        assert said[0] == said[1] == said[2]


# --- charging ---


def test_it_charges_until_the_budget_is_spent_and_then_refuses_with_the_figures(door):
    door.run(ask(epsilon=0.9))
    asked = ask(epsilon=0.9)
    decision = door.gate.decide(asked, HONEST)
    assert isinstance(decision, Deny)
    assert decision.budget
    assert "epsilon 0.9 of 1 is spent" in decision.reasons[0]
    with pytest.raises(BudgetExceeded):
        door.run(asked)
    assert door.spent() == pytest.approx(0.9)


def test_what_was_allowed_and_is_overtaken_is_refused_and_the_log_says_both(door):
    asked = ask(epsilon=0.9)
    assert isinstance(door.gate.decide(asked, HONEST), Allow)
    door.run(ask(epsilon=0.5))
    with pytest.raises(BudgetExceeded):
        door.run(asked)
    verdicts = [e.verdict for e in door.logged(entries.Decision) if e.request == digest(asked)]
    assert verdicts == ["allow", "deny"]


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_a_request_runs_once_also_after_a_restart(door, epsilon):
    asked = ask(epsilon=epsilon)
    door.run(asked)
    before = door.spent()
    for _ in range(2):
        with pytest.raises(ScheduleError, match="has run before: it is answered once"):
            door.run(asked)
        door.reopen()
    assert door.spent() == before
    [charge] = door.logged(entries.Charge)
    assert charge.request == digest(asked)


def test_exact_sums_come_without_noise_and_dp_sums_with_it(door):
    exact, noisy = door.run(ask()), door.run(ask(epsilon=0.5))
    assert exact.noise is None
    assert int(exact.sums.components[0][0]) == 40
    assert noisy.noise == dp.noise_for(noisy.plan, 1, dp.rho_of(0.5, 1e-6), HONEST)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({"epsilon": 0.5}, ["charged", "logged", "computed"]),
        ({}, ["charged", "kept", "logged", "computed"]),
    ],
)
def test_it_charges_before_it_keeps_logs_and_computes(door, question, expected):
    steps, asked = [], ask(**question)
    door.run(asked, steps.append)
    assert steps == expected
    [charge] = door.logged(entries.Charge)
    privacy = request(**question).privacy
    assert (charge.request, charge.number, charge.analyst, charge.purpose) == (
        digest(asked),
        1,
        "wu",
        "research",
    )
    assert charge.epsilon == (privacy.epsilon if privacy else None)
    assert charge.rho == (pytest.approx(dp.rho_of(0.5, 1e-6)) if privacy else None)
    assert charge.cohorts == (privacy is None)


def test_of_two_data_versions_one_run_reads_one(open_door):
    """The owner pins the version that may be asked; data that changed since are not read."""
    door = open_door()
    version = door.gate._engines["t"].version()
    pinned = dataset(data_version=version)
    door.reopen(pinned)
    assert isinstance(door.gate.decide(ask(epsilon=0.1), HONEST), Allow)
    door.reopen(pinned, FRAME.assign(x=3))
    decision = door.gate.decide(ask(epsilon=0.1), HONEST)
    assert isinstance(decision, Deny)
    assert "have changed since their owner opened this version" in decision.reasons[0]


# --- differencing ---


def test_an_exact_release_is_told_to_those_who_ask_next(door):
    first = ask(keys=("sex",))
    assert door.gate.decide(first, HONEST).released == ()
    door.run(first)
    [released] = door.gate.decide(ask(where=ELDERS), HONEST).released
    assert (released.request, released.shape, released.shown) == (digest(first), (2,), (0, 1))
    door.record(first, shown=(1,))
    [released] = door.gate.decide(ask(where=ELDERS), HONEST).released
    assert released.shown == (1,)
    assert door.gate.decide(ask(epsilon=0.1), HONEST).released == ()


def test_overlaps_count_this_departments_rows(door):
    first, second = ask(), ask(where=ALL_BUT_FEW)
    door.run(first)
    counts = door.gate.overlaps(second, HONEST, door.gate.decide(second, HONEST).released)
    assert np.array_equal(counts, [[40, 36, 40, 36]])  # all rows; the new cell; the released one; both
    with pytest.raises(ScheduleError, match="leaves out one that this department took part in"):
        door.gate.overlaps(second, HONEST, ())
    with pytest.raises(ScheduleError, match="only exact requests"):
        door.gate.overlaps(ask(epsilon=0.1), HONEST, ())


def test_open_data_are_compared_only_where_another_department_asks_for_it(open_door):
    door = open_door("general-1")
    door.gate.run(ask(), HONEST)
    assert door.wanted() == ()
    asked = ask()
    door.gate.run(asked, HONEST, clearance(asked))  # another department's rules ask for comparison
    assert door.wanted() == (digest(asked),)
    [released] = door.gate.decide(ask(), HONEST).released
    assert released.request == digest(asked)


def test_its_own_rows_alone_may_refuse(open_door):
    door, trusting = open_door(refuse_local_difference=True), open_door()
    second = ask(where=ALL_BUT_FEW)  # four rows fewer
    for one in (door, trusting):
        first = ask()
        one.run(first)
        one.record(first)
    known = trusting.gate.decide(second, HONEST).released
    assert trusting.gate.overlaps(second, HONEST, known).shape == (1, 4)
    released = door.gate.decide(second, HONEST).released
    with pytest.raises(Denied, match=r"of this department's own rows: .* differ by fewer than 10 units"):
        door.gate.overlaps(second, HONEST, released)
    [refusal] = door.logged(entries.Refusal)
    assert refusal.request == digest(second)
    assert "of this department's own rows" in refusal.reasons[0]
    assert len(door.logged(entries.Charge)) == 1


def test_its_own_rows_are_looked_at_whatever_the_coordinator_says(open_door):
    """One that never asks for the counts, and clears the request itself, meets the same refusal."""
    door = open_door(refuse_local_difference=True)
    first = ask()
    door.run(first)
    door.record(first)
    with pytest.raises(Denied, match="of this department's own rows"):
        door.run(ask(where=ALL_BUT_FEW))
    assert len(door.logged(entries.Charge)) == 1


def test_what_the_coordinator_refused_is_logged(door):
    asked = ask()
    door.gate.refused(clearance(asked, reasons=("a result here is too close", "and another")))
    [refusal] = door.logged(entries.Refusal)
    assert refusal.request == digest(asked)
    assert refusal.reasons == ("a result here is too close", "and another")
    assert not refusal.charged
    assert door.spent() == 0.0


# --- at once ---


def test_sixteen_threads_race_for_the_last_of_a_budget(open_door):
    """What fits into what is left is granted, and not once more; each grant is in the log."""
    door = open_door()
    door.run(ask(epsilon=0.9))
    questions = [ask(epsilon=0.2) for _ in range(16)]
    fits = max(
        n for n in range(16) if dp.epsilon_of(dp.rho_of(0.9, 1e-6) + n * dp.rho_of(0.2, 1e-6), 1e-6) <= 1
    )
    barrier, granted, refused = threading.Barrier(16), [], []

    def race(asked):
        assert isinstance(door.gate.explain(asked, HONEST), Allow)
        barrier.wait()
        try:
            door.gate.run(asked, HONEST)
            granted.append(digest(asked))
        except BudgetExceeded:
            refused.append(digest(asked))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(race, questions))
    assert 0 < fits < 16
    assert (len(granted), len(refused)) == (fits, 16 - fits)
    assert {charge.request for charge in door.logged(entries.Charge)[1:]} == set(granted)
    assert len(door.state.ledger.entries()) == 1 + fits


def test_one_request_from_many_threads_is_answered_once(door):
    asked, barrier, answers, refused = ask(epsilon=0.1), threading.Barrier(8), [], []

    def race(_):
        barrier.wait()
        try:
            answers.append(door.gate.run(asked, HONEST))
        except ScheduleError:
            refused.append(1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(race, range(8)))
    assert (len(answers), len(refused)) == (1, 7)
    assert len(door.logged(entries.Charge)) == 1

"""What an owner's own settings refuse, which reasons an analyst is told, and what runs under an approved contract."""

from __future__ import annotations

import datetime

import pytest
from door import (
    FRAME,
    HONEST,
    NOW,
    Door,
    ask,
    clearance,
    digest,
    request,
    signed,
)

from sandbox import col, entries
from sandbox import query as q
from sandbox.catalog import Budget
from sandbox.errors import (
    ApprovalNeeded,
    BudgetExceeded,
    Denied,
)
from sandbox.gate import Allow, Deny, NeedsApproval

ELDERS = q.Compare(">=", q.Column("x"), q.Value(2))  # 32 of 40 rows


# --- the owner's own settings ---


def test_epsilon_per_release(open_door):
    door = open_door(epsilon_per_release=0.2)
    decision = door.gate.decide(ask(epsilon=0.3), HONEST)
    assert isinstance(decision, Deny)
    assert "'epsilon' is 0.3; 't' allows above 0, to 0.2 a release" in decision.reasons[0]
    door.run(ask(epsilon=0.2))


def test_epsilon_per_analyst(open_door):
    door = open_door(epsilon_per_analyst=0.3)
    door.run(ask(epsilon=0.3))
    with pytest.raises(BudgetExceeded, match=r"for analyst 'wu': epsilon 0.3 is spent, nothing is left"):
        door.run(ask(epsilon=0.1))
    door.run(ask(epsilon=0.3, analyst="li"))


def test_releases_per_analyst_counts_exact_and_private_ones(open_door):
    door = open_door(releases_per_analyst=2)
    door.run(ask())
    door.run(ask(epsilon=0.1))
    for asked in (ask(), ask(epsilon=0.1)):
        with pytest.raises(BudgetExceeded, match="releases of 't' for analyst 'wu': 2 of 2 are used"):
            door.run(asked)
    door.run(ask(analyst="li"))
    door.reopen()
    with pytest.raises(BudgetExceeded):
        door.run(ask())


def test_valid_until_is_the_last_day_on_which_it_may_be_asked(open_door):
    day = datetime.datetime.fromtimestamp(NOW, datetime.UTC).date()
    door = open_door(valid_until=day)
    door.run(ask(epsilon=0.1))
    door.now += 24 * 3600
    asked = ask(epsilon=0.1, expires=NOW + 24 * 3600 + 600)
    decision = door.gate.decide(asked, HONEST)
    assert isinstance(decision, Deny)
    assert f"could be asked until {day.isoformat()} (UTC)" in decision.reasons[0]


def test_analyses(open_door):
    door = open_door(analyses=("table",))
    assert isinstance(door.gate.decide(ask(), HONEST), Allow)
    decision = door.gate.decide(ask(keys=("sex",), analysis="anova"), HONEST)
    assert isinstance(decision, Deny)
    assert "analysis 'anova' is not permitted for 't'; permitted are: 'table'" in decision.reasons[0]


@pytest.mark.parametrize(
    ("settings", "prepare", "question", "hidden"),
    [
        ({"analysts": ("li",)}, 0, {}, "is not among those whom the owner"),
        ({"organisations": ("clinic",)}, 0, {}, "organisation 'university' is not among"),
        ({"valid_until": datetime.date(2020, 1, 1)}, 0, {}, "until 2020-01-01"),
        ({"epsilon_per_release": 0.1}, 0, {"epsilon": 0.2}, "to 0.1 a release"),
        ({"releases_per_analyst": 1}, 1, {"epsilon": 0.2}, "for analyst 'wu': 1 of 1 are used"),
        ({"releases": 1}, 1, {"epsilon": 0.2}, "releases of 't': 1 of 1 are used"),
        ({"epsilon_per_analyst": 0.2}, 1, {"epsilon": 0.2}, "for analyst 'wu': epsilon 0.1"),
        ({"epsilon_per_analyst": 0.1}, 1, {"epsilon": 0.1}, "for analyst 'wu': epsilon 0.1 is spent"),
    ],
)
def test_hidden_reasons_never_leave_the_department(open_door, settings, prepare, question, hidden):
    door = open_door(hidden=tuple(settings), **settings)
    for _ in range(prepare):
        door.run(ask(epsilon=0.1))
    asked = ask(**question)
    said = []
    for attempt in (door.gate.explain, door.gate.decide):
        decision = attempt(asked, HONEST)
        assert isinstance(decision, Deny)
        assert not decision.budget, "that it is a budget is a reason too"
        said += decision.reasons
    with pytest.raises(Denied) as refused:
        door.gate.run(asked, HONEST, clearance(asked))
    said += refused.value.reasons
    assert set(said) == {"the owner's policy refuses it for reasons that are not published: ask the owner"}
    [decision] = [entry for entry in door.logged(entries.Decision) if entry.request == digest(asked)]
    assert hidden in "\n".join(decision.reasons), "the owner reads them in the log"


def test_beside_a_hidden_reason_the_others_are_told(open_door):
    door = open_door(epsilon_per_analyst=0.2, hidden=("epsilon_per_analyst",))
    door.run(ask(epsilon=0.2))
    decision = door.gate.decide(ask(epsilon=0.99), HONEST)
    assert isinstance(decision, Deny)
    assert len(decision.reasons) == 2
    assert decision.reasons[0].startswith("privacy budget of 't': epsilon 0.2 of 1 is spent")
    assert "not published" in decision.reasons[1]


# --- approvals ---


@pytest.fixture
def guarded(open_door) -> Door:
    """Important data: two owners must approve a contract first."""
    return open_door("important")


def test_without_a_contract_it_asks_for_approval_and_says_how(guarded):
    asked = ask(epsilon=0.5)
    decision = guarded.gate.decide(asked, HONEST)
    assert isinstance(decision, NeedsApproval)
    assert decision.missing == 2
    assert "needs the approval of 2 of its approvers" in decision.reasons[0]
    assert "propose one" in decision.reasons[1]
    with pytest.raises(ApprovalNeeded):
        guarded.run(asked)
    assert guarded.spent() == 0.0
    assert [entry.verdict for entry in guarded.logged(entries.Decision)] == ["needs approval"]


def test_nobody_is_asked_to_approve_what_could_not_run(guarded):
    for asked in (ask(epsilon=0.5, purpose="marketing"), ask(epsilon=1.5), ask(col("z").sum(), epsilon=0.5)):
        assert isinstance(guarded.gate.decide(asked, HONEST), Deny)


def test_two_owners_approve_with_their_own_keys_and_it_runs_under_the_contract(guarded):
    asked = request(epsilon=0.5)
    contract = guarded.propose(asked, runs=2, budget=1.0)
    guarded.decide(contract, "olga")
    waiting = guarded.gate.decide(signed(asked), HONEST)
    assert isinstance(waiting, NeedsApproval)
    assert waiting.missing == 2
    assert f"contract {contract[:12]} is pending: 1 of 2 approvals given" in waiting.reasons[1]
    guarded.decide(contract, "oskar")
    steps: list[str] = []
    guarded.run(signed(asked), steps.append)
    assert steps == ["charged", "counted", "logged", "computed"]
    status = guarded.state.approvals.status(contract)
    assert (status.runs, status.epsilon) == (1, 0.5)
    [charge] = guarded.logged(entries.Charge)
    assert charge.contract == contract
    told = [(e.contract, e.approver, e.verdict) for e in guarded.logged(entries.Approval)]
    assert told == [(contract, "olga", "approve"), (contract, "oskar", "approve")]
    verdicts = [entry.verdict for entry in guarded.logged(entries.Decision)]
    assert verdicts == ["needs approval", "allow"]


def test_a_contract_is_used_up(open_door):
    guarded = open_door("important", Budget(10.0, 1e-6))
    contract = guarded.propose(request(epsilon=0.5), runs=2, budget=1.0)
    for owner in ("olga", "oskar"):
        guarded.decide(contract, owner)
    for _ in range(2):
        guarded.run(ask(epsilon=0.5))
    with pytest.raises(ApprovalNeeded, match=f"contract {contract[:12]} is used up"):
        guarded.run(ask(epsilon=0.5))
    guarded.reopen()
    with pytest.raises(ApprovalNeeded, match="is used up"):
        guarded.run(ask(epsilon=0.5))


@pytest.mark.parametrize(
    "change",
    [
        {"purpose": "care"},
        {"epsilon": 0.4},
        {"analyst": "li"},
        {"keys": ("sex",)},
        {"where": ELDERS},
    ],
    ids=lambda change: next(iter(change)),
)
def test_leave_for_one_thing_is_none_for_another(guarded, change):
    contract = guarded.propose(request(epsilon=0.5))
    for owner in ("olga", "oskar"):
        guarded.decide(contract, owner)
    with pytest.raises(ApprovalNeeded):
        guarded.run(ask(**{"epsilon": 0.5, **change}))
    assert guarded.state.approvals.status(contract).runs == 0
    guarded.run(ask(epsilon=0.5))


def test_ones_own_approval_does_not_help(guarded):
    asked = request(epsilon=0.5, analyst="olga")
    contract = guarded.propose(asked)
    guarded.decide(contract, "oskar")
    with pytest.raises(Denied, match="no one decides on a request of their own"):
        guarded.decide(contract, "olga")
    with pytest.raises(ApprovalNeeded):
        guarded.run(signed(asked))


def test_one_owner_twice_does_not_help(guarded):
    asked = request(epsilon=0.5)
    contract = guarded.propose(asked)
    guarded.decide(contract, "olga")
    guarded.now += 1
    with pytest.raises(Denied, match="olga has decided on this contract before"):
        guarded.decide(contract, "olga")
    with pytest.raises(ApprovalNeeded):
        guarded.run(signed(asked))


def test_an_owner_of_another_organisation_does_not_help(guarded):
    asked = request(epsilon=0.5)
    contract = guarded.propose(asked)
    guarded.decide(contract, "olga")
    with pytest.raises(Denied, match="omar is an owner at labour office, not at clinic"):
        guarded.decide(contract, "omar")
    with pytest.raises(ApprovalNeeded):
        guarded.run(signed(asked))


def test_one_no_stands_against_it(guarded):
    asked = request(epsilon=0.5)
    contract = guarded.propose(asked)
    guarded.decide(contract, "olga")
    guarded.decide(contract, "oskar", approved=False)
    with pytest.raises(ApprovalNeeded, match=f"contract {contract[:12]} is rejected"):
        guarded.run(signed(asked))


def test_a_contract_expires(guarded):
    contract = guarded.propose(request(epsilon=0.5), expires=NOW + 60)
    for owner in ("olga", "oskar"):
        guarded.decide(contract, owner)
    guarded.now += 60
    with pytest.raises(ApprovalNeeded):
        guarded.run(ask(epsilon=0.5))


def test_approved_at_one_version_of_the_data_and_run_at_another(guarded):
    contract = guarded.propose(request(epsilon=0.5), data_version=guarded.gate._engines["t"].version())
    for owner in ("olga", "oskar"):
        guarded.decide(contract, owner)
    assert isinstance(guarded.gate.explain(ask(epsilon=0.5), HONEST), Allow)
    guarded.reopen(frame=FRAME.assign(x=1))
    with pytest.raises(ApprovalNeeded):
        guarded.run(ask(epsilon=0.5))

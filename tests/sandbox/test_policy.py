"""The policy as a table: level by level, setting by setting, and the order of deny, approval and allow."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import catalog, disclosure, policy
from sandbox.catalog import Budget, Catalog, Column, DataSet, Overrides
from sandbox.errors import CatalogError, ParameterError
from sandbox.policy import Allow, Deny, Facts, History, NeedsApproval, Policy, decide, explainable

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
EXACT = Facts("care", "ana", "city hospital", "table", "v1", NOW)
DP = msgspec.structs.replace(EXACT, epsilon=0.5, delta=1e-6)
BUDGET = Budget(1.0, 1e-6)
LEVELS = ("core", "important", "general-4", "general-3", "general-2", "general-1")


def dataset(level="general-2", budget: Budget | None = BUDGET, **settings) -> DataSet:
    columns = {"age": Column("integer", (0, 120))}
    own = Overrides(**settings) if settings else None
    return DataSet(level, ("care", "planning"), columns, budget=budget, policy=own)


def rule(level="general-2", budget: Budget | None = BUDGET, **settings) -> Policy:
    return policy.of("health", dataset(level, budget, **settings))


def rules(decision) -> list[str]:
    return [reason.rule for reason in decision.reasons]


# --- levels ---


@pytest.mark.parametrize(
    ("level", "exact", "private"),
    [
        ("core", Deny, Deny),
        ("important", Deny, NeedsApproval),
        ("general-4", Allow, Allow),
        ("general-3", Allow, Allow),
        ("general-2", Allow, Allow),
        ("general-1", Allow, Allow),
    ],
)
def test_defaults_follow_from_the_level(level, exact, private):
    assert type(decide(rule(level), EXACT, History())) is exact
    assert type(decide(rule(level), DP, History())) is private


@pytest.mark.parametrize("level", LEVELS[2:])
def test_exact_results_must_keep_the_rules_of_their_level(level):
    decision = decide(rule(level), EXACT, History())
    assert isinstance(decision, Allow)
    assert decision.rules == disclosure.RULES[level]
    private = decide(rule(level), DP, History())
    assert isinstance(private, Allow)
    assert private.rules is None


def test_core_data_is_never_shared_whoever_approves():
    decision = decide(rule("core"), DP, History(approvals=frozenset({"li", "wang", "zhao"})))
    assert rules(decision) == ["level"]
    assert "core data: it is never shared" in decision.reasons[0].text


# --- approval ---


@pytest.mark.parametrize(
    ("approvals", "missing"),
    [
        ((), 2),
        (("li",), 1),
        (("li", "Li", " li "), 1),  # one person, three spellings
        (("li", "ana"), 1),  # the analyst himself
        (("li", "ＡＮＡ"), 1),  # the analyst himself, in full-width letters
        (("li", "wang"), 0),
        (("li", "wang", "zhao"), 0),
    ],
)
def test_two_approvers_are_two_people_and_neither_is_the_analyst(approvals, missing):
    decision = decide(rule("important"), DP, History(approvals=frozenset(approvals)))
    if missing:
        assert isinstance(decision, NeedsApproval)
        assert decision.missing == missing
        assert "needs the approval of 2" in decision.reasons[0].text
    else:
        assert isinstance(decision, Allow)
        assert "approved by li, wang" in decision.reasons[-1].text


def test_an_owner_may_ask_for_approvers_at_any_level():
    assert decide(rule("general-1", approvers=1), EXACT, History()).missing == 1
    assert isinstance(
        decide(rule("general-1", approvers=1), EXACT, History(approvals=frozenset({"li"}))), Allow
    )


def test_what_could_not_run_is_denied_and_waits_for_nobody():
    decision = decide(rule("important"), msgspec.structs.replace(DP, purpose="ads"), History())
    assert isinstance(decision, Deny)
    assert rules(decision) == ["purposes"]


# --- settings, one by one: (settings, facts that break it, history that breaks it, rule) ---

BREAKS = [
    ({}, {"purpose": "ads"}, {}, "purposes"),
    ({"analysts": ("bo",)}, {}, {}, "analysts"),
    ({"organisations": ("tax office",)}, {}, {}, "organisations"),
    ({"organisations": ("tax office",)}, {"organisation": ""}, {}, "organisations"),
    ({"valid_from": datetime.date(2026, 3, 2)}, {}, {}, "valid_from"),
    ({"valid_until": datetime.date(2026, 2, 28)}, {}, {}, "valid_until"),
    ({"kinds": ("exact",)}, {}, {}, "kinds"),
    ({"analyses": ("anova",)}, {}, {}, "analyses"),
    ({"epsilon_per_release": 0.4}, {}, {}, "epsilon_per_release"),
    ({}, {"epsilon": float("nan")}, {}, "epsilon_per_release"),
    ({}, {"epsilon": 0.0}, {}, "epsilon_per_release"),
    ({}, {"delta": 1e-5}, {}, "delta"),
    ({}, {"delta": 0.0}, {}, "delta"),
    ({"releases": 3}, {}, {"releases": 3}, "releases"),
    ({"releases_per_analyst": 2}, {}, {"releases_by_analyst": 2}, "releases_per_analyst"),
    ({}, {}, {"epsilon": 1.0}, "budget"),
    ({"epsilon_per_analyst": 0.6}, {}, {"epsilon_by_analyst": 0.6}, "epsilon_per_analyst"),
    ({"data_version": "v0"}, {}, {}, "data_version"),
]


@pytest.mark.parametrize(("settings", "facts", "history", "name"), BREAKS)
def test_each_setting_refuses_what_breaks_it(settings, facts, history, name):
    decision = decide(rule(**settings), msgspec.structs.replace(DP, **facts), History(**history))
    assert isinstance(decision, Deny)
    assert rules(decision) == [name]
    assert decision.budget == (name in {"budget", "releases", "releases_per_analyst", "epsilon_per_analyst"})


def test_what_keeps_every_setting_is_allowed():
    day = NOW.date()
    strict = rule(
        analysts=("ana",),
        organisations=("city hospital",),
        valid_from=day,
        valid_until=day,
        kinds=("dp",),
        analyses=("table",),
        epsilon_per_release=0.5,
        epsilon_per_analyst=0.6,
        releases=3,
        releases_per_analyst=2,
        data_version="v1",
    )
    before = History(releases=2, releases_by_analyst=1, epsilon=0.99, epsilon_by_analyst=0.59)
    assert isinstance(decide(strict, DP, before), Allow)


def test_days_are_days_in_utc():
    policy_ = rule(valid_until=datetime.date(2026, 3, 1))
    east = datetime.timezone(datetime.timedelta(hours=8))
    last = datetime.datetime(2026, 3, 2, 7, 59, tzinfo=east)
    assert isinstance(decide(policy_, msgspec.structs.replace(DP, now=last), History()), Allow)
    after = last + datetime.timedelta(minutes=1)
    assert isinstance(decide(policy_, msgspec.structs.replace(DP, now=after), History()), Deny)


@given(st.lists(st.sampled_from(range(len(BREAKS))), unique=True))
def test_every_reason_is_given_not_only_the_first(chosen):
    settings, facts, history, names = {}, {}, {}, set()
    for i in chosen:
        if BREAKS[i][3] in names or ("valid_from" in names and BREAKS[i][3] == "valid_until"):
            continue
        if "valid_until" in names and BREAKS[i][3] == "valid_from":
            continue
        if facts.keys() & BREAKS[i][1].keys():
            continue
        settings |= BREAKS[i][0]
        facts |= BREAKS[i][1]
        history |= BREAKS[i][2]
        names.add(BREAKS[i][3])
    decision = decide(rule(**settings), msgspec.structs.replace(DP, **facts), History(**history))
    found = set(rules(decision)) if isinstance(decision, Deny) else set()
    assert names == found


def test_without_a_budget_dp_is_denied_and_exact_is_not():
    assert rules(decide(rule(budget=None), DP, History())) == ["kinds"]
    assert isinstance(decide(rule(budget=None), EXACT, History()), Allow)


def test_a_spent_budget_does_not_stop_exact_releases_but_their_number_does():
    assert isinstance(decide(rule(), EXACT, History(epsilon=1.0)), Allow)
    assert rules(decide(rule(releases=1), EXACT, History(releases=1))) == ["releases"]


def test_facts_without_a_time_zone_or_half_a_privacy_are_errors():
    with pytest.raises(ParameterError, match="time zone"):
        msgspec.structs.replace(EXACT, now=datetime.datetime(2026, 3, 1))
    with pytest.raises(ParameterError, match="together"):
        msgspec.structs.replace(EXACT, epsilon=0.5)


# --- what the analyst may read ---


def test_hidden_reasons_are_for_the_owner_only():
    strict = rule(analysts=("bo",), releases=1, hidden=("analysts",))
    decision = decide(strict, DP, History(releases=1))
    assert rules(decision) == ["analysts", "releases"]
    texts = explainable(decision)
    assert texts[0] == "releases of 'health': 1 of 1 are used"
    assert "not published" in texts[1]
    assert not any("'ana'" in text for text in texts)
    assert len(texts) == 2


def test_reasons_that_are_not_hidden_are_all_explained():
    decision = decide(rule(analysts=("bo",), releases=1), DP, History(releases=1))
    assert explainable(decision) == tuple(reason.text for reason in decision.reasons)
    assert len(explainable(decide(rule(), DP, History()))) == 2


def test_no_reason_names_others():
    decision = decide(rule(analysts=("bo",), organisations=("tax office",)), DP, History())
    text = " ".join(reason.text for reason in decision.reasons)
    assert "bo" not in text.split("'")
    assert "tax office" not in text


# --- the owner's settings only tighten ---


@pytest.mark.parametrize(
    ("level", "settings", "field"),
    [
        ("core", {"kinds": ("dp",)}, "kinds"),
        ("important", {"kinds": ("exact", "dp")}, "kinds"),
        ("important", {"approvers": 1}, "approvers"),
        ("important", {"approvers": 0}, "approvers"),
        ("general-4", {"min_cell": 19}, "min_cell"),
        ("general-3", {"min_cell": 9}, "min_cell"),
        ("general-3", {"rounding": 4}, "rounding"),
        ("general-2", {"epsilon_per_release": 1.1}, "epsilon_per_release"),
        ("general-2", {"epsilon_per_analyst": 2.0}, "epsilon_per_analyst"),
        (
            "general-2",
            {"valid_from": datetime.date(2026, 3, 2), "valid_until": datetime.date(2026, 3, 1)},
            "valid_until",
        ),
    ],
)
def test_a_setting_that_would_loosen_is_an_error_of_the_catalogue(level, settings, field):
    with pytest.raises(CatalogError, match=f"data set 'health', policy: '{field}'"):
        Catalog("hospital", {"health": dataset(level, **settings)})


@pytest.mark.parametrize("settings", [{"epsilon_per_release": 0.5}, {"kinds": ("dp",)}])
def test_settings_about_dp_need_a_budget(settings):
    with pytest.raises(CatalogError, match="budget"):
        Catalog("hospital", {"health": dataset(budget=None, **settings)})


def test_stricter_rules_reach_disclosure_control():
    tight = rule("general-3", min_cell=30, rounding=10)
    assert tight.rules == disclosure.Rules(min_cell=30, rounding=10)
    assert rule("general-1", min_cell=5).rules.min_cell == 5


TOML = """
department = "hospital"
[datasets.health]
level = "general-2"
purposes = ["care"]
budget = {epsilon = 1.0, delta = 1e-6}
[datasets.health.columns.age]
type = "integer"
bounds = [0, 120]
[datasets.health.policy]
"""


def test_settings_are_read_from_the_catalogue(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text(
        TOML
        + """
analysts = ["ana"]
organisations = ["city hospital"]
valid_from = 2026-01-01
valid_until = 2026-12-31
kinds = ["dp"]
analyses = ["table", "anova"]
epsilon_per_release = 0.5
epsilon_per_analyst = 1
releases = 10
releases_per_analyst = 5
approvers = 1
data_version = "v1"
min_cell = 15
rounding = 5
refuse_local_difference = true
hidden = ["analysts"]
"""
    )
    read = catalog.load(path).datasets["health"]
    assert read.policy == Overrides(
        ("ana",), ("city hospital",), datetime.date(2026, 1, 1), datetime.date(2026, 12, 31), ("dp",), ("table", "anova"),
        0.5, 1.0, 10, 5, 1, "v1", 15, 5, True, ("analysts",),
    )  # fmt: skip
    assert read.schema().digest() == msgspec.structs.replace(read, policy=None).schema().digest()


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("min_cell = 9", "'min_cell' is 9; level general-2 needs at least 10"),
        ("analysts = []", "policy.analysts"),
        ("releases = 0", "policy.releases"),
        ('kinds = ["raw"]', "policy.kinds"),
        ('valid_until = "soon"', "policy.valid_until"),
        ("approver = 2", "unknown field `approver`"),
        ('hidden = ["purposes"]', "policy.hidden"),
        ("epsilon_per_release = nan", "policy.*epsilon_per_release|epsilon_per_release.*policy"),
    ],
)
def test_settings_that_cannot_be_are_named(tmp_path, line, match):
    path = tmp_path / "node.toml"
    path.write_text(TOML + line)
    with pytest.raises(CatalogError, match=match):
        catalog.load(path)

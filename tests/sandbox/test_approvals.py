"""Contracts and approvals at one node: who may say yes to what, and what then runs."""

import dataclasses
import threading

import msgspec
import pytest

from sandbox import col, count
from sandbox import query as q
from sandbox.approvals import Approvals, propose, sign_decision
from sandbox.contract import Contract
from sandbox.errors import Denied, EvidenceError, ParameterError
from sandbox.keys import Signed, SigningKey
from sandbox.roster import Roster, member
from sandbox.table import JointTable

NOW = 1_000_000
DAY = 86_400
PEOPLE = {
    "ann": "analyst",
    "olga": "owner",
    "oskar": "owner",
    "omar": "owner",
    "clinic": "node",
}
KEYS = {name: SigningKey.generate() for name in PEOPLE}
ANN_AS_OWNER = SigningKey.generate()
ROSTER = Roster(
    "city",
    (
        *(
            member(name, role, "Elsewhere" if name == "omar" else "Clinic", KEYS[name].public)
            for name, role in PEOPLE.items()
        ),
        member("ann", "owner", "Clinic", ANN_AS_OWNER.public),
    ),
)


class Query:
    """The builder needs no session to write a query."""


def query(age=60):
    return JointTable(Query(), "people").filter(col("age") >= age).group_by("sex").agg(count()).query


def contract(**changes):
    values = {
        "query": query(),
        "purpose": "research",
        "legal_basis": "Act 7",
        "analyst": "ann",
        "expires": NOW + DAY,
        "runs": 2,
        "epsilon": (0.5, 1.0),
        "budget": 1.5,
    }
    return Contract(**{**values, **changes})


@dataclasses.dataclass
class Clock:
    now: float = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def approvals(tmp_path, clock):
    store = Approvals(tmp_path / "approvals.db", "clinic", ROSTER, lambda _table: 2, clock)
    yield store
    store.close()


def find(approvals, epsilon=0.5, purpose="research", analyst="ann", version="v1", **changes):
    return approvals.find(query(**changes), purpose, analyst, epsilon, version)


def approved(approvals, which=None):
    digest = approvals.propose(propose(KEYS["ann"], which or contract()))
    for owner in ("olga", "oskar"):
        approvals.decide(sign_decision(KEYS[owner], owner, digest, True, now=NOW))
    return digest


def test_two_owners_approve_and_then_it_covers_the_request(approvals):
    digest = approvals.propose(propose(KEYS["ann"], contract()))
    assert approvals.status(digest).state == "pending"
    assert approvals.decide(sign_decision(KEYS["olga"], "olga", digest, True)).state == "pending"
    status, reason = find(approvals)
    assert status is None
    assert "pending: 1 of 2" in reason
    assert approvals.decide(sign_decision(KEYS["oskar"], "oskar", digest, True)).state == "approved"
    assert find(approvals)[0].digest == digest


def test_one_person_is_not_two_approvers(approvals):
    digest = approvals.propose(propose(KEYS["ann"], contract()))
    approvals.decide(sign_decision(KEYS["olga"], "olga", digest, True))
    with pytest.raises(Denied, match="decided on this contract before"):
        approvals.decide(sign_decision(KEYS["olga"], "olga", digest, True, "again"))
    assert approvals.status(digest).approved_by == ("olga",)


def test_no_one_approves_a_request_of_their_own(approvals):
    digest = approvals.propose(propose(KEYS["ann"], contract()))
    with pytest.raises(Denied, match="of their own"):
        approvals.decide(sign_decision(ANN_AS_OWNER, "ann", digest, True))


def test_an_owner_elsewhere_has_no_say(approvals):
    digest = approvals.propose(propose(KEYS["ann"], contract()))
    with pytest.raises(Denied, match="Elsewhere"):
        approvals.decide(sign_decision(KEYS["omar"], "omar", digest, True))


@pytest.mark.parametrize("signer", ["ann", "clinic"])
def test_a_decision_signed_with_another_key_is_none(approvals, signer):
    digest = approvals.propose(propose(KEYS["ann"], contract()))
    with pytest.raises(EvidenceError):
        approvals.decide(sign_decision(KEYS[signer], "olga", digest, True))
    assert approvals.status(digest).approved_by == ()


def test_an_approval_is_of_one_contract(approvals):
    """The digest that owners sign binds every field: a contract changed afterwards is another contract, without approvals."""
    approved(approvals)
    for changes in (
        {"budget": 5.0},
        {"runs": 3},
        {"purpose": "marketing"},
        {"expires": NOW + 2 * DAY},
        {"legal_basis": "none"},
        {"query": query(age=61)},
    ):
        other = contract(**changes)
        with pytest.raises(ParameterError, match="no contract"):
            approvals.status(other.digest())
        assert approvals.status(approvals.propose(propose(KEYS["ann"], other))).state == "pending"


def test_a_contract_altered_on_the_way_is_refused(approvals):
    signed = propose(KEYS["ann"], contract())
    with pytest.raises(EvidenceError):
        approvals.propose(Signed(signed.body.replace(b"1.5", b"9.5"), "ann", signed.signature))


def test_one_no_rejects(approvals):
    digest = approved(approvals)
    assert approvals.status(digest).state == "approved"
    digest = approvals.propose(propose(KEYS["ann"], contract(runs=3)))
    approvals.decide(sign_decision(KEYS["olga"], "olga", digest, False, "too broad"))
    approvals.decide(sign_decision(KEYS["oskar"], "oskar", digest, True))
    assert approvals.status(digest).state == "rejected"


@pytest.mark.parametrize(
    "changes",
    [{"purpose": "marketing"}, {"analyst": "bob"}, {"epsilon": 1.01}, {"epsilon": None}, {"age": 61}],
)
def test_another_question_is_not_covered(approvals, changes):
    approved(approvals)
    status, reason = find(approvals, **changes)
    assert status is None
    assert "no contract covers" in reason


def test_ranges_open_the_numbers_of_the_filter_and_nothing_else(approvals):
    approved(approvals, contract(ranges=((60.0, 80.0),), data_version="v1"))
    assert find(approvals, age=70)[0] is not None
    assert find(approvals, age=81)[0] is None
    assert find(approvals, version="v2")[0] is None
    other = JointTable(Query(), "people").filter(col("age") > 70).group_by("sex").agg(count()).query
    assert approvals.find(other, "research", "ann", 0.5, "v1")[0] is None


def test_runs_and_budget_are_used_up(approvals):
    digest = approved(approvals)
    approvals.use(digest, "r1", 1.0)
    approvals.use(digest, "r1", 1.0)
    assert (approvals.status(digest).runs, approvals.status(digest).epsilon) == (1, 1.0)
    assert "epsilon 0.5 left" in find(approvals, epsilon=1.0)[1]
    approvals.use(digest, "r2", 0.5)
    assert approvals.status(digest).state == "used up"
    with pytest.raises(Denied):
        approvals.use(digest, "r3", 0.5)


def test_of_many_who_race_for_the_last_run_one_gets_it(approvals):
    digest = approved(approvals)
    approvals.use(digest, "first", 0.5)
    granted = []

    def race(name):
        try:
            approvals.use(digest, name, 0.5)
            granted.append(name)
        except Denied:
            pass

    threads = [threading.Thread(target=race, args=(f"r{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 1


def test_it_expires(approvals, clock):
    digest = approved(approvals)
    clock.now = NOW + DAY
    assert approvals.status(digest).state == "expired"
    assert find(approvals)[0] is None


def test_it_survives_a_restart(tmp_path, clock):
    path = tmp_path / "a.db"
    store = Approvals(path, "clinic", ROSTER, lambda _table: 2, clock)
    digest = approved(store)
    store.use(digest, "r1", 0.5)
    store.close()
    again = Approvals(path, "clinic", ROSTER, lambda _table: 2, clock)
    assert (again.status(digest).state, again.status(digest).runs) == ("approved", 1)
    assert {signed.signer for signed in again.signed(digest)} == {"olga", "oskar"}
    again.close()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"purpose": " "}, "purpose"),
        ({"runs": 0}, "runs"),
        ({"epsilon": (1.0, 0.5)}, "epsilon"),
        ({"epsilon": (float("nan"), 1.0)}, "epsilon"),
        ({"budget": float("nan")}, "budget"),
        ({"budget": None}, "budget"),
        ({"ranges": ((1.0, 2.0), (1.0, 2.0))}, "ranges"),
        ({"ranges": ((2.0, 1.0),)}, "ranges"),
    ],
)
def test_a_contract_that_means_nothing_is_refused_by_field(changes, field):
    with pytest.raises(ParameterError, match=field):
        contract(**changes)


def test_its_output_columns_stand_in_it():
    assert contract().output == ("sex", "count")
    assert isinstance(contract().query, q.Query)
    assert msgspec.json.decode(msgspec.json.encode(contract()), type=Contract) == contract()

"""What a coordinator that colludes with an analyst, and whoever gets at a node's files without its key, may try at one door."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest
from door import FRAME, HONEST, KEYS, NOW, ROSTER, Door, ask, dataset, request, signed

from sandbox import dp, entries, keys
from sandbox import query as q
from sandbox.approvals import DECISION, Approvals, OwnerDecision, sign_decision
from sandbox.contract import Contract
from sandbox.engine import Engine
from sandbox.errors import CatalogError, LedgerError, ParameterError, ScheduleError
from sandbox.gate import Gate, NeedsApproval

RHO = dp.rho_of(0.5, 1e-6)


def edit(door: Door, name: str, *statements: tuple[str, tuple]) -> None:
    """Change a database behind the back of a node that has stopped."""
    door.crash()
    with sqlite3.connect(door.path / name) as database:
        for statement, values in statements:
            database.execute(statement, values)
    database.close()


def reopen(door: Door) -> None:
    door.open(door.catalog.datasets["t"], door.frame)


# --- one charge, one release ---


@pytest.mark.parametrize("restarted", [False, True])
def test_one_request_has_one_release(door, restarted):
    """The coordinator has another result attested under the same charge, for a second receipt that holds."""
    asked = ask(epsilon=0.5)
    door.run(asked)
    assert door.record(asked, rho=RHO)
    if restarted:
        door.reopen()
    assert door.record(asked, rho=RHO, departments=("ash", "birch")), "the same without a department, say"
    with pytest.raises(ScheduleError, match="another release"):
        door.record(asked, rho=RHO, release="cd" * 32)
    assert {entry.release for entry in door.logged(entries.Release)} == {"ab" * 32}


def test_a_release_is_attested_under_the_policy_that_let_it_run(door):
    """Run under one policy, recorded under another: the log would say that this one was kept."""
    asked, other = ask(epsilon=0.5), ask(epsilon=0.3)
    door.run(asked)
    door.run(other)
    door.reopen(dataset(epsilon_per_release=0.1))
    with pytest.raises(ScheduleError, match="policy of 't' has changed"):
        door.record(asked, rho=RHO)
    door.reopen(dataset())
    assert door.record(asked, rho=RHO), "it is the policy again under which it ran"


def test_pinned_data_are_the_data_that_a_release_is_computed_on(tmp_path):
    """They change after the charge: a DP release too is of the version that its owner opened, or of none."""
    file = tmp_path / "t.csv"
    FRAME.to_csv(file, index=False)
    plain = msgspec.structs.replace(dataset(), source="t.csv")
    door = Door(tmp_path / "node")
    version = Engine("t", plain, directory=tmp_path).keyed(door.state.secret).version()
    for pinned in (version, None):
        policy = dataset(**({"data_version": pinned} if pinned else {"releases": 9})).policy
        declared = msgspec.structs.replace(plain, policy=policy)
        door.reopen(declared)
        gate = Gate(door.catalog, {"t": Engine("t", declared, directory=tmp_path)}, door.state)
        gate._step = lambda step: FRAME[:30].to_csv(file, index=False) if step == "logged" else None
        if pinned:
            with pytest.raises(CatalogError, match="changed while they were read"):
                gate.run(ask(epsilon=0.25), HONEST)
        else:
            gate.run(ask(epsilon=0.25), HONEST)
    door.crash()


# --- files without the key ---


@pytest.mark.parametrize(
    "statements",
    [
        [("UPDATE totals SET rho = 0, curve = zeroblob(length(curve))", ())],
        [("DELETE FROM totals", ())],
        [("DROP TRIGGER no_update", ()), ("UPDATE charges SET epsilon = 0.01", ())],
        [("DROP TRIGGER no_update", ()), ("UPDATE charges SET analyst = 'li'", ())],
        [("DROP TRIGGER no_update", ()), ("UPDATE charges SET event = NULL", ())],
    ],
)
def test_a_ledger_that_was_edited_opens_no_node(door, statements):
    """Not put back from a copy, but changed in place, so that its budget is whole again."""
    door.run(ask(epsilon=0.9))
    edit(door, "ledger.db", *statements)
    with pytest.raises(LedgerError):
        reopen(door)


FORGED = {
    "signed by another": lambda c: sign_decision(KEYS["wu", "analyst"], "oskar", c, True, now=NOW),
    "signed for another use": lambda c: keys.seal(
        KEYS["oskar", "owner"], "oskar", "clearance", OwnerDecision(c, True, "", NOW)
    ),
    "of another contract": lambda _: sign_decision(KEYS["oskar", "owner"], "oskar", "0" * 64, True, now=NOW),
    "of another department": lambda c: sign_decision(KEYS["omar", "owner"], "omar", c, True, now=NOW),
    "of the asker": lambda c: sign_decision(KEYS["olga", "owner"], "olga", c, True, now=NOW),
}


@pytest.mark.parametrize("defended", [True, False])
@pytest.mark.parametrize("forged", FORGED)
def test_a_decision_that_is_written_into_the_store_counts_nothing(open_door, monkeypatch, forged, defended):
    """By an analyst who gets at the files, and lacks one of two approvals."""
    door = open_door("important")
    wanted = request(epsilon=0.5, analyst="olga" if forged == "of the asker" else "wu")
    contract = door.propose(wanted)
    door.decide(contract, "oskar" if forged in ("of another department", "of the asker") else "olga")
    written = FORGED[forged](contract)
    row = ("INSERT INTO decisions VALUES (?, ?, ?)", (contract, written.signer, q.canonical(written)))
    edit(door, "approvals.db", row)
    if defended:
        with pytest.raises(LedgerError, match="a decision on contract"):
            reopen(door)
        return
    monkeypatch.setattr(Approvals, "_approves", lambda _self, said, _digest: said is not None)
    reopen(door)
    if forged == "of the asker":  # which the policy sees too
        assert isinstance(door.gate.decide(signed(wanted), HONEST), NeedsApproval)
    else:
        door.run(signed(wanted))
        assert door.logged(entries.Charge)


def test_an_owner_who_left_the_roster_no_longer_approves(open_door, monkeypatch):
    """What was approved before stays in the log, and the node opens; but it takes two who are owners now."""
    door = open_door("important")
    wanted = request(epsilon=0.5)
    contract = door.propose(wanted)
    for owner in ("olga", "oskar"):
        door.decide(contract, owner)
    assert door.state.approvals.status(contract).state == "approved"
    fewer = msgspec.structs.replace(
        ROSTER, members=tuple(m for m in ROSTER.members if (m.name, m.role) != ("oskar", "owner"))
    )
    monkeypatch.setattr("door.ROSTER", fewer)
    door.reopen()
    assert door.state.approvals.status(contract).approved_by == ("olga",)
    assert isinstance(door.gate.decide(signed(wanted), HONEST), NeedsApproval)


# --- what would stop a node, or blind its owners ---


def test_an_owners_long_reason_does_not_stop_the_node(open_door):
    door = open_door("important")
    contract = door.propose(request(epsilon=0.5))
    with pytest.raises(ParameterError, match="'reason' has 2001 characters; allowed are at most 2000"):
        door.state.approvals.decide(
            sign_decision(KEYS["olga", "owner"], "olga", contract, False, "x" * 2001, now=NOW)
        )
    long = keys.seal(KEYS["olga", "owner"], "olga", DECISION, OwnerDecision(contract, False, "x" * 2000, NOW))
    door.state.approvals.decide(long)
    door.gate.decide(ask(epsilon=0.5), HONEST)
    [approval] = door.logged(entries.Approval)
    assert approval.reason == "x" * 2000
    door.reopen()


def test_a_contract_that_no_owner_could_read_is_none():
    """Its time beyond all calendars would end the owner's list and report with an error."""
    terms = {
        "query": request().query,
        "purpose": "research",
        "legal_basis": "Statistics Act",
        "analyst": "wu",
        "expires": 10**15,
    }
    with pytest.raises(ParameterError, match="'expires'"):
        Contract(**terms)
    assert Contract(**terms | {"expires": NOW}).text()

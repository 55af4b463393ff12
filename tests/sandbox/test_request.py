"""Signed words: requests are their analyst's, clearances and records the coordinator's, each for one use and about one question."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from door import (
    HONEST,
    KEYS,
    NOW,
    Door,
    ask,
    clearance,
    digest,
    recorded,
    request,
    signed,
)

from sandbox import checkpoint, code, dp, entries, keys, merkle
from sandbox import query as q
from sandbox.errors import (
    Denied,
    Expired,
    ScheduleError,
    SignatureInvalid,
    UnknownSigner,
)
from sandbox.gate import Allow
from sandbox.keys import SigningKey
from sandbox.query import canonical
from sandbox.receipt import Evidence
from sandbox.request import LONGEST, Clearance

ALL_BUT_FEW = q.Compare("<=", q.Column("x"), q.Value(8))  # 36 of 40 rows


# --- requests ---


def attempts(door: Door):
    """Every way in for an analyst's request."""
    return {
        "explain": lambda asked: door.gate.explain(asked, HONEST),
        "decide": lambda asked: door.gate.decide(asked, HONEST),
        "overlaps": lambda asked: door.gate.overlaps(asked, HONEST, ()),
        "run": lambda asked: door.gate.run(asked, HONEST, clearance(asked)),
    }


FORGED = {
    "another analyst's key": (
        lambda: signed(request(), by="wu", key=KEYS["li", "analyst"]),
        SignatureInvalid,
    ),
    "another analyst's name": (lambda: signed(request(), by="li"), Denied),
    "a signer nobody knows": (lambda: signed(request(), by="eve", key=SigningKey.generate()), UnknownSigner),
    "an owner who is no analyst": (
        lambda: signed(request(analyst="oskar"), key=KEYS["oskar", "owner"]),
        UnknownSigner,
    ),
    "the owner's key of an analyst": (
        lambda: signed(request(analyst="olga"), key=KEYS["olga", "owner"]),
        SignatureInvalid,
    ),
    "the coordinator": (
        lambda: signed(request(analyst="coordinator"), key=KEYS["coordinator", "coordinator"]),
        UnknownSigner,
    ),
    "another use of the same key": (
        lambda: keys.seal(KEYS["wu", "analyst"], "wu", "usage-contract", request()),
        SignatureInvalid,
    ),
    "a body that was altered": (
        lambda: msgspec.structs.replace(ask(epsilon=0.1), body=ask(epsilon=0.9).body),
        SignatureInvalid,
    ),
}


@pytest.mark.parametrize("way", ["explain", "decide", "overlaps", "run"])
@pytest.mark.parametrize("forgery", FORGED)
def test_a_request_that_its_analyst_did_not_sign_is_refused(door, forgery, way):
    build, error = FORGED[forgery]
    before = len(door.state.log)
    with pytest.raises(error):
        attempts(door)[way](build())
    assert len(door.state.log) == before, "anybody could fill the log otherwise"


@pytest.mark.parametrize("way", ["explain", "decide", "overlaps", "run"])
def test_a_request_has_its_time(door, way):
    asked = ask(expires=NOW + 60)
    door.now += 60
    with pytest.raises(Expired, match="the request expired"):
        attempts(door)[way](asked)
    with pytest.raises(Denied, match=f"more than {LONGEST} seconds ahead"):
        attempts(door)[way](ask(expires=NOW + 2 * LONGEST))
    assert not door.logged(entries.Charge)


def test_a_request_that_was_decided_in_time_and_runs_too_late_is_refused(door):
    asked = ask(epsilon=0.5, expires=NOW + 60)
    assert isinstance(door.gate.decide(asked, HONEST), Allow)
    door.now += 61
    with pytest.raises(Expired):
        door.run(asked)
    assert door.spent() == 0.0


# --- clearances ---
CLEARANCES = {
    "none": lambda asked, known: None,
    "one that leaves out a release": lambda asked, known: clearance(asked, known[:-1]),
    "of another request": lambda asked, known: clearance(ask(), known),
    "of a smaller difference": lambda asked, known: clearance(asked, known, least=9),
    "with reasons against it": lambda asked, known: clearance(asked, known, reasons=("too close",)),
    "signed with another key": lambda asked, known: clearance(asked, known, key=SigningKey.generate()),
    "signed by an analyst": lambda asked, known: clearance(asked, known, by="wu", key=KEYS["wu", "analyst"]),
    "signed by the node itself": lambda asked, known: clearance(
        asked, known, by="ash", key=KEYS["ash", "node"]
    ),
    "signed for another use": lambda asked, known: keys.seal(
        KEYS["coordinator", "coordinator"],
        "coordinator",
        "record",
        Clearance(digest(asked), known, 100),
    ),
}


@pytest.mark.parametrize("forgery", CLEARANCES)
def test_an_exact_request_needs_the_coordinators_clearance(door, forgery):
    for _ in range(2):
        door.run(ask())
    asked, before = ask(keys=("sex",)), len(door.logged(entries.Charge))
    with pytest.raises((ScheduleError, SignatureInvalid, UnknownSigner)):
        door.gate.run(asked, HONEST, CLEARANCES[forgery](asked, door.wanted()))
    assert len(door.logged(entries.Charge)) == before
    door.gate.run(asked, HONEST, clearance(asked, door.wanted(), least=10))


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda asked: clearance(asked), ScheduleError),
        (lambda asked: clearance(asked, reasons=("x",), key=SigningKey.generate()), SignatureInvalid),
        (lambda asked: clearance(asked, reasons=("x",), by="wu", key=KEYS["wu", "analyst"]), UnknownSigner),
        (lambda asked: recorded(asked), SignatureInvalid),
    ],
)
def test_only_the_coordinator_can_say_so(door, build, error):
    before = len(door.state.log)
    with pytest.raises(error):
        door.gate.refused(build(ask()))
    assert len(door.state.log) == before


# --- records ---


def rho(asked) -> float | None:
    privacy = keys.decode(asked.body, type(request())).privacy
    return dp.rho_of(privacy.epsilon, privacy.delta) if privacy else None


@pytest.mark.parametrize("epsilon", [None, 0.5])
def test_a_record_is_logged_and_proved(door, epsilon):
    asked = ask(epsilon=epsilon)
    door.run(asked)
    signed_record = recorded(asked, rho(asked))
    evidence = door.gate.record(signed_record)
    assert isinstance(evidence, Evidence)
    [entry] = door.logged(entries.Release)
    assert evidence.entry == entry
    assert (entry.request, entry.release) == (digest(asked), "ab" * 32)
    assert (entry.epsilon, entry.rho) == (epsilon, rho(asked))
    assert entry.policy == door.state.policy_digest("t")
    assert entry.data_version == door.gate._engines["t"].version()
    head = checkpoint.verify(
        evidence.checkpoint, KEYS["ash", "node"].public, checkpoint.origin("city", "ash")
    )
    leaf = merkle.leaf_hash(canonical(entry))
    merkle.verify_inclusion(leaf, evidence.index, head.size, evidence.proof, head.root)


def test_under_a_contract_the_evidence_holds_it_and_who_approved(open_door):
    guarded = open_door("important")
    contract = guarded.propose(request(epsilon=0.5))
    for owner in ("oskar", "olga"):
        guarded.decide(contract, owner)
    asked = ask(epsilon=0.5)
    guarded.run(asked)
    evidence = guarded.record(asked, rho=rho(asked))
    assert evidence.entry.contract == contract
    assert evidence.entry.approvers == 2
    assert evidence.entry.approved_by == ("olga", "oskar")
    assert [decision.signer for decision in evidence.decisions] == ["olga", "oskar"]
    assert evidence.contract is not None
    assert evidence.contract.signer == "wu"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"analyst": "li"}, "analyst"),
        ({"purpose": "care"}, "purpose"),
        ({"epsilon": 0.1}, "epsilon"),
        ({"delta": 1e-9}, "delta"),
        ({"rho": 1e-3}, "rho"),
        ({"federation": "another"}, "federation"),
    ],
)
def test_a_record_must_be_of_what_was_answered(door, changes, field):
    asked = ask(epsilon=0.5)
    door.run(asked)
    with pytest.raises(ScheduleError, match=f"the record's '{field}' is not what was answered here"):
        door.record(asked, **{"rho": rho(asked), **changes})
    assert not door.logged(entries.Release)


def test_the_coordinator_may_run_another_version_of_the_code_and_each_says_its_own(door):
    asked = ask(epsilon=0.5)
    door.run(asked)
    evidence = door.record(asked, rho=rho(asked), code="joint-sandbox 9.9")
    assert evidence.entry.code == code.version() != "joint-sandbox 9.9"


def test_a_record_of_what_was_never_answered_is_refused(door):
    asked = ask(epsilon=0.5)
    door.gate.decide(asked, HONEST)
    with pytest.raises(ScheduleError, match="no such request was answered here"):
        door.record(asked, rho=rho(asked))
    assert not door.logged(entries.Release)


@pytest.mark.parametrize(
    ("who", "error"),
    [
        ({"key": SigningKey.generate(insecure_seed=b"eve")}, SignatureInvalid),
        ({"by": "wu", "key": KEYS["wu", "analyst"]}, UnknownSigner),
        ({"by": "ash", "key": KEYS["ash", "node"]}, UnknownSigner),
    ],
)
def test_a_record_is_the_coordinators(door, who, error):
    asked = ask(epsilon=0.5)
    door.run(asked)
    with pytest.raises(error):
        door.record(asked, rho=rho(asked), **who)
    assert not door.logged(entries.Release)


def test_a_record_that_comes_again_proves_the_same(door):
    asked = ask()
    door.run(asked)
    first, again = door.record(asked), door.record(asked)
    assert first.entry == again.entry
    with pytest.raises(ScheduleError, match="a second record of one release names other cells"):
        door.record(asked, shown=())


def test_a_department_that_is_not_in_the_sums_keeps_no_cohorts_and_attests_nothing(door):
    asked = ask()
    door.run(asked)
    assert door.record(asked, departments=("birch",)) is None
    assert not door.logged(entries.Release)
    second = ask(where=ALL_BUT_FEW)
    counts = door.gate.overlaps(second, HONEST, door.gate.decide(second, HONEST).released)
    assert np.array_equal(counts, [[40, 36, 0, 0]]), "none of its rows were released"


def test_a_record_can_be_made_after_a_restart(door):
    exact, noisy = ask(), ask(epsilon=0.5)
    door.run(exact)
    door.run(noisy)
    door.reopen()
    assert door.record(exact).entry.request == digest(exact)
    assert door.record(noisy, rho=rho(noisy)).entry.request == digest(noisy)

"""Attacks on the door by those who run it: a coordinator that bends the protocol, an owner who puts an old copy back or approves for himself.

Each succeeds with one defence off and is refused, unpaid, with it on.
"""

from __future__ import annotations

import pathlib
import shutil

import msgspec
import pytest
from town import NAMES, PURPOSE, VICTIM, Town, ask, total, two_analysts

from federated import broker as broker_module
from federated import messages
from federated.broker import Broker
from sandbox import col, count, entries, judge, keys
from sandbox.approvals import sign_decision
from sandbox.catalog import Budget
from sandbox.errors import (
    ApprovalNeeded,
    BudgetExceeded,
    Denied,
    DepartmentFailed,
    LedgerError,
    Refused,
    TooFewDepartments,
)
from sandbox.judge import Case
from sandbox.keys import SigningKey
from sandbox.query import canonical
from sandbox.request import Request
from sandbox.roster import Roster, member
from sandbox.state import State

# --- a coordinator that bends the protocol ---


@pytest.mark.parametrize("defended", [False, True])
def test_a_coordinator_that_leaves_out_earlier_releases(monkeypatch, defended):
    monkeypatch.setattr(broker_module, "_merged", lambda _allowed: ())
    if not defended:  # nodes that need no clearance
        monkeypatch.setattr(broker_module, "_least", lambda _poll: 0)
        monkeypatch.setattr(Case, "compared", property(lambda _case: False))
    town = Town().open()
    if defended:
        with pytest.raises(TooFewDepartments, match="an earlier release was not compared with: ask again"):
            list(two_analysts(town))
        assert town.charges() == [1, 1, 1]
    else:
        assert list(two_analysts(town))[-1] == VICTIM["income"]


def test_a_coordinator_that_compares_with_some_releases_only(monkeypatch):
    """It lists the later of two: the nodes know both, and give no counts."""
    town = Town().open()
    ask(town.wu)
    ask(town.wu, col("age") < 40)
    merged = broker_module._merged
    monkeypatch.setattr(broker_module, "_merged", lambda allowed: merged(allowed)[1:])
    with pytest.raises(DepartmentFailed, match="leaves out one that this department took part in"):
        ask(town.li, col("weight") > 41)
    assert town.charges() == [2, 2, 2]


def test_a_coordinator_that_forges_a_clearance_with_another_key():
    town = Town().open()
    ask(town.wu)
    town.broker.key = SigningKey.generate()
    with pytest.raises(TooFewDepartments, match="SignatureInvalid: the signature does not hold"):
        ask(town.li)
    assert town.charges() == [1, 1, 1]
    town.broker.key, town.broker.name = town.parties.nodes["ash"], "ash"
    with pytest.raises(TooFewDepartments, match=r"UnknownSigner: .* no coordinator 'ash'"):
        ask(town.li)
    assert town.charges() == [1, 1, 1]


@pytest.mark.parametrize("defended", [False, True])
def test_a_clearance_of_one_request_is_used_for_another(monkeypatch, defended):
    """The coordinator compares a harmless question, and clears the one that it wants."""
    town = Town().open()
    ask(town.wu)
    real = Broker._cleared
    kept: list[bytes] = []

    def cleared(self, *arguments):
        kept.append(kept[0] if kept else real(self, *arguments))
        return kept[-1]

    monkeypatch.setattr(Broker, "_cleared", cleared)
    ask(town.li)
    if not defended:
        for gate in town.gates.values():
            monkeypatch.setattr(gate, "_cleared", lambda case, _signed, gate=gate: known(gate))
        everyone = total(ask(town.wu))
        assert everyone - total(ask(town.li, col("weight") > 41)) == VICTIM["income"]
    else:
        with pytest.raises(TooFewDepartments, match="the clearance is of another request"):
            ask(town.li, col("weight") > 41)


def known(gate) -> tuple[str, ...]:
    return tuple(release.request for release in gate.state.cohorts.released("t"))


@pytest.mark.parametrize("defended", [False, True])
def test_a_coordinator_that_alters_a_request(monkeypatch, defended):
    """It raises the epsilon, so that the answer is nearly exact, at the owners' expense."""
    town = Town("general-4", budget=Budget(10.0, 1e-6)).open()
    call = town.broker.network.call

    def altered(data: bytes) -> bytes:
        signed = keys.decode(data, keys.Signed)
        request = keys.decode(signed.body, Request)
        privacy = msgspec.structs.replace(request.privacy, epsilon=9.0)
        body = canonical(msgspec.structs.replace(request, privacy=privacy))
        return canonical(msgspec.structs.replace(signed, body=body))

    def bending(kind, bodies):
        if kind in ("decide", "masked"):
            shape = messages.Ask if kind == "decide" else messages.Masked
            found = {name: messages.decode(body, shape) for name, body in bodies.items()}
            bodies = {
                name: messages.encode(msgspec.structs.replace(value, request=altered(value.request)))
                for name, value in found.items()
            }
        return call(kind, bodies)

    town.broker.network.call = bending
    if not defended:
        monkeypatch.setattr(
            judge.keys, "open_", lambda signed, _domain, kind, _public: keys.decode(signed.body, kind)
        )
    query = town.wu.table("t").agg(count())
    if defended:
        with pytest.raises(DepartmentFailed, match="SignatureInvalid"):
            query.release(purpose=PURPOSE, epsilon=0.1)
        assert town.charges() == [0, 0, 0]
    else:
        with pytest.raises(
            Refused
        ):  # the masks do not fit the request that the broker has; but the owners have paid
            query.release(purpose=PURPOSE, epsilon=0.1)
        assert [charge.epsilon for charge in town.logged(entries.Charge)] == [9.0]


# --- owners ---


@pytest.mark.parametrize("defended", [False, True])
def test_an_owner_puts_the_ledger_back_to_spend_its_budget_again(monkeypatch, tmp_path, defended):
    town = Town("general-4", budget=Budget(1.0, 1e-6), directory=tmp_path / "state").open()
    town.stop()
    ledgers = {name: tmp_path / "state" / name / "ledger.db" for name in NAMES}
    for name, path in ledgers.items():
        shutil.copy(path, tmp_path / f"{name}.db")
    town.open()
    town.wu.table("t").agg(count()).release(purpose=PURPOSE, epsilon=0.9)
    town.stop()
    town.open()
    with pytest.raises(BudgetExceeded):  # a restart alone helps nobody
        town.wu.table("t").agg(count()).release(purpose=PURPOSE, epsilon=0.9)
    town.stop()
    for name, path in ledgers.items():
        put_back(tmp_path / f"{name}.db", path)
    if defended:
        with pytest.raises(LedgerError, match=r"ledger of 'ash': .* put back from a copy"):
            town.open()
    else:
        monkeypatch.setattr(State, "_check_ledger", lambda *_arguments: None)
        town.open()
        query = town.wu.table("t").agg(count())
        assert query.release(purpose=PURPOSE, epsilon=0.9).privacy.epsilon == 0.9


def put_back(copy: pathlib.Path, path: pathlib.Path) -> None:
    for left in path.parent.glob(f"{path.name}*"):
        left.unlink()
    shutil.copy(copy, path)


@pytest.mark.parametrize("names", [1, 2])
def test_approving_ones_own_request(names):
    """An analyst who is one of two owners. What nobody can see is one person under two names in the roster."""
    town = Town("important", budget=Budget(10.0, 1e-6))
    parties, me, alias = town.parties, SigningKey.generate(), SigningKey.generate()
    members = [
        *parties.roster.members,
        member("wu", "owner", "ash", me.public),
        member("wu-again", "owner", "ash", alias.public),
    ]
    town.parties = msgspec.structs.replace(parties, roster=Roster("city", tuple(members)))
    town.open()
    query = town.wu.table("t").agg(count())
    proposal = query.propose(purpose=PURPOSE, legal_basis="none", epsilon=1.0, runs=1)
    for name in NAMES:
        for i in (1, 2)[: 1 if name == "ash" else 2]:
            town.federation.owner(name, f"{name}-owner-{i}").approve(proposal.digest)
    desk = town.gates["ash"].state.approvals
    with pytest.raises(Denied, match="no one decides on a request of their own"):
        desk.decide(sign_decision(me, "wu", proposal.digest, True))
    if names == 1:
        with pytest.raises(ApprovalNeeded, match="1 of 2 approvals given"):
            query.release(purpose=PURPOSE, epsilon=1.0)
        assert town.charges() == [0, 0, 0]
    else:
        desk.decide(sign_decision(alias, "wu-again", proposal.digest, True))
        assert query.release(purpose=PURPOSE, epsilon=1.0).privacy.epsilon == 1.0

"""An owner's desk: what it shows is what the node holds, and only an owner's own signature decides."""

from __future__ import annotations

import base64

import pandas as pd
import pytest

from sandbox import merkle, receipt
from sandbox.checkpoint import parse
from sandbox.errors import ApprovalNeeded, BudgetExceeded, Denied, LedgerError, LogError, ParameterError
from sandbox.keys import SigningKey
from sandbox.owner import Owner, detail


def test_contracts_show_what_waits_and_what_was_decided(busy):
    me = busy.owner()
    assert repr(me) == "<Owner ash-owner-1 of ash: 1 contract to decide on>"
    shown = me.contracts()
    assert shown["contract"].tolist() == [busy.approved[:12], busy.waiting[:12]]
    assert shown["state"].tolist() == ["approved", "pending"]
    assert shown["approvals"].tolist() == ["2 of 2", "0 of 2"]
    assert shown["runs"].tolist() == ["1 of 2", "0 of 1"]


@pytest.mark.parametrize("digest", ["", "abc", "0" * 64, "not a digest"])
def test_a_contract_is_named_by_enough_of_its_digest(busy, digest):
    me = busy.owner()
    assert me.contract(busy.waiting[:8]).digest == busy.waiting
    with pytest.raises(ParameterError, match="names 0 contracts here"):
        me.contract(digest)


def test_two_owners_open_the_door_and_one_alone_does_not(departments):
    digest = departments.propose()
    departments.approve_elsewhere(digest)
    assert departments.owner(1).approve(digest).state == "pending"
    with pytest.raises(ApprovalNeeded):
        departments.incomes.release(purpose="research", epsilon=0.5)
    with pytest.raises(Denied, match="has decided on this contract before"):
        departments.owner(1).approve(digest)
    assert departments.owner(2).approve(digest).approved_by == ("ash-owner-1", "ash-owner-2")
    release = departments.incomes.release(purpose="research", epsilon=0.5)
    assert "ash: approvals: ash-owner-1, ash-owner-2" in str(release.verify(departments.city.roster))


def test_one_no_closes_it_with_its_reason_on_record(departments):
    digest = departments.propose()
    departments.approve_elsewhere(digest)
    departments.owner(1).approve(digest)
    assert departments.owner(2).reject(digest, "not before the audit").state == "rejected"
    with pytest.raises(ApprovalNeeded, match=f"contract {digest[:12]} is rejected"):
        departments.incomes.release(purpose="research", epsilon=0.5)
    decided = departments.owner().log()
    words = decided.loc[decided["what"] == "approval", "detail"].tolist()
    assert words == [
        f"ash-owner-1 says approve to contract {digest[:12]}",
        f"ash-owner-2 says reject to contract {digest[:12]}: not before the audit",
    ]


def test_a_desk_without_a_key_reads_and_cannot_decide(busy):
    gate = busy.federation.gates["ash"]
    with Owner(busy.state, gate.catalog, busy.city.roster) as reader:
        assert len(reader.contracts()) == 2
        with pytest.raises(ParameterError, match="decides with a key"):
            reader.approve(busy.waiting)


def test_a_desk_opens_with_the_owners_own_key_alone(busy):
    gate = busy.federation.gates["ash"]
    with pytest.raises(ParameterError, match="not that of owner 'ash-owner-1'"):
        Owner(busy.state, gate.catalog, busy.city.roster, "ash-owner-1", SigningKey.generate())


def test_an_owner_of_another_department_decides_nothing_here(departments):
    digest = departments.propose()
    gate = departments.federation.gates["ash"]
    key = departments.federation.parties.owners["birch"]["birch-owner-1"]
    stranger = Owner(departments.state, gate.catalog, departments.city.roster, "birch-owner-1", key)
    with pytest.raises(Denied, match="is an owner at birch, not at ash"):
        stranger.approve(digest)
    assert departments.owner().contract(digest).approved_by == ()


def test_the_budget_is_what_the_gate_charges_by(departments):
    digest = departments.propose(runs=60)
    for department in ("ash", "birch", "cedar"):
        for i in (1, 2):
            departments.owner(i, department).approve(digest)
    me = departments.owner()
    for releases in (1, 2):
        release = departments.incomes.release(purpose="research", epsilon=0.5)
        row = me.budget().set_index("data set").loc["incomes"]
        assert row["DP releases"] == releases
        assert row["left"] == pytest.approx(release.privacy.epsilon_left["ash"])
        assert row["spent"] + row["left"] == pytest.approx(2.0)
    survey = me.budget().set_index("data set").loc["survey"]
    assert pd.isna(survey["epsilon"])
    assert pd.isna(survey["left"])
    with pytest.raises(BudgetExceeded):
        list(iter(lambda: departments.incomes.release(purpose="research", epsilon=0.5), None))
    assert 0 <= me.budget().set_index("data set").loc["incomes", "left"] < 0.5


def test_the_statement_says_by_whom_and_for_what(busy):
    lines = busy.owner().statement().set_index("data set")
    assert lines.loc["survey", ["analyst", "purpose", "exact releases", "DP releases"]].tolist() == [
        "analyst",
        "research",
        1,
        0,
    ]
    assert lines.loc["incomes", "epsilon"] == pytest.approx(0.5)
    assert [entry.mode for entry in busy.owner().charges()] == ["exact", "dp"]


def test_the_log_tells_the_story_in_words(busy):
    log = busy.owner().log(1000)
    assert log["entry"].tolist() == list(range(len(log)))
    assert set(log["what"]) == {
        *("start", "catalogue", "policy", "request", "decision", "approval", "charge", "release", "refusal")
    }
    words = "\n".join(log["detail"])
    for part in (
        "analyst asks 'incomes' for purpose 'research'",
        "ash-owner-2 says approve to contract",
        f"number 2, epsilon 0.5 under contract {busy.approved[:12]}",
        f"{busy.released[0].digest()[:12]}, exact",
        "differ by fewer than 10 units",
        "deny: purpose '<script>alert(1)</script>' is not permitted",
        "needs approval: ",
    ):
        assert part in words
    assert busy.owner().log(3).equals(log.tail(3).reset_index(drop=True))
    with pytest.raises(ParameterError, match="'last' is 0"):
        busy.owner().log(0)


def test_every_kind_of_entry_has_words(busy):
    log = busy.federation.gates["ash"].state.log
    assert all(detail(entry) for entry in log.entries())


def test_head_and_proof_lead_a_witness_from_one_day_to_the_next(departments, tmp_path):
    me, regulator = departments.owner(), departments.federation.witness(tmp_path / "seen.json")
    departments.survey.release(purpose="research")
    first = parse(me.head()).checkpoint
    regulator.cosign(me.head(), [], 1_000)
    departments.survey.release(purpose="research")
    second = parse(me.head()).checkpoint
    proof = me.proof(regulator.last("city/ash"))
    merkle.verify_consistency(first.size, second.size, first.root, second.root, proof)
    cosigned = regulator.cosign(me.head(), proof, 2_000)
    assert cosigned.startswith(me.head())
    assert "— city/regulator " in cosigned
    assert me.verify() == second


def test_owners_keep_what_a_witness_co_signed_and_complete_receipts(departments, tmp_path):
    data = departments.survey.release(purpose="research").receipt
    regulator = departments.federation.witness(tmp_path / "seen.json")
    departments.survey.release(purpose="research")
    for department in departments.city.departments("survey"):
        me = departments.owner(department=department)
        assert me.keep(regulator.cosign(me.head(), (), 1_000)) == {"city/regulator": 1_000}
        data = me.complete(data)
    assert receipt.verify(data, departments.city.roster, witnesses=1).ok


def test_what_is_no_nodes_state_is_refused(busy, tmp_path):
    gate = busy.federation.gates["ash"]
    with pytest.raises(LogError, match=r"is no node's state: it holds no ledger\.db"):
        Owner(tmp_path, gate.catalog, busy.city.roster)
    for name in ("ledger.db", "approvals.db"):
        (tmp_path / name).write_bytes(base64.b64encode(bytes(5000)))
    with pytest.raises(LedgerError):
        Owner(tmp_path, gate.catalog, busy.city.roster)

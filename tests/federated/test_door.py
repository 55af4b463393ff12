"""What a release leaves behind at every department, and that it can be proved: from the question to the receipt on disk."""

from __future__ import annotations

import json
import random

import msgspec
import numpy as np
import pytest

from federated import local
from sandbox import col, count, entries, receipt
from sandbox.errors import ApprovalNeeded, Denied, TooFewDepartments
from sandbox.release import Release

PURPOSE = "research"


@pytest.fixture
def opened(open_federation, people):
    """A federation under rules for exact releases, which are compared with each other."""

    def open_(level="general-2", **changes):
        everyone = people(level=level, **changes.pop("people", {}))
        for name, settings in changes.items():
            everyone.redeclare(name, **settings)
        return open_federation(everyone.catalogs, everyone.frames), everyone

    return open_


def counted(federation):
    return federation.city.table("t").group_by("smokes").agg(count(), col("age").mean())


def logged(federation, kind, name="ash"):
    log = federation.gates[name].state.log
    log.verify()
    return [entry for entry in log.entries() if isinstance(entry, kind)]


def charges(federation) -> dict[str, int]:
    return {name: len(logged(federation, entries.Charge, name)) for name in federation.gates}


# --- what is logged ---


@pytest.mark.parametrize("privacy", [{}, {"epsilon": 0.5}])
def test_every_department_logs_request_decision_charge_and_release_in_this_order(opened, privacy):
    federation, everyone = opened()
    release = counted(federation).release(purpose=PURPOSE, **privacy)
    for name in everyone.names:
        told = [e for e in logged(federation, object, name) if hasattr(e, "request")]
        assert [type(e) for e in told] == [
            entries.Request,
            entries.Decision,
            entries.Charge,
            entries.Release,
        ]
        assert len({e.request for e in told}) == 1
        asked, decided, charge, made = told
        assert (asked.analyst, asked.purpose, asked.dataset) == ("analyst", PURPOSE, "t")
        assert decided.verdict == "allow"
        assert charge.number == 1
        assert charge.epsilon == made.epsilon == privacy.get("epsilon")
        assert made.release == release.digest()
        assert made.department == name


def test_a_refusal_is_logged_where_it_was_made_and_nowhere_charged(opened):
    federation, everyone = opened(cedar={"purposes": ("teaching",)})
    with pytest.raises(Denied):
        counted(federation).release(purpose=PURPOSE)
    for name in everyone.names:
        [decision] = logged(federation, entries.Decision, name)
        assert decision.verdict == ("deny" if name == "cedar" else "allow")
    assert set(charges(federation).values()) == {0}


def test_explaining_leaves_no_trace(opened):
    federation, everyone = opened()
    counted(federation).release(purpose=PURPOSE)
    before = {name: len(federation.gates[name].state.log) for name in everyone.names}
    for privacy in ({}, {"epsilon": 0.5}):
        counted(federation).explain(**privacy)
    assert {name: len(federation.gates[name].state.log) for name in everyone.names} == before


# --- receipts ---


@pytest.fixture(scope="module")
def released(open_federation, people):
    """One federation, and three releases of it: an exact one, a DP one, and the exact one's question again."""
    everyone = people(level="general-2")
    federation = open_federation(everyone.catalogs, everyone.frames)
    query = counted(federation)
    return federation, (
        query.release(purpose=PURPOSE),
        query.release(purpose=PURPOSE, epsilon=0.5),
        query.release(purpose=PURPOSE),
    )


def test_a_receipt_verifies_and_names_who_attests_it(released):
    federation, releases = released
    for release in releases:
        report = release.verify(federation.city.roster)
        assert report.ok, str(report)
        assert not release.unattested
        statement = receipt.read(release.receipt).receipt.statement
        assert statement.departments == release.departments
        assert (statement.analyst, statement.purpose) == ("analyst", PURPOSE)
        assert statement.epsilon == release.privacy.epsilon
        assert statement.release == release.digest()


def test_a_receipt_on_disk_verifies(released, tmp_path):
    federation, releases = released
    for number, release in enumerate(releases):
        path = tmp_path / f"{number}.json"
        path.write_bytes(release.receipt)
        assert json.loads(path.read_text())["receipt"]["issuer"] == "coordinator"
        assert receipt.verify(path.read_bytes(), federation.city.roster).ok
        assert receipt.verify(path.read_bytes(), federation.city.roster, release=release.digest()).ok


@pytest.mark.parametrize("which", [0, 1])
def test_a_receipt_with_any_byte_changed_fails(released, which):
    federation, releases = released
    data, random_ = releases[which].receipt, random.Random(which)
    places = {0, 1, len(data) - 1, *random_.sample(range(len(data)), 150)}
    for place in places:
        other = random_.choice([byte for byte in range(256) if byte != data[place]])
        changed = data[:place] + bytes([other]) + data[place + 1 :]
        report = receipt.verify(changed, federation.city.roster)
        assert not report.ok, f"byte {place} is now {other}"
        assert report.failed[0].detail


def test_a_receipt_is_of_one_release(released):
    """The same question was released twice: each has its own."""
    federation, (first, noisy, again) = released
    assert first.frame.equals(again.frame)
    roster = federation.city.roster
    for release, other in ((first, noisy), (noisy, first)):
        replayed = msgspec.structs.replace(release, receipt=other.receipt)
        report = replayed.verify(roster)
        assert [check.name for check in report.failed] == ["release"]
    statements = [receipt.read(release.receipt).receipt.statement for release in (first, again)]
    assert statements[0].request != statements[1].request


def test_a_release_that_was_altered_does_not_fit_its_receipt(released):
    federation, (release, *_) = released
    series = release.series[0]
    values = (series.values[0] + 1, *series.values[1:])
    better = msgspec.structs.replace(
        release, series=(msgspec.structs.replace(series, values=values), *release.series[1:])
    )
    assert [check.name for check in better.verify(federation.city.roster).failed] == ["release"]
    assert release.verify(federation.city.roster).ok


def test_a_receipt_holds_for_its_own_federation_alone(released, open_federation, people):
    _, (release, *_) = released
    everyone = people(level="general-2")
    other = open_federation(everyone.catalogs, everyone.frames)
    report = release.verify(other.city.roster)
    assert "issuer" in [check.name for check in report.failed]


# --- departments that vanish ---


@pytest.mark.parametrize("answered", [False, True])
def test_where_a_department_does_not_attest_the_receipt_names_the_others(opened, answered):
    federation, everyone = opened()
    federation.wire.lose("record", "birch", answered=answered)
    release = counted(federation).release(purpose=PURPOSE)
    assert release.departments == everyone.names, "it is in the sums"
    assert release.unattested == {"birch": "did not answer in time"}
    statement = receipt.read(release.receipt).receipt.statement
    assert statement.departments == ("ash", "cedar", "date")
    assert release.verify(federation.city.roster).ok
    federation.wire.restore()
    assert not counted(federation).release(purpose=PURPOSE).unattested
    digests = [entry.release for entry in logged(federation, entries.Release, "birch")]
    assert release.digest() in digests, "it was told as soon as it was there again"


@pytest.mark.parametrize("names", [("ash", "birch", "cedar"), ("ash", "birch", "cedar", "date")])
def test_where_hardly_anybody_or_nobody_attests(opened, names):
    federation, _everyone = opened()
    federation.wire.lose("record", *names)
    release = counted(federation).release(purpose=PURPOSE)
    assert set(release.unattested) == set(names)
    assert isinstance(release, Release)
    if len(names) == 4:
        assert release.receipt == b""
        assert not release.verify(federation.city.roster).ok
    else:
        assert receipt.read(release.receipt).receipt.statement.departments == ("date",)
        assert release.verify(federation.city.roster).ok


@pytest.mark.parametrize("answered", [False, True])
def test_a_department_that_vanishes_between_comparison_and_release_ends_it(opened, answered):
    """The comparison was with its people, the sum would be without them."""
    federation, everyone = opened()
    counted(federation).release(purpose=PURPOSE)
    federation.wire.lose("masked", "birch", answered=answered)
    with pytest.raises(TooFewDepartments, match=r"birch .* vanished after the comparison: ask again"):
        federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    for name in everyone.names:
        assert len(logged(federation, entries.Release, name)) == 1, "nothing more was shown"
    federation.wire.restore()
    release = federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    assert release.frame["count"].tolist() == [len(everyone.pooled())]


def test_a_department_that_vanishes_in_the_first_release_is_left_out(opened):
    """There is nothing to compare with yet."""
    federation, everyone = opened()
    federation.wire.lose("masked", "birch")
    release = federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    assert release.departments == ("ash", "cedar", "date")
    assert release.frame["count"].tolist() == [len(everyone.pooled(release.departments))]


# --- departments of several levels ---


def test_open_data_among_guarded_ones_are_compared_too(opened):
    """Ash is open; the others ask for comparison, which would count nothing at ash if it kept no cohorts."""
    federation, everyone = opened(ash={"level": "general-1"})
    table = federation.city.table("t")
    everyone_counted = table.agg(count()).release(purpose=PURPOSE)
    assert everyone_counted.frame["count"].tolist() == [160]
    again = table.agg(count(), col("age").sum()).release(purpose=PURPOSE)
    assert again.frame["age_sum"].tolist() == [everyone.pooled()["age"].sum()]
    oldest = int(np.sort(everyone.pooled()["age"])[-3])
    with pytest.raises(Denied, match="differ by fewer than 10 units"):
        table.filter(col("age") < oldest).agg(count()).release(purpose=PURPOSE)


def test_where_all_data_are_open_nothing_is_kept(opened):
    federation, everyone = opened("general-1")
    federation.city.table("t").agg(count()).release(purpose=PURPOSE)
    federation.city.table("t").filter(col("age") != 3).agg(count()).release(purpose=PURPOSE)
    for name in everyone.names:
        assert federation.gates[name].state.cohorts.released("t") == ()
    assert federation.wire.count("overlaps") == 0


# --- approvals ---


def test_important_data_are_released_once_all_owners_have_approved(tmp_path, people):
    everyone = people(departments=3, level="important")
    federation = local.open_federation(everyone.catalogs, everyone.frames, directory=tmp_path)
    city = federation.city()
    query = city.table("t").agg(count())
    with pytest.raises(ApprovalNeeded, match="propose one"):
        query.release(purpose=PURPOSE, epsilon=1.0)
    proposal = query.propose(purpose=PURPOSE, legal_basis="Statistics Act", epsilon=1.0, runs=1)
    for name in everyone.names:
        assert not proposal.approved
        with pytest.raises(ApprovalNeeded):
            query.release(purpose=PURPOSE, epsilon=1.0)
        for i in (1, 2):
            federation.owner(name, f"{name}-owner-{i}").approve(proposal.digest)
    assert proposal.approved
    release = query.release(purpose=PURPOSE, epsilon=1.0)
    assert release.verify(city.roster).ok
    for name in everyone.names:
        [charge] = logged(federation, entries.Charge, name)
        assert charge.contract == proposal.digest
    with pytest.raises(ApprovalNeeded, match="used up"):
        query.release(purpose=PURPOSE, epsilon=1.0)

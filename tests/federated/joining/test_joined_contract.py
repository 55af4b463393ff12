"""Joined tables on both networks: results, releases that are compared, nodes that are started anew; in process: departments that vanish."""

from __future__ import annotations

import clinic
import msgspec
import pytest

from federated import messages
from federated.joining.messages import Step
from federated.network import Failure
from sandbox import col, count, entries
from sandbox.errors import Denied, TooFewDepartments

TABLES = {"registry": "people", "lab": "values", "hospital": "events"}


def opened_by(opener):
    rows = clinic.frames(300)
    return opener(clinic.catalogs("general-2"), {name: {TABLES[name]: frame} for name, frame in rows.items()})


@pytest.fixture(scope="module")
def opened(open_federation):
    return opened_by(open_federation)


@pytest.fixture(scope="module")
def here(open_in_process):
    return opened_by(open_in_process)


@pytest.fixture
def wide(opened):
    return opened.city.join(*clinic.TABLES, on="person")


def charges(opened) -> list[int]:
    found = []
    for gate in opened.gates.values():
        gate.state.log.verify()
        found.append(sum(isinstance(entry, entries.Charge) for entry in gate.state.log.entries()))
    return found


def test_released_attested_and_recorded(opened, wide):
    release = wide.group_by("diabetes").agg(count(), col("hdl").mean()).release(purpose=clinic.PURPOSE)
    merged = clinic.merged(clinic.frames(300)).groupby("diabetes")
    assert release.frame["count"].tolist() == merged.size().tolist()
    assert release.frame["hdl_mean"].tolist() == pytest.approx(merged.hdl.mean().tolist(), rel=1e-9)
    assert release.verify(opened.city.roster).ok
    assert not release.unattested
    assert any("registry 2,048" in line for line in release.leakage)
    assert charges(opened) == [1, 1, 1]


def test_a_second_release_is_compared_with_the_first(opened, wide):
    before = charges(opened)
    with pytest.raises(Denied, match="fewer than 10 units"):
        wide.filter(col("age") < 90).agg(count()).release(purpose=clinic.PURPOSE)
    assert charges(opened) == before
    release = wide.group_by("sex").agg(count()).release(purpose=clinic.PURPOSE)
    assert release.frame["count"].sum() == len(clinic.merged(clinic.frames(300)))


def test_the_order_in_which_tables_are_named_is_no_other_join(opened, wide):
    merged = clinic.merged(clinic.frames(300))
    wide.agg(count()).release(purpose=clinic.PURPOSE)
    turned = opened.city.join(*reversed(clinic.TABLES), on="person")
    release = turned.group_by("sex").agg(count()).release(purpose=clinic.PURPOSE)
    assert release.frame["count"].tolist() == merged.groupby("sex").size().tolist()
    with pytest.raises(Denied, match="fewer than 10 units"):
        turned.filter(col("age") < 90).agg(count()).release(purpose=clinic.PURPOSE)


@pytest.mark.parametrize("step", ["hello", "table", "probe", "turn"])
def test_a_department_that_vanishes_ends_the_join(here, step):
    wide = here.city.join(*clinic.TABLES, on="person")
    before, wire = charges(here), here.wire
    call = wire.network.call

    def losing(kind, bodies):
        replies = call(kind, bodies)
        if kind == "join" and msgspec.msgpack.decode(next(iter(bodies.values())), type=Step).step == step:
            replies[next(iter(bodies))] = Failure("vanished")
        return replies

    wire.network.call = losing
    try:
        with pytest.raises(TooFewDepartments, match="vanished during the join: it needs every department"):
            wide.agg(count()).release(purpose=clinic.PURPOSE, epsilon=0.5)
    finally:
        wire.network.call = call
    if step == "hello":
        assert charges(here) == before
    release = wide.agg(count()).release(purpose=clinic.PURPOSE, epsilon=1.0)
    assert release.departments == ("hospital", "lab", "registry")


def test_a_node_that_was_started_anew_is_in_the_next_join_and_not_in_the_last(opened, wide):
    wide.agg(count()).release(purpose=clinic.PURPOSE, epsilon=0.5)
    last = opened.wire.body("join", "registry")
    opened.restart("registry")
    reply = messages.decode_reply(opened.wire.network.call("join", {"registry": last})["registry"])
    assert reply == messages.Refusal("ScheduleError", "no such join has begun here")
    wide.agg(count()).release(purpose=clinic.PURPOSE, epsilon=0.5)

"""Neural trainings through the door, on every network: charged once for all rounds, each round answered once, whoever vanishes or restarts."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from modelled import PURPOSE, matrix, opener
from torch import nn
from torch.nn import functional as F

from federated import messages
from federated.desk import Desk
from federated.neural import features as inputs
from federated.neural import spec
from federated.requests import Requests
from federated.session import LIFETIME, City
from sandbox import col, count, entries, features
from sandbox import query as q
from sandbox import training as t
from sandbox.catalog import Budget, Overrides
from sandbox.design_matrix import Rows
from sandbox.errors import (
    BudgetExceeded,
    Denied,
    DepartmentFailed,
    ParameterError,
    QueryError,
    TooFewDepartments,
)

torch.set_num_threads(1)
NAMES = ["height", "weight", "smokes", "region"]
PRIVATE = {
    "sampling_rate": 0.2,
    "optimiser": t.Sgd(2.0),
    "privacy": t.RecordLevel("joint", clip=1, noise_multiplier=1, lot=120),
}
OF_FIVE = {
    **PRIVATE,
    "rounds": 5,
    "epsilon": 1.5,
}  # most tests ask for these: how much noise that takes is found once


@pytest.fixture(scope="module")
def opened(open_federation, people):
    return opener(open_federation, people)


@pytest.fixture(scope="module")
def here(open_in_process, people):
    """In this process: for what no network changes."""
    return opener(open_in_process, people)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))


def train(federation, module=None, table=None, **changes):
    fields = {
        "features": NAMES, "target": "ill", "loss": "cross_entropy", "rounds": 4, "sampling_rate": 1.0,
        "optimiser": t.Sgd(0.5), "purpose": PURPOSE, **changes,
    }  # fmt: skip
    return (table or federation.city.table("t")).train(module or network(), **fields)


def made(rounds: int) -> t.Training:
    layers = spec.describe(network())
    named = tuple(q.Derived(name, q.Column(name)) for name in (*NAMES, "ill"))
    return t.Training("t", named[:-1], named[-1], layers, "cross_entropy", rounds, **PRIVATE)


def after(federation, acts) -> None:
    """Have each of `acts` done once all departments have answered so many rounds, in the thread that drives them."""
    seen = []

    def counted(reply: bytes) -> bytes:
        seen.append(reply)
        if len(seen) in acts:
            acts[len(seen)]()
        return reply

    federation.wire.change("train", "date", counted)  # the last of them


def charges(federation, name) -> list[entries.Charge]:
    log = federation.gates[name].state.log
    log.verify()
    return [entry for entry in log.entries() if isinstance(entry, entries.Charge)]


def steps(federation, name: str = "ash") -> list[bytes]:
    """The rounds that a department was asked for."""
    return [body for kind, who, body, _ in federation.wire.seen if (kind, who) == ("train", name)]


def test_an_exact_training_is_gradient_descent_on_the_pooled_rows(opened):
    federation, everyone = opened()
    trained = train(federation, rounds=5)
    assert trained.verify(federation.city.roster).ok
    assert trained.privacy.mode == "exact"
    pooled = everyone.pooled()
    # every level of a category is an input; the columns follow each other as the features do
    x = np.column_stack([matrix(pooled)[:, :3], *(pooled["region"] == r for r in ("east", "north", "south"))])
    design = features.design(trained.training, trained.schema)
    data = inputs.data(Rows(x, pooled["ill"].to_numpy(float)), design)
    wanted = spec.build(trained.training.layers)
    start = spec.unpack(trained.training.layers, spec.initial(trained.training.layers, 0))
    nn.utils.vector_to_parameters(torch.from_numpy(start), wanted.parameters())
    optimiser = torch.optim.SGD(wanted.parameters(), lr=0.5)
    for _ in range(5):
        optimiser.zero_grad()
        F.cross_entropy(wanted(data.x), data.y).backward()
        optimiser.step()
    found = spec.unpack(trained.training.layers, trained.weights)
    np.testing.assert_allclose(
        found, nn.utils.parameters_to_vector(wanted.parameters()).detach(), rtol=0, atol=1e-6
    )
    chances = torch.softmax(trained.module()(data.x).detach(), dim=1)[:, 1]
    np.testing.assert_allclose(trained.predict(pooled), chances, atol=1e-6)
    np.testing.assert_allclose(trained.predict(pooled[NAMES].iloc[::-1]), chances.flip(0), atol=1e-6)
    assert [point.departments for point in trained.history.points] == [4] * 5


def test_settings_that_no_training_has_or_that_it_needs_are_named(here):
    table = here()[0].city.table("t")
    given = {
        "features": ["height"],
        "target": "visits",
        "loss": "squared_error",
        "rounds": 1,
        "purpose": PURPOSE,
    }
    with pytest.raises(
        ParameterError, match="a training has no 'epochs'; it has table, features, target, loss"
    ):
        table.train(nn.Linear(1, 1), sampling_rate=1, epochs=3, **given)
    with pytest.raises(ParameterError, match="a training needs 'sampling_rate' too"):
        table.train(nn.Linear(1, 1), **given)


def test_a_trained_regression_predicts_in_the_units_of_the_target_and_leaves_no_row_out(opened):
    federation, everyone = opened()
    table, pooled = federation.city.table("t"), everyone.pooled()
    trained = table.filter(col("smokes")).train(
        nn.Linear(5, 1), features=["height", "smokes", "region", "weight"], target="visits", loss="squared_error",
        rounds=3, sampling_rate=1, purpose=PURPOSE,
    )  # fmt: skip
    rows = pooled[["region", "smokes", "weight", "height"]].assign(
        height=pooled["height"].where(np.arange(len(pooled)) % 7 > 0)
    )
    found = trained.predict(rows)
    assert len(found) == len(rows)
    np.testing.assert_array_equal(np.isnan(found), rows["height"].isna())
    smokers = pooled[pooled["smokes"]]
    theirs = trained.evaluate(table.filter(col("smokes")), purpose=PURPOSE).figures
    assert np.mean((trained.predict(smokers) - smokers["visits"]) ** 2) ** 0.5 == pytest.approx(
        theirs.rmse, rel=1e-6
    )


def test_a_private_training_is_charged_once_beside_queries_and_fits(opened):
    federation, everyone = opened("general-4", budget=Budget(2.0, 1e-6))
    table = federation.city.table("t")
    table.group_by("smokes").agg(count()).release(purpose=PURPOSE, epsilon=1.0)
    before = federation.spent()
    trained = train(federation, **OF_FIVE)
    assert trained.privacy.epsilon == 1.5
    assert trained.verify(federation.city.roster).ok
    for name in everyone.names:
        assert 1.5 < federation.spent()[name] < 2.0  # together less than the sum of 2.5, and more than either
        assert before[name] < 1.5
        kinds = [type(entry) for entry in federation.gates[name].state.log.entries()]
        once = [entries.Request, entries.Decision, entries.Charge, entries.Release]
        assert [kind for kind in kinds if kind in once] == once * 2
        assert len(charges(federation, name)) == 2
    with pytest.raises(BudgetExceeded):
        train(federation, **OF_FIVE)


def test_more_rounds_cost_more_and_none_is_had_for_the_price_of_less(here):
    spent = {}
    for rounds in (1, 2):
        federation, _ = here("general-4")
        training = made(rounds)
        price = t.epsilon(training, 1e-6)
        federation.city.model(training, PURPOSE, price * (1 + 1e-6), 1e-6)
        spent[rounds] = min(federation.spent().values())
        assert spent[rounds] == pytest.approx(price, rel=0.01)
    assert spent[2] > 1.1 * spent[1]
    federation, _ = here("general-4")
    with pytest.raises(DepartmentFailed, match="they must agree"):
        federation.city.model(made(2), PURPOSE, spent[1], 1e-6)
    assert set(federation.spent().values()) == {0.0}


@pytest.mark.parametrize("privacy", ["exact", "private"])
def test_a_node_that_restarts_goes_on_is_not_charged_again_and_gives_no_round_away(opened, privacy):
    federation, everyone = opened("general-4" if privacy == "private" else "general-1")
    after(federation, {2: lambda: federation.restart("birch")})
    trained = train(federation, **(OF_FIVE if privacy == "private" else {"rounds": 5}))
    assert [point.departments for point in trained.history.points] == [4] * 5
    assert trained.missing == ()
    assert trained.departments == everyone.names
    assert trained.verify(federation.city.roster).ok
    assert len(charges(federation, "birch")) == 1
    if privacy == "private":
        assert max(federation.spent().values()) == pytest.approx(1.5, rel=0.01)
    federation.wire.restore()
    federation.restart("birch")  # what it has answered is on the disk
    asked = [messages.decode(body, messages.Step) for body in steps(federation, "birch")]
    for step in (asked[0], asked[2], asked[-1]):
        body = messages.encode(messages.Step(step.session, 15, step.request, step.state, step.clearance))
        reply = messages.decode_reply(federation.wire.network.call("train", {"birch": body})["birch"])
        assert isinstance(reply, messages.Refusal)
        assert reply.error == "ScheduleError"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_coordinator_that_restarts_goes_on_with_a_training(here, tmp_path, monkeypatch):
    """It ends in the third round, which departments have answered: that one is used up, the others follow, and nothing is charged twice."""
    federation, everyone = here("general-4")

    def end() -> None:
        raise SystemExit  # of the thread that drives the rounds: nothing that follows in it is done

    def session() -> City:
        desk = Desk(federation.broker, Requests(tmp_path / "requests.db"), here=True)
        return City(desk, federation.parties.analyst)

    after(federation, {3: end})
    city = session()
    wanted = made(6)
    pending = city.model(wanted, PURPOSE, t.epsilon(wanted, 1e-6), 1e-6, wait=False)
    city._desk._worker.join()
    assert city.request(pending.digest).state == "running"
    federation.wire.restore()
    before = federation.spent()
    # Its request has expired by everyone's clock; and a node was started anew, too.
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + LIFETIME + 60)
    for gate in federation.gates.values():
        gate.state.clock = time.time
    federation.restart("birch")
    again = session()
    trained = again.request(pending.digest).result()
    assert [point.round for point in trained.history.points] == [0, 1, 3, 4, 5]
    assert trained.missing == ()
    assert trained.verify(federation.city.roster).ok
    assert federation.spent() == before
    for name in everyone.names:
        assert len(charges(federation, name)) == 1
    assert again._desk._store.checkpoint(pending.digest) == b""


def test_a_round_that_was_answered_is_answered_by_no_restarted_node_in_any_session(here):
    """The same rounds anew, over sessions that the restarted nodes have agreed on: each is refused, so nothing can be summed."""
    federation, everyone = here("general-4")
    train(federation, **OF_FIVE)
    old = [messages.decode(body, messages.Step) for body in steps(federation)]
    for name in everyone.names:
        federation.restart(name)
    before = federation.spent()
    federation.wire.seen.clear()
    replies = []

    def repeated(kind, bodies):  # a hostile coordinator puts the old request and state into a new session
        if kind == "train":
            step = messages.decode(next(iter(bodies.values())), messages.Step)
            bodies = dict.fromkeys(
                bodies,
                messages.encode(messages.Step(step.session, step.slot, old[1].request, old[1].state)),
            )
        found = call(kind, bodies)
        if kind == "train":
            replies.extend(messages.decode_reply(reply) for reply in found.values())
        return found

    call, federation.wire.call = federation.wire.call, repeated
    with pytest.raises(TooFewDepartments, match="round 1 of this training was answered"):
        train(federation, **OF_FIVE)
    assert [reply.error for reply in replies] == ["ScheduleError"] * 4
    federation.wire.call = call
    assert federation.spent() == before


@pytest.mark.parametrize("privacy", ["exact", "private"])
def test_a_department_that_vanishes_in_a_round_is_back_in_a_later_one(here, privacy):
    federation, everyone = here("general-4" if privacy == "private" else "general-1")
    first = 1 + (privacy == "exact")  # after the one that counts
    lost = {first: lambda: federation.wire.lose("train", "birch"), first + 1: federation.wire._lost.clear}
    after(federation, lost)
    trained = train(federation, **(OF_FIVE if privacy == "private" else {"rounds": 5}))
    assert [point.departments for point in trained.history.points] == [4, 3, 4, 4, 4]
    assert trained.departments == everyone.names
    assert trained.verify(federation.city.roster).ok
    assert len(charges(federation, "birch")) == 1


def test_one_that_stays_away_is_asked_ever_more_rarely(here):
    federation, _ = here()
    after(federation, {2: lambda: federation.wire.lose("train", "birch")})
    trained = train(federation, rounds=12)
    assert [point.departments for point in trained.history.points] == [4] + [3] * 11
    assert len(steps(federation, "birch")) == 2 + 4  # in rounds 1, 2, 4 and 8 of those that it was not in
    assert trained.departments == ("ash", "birch", "cedar", "date")  # its rows are in the first


def test_too_few_departments_end_a_training(here):
    federation, _ = here()
    after(federation, {2: lambda: federation.wire.lose("train", "birch", "cedar")})
    with pytest.raises(TooFewDepartments, match=r"birch .*cedar .* vanished while computing"):
        train(federation)


def test_disclosure_control_of_exact_trainings(here):
    federation, _ = here("general-2", sizes=(8, 9, 7))
    with pytest.raises(Denied, match="3 rows for each of 38 parameters"):
        train(federation)
    with pytest.raises(Denied, match="fewer than 10 rows"):
        train(federation, table=federation.city.table("t").filter(col("height") > 3.0))


def test_what_cannot_run_is_refused_before_anybody_is_asked(here):
    federation, _ = here("general-4")
    asked = len(federation.wire.seen)
    mixes = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(QueryError, match=r"layer '1' \(BatchNorm1d\) is not allowed: it mixes the records"):
        train(federation, mixes, epsilon=1.0, **PRIVATE)

    class Own(nn.Linear):
        pass

    with pytest.raises(QueryError, match=r"\(Own\) is not allowed: its code would have to be shipped"):
        train(federation, nn.Sequential(Own(6, 2)), epsilon=1.0, **PRIVATE)
    with pytest.raises(
        ParameterError, match="takes 5 numbers in the last dimension; a record has \\(6,\\) there"
    ):
        train(federation, nn.Sequential(nn.Linear(5, 2)), epsilon=1.0, **PRIVATE)
    with pytest.raises(ParameterError, match="belong together"):
        train(federation, epsilon=1.0)
    with pytest.raises(QueryError, match="nothing"):
        train(federation, features=["nothing"], epsilon=1.0, **PRIVATE)
    assert len(federation.wire.seen) == asked
    assert set(federation.spent().values()) == {0.0}


def test_an_owner_may_permit_queries_alone(here):
    federation, _ = here(policy=Overrides(analyses=("table", "fit")))
    with pytest.raises(Denied, match="analysis 'training' is not permitted"):
        train(federation)


def test_early_stopping_keeps_the_best_weights_and_shows_the_curve(here):
    federation, _ = here()
    validation = t.Validation(0.3, patience=2, least_gain=0.5)
    trained = train(federation, rounds=30, validation=validation)
    assert trained.history.stopped == "no better in 2 metrics"
    assert len(trained.history.points) == 3
    assert trained.history.best == 0
    assert trained.weights == spec.initial(trained.training.layers, 0)
    assert trained.history.frame()["loss"].notna().all()
    assert len(trained.history.plot().axes) == 2

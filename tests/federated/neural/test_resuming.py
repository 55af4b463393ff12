"""Each round once: crashes, checkpoints, and what a department refuses to answer."""

import hashlib

import msgspec
import numpy as np
import pytest
from trainees import PRIVACIES, Seeded, rows, training

from federated.neural import encoding, local
from federated.neural import training as coordinator
from federated.neural.encoding import Sizes
from federated.neural.participant import Answered, Participant
from sandbox import training as t
from sandbox.errors import InternalError, Malformed, ParameterError, ScheduleError


class Crash(Exception):
    pass


@pytest.mark.parametrize("privacy", ["exact", "joint", "local"])
def test_after_a_crash_a_training_goes_on_without_a_round_more_than_was_paid(city, tmp_path, privacy):
    made = training(**{**PRIVACIES[privacy], "rounds": 6})
    one = city(made, [rows(300, 1), rows(40, 2), rows(100, 3)])
    asked = []

    def crashing(round, weights):
        asked.append(round)
        told = one.plain(round, weights)
        if round == 3 and len(asked) == 4:
            raise Crash  # the departments have answered; nobody has the sum
        return told

    path = tmp_path / "checkpoint"
    with pytest.raises(Crash):
        one.run(ask=crashing, save=lambda state: coordinator.write(state, path))
    kept = coordinator.read(path)
    assert kept.round == 3
    with pytest.raises(ScheduleError, match="round 3 of this training was answered: go on with round 4"):
        one.run(kept, ask=crashing)
    last = [store.last(made.digest()) for store in one.stores.values()]
    state = one.run(coordinator.resume(made, kept, last), ask=crashing)
    assert asked == [0, 1, 2, 3, 3, 4, 5]
    assert [point.round for point in state.history.points] == [0, 1, 2, 4, 5]
    assert state.history.stopped == "all rounds are done"
    for round in range(6):
        with pytest.raises(ScheduleError):
            one.participants["dept-0"].answer(round, state.weights)
    with pytest.raises(ParameterError, match="'round' is 6; allowed are 0 to 5"):
        one.participants["dept-0"].answer(6, state.weights)


def test_a_resumed_training_is_the_one_that_never_stopped(city, tmp_path):
    made = training(rounds=6, local_steps=3, strategy=t.FedAdam(), validation=t.Validation(0.2, every=2))
    parts = [rows(300, 1), rows(40, 2), rows(100, 3)]
    whole = city(made, parts).run()
    one, states = city(made, parts), []
    one.run(save=states.append)
    again = city(made, parts)
    for state in states[:3]:
        again.plain(state.round - 1, state.weights)  # what was random is drawn as before
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(states[2]), type=coordinator.State)
    assert kept == states[2]
    resumed = coordinator.resume(made, kept, [2, 2, 2])
    assert resumed.round == 3
    end = again.run(resumed)
    assert end.weights == whole.weights
    assert end.result == whole.result


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_refused(tmp_path):
    made = training()
    state = coordinator.start(made)
    with pytest.raises(ParameterError, match="another training"):
        coordinator.resume(training(rounds=6), state, [])
    with pytest.raises(ParameterError, match="another training"):
        coordinator.update(training(rounds=6), Sizes(3, 2, 10), state, np.zeros(59, np.uint64), 3)
    ended = coordinator.resume(made, state, [4])
    assert ended.history.stopped == "all rounds are used up"
    with pytest.raises(ParameterError, match="has ended"):
        coordinator.update(made, Sizes(3, 2, 10), ended, np.zeros(59, np.uint64), 3)
    path = tmp_path / "checkpoint"
    coordinator.write(state, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Malformed):
        coordinator.read(path)


def test_a_round_is_on_the_disk_before_anything_is_computed(tmp_path, monkeypatch):
    made = training()
    store = Answered(tmp_path / "answered.db")
    one = Participant(made, b"request", rows(20), Sizes(3, 2, 100), store)
    monkeypatch.setattr(local, "update", lambda *_: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        one.answer(0, coordinator.start(made).weights)
    store.close()
    again = Answered(tmp_path / "answered.db")
    assert again.last(b"request") == 0
    assert again.last(b"another") == -1
    with pytest.raises(ScheduleError):
        again.take(b"request", 0, Seeded(0))
    again.close()


def test_what_a_department_does_not_accept(tmp_path):
    first = coordinator.start(training()).weights
    made = training(weights=hashlib.sha256(first).hexdigest())
    store, sizes = Answered(tmp_path / "answered.db"), Sizes(3, 2, 100)
    one = Participant(made, b"request", rows(20), sizes, store)
    with pytest.raises(ParameterError, match="not those that the request names"):
        one.answer(0, coordinator.start(training(seed=5)).weights)
    for round in (-1, 5):
        with pytest.raises(ParameterError, match="'round'"):
            one.answer(round, first)
    with pytest.raises(ParameterError, match="weights"):
        one.answer(0, first[:-1])
    assert store.last(b"request") == -1  # nothing of that used up a round
    one.answer(0, first)
    with pytest.raises(ParameterError, match="more rows than 'max_rows', 100"):
        Participant(made, b"request", rows(101), sizes, store)
    private = training(privacy=t.RecordLevel("joint", 1, 1, 10))
    with pytest.raises(ParameterError, match=r"beyond 2\^62 units"):
        Participant(private, b"request", rows(20), Sizes(1000, 501, 2**40), store)
    with pytest.raises(ParameterError, match="'honest' is 4"):
        Sizes(3, 4, 100)
    store.close()


def test_a_sum_with_less_noise_than_was_promised_is_not_read(city):
    made = training(privacy=t.RecordLevel("joint", 1, 1, 10))
    one = city(made, [rows(10)] * 3)
    joint, _ = one.plain(0, coordinator.start(made).weights)
    with pytest.raises(InternalError, match="its noise needs 2"):
        encoding.decode(made, one.sizes, 0, joint, 1)


def test_words_are_as_many_as_announced(city):
    for changes in PRIVACIES.values():
        validation = (
            None if "department" in repr(changes.get("privacy")).lower() else t.Validation(0.2, every=2)
        )
        made = training(**{**changes, "rounds": 3, "validation": validation})
        one = city(made, [rows(10)] * 3)
        for round in range(3 + (validation is not None)):
            joint, _ = one.plain(round, coordinator.start(made).weights)
            assert joint.size == encoding.words(made, round)


def test_a_department_shows_no_rows():
    assert repr(rows(7)) == "<Data of 7 rows>"

"""Intersections equal numpy's, refusals, and cardinality with noise of the declared size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc import cuckoo, errors
from mpc.join import normalise
from mpc.noise import discrete_gaussian
from mpc.psi import Receiver, Sender
from mpc.psi.cardinality import CardinalityReceiver, CardinalitySender, half_decoys


def columns(values):
    return normalise(values, "text")


def run(mine, theirs):
    sender, receiver = Sender(*columns(theirs)), Receiver(*columns(mine))
    return receiver.result(sender.finish(receiver.answer(sender.start()))).tolist()


KEYS = st.lists(st.one_of(st.none(), st.integers(0, 9), st.sampled_from(["王", "Ａ", "a", ""])), max_size=12)


@settings(max_examples=8)
@given(KEYS, KEYS)
def test_small_sets_with_nulls_and_repetitions(mine, theirs):
    def key(value):
        return {"Ａ": "a", "": None}.get(value, value if value is None else str(value))

    held = {key(value) for value in theirs} - {None}
    assert run(mine, theirs) == [key(value) in held for value in mine]


@pytest.mark.parametrize(
    ("ours", "others", "overlap"),
    [(1, 10_001, 1), (10_001, 1, 1), (3000, 3000, 0), (3000, 3000, 3000), (5000, 4000, 1234)],
)
def test_sets_of_all_sizes(ours, others, overlap):
    mine, theirs = np.arange(ours), np.arange(others) + ours - overlap
    assert run(mine, theirs) == np.isin(mine, theirs).tolist()


def messages():
    sender, receiver = Sender(*columns(np.arange(10))), Receiver(*columns(np.arange(5, 15)))
    start = sender.start()
    return sender, receiver, start


CHANGES = [
    (lambda m: b"", errors.Malformed),
    (lambda m: m[:20], errors.Malformed),
    (lambda m: b"x" + m[1:], errors.Malformed),
    (lambda m: m[:-1], errors.WrongLength),
    (lambda m: m + b"x", errors.WrongLength),
]


@pytest.mark.parametrize(("change", "error"), CHANGES)
def test_damaged_messages_are_refused(change, error):
    sender, receiver, start = messages()
    with pytest.raises(error):
        receiver.answer(change(start))
    answer = receiver.answer(start)
    with pytest.raises(error):
        sender.finish(change(answer))
    finish = sender.finish(answer)
    with pytest.raises(error):
        receiver.result(change(finish))


def test_messages_of_another_session_and_repeated_ones_are_refused():
    sender, receiver, start = messages()
    other_sender, other_receiver, other_start = messages()
    with pytest.raises(errors.OutOfOrder):
        receiver.result(b"")
    answer, other = receiver.answer(start), other_receiver.answer(other_start)
    with pytest.raises(errors.Replayed):
        receiver.answer(start)
    with pytest.raises(errors.Replayed):
        sender.finish(other)
    finish = sender.finish(answer)
    with pytest.raises(errors.Replayed):
        sender.finish(answer)
    with pytest.raises(errors.Replayed):
        receiver.result(other_sender.finish(other))
    receiver.result(finish)
    with pytest.raises(errors.Replayed):
        receiver.result(finish)


def test_sizes_and_orders_that_do_not_fit_are_refused():
    sender, receiver, start = messages()
    with pytest.raises(errors.Malformed, match="size"):
        receiver.answer(start[:40] + (2049).to_bytes(8, "little") + start[48:])
    sender, receiver, start = messages()
    finish = sender.finish(receiver.answer(start))
    head = finish[:48]
    with pytest.raises(errors.WrongLength):
        receiver.result(head[:40] + (4096).to_bytes(8, "little") + finish[48:])
    with pytest.raises(errors.Malformed, match="sorted"):
        receiver.result(head + finish[56:64] + finish[48:56] + finish[64:])


def test_what_shows_is_the_padded_size_alone():
    lengths = set()
    for mine, theirs in ((0, 0), (1, 2000), (2000, 5)):
        sender, receiver = Sender(*columns(np.arange(theirs))), Receiver(*columns(np.arange(mine)))
        start = sender.start()
        answer = receiver.answer(start)
        lengths.add((len(start), len(answer), len(sender.finish(answer))))
    assert len(lengths) == 1


def test_a_table_that_cannot_be_filled_is_tried_with_another_key_and_counted(monkeypatch):
    place, left = cuckoo.place, [2]

    def unlucky(positions, bins):
        if left[0]:
            left[0] -= 1
            raise cuckoo.NoAssignment
        return place(positions, bins)

    monkeypatch.setattr(cuckoo, "place", unlucky)
    sender, receiver, start = messages()
    found = receiver.result(sender.finish(receiver.answer(start)))
    assert found.tolist() == [True] * 5 + [False] * 5
    assert receiver.attempts == 3


def identifiers(numbers):
    return [b"%d" % number for number in numbers]


@pytest.mark.parametrize("noise", [-3, 0, 4, 10**6])
def test_cardinality_is_the_size_plus_the_sender_s_noise_cut_at_the_tail(noise, monkeypatch):
    monkeypatch.setattr("mpc.psi.cardinality.padded", lambda rows: rows + 5)  # or it takes seconds
    monkeypatch.setattr("mpc.psi.cardinality.discrete_gaussian", lambda sigma, size, key: np.array([noise]))
    receiver = CardinalityReceiver(identifiers(range(30)), 1.0)
    sender = CardinalitySender(identifiers(range(20, 45)), 1.0)
    assert receiver.result(sender.answer(receiver.start())) == 10 + min(noise, half_decoys(1.0))


def test_noise_is_the_discrete_gaussian_of_the_sender_s_key(monkeypatch):
    drawn = []

    def record(sigma, size, key):
        drawn.append(discrete_gaussian(sigma, size, key))
        return drawn[-1]

    monkeypatch.setattr("mpc.psi.cardinality.padded", lambda rows: rows)
    monkeypatch.setattr("mpc.psi.cardinality.discrete_gaussian", record)
    results = []
    for _ in range(3):
        receiver = CardinalityReceiver(identifiers(range(5)), 4.0)
        results.append(
            receiver.result(CardinalitySender(identifiers(range(5)), 2.0).answer(receiver.start()))
        )
    assert results == [5 + int(noise[0]) for noise in drawn]


def test_cardinality_refuses(monkeypatch):
    monkeypatch.setattr("mpc.psi.cardinality.padded", lambda rows: rows)
    receiver = CardinalityReceiver(identifiers(range(3)), 1.0)
    start = receiver.start()
    with pytest.raises(errors.OutOfRange, match="sigma"):
        CardinalitySender([], 2.0).answer(start)  # less noise than the owner accepts
    for change, error in CHANGES:
        with pytest.raises(error):
            CardinalitySender([], 1.0).answer(change(start))
    sender = CardinalitySender([], 1.0)
    answer = sender.answer(start)
    with pytest.raises(errors.Replayed):
        sender.answer(start)
    receiver.result(answer)
    with pytest.raises(errors.Replayed):
        receiver.result(answer)
    for wrong in ([b"a", b"a"], [b""]):
        with pytest.raises(errors.OutOfRange, match="identifiers"):
            CardinalitySender(wrong, 1.0)

"""Attacks on oblivious joins: each role tells membership from its transcript with one defence off, and cannot with it on.

The inputs are neighbours: two identifiers of the probe, of which the table holds the first, or the second. What a
role receives must be distributed alike. Tests of "alike" run the join RUNS times with fresh keys and compare with
the uniform law by chi square, at a false-alarm rate of 1e-6 each; the attacks are the same statistics with the defence
removed.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.stats import chi2

from mpc import cuckoo
from mpc.bits import words_for
from mpc.engine import Seeds, correlations
from mpc.engine.party import Computer
from mpc.errors import OutOfRange
from mpc.join import (
    Column,
    Columns,
    Coordinator,
    ProbeSide,
    Question,
    TableSide,
    department,
    normalise,
    table,
)
from mpc.psi import Receiver, Sender

ALARM = 1e-6
RUNS = 160
IDENTITIES = {name: hashlib.sha256(name.encode()).digest() for name in ("lab", "registry")}
ROSTER = {
    name: Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()
    for name, key in IDENTITIES.items()
}
HEADER = 44  # of messages in parts, before the lengths
QUESTION = Question(
    "lab",
    ("registry",),
    {"registry": Columns(1, (1000,)), "lab": Columns(0, (1000,))},
    ((Column("registry", "flag", 0), Column("lab", "word", 0)), (Column("registry", "word", 0),)),
)


class View:
    """One join of registry (table) and lab (probe), and what each role received."""

    def __init__(self, held, asked=("ann", "bob"), worth=1):
        coordinator = Coordinator(ROSTER, QUESTION, bytes(32), used=Seeds())
        a = TableSide(
            "registry",
            IDENTITIES["registry"],
            ROSTER,
            normalise(list(held), "text"),
            np.ones((len(held), 1), dtype=bool),
            np.full((len(held), 1), worth),
            question=QUESTION,
            request=bytes(32),
            used=Seeds(),
        )
        b = ProbeSide(
            "lab",
            IDENTITIES["lab"],
            ROSTER,
            normalise(list(asked), "text"),
            (),
            np.full((len(asked), 1), worth),
            question=QUESTION,
            request=bytes(32),
            used=Seeds(),
        )
        announcement = coordinator.announce()
        coordinator.accept_hello("registry", a.hello(announcement))
        coordinator.accept_hello("lab", b.hello(announcement))
        hellos = coordinator.hellos()
        self.to_table = [announcement, hellos]
        self.blinded = a.table(hellos)
        coordinator.accept_table("registry", self.blinded)
        bins = b.probe(hellos, coordinator.notes())
        self.from_probe, self.to_probe = [bins], []
        turn = coordinator.accept_probe("lab", bins)
        while not coordinator.finished:
            self.to_probe.append(turn)
            self.from_probe.append(b.receive(turn))
            turn = coordinator.accept_levels("lab", self.from_probe[-1])
        self.sums = coordinator.result()
        count = cuckoo.bins_for(2048)
        start = HEADER + 4 * 8 + department.NOTE_BYTES
        self.table = np.frombuffer(self.blinded[start : start + 24 * count], dtype="<u8").reshape(3, count)
        self.dealt = self.blinded[start + 24 * count :]
        self.bins = np.frombuffer(bins[HEADER + 16 : HEADER + 16 + 12 * 2048], dtype="<u4").reshape(3, 2048)


def uneven(counts):
    """Whether chi square against the uniform law raises the alarm."""
    counts = np.asarray(counts, dtype=float)
    expected = counts.sum() / counts.size
    return bool(((counts - expected) ** 2 / expected).sum() > chi2.isf(ALARM, counts.size - 1))


def bytes_of(message):
    return np.bincount(np.frombuffer(message, dtype=np.uint8), minlength=256)


def levels_of(message):
    """The opened words in a message of levels."""
    count = int.from_bytes(message[60:64], "little")
    return bytes(message[64 + 8 * count :])


@functools.lru_cache(maxsize=2)
def views_of(held):
    """RUNS joins with nothing turned off."""
    return [View([held]) for _ in range(RUNS)]


# the table that C receives


@pytest.mark.parametrize("blinded", [True, False])
@pytest.mark.parametrize("held", [["ann"], ["bob"], []])
def test_c_sees_uniform_words_in_the_table_whatever_lies_in_it(blinded, held, monkeypatch):
    if not blinded:
        monkeypatch.setattr(table, "blind", lambda *_: None)
        monkeypatch.setattr(
            table, "pad_of", lambda secret, bins, layout: np.zeros((layout.width, bins), np.uint64)
        )
    views = [View(held) for _ in range(3)]
    assert uneven(sum(bytes_of(view.table.tobytes()) for view in views)) is not blinded
    occupied = [np.count_nonzero(view.table[2]) for view in views]
    assert (max(occupied) == len(held)) is not blinded


# the bins that C receives


def fixed_tokens(monkeypatch):
    """Departments that keep their token key from one join to the next, as a cache of tokens would."""
    derived = table.secret_of

    def secret_of(shared, session, name, probe):
        return derived(shared, session, name, probe)._replace(tokens=bytes(32))

    monkeypatch.setattr(table, "secret_of", secret_of)
    monkeypatch.setattr(department, "secret_of", secret_of)


@pytest.mark.parametrize("permuted", [True, False])
def test_c_cannot_follow_a_person_from_join_to_join_by_bins(permuted, monkeypatch):
    """Even if tokens stay, a fresh permutation a session puts the same row anywhere."""
    fixed_tokens(monkeypatch)
    if not permuted:
        monkeypatch.setattr(table, "permutation", lambda secret, bins: np.arange(bins))
    bins = cuckoo.bins_for(2048)
    places = [view.bins[0, 0] * 16 // bins for view in (View(["ann"]) for _ in range(RUNS))]
    assert uneven(np.bincount(places, minlength=16)) is not permuted


@pytest.mark.parametrize("member", [True, False])
def test_bins_of_a_row_do_not_depend_on_whether_it_matches(member):
    """The first row's three bins and whether the table's bins there are filled look the same to C."""
    bins = cuckoo.bins_for(2048)
    views = views_of("ann" if member else "cat")
    for way in range(3):
        assert not uneven(np.bincount([v.bins[way, 0] * 16 // bins for v in views], minlength=16))
    differences = [(int(v.bins[0, 0]) - int(v.bins[1, 0])) % bins * 16 // bins for v in views]
    assert not uneven(np.bincount(differences, minlength=16))
    contents = np.concatenate([v.table[:, v.bins[:, 0]].ravel() for v in views])
    assert not uneven(bytes_of(contents.tobytes()))


@pytest.mark.parametrize("padding", [True, False])
def test_sizes_show_neither_nulls_nor_how_many_rows_there_are(padding, monkeypatch):
    if not padding:
        unpadded = lambda rows: max(64, -(-rows // 64) * 64)  # noqa: E731  # whole words, which the engine needs
        for module in ("mpc.join.department.padded", "mpc.join.coordinator.padded"):
            monkeypatch.setattr(module, unpadded)
        monkeypatch.setattr(cuckoo, "LEAST_ITEMS", 64)
    lengths = set()
    for rows in (1, 500):
        held = [f"person {i}" for i in range(rows)]
        view = None
        if padding:
            view = View(held, [*held, None])
            lengths.add((len(view.blinded), *map(len, view.from_probe)))
        else:
            a = TableSide(
                "registry",
                IDENTITIES["registry"],
                ROSTER,
                normalise(held, "text"),
                question=QUESTION,
                request=bytes(32),
                used=Seeds(),
            )
            lengths.add(a._capacity)
    assert (len(lengths) == 1) is padding


@pytest.mark.parametrize("added", [True, False])
def test_a_repeated_identifier_of_the_probe_does_not_show_equal_bins(added, monkeypatch):
    """Refused or added up; if neither, C counts how often each person occurs."""
    asked = ["ann", "ann", "bob"]
    if added:
        with pytest.raises(OutOfRange, match="unique"):
            View(["ann"], asked)
        return
    monkeypatch.setattr(department, "check_unique", lambda tokens: None)
    view = View(["ann"], asked)
    triples = [tuple(column) for column in view.bins.T.tolist()]
    assert len(triples) - len(set(triples)) == 1


# what is opened between B and C, and what A deals


def zeros(deck):
    correlation = next(deck._remaining)
    return [np.zeros(part.shape, dtype=np.uint64) for part in (*correlation.random, *correlation.derived)]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("held", [["ann", "bob"], ["cat"]])
def test_openings_are_uniform_whoever_matches(masked, held, monkeypatch):
    if not masked:
        monkeypatch.setattr(correlations.Deck, "take", zeros)
    view = View(held)
    # B's last message holds its share of the sums, which only C receives
    to_c = b"".join(levels_of(m) for m in view.from_probe[1:-1])
    to_b = b"".join(levels_of(m) for m in view.to_probe)
    assert uneven(bytes_of(to_c)) is not masked
    assert uneven(bytes_of(to_b)) is not masked


@pytest.mark.parametrize("held", ["ann", "cat"])
def test_openings_of_the_first_rows_are_alike_over_many_runs(held):
    """The first words that B and C open, which belong to the first 64 rows, over RUNS joins."""
    views = views_of(held)
    for side in ("from_probe", "to_probe"):
        first = [levels_of(getattr(view, side)[1])[:8] for view in views]
        assert not uneven(bytes_of(b"".join(first)).reshape(16, 16).sum(axis=1))


def test_what_is_dealt_to_c_is_uniform_and_the_table_side_receives_only_hellos():
    view = View(["ann"])
    assert not uneven(bytes_of(view.dealt[60:]))
    lengths = {len(b"".join(View(held).to_table)) for held in (["ann"], ["bob"], [])}
    assert len(lengths) == 1
    assert {len(v.sums) for v in (view,)} == {2}


@pytest.mark.parametrize("fresh", [True, False])
def test_a_seed_used_twice_shows_b_the_difference_of_c_s_values(fresh, monkeypatch):
    """With the record of seeds off and one seed for two sessions, masks cancel."""
    from mpc.engine import Dealer, Plan, SecretArray
    from mpc.errors import Replayed

    plan = Plan()
    x, y = (SecretArray(plan, plan.input(n, "int", (8,), n)) for n in "BC")
    plan.output("product", (x * y).node)
    plan_session, seeds = bytes(16), (bytes([1]) * 32, bytes([2]) * 32)
    used = Seeds()
    opened = []
    for number, value in enumerate((5, 9)):
        dealt = Dealer(plan, plan_session, *seeds, Seeds()).deal()
        if number and fresh:
            with pytest.raises(Replayed, match="seed"):
                Computer(
                    "C", plan, plan_session, seeds[1], used, inputs={"C": np.full(8, value)}, dealt=dealt
                )
            return
        record = used if fresh else Seeds()
        c = Computer("C", plan, plan_session, seeds[1], record, inputs={"C": np.full(8, value)}, dealt=dealt)
        opened.append(np.frombuffer(levels_of(c.start()), dtype="<u8")[8:])
    assert (opened[1] - opened[0] == 4).all()


# intersections without a helper


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("held", [["ann"], ["bob"]])
def test_the_sender_of_an_intersection_sees_a_uniform_matrix(masked, held, monkeypatch):
    """Without T and U, the matrix is the receiver's codewords, which the sender can compare with its own."""
    if not masked:
        monkeypatch.setattr("mpc.psi.kkrt.Keystream", NoKeystream)
    receiver, sender = Receiver(*normalise(held, "text")), Sender(*normalise(["ann"], "text"))
    answer = receiver.answer(sender.start())
    matrix = np.frombuffer(answer[-448 * words_for(cuckoo.bins_for(2048)) * 8 :], dtype=np.uint8).reshape(
        448, -1
    )
    guess = codeword_of(sender, "ann")
    rows = np.unpackbits(matrix, axis=1, bitorder="little").T
    found = (rows == guess).all(axis=1).any()
    assert found == (held == ["ann"] and not masked)
    assert not uneven(bytes_of(matrix.tobytes()))


class NoKeystream:
    def __init__(self, key):
        pass

    def fill(self, out):
        out[:] = 0


def codeword_of(sender, name):
    from mpc import aes
    from mpc.psi import kkrt
    from mpc.psi.intersection import token_key

    tokens = aes.cmac(token_key(sender._session), *normalise([name], "text"))
    return np.unpackbits(kkrt.Code(sender._session).words(tokens).view(np.uint8), bitorder="little")


def test_what_the_receiver_learns_of_others_is_uniform():
    receiver, sender = (
        Receiver(*normalise(["ann"], "text")),
        Sender(*normalise([f"p{i}" for i in range(2048)], "text")),
    )
    finish = sender.finish(receiver.answer(sender.start()))
    # the sets are sorted, so the leading bytes of the 64-bit halves ascend; what they are is uniform
    low = np.frombuffer(finish[48 : 48 + 8 * 2048], dtype="<u8")
    assert (low[1:] >= low[:-1]).all()
    assert not uneven(np.bincount((low >> np.uint64(60)).astype(int), minlength=16))
    assert not uneven(bytes_of(finish[48 + 8 * 2048 : 48 + 12 * 2048]))

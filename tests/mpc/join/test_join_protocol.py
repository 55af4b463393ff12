"""What the parties of a join refuse: damaged, foreign and repeated messages, and missing departments."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from join_sides import IDENTITIES, PROBE, REQUEST, ROSTER, Join

from mpc import cuckoo, errors
from mpc.engine import Seeds
from mpc.join import Column, Columns, Coordinator, Question, TableSide, messages, normalise
from mpc.join import table as tables

FLAG, WORD = Column("registry", "flag", 0), Column(PROBE, "word", 0)


def small(**options):
    data = {
        "registry": (np.arange(10), (np.arange(10) % 2 == 0)[:, None], ()),
        PROBE: (np.arange(5, 15), (), np.arange(10)[:, None]),
    }
    return Join(data, [(FLAG,), (FLAG, WORD)], **options)


def test_it_takes_five_turns():
    join = small()
    assert join.run() == [2, 1 + 3]
    assert join.turns == 5


DAMAGE = [
    (lambda m: b"", errors.Malformed),
    (lambda m: m[:43], errors.Malformed),
    (lambda m: m[:50], errors.Malformed),
    (lambda m: m[:-1], errors.WrongLength),
    (lambda m: m + bytes(8), errors.WrongLength),
    (lambda m: b"x" + m[1:], errors.Malformed),
    (lambda m: m[:8] + bytes(32) + m[40:], errors.Replayed),
    (lambda m: m[:40] + b"\x09" + m[41:], errors.Malformed),
    (lambda m: m[:44] + bytes(8) + m[52:], errors.WrongLength),
]


@pytest.mark.parametrize(("change", "error"), DAMAGE)
def test_damaged_tables_are_refused(change, error):
    join = small()
    message = join.departments["registry"].table(join.hellos())
    with pytest.raises(error, match="registry"):
        join.coordinator.accept_table("registry", change(message))
    join.coordinator.accept_table("registry", message)
    with pytest.raises(errors.Replayed):
        join.coordinator.accept_table("registry", message)


@pytest.mark.parametrize(("change", "error"), DAMAGE)
def test_damaged_bins_are_refused(change, error):
    join = small()
    hellos = join.tables()
    message = join.departments[PROBE].probe(hellos, join.coordinator.notes())
    with pytest.raises(error):
        join.coordinator.accept_probe(PROBE, change(message))


def test_bins_beyond_the_table_are_refused():
    join = small()
    hellos = join.tables()
    message = bytearray(join.departments[PROBE].probe(hellos, join.coordinator.notes()))
    message[60:64] = (2**32 - 1).to_bytes(4, "little")
    with pytest.raises(errors.Malformed, match="indices"):
        join.coordinator.accept_probe(PROBE, bytes(message))


def test_a_sealed_note_does_not_open_when_changed():
    join = small()
    hellos = join.tables()
    note = messages.decode(join.coordinator.notes(), dict[str, bytes])["registry"]
    changed = messages.encode({"registry": note[:-1] + bytes([note[-1] ^ 1])})
    with pytest.raises(errors.Tampered, match="registry"):
        join.departments[PROBE].probe(hellos, changed)


@pytest.mark.parametrize("missing", ["registry", PROBE])
def test_a_department_that_vanishes_ends_the_join(missing):
    join = small()
    for name, department in join.departments.items():
        if name != missing:
            join.coordinator.accept_hello(name, department.hello(join.coordinator.announce()))
    with pytest.raises(errors.OutOfOrder, match=missing):
        join.coordinator.hellos()


def test_nothing_is_known_when_one_vanishes_later():
    join = small()
    join.hellos()
    with pytest.raises(errors.OutOfOrder, match="registry"):
        join.coordinator.notes()
    turn = (other := small()).probe()
    reply = other.departments[PROBE].receive(turn)
    other.coordinator.accept_levels(PROBE, reply)  # and here the probe vanishes
    assert not other.coordinator.finished
    with pytest.raises(errors.OutOfOrder, match="result"):
        other.coordinator.result()


def test_each_step_is_taken_once():
    join = small()
    with pytest.raises(errors.OutOfOrder, match="hello"):
        join.departments["registry"].table(b"")
    hellos = join.tables()
    announcement = join.coordinator.announce()
    for name, department in join.departments.items():
        with pytest.raises(errors.Replayed):
            department.hello(announcement)
        with pytest.raises(errors.Replayed):
            join.coordinator.accept_hello(name, messages.decode(hellos, dict[str, bytes])[name])
    with pytest.raises(errors.Replayed, match="served"):
        join.departments["registry"].table(hellos)
    with pytest.raises(errors.OutOfOrder, match="probe"):
        join.departments[PROBE].receive(b"")


def test_a_hello_in_another_s_name_or_for_another_session_is_refused():
    join, other = small(), small()
    hello = join.departments["registry"].hello(join.coordinator.announce())
    with pytest.raises(errors.Replayed):
        other.coordinator.accept_hello("registry", hello)
    with pytest.raises(errors.BadSignature):
        join.coordinator.accept_hello(PROBE, hello)
    with pytest.raises(errors.UnknownPeer):
        join.coordinator.accept_hello("lab", hello)
    with pytest.raises(errors.PeerError):
        join.coordinator.accept_hello("registry", hello[:-1])


def test_the_coordinator_cannot_put_a_key_of_its_own_between():
    join = small()
    signed = messages.decode(join.hellos(), dict[str, bytes])
    forged = messages.decode(messages.decode(signed[PROBE], messages.Signed).body, messages.Hello)
    forged = messages.Hello(PROBE, forged.context, bytes(31) + b"\x09", forged.capacity)
    body = messages.encode(forged)
    signed[PROBE] = messages.encode(
        messages.Signed(body, messages.decode(signed[PROBE], messages.Signed).signature)
    )
    with pytest.raises(errors.BadSignature):
        join.departments["registry"].table(messages.encode(signed))


QUESTION = Question(PROBE, ("registry",), {"registry": Columns(1, ()), PROBE: Columns(0, ())}, ((),))


def registry(question=QUESTION, flags=((True,),), **options):
    identifiers = normalise([1], "text")
    allowed = {"question": question, "request": REQUEST, "used": Seeds(), **options}
    return TableSide("registry", IDENTITIES["registry"], ROSTER, identifiers, flags, **allowed)


def announced(question=QUESTION, request=REQUEST):
    return Coordinator(ROSTER, question, request, used=Seeds()).announce()


def test_a_department_answers_only_the_question_that_its_gate_let_pass():
    other = Question(PROBE, ("registry",), QUESTION.columns, ((FLAG,),))
    for announcement in (announced(other), announced(request=bytes(32))):
        with pytest.raises(errors.FloorViolation, match="question"):
            registry().hello(announcement)
    assert registry().hello(announced())


def test_a_department_has_the_role_columns_and_noise_of_the_question():
    swapped = Question("registry", (PROBE,), QUESTION.columns, ((),))
    with pytest.raises(errors.OutOfRange, match="tables"):
        registry(swapped)
    with pytest.raises(errors.OutOfRange, match="columns"):
        registry(flags=((True, False),)).hello(announced())
    noisy = Question(PROBE, ("registry",), QUESTION.columns, ((),), noise=True)
    with pytest.raises(errors.OutOfRange, match="noise"):
        registry(noisy)
    with pytest.raises(errors.OutOfRange, match="noise"):
        registry(noise=lambda terms: np.zeros(terms, dtype=int))


@pytest.mark.parametrize("failures", [1, 3])
def test_a_table_that_cannot_be_filled_is_tried_with_another_key_and_counted(failures, monkeypatch):
    place, left = cuckoo.place, [failures]

    def unlucky(positions, bins):
        if left[0]:
            left[0] -= 1
            raise cuckoo.NoAssignment
        return place(positions, bins)

    monkeypatch.setattr(cuckoo, "place", unlucky)
    join = small()
    assert join.run() == [2, 4]
    assert join.departments["registry"].attempts == failures + 1


def test_tables_that_never_can_be_filled_end_in_words(monkeypatch):
    def never(positions, bins):
        raise cuckoo.NoAssignment

    monkeypatch.setattr(cuckoo, "place", never)
    with pytest.raises(errors.OutOfRange, match="attempts"):
        small().run()


def test_tokens_that_agree_in_their_low_bits_do_not_match(monkeypatch):
    """All comparison words agree in 28 bits: equality reads all 64 (36 agree by chance with probability 2^-23)."""
    encrypt, attempt, comparison = tables.aes.encrypt, tables.Secret.attempt, set()

    def keys(secret, number):
        found = attempt(secret, number)
        comparison.add(found[1])
        return found

    def near(key, blocks):
        result = encrypt(key, blocks)
        if key in comparison:
            result[:, 0] |= np.uint64(2**28 - 1)
        return result

    monkeypatch.setattr(tables.Secret, "attempt", keys)
    monkeypatch.setattr(tables, "aes", type("near", (), {"encrypt": staticmethod(near)}))
    data = {
        "registry": (np.arange(2000), (), np.ones((2000, 1), dtype=int)),
        PROBE: (np.arange(1990, 3500), (), ()),
    }
    assert Join(data, [(), (Column("registry", "word", 0),)]).run() == [10, 10]
    assert comparison


def test_sizes_are_those_of_the_whole_table_and_not_of_what_a_filter_keeps():
    lengths = set()
    for kept in (0, 17, 5000):
        keys = [number if number < kept else None for number in range(5000)]
        data = {"registry": (keys, (), ()), PROBE: (keys[::-1], (), ())}
        join = Join(data, [()])
        assert join.run() == [kept]
        lengths.add(tuple(map(len, join.seen.values())))
    assert len(lengths) == 1


def test_bytes_are_linear_in_rows():
    sizes = []
    for rows in (4096, 8192, 16384):
        data = {
            "registry": (np.arange(rows), np.ones((rows, 4), dtype=bool), ()),
            PROBE: (np.arange(rows), (), np.ones((rows, 1), dtype=int)),
        }
        join = Join(data, [(Column("registry", "flag", g), WORD) for g in range(4)])
        join.run()
        sizes.append(sum(map(len, join.seen.values())))
    assert abs((sizes[2] - sizes[1]) / (sizes[1] - sizes[0]) - 2) < 0.01


def test_questions_with_more_values_than_a_machine_should_hold_are_refused():
    wide = Question(PROBE, ("registry",), {PROBE: Columns(40, ()), "registry": Columns(24, ())}, ((),))
    wide.check({PROBE: 1 << 20, "registry": 1 << 20})
    with pytest.raises(errors.OutOfRange, match="are 64 with 1179648 rows"):
        wide.check({PROBE: 9 << 17, "registry": 1 << 20})
    with pytest.raises(errors.OutOfRange, match="scales"):
        msgspec.structs.replace(wide, scales=(1, 2)).check({PROBE: 1, "registry": 1})
    with pytest.raises(errors.Overflow, match="term"):
        msgspec.structs.replace(wide, scales=(1 << 62,)).check({PROBE: 4, "registry": 4})

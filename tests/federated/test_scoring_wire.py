"""What passes when scores are asked for: nothing readable, nothing that can be changed, nothing that can be said twice."""

from __future__ import annotations

import struct

import msgspec
import pytest
from scored import MODELS, ask, opened, quotas, rows

from federated import messages
from federated.scoring import client
from federated.scoring.messages import Begin, End, Recorded, Rows, Scores, digest
from mpc.he import files
from sandbox import keys
from sandbox.errors import (
    DepartmentFailed,
    QueryError,
    SandboxError,
    SignatureInvalid,
    UnknownSigner,
)
from sandbox.query import canonical
from sandbox.scoring.request import BLOCK, REQUEST, Block


@pytest.fixture(scope="module")
def bank(open_federation):
    return opened(open_federation)


class Watched:
    """A desk that keeps, and may change, what an analyst sends and gets."""

    def __init__(self, desk):
        self._desk, self.sent, self.got = desk, [], []
        self.there = self.back = lambda body: body

    def __getattr__(self, name):
        return getattr(self._desk, name)

    def score(self, analyst, department, body):
        self.sent.append(self.there(body))
        self.got.append(self.back(self._desk.score(analyst, department, self.sent[-1])))
        return self.got[-1]


@pytest.fixture
def watched(bank, monkeypatch):
    found = Watched(bank.city._desk)
    monkeypatch.setattr(bank.city, "_desk", found)
    return found


def test_neither_coordinator_nor_bank_is_sent_a_value_or_a_score(bank, watched):
    """All bytes that passed hold no value, score, weight or secret key, in any plain encoding."""
    table = rows(5)
    before = len(bank.wire.seen)
    found = ask(bank)
    passed = [
        body for kind, _, sent, reply in bank.wire.seen[before:] if kind == "score" for body in (sent, reply)
    ]
    assert len(passed) == 6
    assert sum(map(len, watched.sent)) == found.sent
    everything = b"".join((*passed, *watched.sent, *watched.got))
    secret = [*table["income"], *found.values[:, 0], 0.01, -0.02]
    for value in map(float, secret):
        plain = (
            struct.pack("<d", value),
            struct.pack(">d", value),
            struct.pack("<f", value),
            repr(value).encode(),
        )
        assert not any(text in everything for text in plain)
    assert b"secret key" not in everything
    sizes = [len(body) for body in watched.sent]
    watched.sent.clear()
    ask(bank, table=rows(5, seed=9))
    assert [abs(a - len(b)) < 3000 for a, b in zip(sizes, watched.sent, strict=True)] == [True] * 3


def test_the_log_tells_of_request_decision_charge_and_release_in_digests(bank):
    log = bank.gates["bank"].state.log
    before = len(log)
    found = ask(bank)
    log.verify()
    told = list(log.entries())[before:]
    assert [type(entry).__name__ for entry in told] == ["Request", "Decision", "Quota", "Release"]
    assert (told[2].rows, told[2].version) == (5, digest(files.to_json(MODELS["credit"])))
    assert told[3].release == found.release


def changed(kind, field, change):
    """A message of one kind with a field changed; others as they are."""

    def apply(body):
        message = (
            messages.decode(body, Begin | Rows | End) if kind is not Scores else messages.decode(body, Scores)
        )
        if not isinstance(message, kind):
            return body
        return messages.encode(msgspec.structs.replace(message, **{field: change(getattr(message, field))}))

    return apply


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("there", "error", "text", "charged"),
    [
        (changed(Begin, "keys", flipped), DepartmentFailed, "keys are not those that the request names", 0),
        (changed(Begin, "signed", flipped), SandboxError, "", 0),
        (changed(Rows, "rows", flipped), DepartmentFailed, "changed on their way", 1),
        (changed(Rows, "rows", lambda rows: rows[:-9]), DepartmentFailed, "changed on their way", 1),
        (changed(Rows, "signed", flipped), SandboxError, "", 1),
        (changed(End, "release", lambda _: "0" * 64), DepartmentFailed, "'release' is not what was", 1),
        (lambda body: body[:-1], QueryError, "malformed", 0),
        (lambda _body: b"\xa1\xff", QueryError, "malformed", 0),
    ],
)
def test_what_is_changed_on_the_way_there_is_found_out(bank, watched, there, error, text, charged):
    watched.there = there
    before = len(quotas(bank))
    with pytest.raises(error, match=text):
        ask(bank)
    assert len(quotas(bank)) - before == charged


def test_what_is_changed_on_the_way_back_is_found_out(bank, watched):
    for field in ("scores", "signed"):
        watched.back = lambda body, field=field: (
            changed(Scores, field, flipped)(body) if len(body) > 9999 else body
        )
        with pytest.raises(SandboxError):
            ask(bank)
    other = []

    def swapped(body):
        if len(body) < 9999:
            return body
        other.append(body)
        return other[0]

    watched.back = swapped  # the first request's answer, for the second, too
    ask(bank)
    with pytest.raises(SignatureInvalid, match="not those that the department signed for this block"):
        ask(bank)
    watched.back = lambda body: body.replace(b'"loans"', b'"homes"')
    with pytest.raises(SignatureInvalid, match="the receipt does not hold"):
        ask(bank)


def test_offers_of_another_department_or_model_are_found_out(bank, watched, monkeypatch):
    honest = bank.city._desk.models()
    forged = flipped(honest.offers["bank"])
    monkeypatch.setattr(
        watched, "models", lambda: msgspec.structs.replace(honest, offers={"bank": forged}), raising=False
    )
    with pytest.raises(SandboxError):
        ask(bank)
    monkeypatch.undo()


def test_a_message_again_gets_the_same_answer_and_costs_nothing_more(bank, watched):
    before = len(quotas(bank))
    ask(bank)
    begin, block, end = watched.sent
    desk = watched._desk
    with pytest.raises(DepartmentFailed, match="no such request is being answered"):
        desk.score("analyst", "bank", block)  # it ended
    with pytest.raises(DepartmentFailed, match="its rows are spent"):
        desk.score("analyst", "bank", begin)
    with pytest.raises(DepartmentFailed):
        desk.score("analyst", "bank", end)
    assert len(quotas(bank)) - before == 1
    twice = []

    def again(body):
        twice.append(desk.score("analyst", "bank", body))
        return body

    watched.there = again
    watched.got.clear()
    with pytest.raises(DepartmentFailed):  # only the end is not said twice
        ask(bank)
    assert twice[:2] == watched.got[:2]
    assert len(quotas(bank)) - before == 2


def test_a_node_that_was_restarted_answers_nothing_of_before_and_charges_nothing_twice(bank, watched):
    passed = []

    def restart(body):
        passed.append(body)
        if len(passed) == 2:
            bank.restart("bank")
        return body

    watched.there = restart
    before = len(quotas(bank))
    with pytest.raises(DepartmentFailed, match="the node was restarted; ask anew"):
        ask(bank)
    with pytest.raises(DepartmentFailed, match="its rows are spent"):
        watched._desk.score("analyst", "bank", passed[0])
    assert len(quotas(bank)) - before == 1
    watched.there = lambda body: body
    assert len(ask(bank)) == 5


def test_who_calls_is_who_signed(bank, watched):
    ask(bank)
    begin, block, _end = watched.sent
    for body in (begin, block):
        with pytest.raises(UnknownSigner):
            watched._desk.score("eve", "bank", body)
    with pytest.raises(QueryError, match="unknown department 'town'"):
        watched._desk.score("analyst", "town", begin)
    with pytest.raises(QueryError):
        watched._desk.score("analyst", "bank", messages.encode(Recorded(b"{}")))


def test_more_rows_than_were_paid_for_are_not_scored(bank, watched):
    """An analyst of ill will pays for one row, and sends five."""
    table, key, desk = rows(5), bank.parties.analyst, watched._desk
    held = client.offers(desk)[0]["bank"].models["credit"]
    asked = client._Asked(desk, key, "analyst", "bank", held)
    asked.prepare(table, "credit", "loans")
    cheap = msgspec.structs.replace(asked.request, rows=1)
    asked.request, asked._name = cheap, cheap.digest().hex()
    asked._signed = canonical(keys.seal(key, "analyst", REQUEST, cheap))
    asked.begin()
    with pytest.raises(DepartmentFailed, match="OutOfRange: rows: are more than the 1 that this client gets"):
        asked.answers(False)
    block = Block(asked._name, 7, digest(b"x"))
    sealed = canonical(keys.seal(key, "analyst", BLOCK, block))
    with pytest.raises(DepartmentFailed, match="block 7 comes as block 0"):
        desk.score("analyst", "bank", messages.encode(Rows(sealed, b"x")))
    with pytest.raises(DepartmentFailed, match="not all rows of the request were answered"):
        asked.end()
    garbage = Block(asked._name, 0, digest(b"x"))
    sealed = canonical(keys.seal(key, "analyst", BLOCK, garbage))
    with pytest.raises(DepartmentFailed, match="Malformed: rows: not a message of homomorphic encryption"):
        desk.score("analyst", "bank", messages.encode(Rows(sealed, b"x")))


def test_lost_messages_are_told_as_such(bank):
    bank.wire.lose("score", "bank")
    try:
        with pytest.raises(DepartmentFailed, match="bank: did not answer in time"):
            ask(bank)
    finally:
        bank.wire.restore()
    bank.wire.lose("models", "bank")
    try:
        with pytest.raises(QueryError, match="no models of 'bank': did not answer in time"):
            ask(bank)
    finally:
        bank.wire.restore()
    assert len(ask(bank)) == 5


@pytest.mark.parametrize(
    "reply", [b"", b"\xc1", b"\xa1\xff", b"\x91" * 5000, b"\x92\xa7refusal\xa1\xff", b"\x80"]
)
def test_a_reply_that_is_none_is_told_as_such(bank, reply):
    assert messages.decode_reply(reply).error == "MalformedReply"
    bank.wire.change("score", "bank", lambda _body: reply)
    try:
        with pytest.raises(
            DepartmentFailed, match="bank: MalformedReply: the reply is no message of this protocol"
        ):
            ask(bank)
    finally:
        bank.wire.restore()

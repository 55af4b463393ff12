"""What goes wrong in a round ends in a release that says who is missing, or in a refusal: never in a wrong number, never in a foreign error.

Four departments: an exact value needs three contributors, and so does the threshold of either setting, so that one may vanish and two may not.
"""

from __future__ import annotations

import random
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from federated import messages
from federated.local import open_city
from federated.messages import Done, Masked, Refusal
from mpc.secagg import Client
from sandbox import col, count
from sandbox.errors import (
    DepartmentFailed,
    TooFewDepartments,
)

PURPOSE = "research"
SETTINGS = ("honest-but-curious", "active")
SET_UP = ("advertise", "share", "receive")
BEFORE_THE_SUM = (*SET_UP, "decide", "masked")
ROUNDS = [(setting, kind) for setting in SETTINGS for kind in (*BEFORE_THE_SUM, "confirm", "unmask")]
ROUNDS.remove(("honest-but-curious", "confirm"))
OVER_TLS = [
    r for r in ROUNDS if r[0] == "active" or r[1] in ("masked", "unmask")
]  # before those, the settings agree


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request):
    return request.param


def keeper(open_federation, people):
    """Opens one federation a setting for the whole module."""
    made = {}

    def open_(setting="honest-but-curious"):
        if setting not in made:
            everyone = people()
            made[setting] = open_federation(everyone.catalogs, everyone.frames, setting), everyone
        federation, everyone = made[setting]
        federation.wire.restore()
        federation.broker.attach(federation.wire)  # each test begins with a set-up
        return federation, everyone

    return open_


@pytest.fixture(scope="module")
def opened(open_federation, people):
    """On each network: for what a network may do differently."""
    return keeper(open_federation, people)


@pytest.fixture(scope="module")
def over_tls(open_over_tls, people):
    return keeper(open_over_tls, people)


@pytest.fixture(scope="module")
def here(open_in_process, people):
    """In this process: for what the wire between broker and network does, whatever the network is."""
    return keeper(open_in_process, people)


def ages(federation, **privacy):
    table = federation.city.table("t")
    return (
        table.group_by("region")
        .agg(count(), col("age").sum(), col("income").mean())
        .release(purpose=PURPOSE, **privacy)
    )


def check(release, people, names):
    """The release is the pooled answer of exactly these departments, and names the others."""
    assert release.departments == tuple(names)
    assert set(release.missing) == set(people.names) - set(names)
    pooled = people.pooled(names).groupby("region")
    frame = release.frame.set_index("region")
    assert frame["count"].to_dict() == pooled.size().to_dict()
    assert frame["age_sum"].to_dict() == pooled["age"].sum().to_dict()
    assert frame["income_mean"].to_dict() == pytest.approx(pooled["income"].mean().to_dict(), rel=1e-9)


@pytest.mark.parametrize(("setting", "kind"), ROUNDS)
def test_one_department_vanishes(here, setting, kind):
    one_vanishes(*here(setting), kind, answered=True)


@pytest.mark.parametrize(("setting", "kind"), OVER_TLS)
def test_one_department_vanishes_over_tls(over_tls, setting, kind):
    one_vanishes(*over_tls(setting), kind, answered=True)


@pytest.mark.parametrize(("setting", "kind"), ROUNDS)
def test_one_department_is_not_reached(here, setting, kind):
    one_vanishes(*here(setting), kind, answered=False)


def one_vanishes(federation, everyone, kind, answered):
    federation.wire.lose(kind, "birch", answered=answered)
    release = ages(federation)
    late = kind in ("confirm", "unmask")  # its masked input is in the sum
    check(release, everyone, everyone.names if late else ["ash", "cedar", "date"])
    if not late:
        assert "Without birch" in repr(release)
    federation.wire.restore()
    set_ups = federation.wire.count("advertise")
    check(ages(federation), everyone, everyone.names)
    # Whoever is back joins a new batch. A lost confirmation alone loses nobody: it still helps to unmask.
    again = 0 if (kind, answered) == ("confirm", True) else 4
    assert federation.wire.count("advertise") == set_ups + again


@pytest.mark.parametrize(("setting", "kind"), ROUNDS)
def test_two_departments_vanish(here, setting, kind):
    federation, everyone = here(setting)
    federation.wire.lose(kind, "ash", "cedar")
    with pytest.raises(TooFewDepartments) as refused:
        ages(federation)
    assert "ash" in str(refused.value)
    assert "cedar" in str(refused.value)
    assert "birch" not in str(refused.value)
    federation.wire.restore()
    check(ages(federation), everyone, everyone.names)


@pytest.mark.parametrize(("setting", "kind"), [(s, k) for s, k in ROUNDS if k not in SET_UP])
def test_a_department_vanishes_in_the_middle_of_a_batch(here, setting, kind):
    federation, everyone = here(setting)
    check(ages(federation), everyone, everyone.names)
    federation.wire.lose(kind, "date")
    late = kind in ("confirm", "unmask")
    check(ages(federation), everyone, everyone.names if late else everyone.names[:3])
    federation.wire.restore()
    check(ages(federation), everyone, everyone.names)


def test_departments_vanish_one_after_the_other(here, setting):
    federation, everyone = here(setting)
    federation.wire.lose("masked", "ash")
    federation.wire.lose("unmask", "birch")
    with pytest.raises(TooFewDepartments, match="birch"):
        ages(federation)  # ash is not in the sum, and of three two cannot unmask
    federation.wire.restore()
    check(ages(federation), everyone, everyone.names)


def test_a_batch_is_used_up_and_followed_by_another(here):
    federation, everyone = here()
    set_ups = federation.wire.count("advertise")
    for _ in range(17):
        check(ages(federation), everyone, everyone.names)
    assert federation.wire.count("advertise") - set_ups == 2 * 4


# --- messages that do not verify ---


def truncated(reply):
    return reply[: len(reply) // 2]


def empty(_reply):
    return b""


def random_bytes(reply):
    return random.Random(3).randbytes(len(reply))


def inside(change):
    """Change the body within a reply that is well formed."""

    def outer(reply):
        return messages.encode(Done(change(messages.decode_reply(reply).body)))

    return outer


def tampered(body):
    """One bit in the middle, and in the signature or tag at the end."""
    flipped = bytearray(body or b"\x00")
    flipped[len(flipped) // 2] ^= 1
    flipped[-1] ^= 1
    return bytes(flipped)


def longer(body):
    return body + bytes(8)


def shorter(body):
    return body[:-8]


def unsigned(body):
    """The signature, or tag, is all zeros."""
    length = 64 if body[:1] == b"\x93" else 16
    return body[:-length] + bytes(length)


def null(_body):
    return msgspec.msgpack.encode(None)


def deep(_body):
    return b"\x91" * 5000 + b"\x90"


OUTER = {"cut reply": truncated, "no reply": empty, "noise": random_bytes}
INNER = (empty, truncated, random_bytes, tampered, longer, shorter, unsigned, null, deep)
CHANGES = OUTER | {change.__name__: inside(change) for change in INNER}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("setting", "kind"), [(s, k) for s, k in ROUNDS if s != "active" or k in ("masked", "confirm", "unmask")]
)
def test_a_reply_that_does_not_verify_counts_as_none(here, setting, kind, change):
    federation, everyone = here(setting)
    federation.wire.change(kind, "birch", CHANGES[change])
    if kind == "decide" and change in OUTER:  # it may have said no
        with pytest.raises(DepartmentFailed, match="birch"):
            ages(federation)
        return
    release = ages(federation)
    if kind in ("confirm", "unmask"):
        check(release, everyone, everyone.names)
    elif kind == "receive" and change not in OUTER:
        check(release, everyone, everyone.names)  # this reply carries nothing
    else:
        check(release, everyone, ["ash", "cedar", "date"])


@pytest.mark.parametrize(("setting", "kind"), ROUNDS)
def test_a_reply_replayed_from_an_earlier_request_counts_as_none(here, setting, kind):
    federation, everyone = here(setting)
    ages(federation)
    earlier = federation.wire.reply(kind, "birch")
    if kind in SET_UP:
        federation.broker.attach(federation.wire)
    federation.wire.change(kind, "birch", lambda _reply: earlier)
    release = ages(federation)
    replayable = (
        "decide",
        "receive",
    )  # carry nothing but a yes: of the first an answer to the same question, of the second nothing
    check(
        release,
        everyone,
        everyone.names if kind in (*replayable, "confirm", "unmask") else ["ash", "cedar", "date"],
    )


@pytest.mark.parametrize(("setting", "kind"), ROUNDS)
def test_anothers_reply_counts_as_none(here, setting, kind):
    federation, everyone = here(setting)
    ages(federation)
    federation.broker.attach(federation.wire)
    federation.wire.change(kind, "birch", lambda _reply: federation.wire.reply(kind, "ash"))
    release = ages(federation)
    assert ("birch" in release.missing) == (kind in ("advertise", "share", "masked"))
    check(release, everyone, release.departments)


@pytest.mark.parametrize("kind", ["advertise", "masked", "unmask"])
def test_of_a_foreign_error_the_class_is_named(here, kind):
    federation, _ = here()
    federation.wire.change(kind, "birch", lambda _reply: messages.encode(Refusal("KeyError")))
    federation.wire.lose(kind, "ash")
    with pytest.raises(TooFewDepartments, match=r"birch \(KeyError\)"):
        ages(federation)


def test_a_department_that_cannot_decide_ends_the_request(here):
    federation, _ = here()
    before = federation.spent()
    federation.wire.change("decide", "birch", lambda _reply: messages.encode(Refusal("KeyError")))
    with pytest.raises(DepartmentFailed, match="birch: KeyError"):
        ages(federation, epsilon=1.0)
    assert federation.spent() == before


def test_a_catalogue_that_is_none_makes_a_department_unreachable(here):
    federation, everyone = here()
    for change in CHANGES.values():
        federation.wire.change("catalog", "birch", change)
        federation.city.refresh()
        assert set(federation.city.unreachable) == {"birch"}
        # It keeps its tables, so that a release says that it is missing.
        assert federation.city.departments("t") == ("ash", "birch", "cedar", "date")
    federation.wire.restore()
    federation.city.refresh()
    assert federation.city.departments("t") == everyone.names


# --- departments that follow the form and lie ---


def lie(monkeypatch, method, names, change):
    """Some departments' secure-aggregation clients run `change` before a method. For departments in this process."""
    honest = getattr(Client, method)

    def dishonest(self, slot, *arguments, **options):
        if self.name in names:
            arguments = change(self._slots[slot], arguments)
        return honest(self, slot, *arguments, **options)

    monkeypatch.setattr(Client, method, dishonest)


def in_process(people):
    everyone = people()
    return SimpleNamespace(city=open_city(everyone.catalogs, everyone.frames)), everyone


@pytest.mark.parametrize("liars", [("ash",), ("ash", "birch")])
def test_wrong_shares(monkeypatch, people, liars):
    def wrong(slot, arguments):
        slot.shares = {name: (b, a) for name, (a, b) in slot.shares.items()}
        return arguments

    lie(monkeypatch, "unmask", liars, wrong)
    federation, everyone = in_process(people)
    if len(liars) == 1:  # three of four shares open each secret: one liar is found out
        check(ages(federation), everyone, everyone.names)
    else:
        with pytest.raises(DepartmentFailed, match="no set of the returned shares opens it"):
            ages(federation)
    monkeypatch.undo()
    check(ages(federation), everyone, everyone.names)


def test_sums_beyond_what_is_declared(monkeypatch, people):
    lie(
        monkeypatch,
        "mask",
        ("ash",),
        lambda _slot, arguments: (arguments[0], arguments[1] + np.uint64(2**62)),
    )
    federation, _ = in_process(people)
    with pytest.raises(DepartmentFailed, match="each joint sum must lie in"):
        ages(federation)


# --- the nodes' own guard ---


def reply(federation, kind, name, body):
    return messages.decode_reply(federation.wire.network.call(kind, {name: body})[name])


def test_a_node_runs_a_request_once(opened):
    federation, _ = opened()
    ages(federation, epsilon=1.0)
    spent = federation.spent()
    body = federation.wire.body("masked", "ash")
    assert reply(federation, "masked", "ash", body) == Refusal(
        "ScheduleError", "this slot has served a request, or does not exist"
    )
    message = messages.decode(body, Masked)
    later = messages.encode(Masked(message.session, message.slot + 1, message.request))
    assert reply(federation, "masked", "ash", later) == Refusal(
        "ScheduleError", "this request has run before: it is answered once"
    )
    federation.broker.attach(federation.wire)
    ages(federation)  # another batch: the nonce is still known
    session = messages.decode(federation.wire.body("masked", "ash"), Masked).session
    again = messages.encode(Masked(session, 5, message.request))
    assert "it is answered once" in reply(federation, "masked", "ash", again).text
    assert federation.spent() == spent


def test_a_slot_that_does_not_exist_is_refused(opened):
    federation, _ = opened()
    ages(federation)
    message = messages.decode(federation.wire.body("masked", "ash"), Masked)
    for slot in (-1, 16, 2**40):
        body = messages.encode(Masked(message.session, slot, message.request))
        assert reply(federation, "masked", "ash", body).error == "ScheduleError", slot


def test_a_node_answers_one_unmasking_a_slot(opened, setting):
    federation, _ = opened(setting)
    ages(federation)
    answer = reply(federation, "unmask", "ash", federation.wire.body("unmask", "ash"))
    assert isinstance(answer, Refusal)
    assert "already been answered" in answer.text


NONSENSE = (b"", b"\xc0", b"\xff" * 40, messages.encode([b"x" * 16, b""]), deep(b""))


def test_a_node_answers_nonsense_with_a_refusal(opened):
    federation, everyone = opened()
    for kind in messages.KINDS[1:]:
        for body in NONSENSE:
            answer = reply(federation, kind, "ash", body)
            assert isinstance(answer, Refusal), (kind, body)
            assert answer.error in ("QueryError", "ScheduleError", "ParameterError", "Malformed"), (
                kind,
                body,
            )
    check(ages(federation), everyone, everyone.names)

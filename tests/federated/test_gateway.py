"""Who counts as connected: a node that ends its last connection is gone in a moment, whatever it was last told."""

from __future__ import annotations

import asyncio

import pytest

from federated import gateway
from federated.gateway import ABSENT, FLEET, PULL, QUIET, Gateway

ASH = 7
FIRST, SECOND = ("10.0.0.1", 1), ("10.0.0.1", 2)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(gateway, "time", made)
    return made


async def fleet(scope, _receive, send):
    """Takes who is honest."""
    status = 200 if (b"honest", b"") in scope["headers"] else 401
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"a message"})


def called(door: Gateway, client, path: str = PULL, honest: bool = True) -> int:
    """The status that a call of ash's over a connection gets."""
    headers = [(b"honest", b"")] if honest else []
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "client": client}
    answers = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        answers.append(message)

    asyncio.run(door(scope, receive, send))
    return answers[0]["status"]


@pytest.fixture
def door(clock):
    made = Gateway(fleet, lambda _headers: ASH)
    made.began(FIRST)
    made.began(SECOND)
    assert called(made, FIRST) == 200
    return made


def here_for(door: Gateway, clock: Clock) -> float:
    """How long ash counts as here, if nothing more happens."""
    return door._until[ASH] - clock.now if door.here(ASH) else 0.0


def test_a_node_that_was_answered_may_be_busy(door, clock):
    assert here_for(door, clock) == QUIET
    clock.now += QUIET
    assert not door.here(ASH)
    assert door.has_come(ASH)


def test_a_node_that_ends_its_last_connection_is_gone_in_a_moment(door, clock):
    called(door, SECOND, FLEET + "push-object")
    door.ended(FIRST, cut=True)
    assert here_for(door, clock) == QUIET
    door.ended(SECOND, cut=True)
    assert here_for(door, clock) == ABSENT
    clock.now += ABSENT
    assert not door.here(ASH)


def test_a_connection_that_the_coordinator_ends_says_nothing(door, clock):
    door.ended(FIRST, cut=False)
    assert here_for(door, clock) == QUIET


def test_a_node_that_calls_again_is_here_again(door, clock):
    door.ended(FIRST, cut=True)
    called(door, SECOND)
    assert here_for(door, clock) == QUIET


def test_an_answer_to_a_connection_that_has_ended_keeps_nobody(door, clock):
    called(door, SECOND)
    door.ended(SECOND, cut=True)
    called(door, SECOND, FLEET + "push-object")  # was under way
    door.ended(FIRST, cut=True)
    assert here_for(door, clock) == ABSENT


def test_a_node_that_was_gone_stays_gone(door, clock):
    clock.now += QUIET
    door.ended(FIRST, cut=True)
    assert not door.here(ASH)


@pytest.mark.parametrize("path", [PULL, FLEET + "push-object"])
def test_a_strangers_connection_drives_nobody_out(door, clock, path):
    assert called(door, SECOND, path, honest=False) == 401
    door.ended(SECOND, cut=True)
    assert here_for(door, clock) == QUIET


def test_who_never_proved_its_key_has_not_come(clock):
    door = Gateway(fleet, lambda _headers: ASH)
    called(door, FIRST, honest=False)
    called(door, FIRST, FLEET + "push-object")
    assert not door.has_come(ASH)
    assert not door.here(ASH)

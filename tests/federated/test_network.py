"""The in-process grid, and what `Network` makes of whatever comes back: bytes, or a `Failure` that names no more than a class."""

from __future__ import annotations

import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from federated.network import Failure, LocalGrid, Network, pack, unpack

SECRET = "the income of Ms Wu"
release_slow = threading.Event()


def app(answer):
    """A node that answers `query.ask` with answer(body), a message, or raises."""
    made = ClientApp()

    @made.query("ask")
    def handler(message, _context):
        content = answer(unpack(message))
        return Message(content if isinstance(content, RecordDict) else pack(content), reply_to=message)

    return made


def slow(_body):
    release_slow.wait()
    return b"late"


def raises(_body):
    raise ValueError(SECRET)


def open_network(timeout=60.0, **answers):
    grid = LocalGrid(app(answer) for answer in answers.values())
    return Network(grid, dict(zip(answers, grid.get_node_ids(), strict=True)), timeout), grid


def test_replies_come_back_under_the_names_asked():
    network, _ = open_network(a=lambda body: b"a" + body, b=lambda body: b"b" + body)
    assert network.nodes == ("a", "b")
    assert network.call("ask", {"b": b"2", "a": b"1"}) == {"a": b"a1", "b": b"b2"}
    assert network.call("ask", {"b": b"3"}) == {"b": b"b3"}
    assert network.call("ask", {}) == {}


def test_rounds_and_bytes_are_counted_per_node_and_way():
    network, _ = open_network(a=lambda body: body * 3, b=raises)
    network.call("ask", {"a": bytes(10), "b": bytes(20)})
    network.call("ask", {"a": bytes(5)})
    assert network.traffic.rounds == 2
    assert network.traffic.sent == {"a": 15, "b": 20}
    assert network.traffic.received == {"a": 45, "b": 0}


def test_two_networks_count_apart():
    first, _ = open_network(a=lambda body: body)
    second, _ = open_network(a=lambda body: body)
    first.call("ask", {"a": b"x"})
    assert second.traffic.rounds == 0
    assert second.traffic.sent == {}


def test_of_an_exception_only_the_class_leaves():
    network, _ = open_network(a=raises, b=lambda body: body)
    replies = network.call("ask", {"a": b"", "b": b"x"})
    assert replies["b"] == b"x"
    assert replies["a"] == Failure("ValueError")
    assert SECRET not in repr(replies)


def test_a_node_that_is_slow_is_given_up_and_the_others_are_heard():
    network, _ = open_network(timeout=0.2, slow=slow, quick=lambda body: body)
    try:
        assert network.call("ask", {"slow": b"x", "quick": b"y"}) == {
            "slow": Failure("did not answer in time"),
            "quick": b"y",
        }
        assert network.call("ask", {"quick": b"z"}) == {"quick": b"z"}
    finally:
        release_slow.set()


def test_a_stopped_node_answers_nothing_until_it_is_back():
    network, grid = open_network(a=lambda body: body, b=lambda body: body)
    grid.stop(1)
    assert grid.get_node_ids() == [2]
    assert network.call("ask", {"a": b"x", "b": b"y"}) == {
        "a": Failure("did not answer in time"),
        "b": b"y",
    }
    grid.start(1)
    assert network.call("ask", {"a": b"x"}) == {"a": b"x"}


def test_a_node_that_stops_while_it_computes_does_not_answer():
    network, grid = open_network(a=lambda _body: grid.stop(1) or b"done")
    assert network.call("ask", {"a": b""}) == {"a": Failure("did not answer in time")}


def test_a_node_that_does_not_exist_fails():
    grid = LocalGrid([app(lambda body: body)])
    network = Network(grid, {"a": 1, "ghost": 99})
    replies = network.call("ask", {"a": b"x", "ghost": b"y"})
    assert replies["a"] == b"x"
    assert isinstance(replies["ghost"], Failure)


def test_a_kind_of_message_that_a_node_does_not_handle_fails():
    network, _ = open_network(a=lambda body: body)
    assert isinstance(network.call("other", {"a": b"x"})["a"], Failure)


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"body": b"x"})}),
        RecordDict({"body": ConfigRecord({"other": b"x"})}),
        RecordDict({"body": ConfigRecord({"body": "text"})}),
        RecordDict({"body": ConfigRecord({"body": [b"x"]})}),
    ],
)
def test_a_reply_without_a_body_is_empty(content):
    network, _ = open_network(a=lambda _body: content)
    assert network.call("ask", {"a": b"x"}) == {"a": b""}


def test_replies_are_matched_whatever_their_order():
    barrier = threading.Barrier(3)

    def waiting(name):
        def answer(body):
            barrier.wait()  # all three are under way at once
            return name + body

        return answer

    network, _ = open_network(a=waiting(b"a"), b=waiting(b"b"), c=waiting(b"c"))
    for i in range(20):
        body = str(i).encode()
        assert network.call("ask", dict.fromkeys("cab", body)) == {
            "a": b"a" + body,
            "b": b"b" + body,
            "c": b"c" + body,
        }


def test_messages_pushed_are_pulled_once():
    _, grid = open_network(a=lambda body: body)
    ids = grid.push_messages([grid.create_message(pack(b"x"), "query.ask", 1, "")])
    replies = []
    while not replies:
        replies = list(grid.pull_messages(ids))
    assert unpack(replies[0]) == b"x"
    assert replies[0].metadata.reply_to_message_id == ids[0]
    assert list(grid.pull_messages(ids)) == []


def test_a_message_that_changes_after_sending_does_not_reach_the_node():
    """Every message is bytes on the way: a node holds no object of the sender's."""
    held = []
    network, grid = open_network(a=lambda body: held.append(body) or body)
    record = pack(b"before")
    message = grid.create_message(record, "query.ask", 1, "")
    ids = grid.push_messages([message])
    record["body"]["body"] = b"after"
    while not list(grid.pull_messages(ids)):
        pass
    assert held == [b"before"]
    assert network.traffic.rounds == 0

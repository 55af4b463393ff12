"""Rounds of messages over Flower's public Grid and Message API, and the in-process grid that demo and tests run on.

A `Network` sends one body to each node and gathers the replies: it counts rounds and bytes, gives up on a node after `timeout`, and turns
whatever comes back into bytes or a `Failure`. It carries opaque bytes; who may be believed is decided in the protocol above.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout

import msgspec
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from .flower import local

BODY = "body"
NODE_RAISED = 1


class Failure(msgspec.Struct, frozen=True):
    """No usable reply: the node vanished, or raised an error of this class name."""

    reason: str


class Traffic(msgspec.Struct):
    """What went over the network: rounds, and bytes per node each way."""

    rounds: int = 0
    sent: dict[str, int] = {}
    received: dict[str, int] = {}

    def add(self, bodies: Mapping[str, bytes], replies: Mapping[str, bytes | Failure]) -> None:
        """One round more."""
        self.rounds += 1
        for name, body in bodies.items():
            reply = replies[name]
            size = len(reply) if isinstance(reply, bytes) else 0
            self.sent[name] = self.sent.get(name, 0) + len(body)
            self.received[name] = self.received.get(name, 0) + size


class Network:
    """Named nodes behind a Grid."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int], timeout: float = 60.0):
        self._grid, self._timeout = grid, timeout
        self._ids = dict(nodes)
        self._lock = threading.Lock()
        self._mine = threading.local()
        self.traffic = Traffic()

    @contextlib.contextmanager
    def measured(self) -> Iterator[Traffic]:
        """The rounds and bytes of the calls that this thread makes meanwhile."""
        own = self._mine.traffic = Traffic(0, {}, {})
        try:
            yield own
        finally:
            self._mine.traffic = None

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(sorted(self._ids))

    def call(self, kind: str, bodies: Mapping[str, bytes]) -> dict[str, bytes | Failure]:
        """One round: send each named node its body as a `query.<kind>` message; a reply or a `Failure` for each."""
        messages = [
            self._grid.create_message(pack(body), f"query.{kind}", self._ids[name], "")
            for name, body in bodies.items()
        ]
        replies: dict[str, bytes | Failure] = dict.fromkeys(bodies, Failure("did not answer in time"))
        answers = list(self._grid.send_and_receive(messages, timeout=self._timeout))
        # An error reply of Flower's own names no source: only the id of the message that it answers is always there.
        by_message = {m.metadata.message_id: name for name, m in zip(bodies, messages, strict=True)}
        for reply in answers:
            name = by_message.get(reply.metadata.reply_to_message_id)
            if name is None:
                continue
            replies[name] = Failure(reply.error.reason or "failed") if reply.has_error() else unpack(reply)
        with self._lock:
            for traffic in (self.traffic, getattr(self._mine, "traffic", None)):
                if traffic is not None:
                    traffic.add(bodies, replies)
        return replies


def pack(body: bytes) -> RecordDict:
    return RecordDict({BODY: ConfigRecord({BODY: body})})


def unpack(message: Message) -> bytes:
    record = message.content.config_records.get(BODY)
    body = record.get(BODY) if record is not None else None
    return body if isinstance(body, bytes) else b""


class LocalGrid(Grid):
    """A Grid whose nodes are ClientApps in threads of this process. Every message is serialised to bytes and back."""

    def __init__(self, apps: Iterable[ClientApp]):
        self._run = local.local_run(secrets.randbits(62) | 1)
        self._apps = {index + 1: app for index, app in enumerate(apps)}
        self._contexts = {node_id: local.context(self._run.run_id, node_id) for node_id in self._apps}
        self._pool = ThreadPoolExecutor(max(len(self._apps), 1), thread_name_prefix="node")
        self._count = itertools.count(1)
        self._replies: dict[str, Future[Message | None]] = {}
        self._down: set[int] = set()

    def set_run(self, run: object) -> None:
        raise RuntimeError("a local grid has one run of its own")

    @property
    def run(self):  # type: ignore[no-untyped-def]  # Flower's Run is not part of its public API
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return local.message(content, dst_node_id, message_type, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return [node_id for node_id in self._apps if node_id not in self._down]

    def stop(self, node_id: int) -> None:
        """The node vanishes: it answers nothing from now on."""
        self._down.add(node_id)

    def start(self, node_id: int) -> None:
        """The node is back."""
        self._down.discard(node_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = f"m{next(self._count)}"
            self._replies[message_id] = self._pool.submit(self._handle, local.to_bytes(message, message_id))
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        done = [i for i in message_ids if i in self._replies and self._replies[i].done()]
        return [reply for i in done if (reply := self._replies.pop(i).result()) is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        end = None if timeout is None else time.monotonic() + timeout
        replies = []
        for message_id in self.push_messages(messages):
            try:
                reply = self._replies.pop(message_id).result(
                    None if end is None else max(0.0, end - time.monotonic())
                )
            except FutureTimeout:
                continue
            if reply is not None:
                replies.append(reply)
        return replies

    def _handle(self, data: bytes) -> Message | None:
        message = local.from_bytes(data)
        node_id = message.metadata.dst_node_id
        if node_id in self._down:
            return None
        try:
            reply = self._apps[node_id](message, self._contexts[node_id])
        except Exception as error:  # an exception's text may hold private data: only its class leaves
            reply = Message(Error(NODE_RAISED, type(error).__name__), reply_to=message)
        if node_id in self._down:
            return None
        return local.from_bytes(local.to_bytes(reply, f"m{next(self._count)}"))

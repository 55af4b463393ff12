"""The coordinator's one public port: nodes reach Flower's Fleet API, analysts the desk's API, and nobody anything else.

A node that pulls and finds nothing is held until a message is there, so that a round takes no polling interval; the same held call tells
who is connected: a node whose process dies is missed at once, not after its heartbeats, and so is one whose last connection it ends itself
(`protocol` tells of that). What a node pushes wakes who waits for it.

Registering nodes and fetching app bundles are not among the paths; every other call must be signed by a registered node's key.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET = "/v1/fleet/"
PATHS = frozenset(
    FLEET + name
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "get-run",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
PULL = FLEET + "pull-messages"
GOODBYE = FLEET + "deactivate-node"
PUSHES = frozenset({FLEET + "push-messages", FLEET + "push-object"})
HELD = 20.0  # seconds that a pull waits for a message
ABSENT = 1.5  # seconds after which a node whose connection broke counts as gone
QUIET = 8.0  # the same for a node that was answered, and has not called again: it may be busy
MAX_BODY = 256 * 2**20  # bytes of one call
MAX_PULL = 1024


class Gateway:
    """An ASGI app over the Fleet API and, once it is set, `analysts`.

    `caller` reads from a call's headers which node it says that it is of. `heard` is called when a node has pushed something.
    """

    def __init__(self, fleet: App, caller: Callable[[Iterable[tuple[bytes, bytes]]], int | None]):
        self._fleet, self._caller = fleet, caller
        self.analysts: App = _starting
        self.heard: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._calling: dict[int, int] = {}
        self._until: dict[int, float] = {}
        self._connections: dict[
            object, set[int]
        ] = {}  # that are open, and the nodes that have proved their keys on each
        self._cut: dict[
            int, float
        ] = {}  # until when a node counts that has ended all of them, if it does not call again
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False

    # --- who is here ---

    def here(self, node_id: int) -> bool:
        """Whether a node is in a call, or was a moment ago."""
        with self._lock:
            if self._calling.get(node_id):
                return True
            return time.monotonic() < self._until.get(node_id, 0.0)

    def has_come(self, node_id: int) -> bool:
        """Whether a node has ever been here."""
        with self._lock:
            return node_id in self._calling

    def began(self, connection: object) -> None:
        """A connection was made."""
        with self._lock:
            self._connections[connection] = set()

    def ended(self, connection: object, cut: bool) -> None:
        """A connection is no more; `cut`: by the other side, as all are of a process that is killed."""
        with self._lock:
            nodes = self._connections.pop(connection, set())
            for node_id in nodes.difference(*self._connections.values()) if cut else ():
                self._cut[node_id] = time.monotonic() + ABSENT
                self._until[node_id] = min(self._cut[node_id], self._until.get(node_id, 0.0))

    def sent(self, node_id: int) -> None:
        """There is a message for this node."""
        loop = self._loop
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._wake, node_id)

    def _wake(self, node_id: int) -> None:
        for event in self._waiting.get(node_id, ()):
            event.set()

    def stop(self) -> None:
        """Let go of the nodes that are held, since the process ends."""
        self._stopping = True
        for node_id in list(self._waiting):
            self.sent(node_id)

    # --- calls ---

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(FLEET):
            await self.analysts(scope, receive, send)
            return
        node_id = self._caller(scope["headers"])
        if path not in PATHS or scope["method"] != "POST":
            await _answer(send, 404)
        elif node_id is None:
            await _answer(send, 401)
        elif path == PULL:
            await self._pull(scope, receive, send, node_id)
        else:
            known = self._came(node_id, again=True)

            async def told(message: Message) -> None:
                nonlocal known
                if message["type"] == "http.response.start" and message["status"] == 200:
                    self._proved(node_id, scope)
                    if known and path == GOODBYE:
                        self._went(node_id, 0.0)  # before the node can know that it is gone
                        known = False
                await send(message)

            try:
                body = await _body(receive)
                if body is None:
                    await _answer(send, 413)
                    return
                await self._fleet(scope, _replay(body, receive), told)
            finally:
                if known:
                    self._went(node_id, QUIET)
            if path in PUSHES:
                self.heard()

    async def _pull(self, scope: Scope, receive: Receive, send: Send, node_id: int) -> None:
        body = await _body(receive)
        if body is None or len(body) > MAX_PULL:
            await _answer(send, 413)
            return
        arrived = asyncio.Event()
        self._waiting.setdefault(node_id, set()).add(arrived)
        end, known, broken = time.monotonic() + HELD, False, False
        gone = asyncio.ensure_future(receive())
        try:
            while True:
                arrived.clear()
                status, messages, empty = await _call(self._fleet, scope, body)
                if status == 200 and not known:
                    known = self._came(node_id)  # who does not prove its key counts for nothing
                    self._proved(node_id, scope)
                left = end - time.monotonic()
                if status != 200 or not empty or left <= 0 or self._stopping:
                    for message in messages:
                        await send(message)
                    return
                woken = asyncio.ensure_future(arrived.wait())
                await asyncio.wait({woken, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
                if gone.done():
                    broken = True
                    return
        finally:
            gone.cancel()
            self._waiting[node_id].discard(arrived)
            if not self._waiting[node_id]:
                del self._waiting[node_id]
            if known:
                self._went(node_id, ABSENT if broken else QUIET)

    def _came(self, node_id: int, again: bool = False) -> bool:
        """A node is in a call. `again`: only if it has proved its key before."""
        with self._lock:
            if again and node_id not in self._calling:
                return False
            self._calling[node_id] = self._calling.get(node_id, 0) + 1
            self._cut.pop(node_id, None)
            return True

    def _proved(self, node_id: int, scope: Scope) -> None:
        with self._lock:
            self._connections.get(scope.get("client"), set()).add(node_id)

    def _went(self, node_id: int, remembered: float) -> None:
        """A node's call has ended; it counts as here for `remembered` seconds more, if it does not call again."""
        with self._lock:
            self._calling[node_id] -= 1
            until = time.monotonic() + remembered
            self._until[node_id] = min(until, self._cut.get(node_id, until))


def protocol(gateway: Gateway) -> type:
    """uvicorn's HTTP, which tells the gateway of connections that end, and ends idle ones at once when the process does."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Watched(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        idle = False  # for so long that this side ends it

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            gateway.began(self.client)

        def timeout_keep_alive_handler(self) -> None:
            self.idle = True
            super().timeout_keep_alive_handler()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            gateway.ended(self.client, cut=not self.idle)

        def shutdown(self) -> None:
            super().shutdown()
            if self.transport.is_closing() and not self.transport.get_write_buffer_size():
                self.transport.abort()  # who keeps an idle connection may not read TLS's farewell, let alone answer it

    return Watched


async def _starting(_scope: Scope, _receive: Receive, send: Send) -> None:
    await _answer(send, 503)


async def _body(receive: Receive) -> bytes | None:
    """A call's whole body; None where it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body again, for an app that reads it."""
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _call(app: App, scope: Scope, body: bytes) -> tuple[int, list[Message], bool]:
    """Run an app over a copy of the call; its status, its answer, and whether that is empty."""
    messages: list[Message] = []
    never = asyncio.Event()

    async def keep(message: Message) -> None:
        messages.append(message)

    async def wait() -> Message:
        await never.wait()
        return {"type": "http.disconnect"}

    copy = dict(scope)
    copy["state"] = dict(scope.get("state", {}))
    await app(copy, _replay(body, wait), keep)
    status = next((m["status"] for m in messages if m["type"] == "http.response.start"), 500)
    empty = not any(m.get("body") for m in messages if m["type"] == "http.response.body")
    return status, messages, empty


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})

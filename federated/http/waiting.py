"""Desk calls off the event loop, and waiting for a request to change without a thread for each who waits.

Calls that ask the departments may take a minute, those that look something up a millisecond: each kind has threads of its own, so that
the first never delay the second. Who waits holds an asyncio event; the desk tells what changed, and that wakes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sandbox.errors import Refused, Unreachable

from .problems import Answered

T = TypeVar("T")

LOOKING = 4
ASKING = 8
BACKLOG = 200  # calls that wait for departments before more are turned away


class Threads:
    """Runs blocking calls: `look` for what the coordinator knows, `ask` for what departments must answer."""

    def __init__(self) -> None:
        self._looking = ThreadPoolExecutor(LOOKING, thread_name_prefix="look")
        self._asking = ThreadPoolExecutor(ASKING, thread_name_prefix="ask")
        self._asked = 0

    async def look(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._looking, call, *arguments)

    async def ask(self, call: Callable[..., T], *arguments: Any) -> T:
        if self._asked >= BACKLOG:
            raise Answered(503, Unreachable(f"the coordinator is busy: {BACKLOG} calls wait for departments"))
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._asking, call, *arguments)
        finally:
            self._asked -= 1


class Changes:
    """Who waits for which request. `tell` may be called from any thread; it never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}

    def tell(self, digest: str) -> None:
        """This request has changed."""
        with self._lock:
            waiting = tuple(self._waiting.get(digest, ()))
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(event.set)

    @contextlib.contextmanager
    def of(self, digest: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of this request while the block runs."""
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        with self._lock:
            self._waiting.setdefault(digest, set()).add(waiter)
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[digest].discard(waiter)
                if not self._waiting[digest]:
                    del self._waiting[digest]


class Places:
    """At most so many at a time for each name."""

    def __init__(self, most: int):
        self._most = most
        self._taken: Counter[str] = Counter()

    def check(self, name: str, what: str) -> None:
        """Raise where none is left."""
        if self._taken[name] >= self._most:
            raise Answered(429, Refused([f"{self._most} {what} of yours are open: end one first"]))

    @contextlib.contextmanager
    def one(self, name: str) -> Iterator[None]:
        """Take one while the block runs."""
        self._taken[name] += 1
        try:
            yield
        finally:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]


async def soon(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most so long."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)

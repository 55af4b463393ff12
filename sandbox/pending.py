"""A request on its way: how it stands, its release once there is one, and a way to stop it. It outlives the notebook that sent it.

pending = query.release(purpose="…", wait=False)
pending.state, pending.stages      pending.result()      pending.cancel()
city.request(pending.digest)       # the same, from another notebook
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from .errors import ParameterError

POLL = 20.0
State = Literal["queued", "running", "released", "refused", "failed", "cancelled", "interrupted"]
ENDED: tuple[State, ...] = ("released", "refused", "failed", "cancelled", "interrupted")


class Ticket(msgspec.Struct, frozen=True):
    """How a request stands. `ahead`: requests before it in the queue; `error`: the class of what ended it, with its reasons."""

    digest: str
    analyst: str
    table: str
    purpose: str
    epsilon: float | None
    submitted: float
    state: State = "queued"
    stages: tuple[str, ...] = ()
    ahead: int = 0
    error: str = ""
    reasons: tuple[str, ...] = ()
    ended: float | None = None


class Requested(Protocol):
    """What keeps an analyst's requests: `federated.session.City`."""

    def watch(self, digest: str, seen: Ticket | None, timeout: float) -> Ticket: ...
    def cancel(self, digest: str) -> Ticket: ...
    def released(self, digest: str) -> Any: ...


class Pending:
    """A request at the coordinator."""

    def __init__(self, session: Requested, ticket: Ticket):
        self._session, self._ticket = session, ticket

    @property
    def digest(self) -> str:
        """What names it: SHA-256 of the request, hexadecimal."""
        return self._ticket.digest

    @property
    def state(self) -> str:
        """queued, running, released, refused, failed, cancelled or interrupted, as of now."""
        return self._look(0.0).state

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that it has reached, as of now."""
        return self._look(0.0).stages

    @property
    def done(self) -> bool:
        return self.state in ENDED

    def result(
        self, timeout: float | None = None, progress: Callable[[str], None] = lambda _stage: None
    ) -> Any:
        """The release or model, once there is one; raises what ended the request otherwise, `TimeoutError` after `timeout` seconds.

        `progress` is told each stage as it is reached. An interrupt cancels the request if nothing has been spent.
        """
        if timeout is not None and not timeout >= 0:
            raise ParameterError(f"'timeout' is {timeout}; allowed are numbers from 0, or None")
        end = None if timeout is None else time.monotonic() + timeout
        told, ticket = 0, self._look(0.0)
        try:
            while True:
                for stage in ticket.stages[told:]:
                    progress(stage)
                told = len(ticket.stages)
                if ticket.state in ENDED:
                    return self._session.released(self.digest)
                left = POLL if end is None else min(POLL, end - time.monotonic())
                if left <= 0:
                    raise TimeoutError(f"request {self.digest[:16]} is {ticket.state}; ask again later")
                ticket = self._look(left, ticket)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def cancel(self) -> str:
        """Stop it before anything is spent; returns its state. One that departments compute already runs to its end."""
        self._ticket = self._session.cancel(self.digest)
        return self._ticket.state

    def __repr__(self) -> str:
        return f"<Pending {self.digest[:16]}: {self._text()}>"

    def _repr_html_(self) -> str:
        return f"<p><b>{html.escape(self.digest[:16])}</b> {html.escape(self._text())}</p>"

    def _look(self, timeout: float, seen: Ticket | None = None) -> Ticket:
        if self._ticket.state not in ENDED:
            self._ticket = self._session.watch(self.digest, seen, timeout)
        return self._ticket

    def _text(self) -> str:
        ticket = self._look(0.0)
        if ticket.state == "queued":
            return f"queued, {ticket.ahead} before it"
        if ticket.state == "running":
            return f"running: {ticket.stages[-1] if ticket.stages else 'starting'}"
        return ticket.state + (f": {'; '.join(ticket.reasons)}" if ticket.reasons else "")

"""The analysts' HTTPS API over a desk: an ASGI app, to be served behind TLS.

Every call but `/health` and `/openapi.json` is signed by an analyst of the roster (`signatures`), and its requests are that analyst's:
another analyst's digest is unknown here. The signature is checked before a body is read. Errors are `problems`; an exception of another
library crosses as its class name alone.

Protects against: strangers, analysts who read or cancel others' requests, floods of one analyst. Rests on TLS for the coordinator's own
identity; a release carries its receipt, so that it can be believed without trusting this port.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.types import Receive, Scope, Send

from federated import logs
from federated.desk import Desk, rebuilt
from sandbox.errors import (
    ParameterError,
    QueryError,
    Refused,
    SandboxError,
    Unreachable,
)
from sandbox.pending import ENDED, Ticket

from . import calls, openapi, problems, signatures
from .calls import Call
from .problems import Answered
from .routes import BINARY, EVENTS, JSON, MSGPACK, PREFIX, ROUTES, Federation, Health, Route
from .waiting import Changes, Places, Threads, soon

OPEN = 100  # waiting calls of one analyst
SCORING = 4  # messages about scores of one analyst that are on their way
LOOK = 1.0  # seconds after which a place in the queue is looked up again
ALIVE = 15.0  # seconds between signs of life on a stream
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
SIGN = f"{signatures.LABEL}=({' '.join(map(repr, signatures.COVERED))})".replace("'", '"') + (
    f';created;expires;nonce;keyid;alg="ed25519";tag="{signatures.TAG}"'
)
log = logs.logger("api")

Handler = Callable[[Call], Awaitable[Any]]


def app(
    desk: Desk,
    *,
    connected: Callable[[], tuple[str, ...]] | None = None,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """The API of a desk. `connected`: the departments that are here, where it is known."""
    served = _Served(desk, connected, signatures.Verifier(lambda: desk.roster, clock))
    methods: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        methods.setdefault(route.path, {})[route.method] = route
    made = Starlette(
        routes=[Path(path, _Endpoint(served, routes)) for path, routes in methods.items()],
        exception_handlers={404: _unknown},
    )
    made.router.redirect_slashes = False
    made.state.served = served
    return made


class _Endpoint:
    """All methods of one path."""

    def __init__(self, served: _Served, routes: Mapping[str, Route]):
        self._served, self._routes = served, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:  # the server stops: whoever waits asks again, once it is back
            response = _problem(
                Unreachable("the coordinator is stopping: ask again when it is back"), request
            )
        except Exception as error:
            response = _problem(error, request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        route = self._routes.get(request.method)
        if route is None:
            raise Answered(405, ParameterError(f"allowed here: {', '.join(sorted(self._routes))}"))
        calls.check_size(request, route)
        analyst, body = ("", b"") if route.open else await self._served.authenticated(request, route)
        given, signed = calls.parameters(request, route), calls.signed(request, body, route, analyst)
        call = Call(request, analyst, given, signed, body)
        handler: Handler = getattr(self._served, route.name)
        result = await handler(call)
        if isinstance(result, Response):
            return result
        return _encoded(result, route)


class _Served:
    """A handler for each route, by its name."""

    def __init__(
        self,
        desk: Desk,
        connected: Callable[[], tuple[str, ...]] | None,
        verifier: signatures.Verifier,
    ):
        self._desk, self._connected, self._verifier = desk, connected, verifier
        self._threads, self._changes, self._places = Threads(), Changes(), Places(OPEN)
        self._scoring = Places(SCORING)
        desk.listen(self._changes.tell)

    async def authenticated(self, request: Request, route: Route) -> tuple[str, bytes]:
        """Who calls, and the body. It is read only once the signature holds, to compare its digest."""
        try:
            covered = calls.covered(request)
            analyst = self._verifier.analyst(covered)
            body = await calls.body(request, route)
            signatures.check_body(covered, body)
        except Refused as error:
            raise Answered(429, error) from None
        except SandboxError as error:
            raise Answered(401, error) from None
        return analyst, body

    # --- what exists ---

    async def health(self, _call: Call) -> Health:
        waiting = await self._threads.look(self._desk.waiting)
        return Health("ok", waiting, None if self._connected is None else len(self._connected()))

    async def openapi(self, _call: Call) -> Response:
        return Response(openapi.document(), media_type=JSON)

    async def federation(self, _call: Call) -> Federation:
        roster = self._desk.roster
        return Federation(roster.federation, self._desk.setting, roster.dumps())

    async def offers(self, call: Call) -> Any:
        fresh = call.flag("fresh", True)
        return await self._threads.ask(lambda: self._desk.offers(fresh=fresh))

    async def explain(self, call: Call) -> Any:
        return await self._threads.ask(self._desk.explain, call.signed)

    # --- requests ---

    async def submit(self, call: Call) -> Response:
        try:
            ticket = await self._threads.ask(self._desk.submit, call.signed)
        except Refused as error:
            raise Answered(429, error) from None  # a rule of this desk: too many are queued
        return _ticket(ticket, 202)

    async def tickets(self, call: Call) -> Any:
        return await self._threads.look(self._desk.tickets, call.analyst)

    async def ticket(self, call: Call) -> Response:
        seconds, seen = call.seconds("wait"), call.parameters.get("seen", "")
        self._places.check(call.analyst, "waiting calls")
        with self._places.one(call.analyst), self._changes.of(call.digest) as changed:
            end = time.monotonic() + seconds
            while True:
                changed.clear()
                response = _ticket(await self._look(call))
                left = end - time.monotonic()
                if not seen or response.headers["etag"] != seen or left <= 0:
                    return response
                if await call.request.is_disconnected():
                    raise ClientDisconnect()
                await soon(changed, min(left, LOOK))

    async def cancel(self, call: Call) -> Response:
        await self._look(call)
        return _ticket(await self._threads.look(self._desk.cancel, call.analyst, call.digest))

    async def events(self, call: Call) -> Response:
        self._places.check(call.analyst, "waiting calls")
        await self._look(call)
        return StreamingResponse(self._stream(call), media_type=EVENTS, headers=HEADERS)

    async def release(self, call: Call) -> Any:
        ticket = await self._look(call)
        if ticket.state not in ENDED:
            raise Answered(
                409, QueryError(f"request {call.digest[:16]!r} is {ticket.state}: it has no release yet")
            )
        if ticket.state != "released":
            raise rebuilt(ticket)
        return await self._threads.look(self._desk.release, call.analyst, call.digest)

    # --- usage contracts ---

    async def propose(self, call: Call) -> Any:
        return await self._threads.ask(self._desk.propose, call.signed)

    async def contract(self, call: Call) -> Any:
        return await self._threads.ask(self._desk.contract, call.digest, call.name("table"))

    # --- scores of departments' models ---

    async def models(self, _call: Call) -> Any:
        return await self._threads.ask(self._desk.models)

    async def score(self, call: Call) -> Response:
        department = call.name("department")
        self._scoring.check(call.analyst, "messages about scores")
        with self._scoring.one(call.analyst):
            reply = await self._threads.ask(self._desk.score, call.analyst, department, call.body)
        return Response(reply, 200, HEADERS, BINARY)

    # --- helpers ---

    async def _look(self, call: Call) -> Ticket:
        try:
            return await self._threads.look(self._desk.ticket, call.analyst, call.digest)
        except QueryError as error:
            raise Answered(404, error) from None

    async def _stream(self, call: Call) -> AsyncIterator[bytes]:
        """Each stage once, then how it ended. Ends with the connection: a write to a closed one cancels it."""
        told, alive = 0, time.monotonic()
        with self._places.one(call.analyst), self._changes.of(call.digest) as changed:
            yield b": the stages of a request\n\n"
            while True:
                changed.clear()
                ticket = await self._look(call)
                for stage in ticket.stages[told:]:
                    yield _event("stage", stage)
                told = max(told, len(ticket.stages))
                if ticket.state in ENDED:
                    yield _event("end", ticket)
                    return
                await soon(changed, ALIVE)
                if time.monotonic() - alive > ALIVE:
                    alive = time.monotonic()
                    yield b": still here\n\n"


def _ticket(ticket: Ticket, status: int = 200) -> Response:
    """A ticket; its ETag says which state of it this is."""
    body = msgspec.json.encode(ticket)
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Response(body, status, {**HEADERS, "etag": tag}, JSON)


def _event(name: str, value: object) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


def _encoded(result: object, route: Route) -> Response:
    encode = msgspec.msgpack.encode if route.media == MSGPACK else msgspec.json.encode
    return Response(encode(result), route.status, HEADERS, route.media)


def _problem(error: Exception, request: Request) -> Response:
    told = problems.problem(error)
    if told.status >= 500:
        log.error("failed", path=request.scope["path"].removeprefix(PREFIX)[:40], error=told.error)
    headers = dict(HEADERS)
    if told.status == 401:
        headers |= {"www-authenticate": "Signature", "accept-signature": SIGN}
    if told.status == 405:
        headers["allow"] = str(told.detail).rpartition(": ")[2]
    if told.status in (429, 503):
        headers["retry-after"] = "1"
    return Response(msgspec.json.encode(told), told.status, headers, problems.MEDIA_TYPE)


async def _unknown(request: Request, _error: Exception) -> Response:
    return _problem(Answered(404, QueryError("no such path")), request)

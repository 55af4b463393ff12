"""The coordinator's desk from the analyst's machine: `session.Desk` over HTTPS.

It trusts the federation's own certificate authority and no other, signs each call (`signatures`), and compares the roster that the
coordinator shows with the analyst's own. Errors are the very classes that the desk raises; what prevents an answer is `Unreachable`.

Every call does the same when repeated: reads, a cancel, and signed values that name themselves by their digest. So a call is made
again, with growing pauses, while the coordinator is away for a moment, and a request that was sent is never run twice.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
import urllib.parse
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import msgspec

from federated.messages import ContractState
from federated.offers import Offers
from federated.scoring.messages import Models
from mpc.secagg import Setting
from sandbox.errors import Malformed, ParameterError, SandboxError, Unreachable
from sandbox.keys import Signed, SigningKey
from sandbox.pending import ENDED, Ticket
from sandbox.prepared import prepared
from sandbox.release import Explanation
from sandbox.roster import Roster, loads

from . import problems, signatures
from .problems import Problem
from .routes import BINARY, JSON, LONGEST_WAIT, MSGPACK, ROUTES, Federation

if TYPE_CHECKING:
    from federated.results import Result

CONNECT = 10.0
ANSWER = 120.0  # seconds: a call may wait for every department to answer or time out
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
PATIENCE = 20.0  # seconds for which a coordinator that does not answer is called again
SEEN = 1000  # tickets whose ETag is kept

_ROUTES = {route.name: route for route in ROUTES}


class RemoteDesk:
    """The desk at `url` ("https://host:port"), as `analyst`. `authority`: the file of the private CA's certificate.

    Raises `Unreachable` where the coordinator does not answer, or shows another roster than `roster`.
    """

    def __init__(
        self,
        url: str,
        authority: str | os.PathLike[str],
        analyst: str,
        key: SigningKey,
        roster: Roster,
        *,
        patience: float = PATIENCE,
    ):
        self._url = _checked(url)
        self.roster, self._analyst, self._key, self._patience = roster, analyst, key, patience
        self._to = signatures.coordinator(roster)
        self._client = httpx.Client(
            base_url=self._url,
            verify=_trust(authority),
            trust_env=False,
            timeout=httpx.Timeout(ANSWER, connect=CONNECT),
            limits=httpx.Limits(max_connections=64),
        )
        self._lock = threading.Lock()
        self._tags: OrderedDict[Ticket, str] = OrderedDict()
        shown = self._call("federation", Federation)
        if shown.roster != roster.dumps():
            raise Unreachable(
                f"the coordinator at {self._url} shows another roster, {_fingerprint(shown.roster)}, than yours, "
                f"{roster.fingerprint()}: ask the federation which of the two holds"
            )
        self.setting: Setting = shown.setting

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __repr__(self) -> str:
        return f"RemoteDesk({self._url}, {self._analyst!r})"

    # --- what exists ---

    def offers(self, *, fresh: bool = True) -> Offers:
        return self._call("offers", Offers, query={"fresh": "true" if fresh else "false"})

    def explain(self, signed: Signed) -> Explanation:
        return self._call("explain", Explanation, body=signed)

    # --- requests ---

    def submit(self, signed: Signed) -> Ticket:
        return self._ticket("submit", body=signed)

    def watch(self, analyst: str, digest: str, seen: Ticket | None, timeout: float) -> Ticket:
        self._mine(analyst)
        end = time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            tag = self._tag(seen)
            query = {"wait": f"{min(left, LONGEST_WAIT):.3f}", "seen": tag} if tag and left > 0 else {}
            ticket = self._ticket("ticket", digest, query=query)
            if ticket != seen or left <= 0:
                return ticket

    def tickets(self, analyst: str) -> tuple[Ticket, ...]:
        self._mine(analyst)
        return self._call("tickets", tuple[Ticket, ...])

    def release(self, analyst: str, digest: str) -> Result:
        from federated.results import Result

        self._mine(analyst)
        return self._call("release", Result, digest)

    def cancel(self, analyst: str, digest: str) -> Ticket:
        self._mine(analyst)
        return self._ticket("cancel", digest)

    # --- usage contracts ---

    def propose(self, signed: Signed) -> dict[str, str]:
        return self._call("propose", dict[str, str], body=signed)

    def contract(self, digest: str, table: str) -> dict[str, ContractState]:
        return self._call("contract", dict[str, ContractState], digest, query={"table": table})

    # --- scores of departments' models ---

    def models(self) -> Models:
        return self._call("models", Models)

    def score(self, analyst: str, department: str, body: bytes) -> bytes:
        self._mine(analyst)
        return self._answer("score", query={"department": department}, body=body).content

    # --- calls ---

    def _mine(self, analyst: str) -> None:
        if analyst != self._analyst:
            raise ParameterError(f"this desk is {self._analyst!r}'s: it has no requests of {analyst!r}")

    def _ticket(self, name: str, digest: str = "", **given: Any) -> Ticket:
        """A call that answers a ticket; its ETag is kept for `watch`."""
        response = self._answer(name, digest, **given)
        ticket: Ticket = self._decoded(response, Ticket)
        if ticket.state not in ENDED and "etag" in response.headers:
            with self._lock:
                self._tags[ticket] = response.headers["etag"]
                self._tags.move_to_end(ticket)
                while len(self._tags) > SEEN:
                    self._tags.popitem(last=False)
        return ticket

    def _tag(self, ticket: Ticket | None) -> str:
        with self._lock:
            return self._tags.get(ticket, "") if ticket is not None else ""

    def _call(self, name: str, kind: Any, digest: str = "", **given: Any) -> Any:
        return self._decoded(self._answer(name, digest, **given), kind)

    def _answer(
        self,
        name: str,
        digest: str = "",
        *,
        query: dict[str, str] | None = None,
        body: Signed | bytes | None = None,
    ) -> httpx.Response:
        """One call, made again while nobody answers; raises what the coordinator raised, or `Unreachable`."""
        route = _ROUTES[name]
        target = route.path.format(digest=urllib.parse.quote(digest, safe=""))
        if query:
            target += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        media = BINARY if isinstance(body, bytes) else JSON
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        end, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                response = self._client.send(self._signed(route.method, target, content, media))
            except httpx.RequestError as error:
                if not _passing(error) or time.monotonic() + pause > end:
                    self._unreachable(error)
            else:
                if response.status_code == route.status:
                    return response
                if not _away(response) or time.monotonic() + pause > end:
                    self._raise(response)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _signed(self, method: str, target: str, content: bytes, media: str) -> httpx.Request:
        headers = {"content-type": media} if content else {}
        request = self._client.build_request(method, target, content=content or None, headers=headers)
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        now = int(time.time())
        request.headers.update(
            signatures.sign(self._key, self._analyst, self._to, method, path, query, content, now)
        )
        return request

    def _decoded(self, response: httpx.Response, kind: Any) -> Any:
        media = response.headers.get("content-type", "").partition(";")[0]
        decode = msgspec.msgpack.decode if media == MSGPACK else msgspec.json.decode
        try:
            return decode(response.content, type=prepared(kind))
        except (msgspec.MsgspecError, ValueError, RecursionError, SandboxError):
            raise Malformed(
                f"the coordinator at {self._url} answered no {getattr(kind, '__name__', 'value')}: is it of another version?"
            ) from None

    def _raise(self, response: httpx.Response) -> NoReturn:
        told = None
        if response.headers.get("content-type", "").startswith(problems.MEDIA_TYPE):
            try:
                told = msgspec.json.decode(response.content, type=prepared(Problem))
            except (msgspec.MsgspecError, ValueError):
                told = None
        if told is None:
            raise Unreachable(
                f"what answers at {self._url} is no coordinator, or it is starting: status {response.status_code}"
            )
        raise problems.rebuilt(told)

    def _unreachable(self, error: httpx.RequestError) -> NoReturn:
        cause = _cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Unreachable(
                f"the coordinator at {self._url} does not prove who it is to your federation's authority: "
                f"{cause.verify_message}"
            ) from None
        raise Unreachable(f"the coordinator at {self._url} does not answer: {type(cause).__name__}") from None


def _passing(error: httpx.RequestError) -> bool:
    """Whether it may be over in a moment: not a wrong certificate, and not an answer that took too long."""
    slow = isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout | httpx.PoolTimeout)
    return (
        isinstance(error, httpx.TransportError) and not slow and not isinstance(_cause(error), ssl.SSLError)
    )


def _away(response: httpx.Response) -> bool:
    """Whether the coordinator is busy or stopping, or a proxy before it says that it is away."""
    problem = response.headers.get("content-type", "").startswith(problems.MEDIA_TYPE)
    return response.status_code == 503 or (response.status_code in (502, 504) and not problem)


def _cause(error: BaseException) -> BaseException:
    """The first cause of an error: httpx wraps those of TLS and of the operating system."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _checked(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    try:
        good = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ParameterError(f"'url' is {url!r}; allowed is https://host:port")
    return f"https://{parts.netloc}"


def _trust(authority: str | os.PathLike[str]) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=os.fspath(authority))
    except (OSError, ssl.SSLError) as error:
        raise ParameterError(
            f"the authority {os.fspath(authority)!r} cannot be used: {type(error).__name__}"
        ) from None


def _fingerprint(text: str) -> str:
    try:
        return loads(text).fingerprint()
    except Malformed:
        return "a malformed one"

"""One call as it arrives: its signature's fields, its body, its parameters; each read strictly, and refused in words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

import msgspec
from starlette.requests import Request

from sandbox.errors import Malformed, ParameterError, QueryError, UnknownSigner
from sandbox.keys import Signed
from sandbox.prepared import prepared

from . import signatures
from .problems import Answered
from .routes import BINARY, JSON, LONGEST_WAIT, Route

MAX_HEADERS = 16 * 1024

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_NUMBER = re.compile(r"[0-9.eE+-]{1,32}\Z")


class Call(msgspec.Struct, frozen=True):
    """One call, its caller known and its body read."""

    request: Request
    analyst: str
    parameters: Mapping[str, str]
    signed: Signed | None
    body: bytes = b""

    @property
    def digest(self) -> str:
        """The digest in the path; of any other form it is nobody's."""
        digest = str(self.request.path_params["digest"])
        if not _DIGEST.match(digest):
            raise Answered(404, QueryError("a digest has 64 hexadecimal digits: 0–9 and a–f"))
        return digest

    def flag(self, name: str, default: bool) -> bool:
        value = self.parameters.get(name, "true" if default else "false")
        if value not in ("true", "false"):
            raise ParameterError(f"{name!r} must be true or false")
        return value == "true"

    def name(self, parameter: str) -> str:
        value = self.parameters.get(parameter, "")
        if not 0 < len(value) <= 128:
            raise ParameterError(f"{parameter!r} must be a name of 1 to 128 characters")
        return value

    def seconds(self, name: str) -> float:
        """A time to wait, 0 without one."""
        text, seconds = self.parameters.get(name, "0"), -1.0
        if _NUMBER.match(text):
            with contextlib.suppress(ValueError):
                seconds = float(text)
        if not 0 <= seconds <= LONGEST_WAIT:
            raise ParameterError(f"{name!r} must be a number from 0 to {LONGEST_WAIT:g}")
        return seconds


def check_size(request: Request, route: Route) -> None:
    """Refuse what is too large by its own account, before it is read."""
    if sum(len(name) + len(value) for name, value in request.headers.raw) > MAX_HEADERS:
        raise Answered(431, ParameterError(f"headers of more than {MAX_HEADERS} bytes"))
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > route.most:
        raise _too_large(route)


def covered(request: Request) -> signatures.Call:
    """What the signature is over; a field that stands twice raises, since which is meant is open."""
    scope = request.scope
    fields: dict[str, str] = {}
    for raw, value in request.headers.raw:
        name = raw.decode("latin-1").lower()
        if name in signatures.FIELDS:
            if name in fields:
                raise Malformed(f"{name} stands twice")
            fields[name] = value.decode("latin-1").strip(" \t")
    path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].decode("latin-1")
    return signatures.Call(request.method, path, scope["query_string"].decode("latin-1"), fields)


async def body(request: Request, route: Route) -> bytes:
    """The whole body; refused past what the call takes."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > route.most:
            raise _too_large(route)
        parts.append(part)
    return b"".join(parts)


def signed(request: Request, data: bytes, route: Route, analyst: str) -> Signed | None:
    """The signed value in the body, where the call takes one; signed by the caller."""
    if route.takes is None:
        return None
    media = BINARY if route.takes is bytes else JSON
    if request.headers.get("content-type", media).partition(";")[0].strip().lower() != media:
        raise Answered(415, ParameterError(f"the body must be {media}"))
    if media == BINARY:
        return None
    try:
        value: Signed = msgspec.json.decode(data, type=prepared(Signed))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(f"malformed body: {error}") from None
    if value.signer != analyst:
        raise UnknownSigner(f"{analyst!r} calls, and {value.signer!r} signed the body")
    return value


def parameters(request: Request, route: Route) -> dict[str, str]:
    """The query's parameters, each known and given once."""
    pairs = request.query_params.multi_items()
    given = dict(pairs)
    known = {parameter.name for parameter in route.parameters}
    if len(given) != len(pairs) or not given.keys() <= known:
        allowed = ", ".join(sorted(known)) or "none"
        raise ParameterError(f"query parameters allowed here, each once: {allowed}")
    return given


def _too_large(route: Route) -> Answered:
    return Answered(413, ParameterError(f"a body has at most {route.most} bytes"))

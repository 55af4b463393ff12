"""The coordinator's part: it checks who asks, passes messages on to one department, and issues the receipt.

It sees names, numbers of rows, sizes, times and ciphertexts. What it passes on is signed by the analyst, what comes back by the department;
altering either is found out. It keeps nothing of a request, so that a restart between two messages does no harm.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sandbox import code, keys, receipt
from sandbox.errors import DepartmentFailed, QueryError, SandboxError, UnknownSigner
from sandbox.query import canonical
from sandbox.request import RECORD, Record
from sandbox.scoring.request import BLOCK, REQUEST, Block, Request

from .. import messages
from ..network import Failure
from ..summing import ask
from .messages import Begin, End, Models, Recorded, Rows

if TYPE_CHECKING:
    from ..broker import Broker

KIND, MODELS = "score", "models"


class Relay:
    """Relays over a broker's network, under its key."""

    def __init__(self, broker: Broker):
        self._broker = broker

    def models(self) -> Models:
        """What every department offers."""
        network = self._broker.network
        offers: dict[str, bytes] = {}
        unreachable: dict[str, str] = {}
        for name, reply in ask(network, MODELS, dict.fromkeys(network.nodes, b"")).items():
            if isinstance(reply, Failure):
                unreachable[name] = reply.reason
            else:
                offers[name] = reply
        return Models(offers, unreachable)

    def pass_on(self, analyst: str, department: str, body: bytes) -> bytes:
        """The reply to one of an analyst's messages."""
        if department not in self._broker.network.nodes:
            raise QueryError(f"unknown department {department!r}")
        message = messages.decode(body, Begin | Rows | End)  # type: ignore[arg-type]
        signed: keys.Signed = keys.decode(message.signed, keys.Signed)
        if signed.signer != analyst:
            raise UnknownSigner(f"{analyst!r} calls, and {signed.signer!r} signed the message")
        public = self._broker.roster.public(analyst, "analyst")
        if isinstance(message, Rows):
            keys.open_(signed, BLOCK, Block, public)
            return self._ask(department, body)
        request = keys.open_(signed, REQUEST, Request, public)
        if (request.analyst, request.department) != (analyst, department):
            raise UnknownSigner(f"the request is {request.analyst!r}'s to {request.department!r}")
        if isinstance(message, Begin):
            return self._ask(department, body)
        return self._end(request, message.release)

    def _end(self, request: Request, release: str) -> bytes:
        statement = receipt.Statement(
            federation=self._broker.roster.federation,
            request=request.digest().hex(),
            release=release,
            analyst=request.analyst,
            purpose=request.purpose,
            code=code.version(),
            departments=(request.department,),
            issued=int(time.time()),
        )
        record = keys.seal(
            self._broker.key, self._broker.name, RECORD, Record(statement, statement.departments, (0,))
        )
        reply = self._ask(request.department, messages.encode(Recorded(canonical(record))))
        try:
            evidence = keys.decode(reply, receipt.Evidence)
            return receipt.issue(statement, [evidence], self._broker.key, self._broker.name)
        except SandboxError as error:
            raise DepartmentFailed(f"{request.department}: no evidence of the release: {error}") from None

    def _ask(self, department: str, body: bytes) -> bytes:
        reply = ask(self._broker.network, KIND, {department: body})[department]
        if isinstance(reply, Failure):
            raise DepartmentFailed(f"{department}: {reply.reason}")
        return reply

"""The owner of the model: each request is decided and charged at the door, then answered block by block on ciphertexts.

A request's keys live in this process until its record; a node that was restarted has forgotten them, and the request must be asked anew,
at its full price. A block is answered once: the last answers are kept, so that one that was lost on its way is sent again as it was, since
noise drawn anew could be averaged out.

Protects the model as `mpc.he.scoring` and `sandbox.scoring.door` say. Plaintexts of others' rows never exist here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from mpc.errors import ProtocolError
from mpc.he import files
from mpc.he.plan import Plan, plan
from mpc.he.scoring import ScoreServer
from sandbox import keys
from sandbox.catalog import Catalog
from sandbox.errors import CatalogError, ScheduleError, SignatureInvalid
from sandbox.query import canonical
from sandbox.request import Record
from sandbox.scoring.declared import Declared
from sandbox.scoring.door import ModelDoor
from sandbox.scoring.request import ANSWER, BLOCK, Answer, Block, Request, released
from sandbox.state import State

from .. import messages
from .messages import Begin, Recorded, Rows, Scores, digest

OPEN = 32  # requests that are being answered
OPEN_EACH = 4  # ... of one analyst: the oldest gives way
KEPT = 4  # answers of a request that can be sent again


class _Session:
    """One request that was charged, and how far it is."""

    def __init__(self, request: Request, signed: bytes, server: ScoreServer):
        self.request, self.signed, self.server = request, signed, server
        self.answers: list[str] = []
        self.kept: OrderedDict[Block, bytes] = OrderedDict()
        self.lock = threading.Lock()


class Scoring:
    """A department's models behind their door. `models`: the file of each one that `catalog` declares. `key` is the node's own."""

    def __init__(self, catalog: Catalog, state: State, key: keys.SigningKey, models: Mapping[str, bytes]):
        self._state, self._key = state, key
        self._plans = {
            name: planned(name, declared, models.get(name)) for name, declared in catalog.models.items()
        }
        offers = {
            name: (digest(models[name]), ScoreServer(found).offer()) for name, found in self._plans.items()
        }
        self._door = ModelDoor(catalog.models, offers, state)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._lock, self._beginning = threading.Lock(), threading.Lock()

    def offers(self) -> bytes:
        """What others may know of the models, signed."""
        return canonical(self._door.offers(self._key))

    def handle(self, body: bytes) -> bytes:
        """The reply to one message of a request."""
        message = messages.decode(body, Begin | Rows | Recorded)  # type: ignore[arg-type]
        signed: keys.Signed = keys.decode(message.signed, keys.Signed)
        match message:
            case Begin():
                return self._begin(signed, message)
            case Rows():
                return self._rows(signed, message)
            case Recorded():
                return self._record(signed)
        raise ScheduleError("no such message")

    def _begin(self, signed: keys.Signed, message: Begin) -> bytes:
        with self._beginning:
            name = keys.decode(signed.body, Request).digest().hex()
            with self._lock:
                session = self._sessions.get(name)
            if session is not None and session.signed == message.signed:
                return b""  # the first reply was lost
            request = self._door.admit(signed)
            if digest(message.keys) != request.keys:
                raise SignatureInvalid("the keys are not those that the request names")
            server = ScoreServer(self._plans[request.model], most_rows=request.rows)
            server.accept_keys(message.keys)
            self._door.charge(request)
            self._keep(name, _Session(request, message.signed, server))
            return b""

    def _rows(self, signed: keys.Signed, message: Rows) -> bytes:
        block = keys.decode(signed.body, Block)
        session = self._session(block.request)
        public = self._state.roster.public(session.request.analyst, "analyst")
        if signed.signer != session.request.analyst:
            raise SignatureInvalid("a block is signed by the analyst of its request")
        keys.verify(public, BLOCK, signed.body, signed.signature)
        if digest(message.rows) != block.rows:
            raise SignatureInvalid(
                "the rows are not those that the block names: they were changed on their way"
            )
        with session.lock:
            if block in session.kept:
                return session.kept[block]
            if block.number != len(session.answers):
                raise ScheduleError(f"block {block.number} comes as block {len(session.answers)}")
            scores = session.server.score(message.rows)
            answer = Answer(block.request, block.number, block.rows, digest(scores))
            session.answers.append(answer.scores)
            sealed = canonical(keys.seal(self._key, self._state.department, ANSWER, answer))
            session.kept[block] = messages.encode(Scores(sealed, scores))
            while len(session.kept) > KEPT:
                session.kept.popitem(last=False)
            return session.kept[block]

    def _record(self, signed: keys.Signed) -> bytes:
        name = keys.decode(signed.body, Record).statement.request
        session = self._session(name)
        with session.lock:
            if session.server.rows_answered != session.request.rows:
                raise ScheduleError("not all rows of the request were answered")
            evidence = self._door.record(signed, released(name, tuple(session.answers)))
        with self._lock:
            self._sessions.pop(name, None)
        return canonical(evidence)

    def _session(self, name: str) -> _Session:
        with self._lock:
            session = self._sessions.get(name)
        if session is None:
            raise ScheduleError(
                "no such request is being answered: it ended, or the node was restarted; ask anew"
            )
        return session

    def _keep(self, name: str, session: _Session) -> None:
        with self._lock:
            own = [n for n, s in self._sessions.items() if s.request.analyst == session.request.analyst]
            for oldest in own[: len(own) + 1 - OPEN_EACH] if len(own) >= OPEN_EACH else ():
                del self._sessions[oldest]
            self._sessions[name] = session
            while len(self._sessions) > OPEN:
                self._sessions.popitem(last=False)


def planned(name: str, declared: Declared, file: bytes | None) -> Plan:
    """How a declared model will be scored; raises `CatalogError` where it is not the declared one, or cannot be."""
    if file is None:
        raise CatalogError(f"model {name!r}: its file is missing")
    try:
        model = files.from_json(file)
    except ProtocolError as error:
        raise CatalogError(f"model {name!r}: {error}") from None
    bounds = {feature.name: (feature.lower, feature.upper) for feature in model.features}
    if list(bounds.items()) != list(declared.bounds.items()):
        raise CatalogError(
            f"model {name!r}: 'bounds' are not those of the model, which has "
            + ", ".join(f"{feature} = [{low:g}, {high:g}]" for feature, (low, high) in bounds.items())
        )
    try:
        return plan(model, tolerance=declared.tolerance, flooding_bits=declared.flooding)
    except ProtocolError as error:
        raise CatalogError(f"model {name!r}: {error}") from None

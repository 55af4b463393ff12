"""The owner of the rows: encrypts them under a key made for one request, and reads the scores that come back.

Everything that could fail is tried before the department charges: columns, bounds, sizes. Then each answer's signature is checked against the
roster before it is decrypted. The key never leaves this process.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpc.errors import ProtocolError
from mpc.he.scoring import ScoreClient, read_offer
from sandbox import keys, receipt
from sandbox.errors import DepartmentFailed, ParameterError, QueryError, SignatureInvalid
from sandbox.query import canonical
from sandbox.roster import Roster
from sandbox.scoring.door import find, offer_digest
from sandbox.scoring.request import (
    ANSWER,
    BLOCK,
    OFFERS,
    REQUEST,
    Answer,
    Block,
    Offers,
    Published,
    Request,
    released,
)

from .. import messages
from .messages import MOST_BYTES, Begin, End, Models, Rows, Scores, digest
from .result import Scored, leakage

LIFETIME = 3600  # seconds that a request may take to reach its department
Table = Any  # a pandas frame, columns by name, or rows as mappings


class Desk(Protocol):
    """The part of the coordinator's desk that is needed here."""

    @property
    def roster(self) -> Roster: ...
    def models(self) -> Models: ...
    def score(self, analyst: str, department: str, body: bytes) -> bytes: ...


def offers(desk: Desk) -> tuple[dict[str, Offers], dict[str, str]]:
    """Each department's models, its signature checked; and who gave none, and why."""
    answered, found = desk.models(), {}
    unreachable = dict(answered.unreachable)
    for name, data in answered.offers.items():
        signed: keys.Signed = keys.decode(data, keys.Signed)
        opened = keys.open_(signed, OFFERS, Offers, desk.roster.public(name, "node"))
        if opened.department != name:
            raise SignatureInvalid(f"{name} shows the models of {opened.department!r}")
        found[name] = opened
    return found, unreachable


def described(desk: Desk) -> list[dict[str, Any]]:
    """A line for each model, for people."""
    return [
        {
            "model": f"{name}@{department}",
            "purposes": ", ".join(model.purposes),
            "features": ", ".join(f.name for f in read_offer(model.offer).features),
            "error": read_offer(model.offer).errors.total,
            "rows": model.rows,
            "rows_per_analyst": model.rows_per_analyst,
            "description": model.description,
        }
        for department, held in sorted(offers(desk)[0].items())
        for name, model in sorted(held.models.items())
    ]


def score(
    desk: Desk,
    key: keys.SigningKey,
    analyst: str,
    model: str,
    table: Table,
    purpose: str,
    *,
    publishable: bool = False,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Scored:
    """Scores of each row. `model`: "name@department". See `federated.session.City.score`."""
    if not isinstance(purpose, str) or not purpose:
        raise ParameterError("'purpose' must be a non-empty text")
    started = time.perf_counter()
    published, department = _find(desk, model)
    asked = _Asked(desk, key, analyst, department, published)
    progress("encrypting")
    asked.prepare(table, model.partition("@")[0], purpose)
    progress("deciding")
    asked.begin()
    progress("scoring ciphertexts")
    values, spread = asked.answers(publishable)
    progress("logging and signing the release")
    data, release = asked.end()
    return Scored(
        model=model,
        values=values,
        error=asked.client.offer.errors.total,
        link=asked.client.offer.link,
        spread=spread,
        index=getattr(table, "index", None),
        leakage=leakage(asked.request, len(asked.client.offer.features)),
        receipt=data,
        release=release,
        sent=asked.sent,
        received=asked.received,
        seconds=time.perf_counter() - started,
    )


class _Asked:
    """One request on its way."""

    request: Request

    def __init__(self, desk: Desk, key: keys.SigningKey, analyst: str, department: str, published: Published):
        self._desk, self._key, self._analyst, self._department = desk, key, analyst, department
        self._offer = published.offer
        self.client = ScoreClient(published.offer)
        self.sent = self.received = 0
        self._answers: list[str] = []

    def prepare(self, table: Table, model: str, purpose: str) -> None:
        """Check the rows, make the keys, encrypt the first block."""
        columns = _columns(table, [feature.name for feature in self.client.offer.features])
        try:
            self._blocks = self.client.ask(columns)
        except ProtocolError as error:
            raise ParameterError(str(error)) from None
        self._first = self._fitting(next(self._blocks), "blocks of rows")
        self._keys = self._fitting(self.client.keys(), "keys")
        self._number = -(-_rows(columns) // self.client.offer.parameters.slots)
        self.request = Request(
            model=model,
            department=self._department,
            offer=offer_digest(self._offer),
            keys=digest(self._keys),
            rows=_rows(columns),
            purpose=purpose,
            analyst=self._analyst,
            nonce=secrets.token_hex(16),
            expires=int(time.time()) + LIFETIME,
        )
        self._signed = canonical(keys.seal(self._key, self._analyst, REQUEST, self.request))
        self._name = self.request.digest().hex()

    def begin(self) -> None:
        self._send(Begin(self._signed, self._keys))

    def answers(self, publishable: bool) -> tuple[NDArray[np.float64], float | None]:
        """All scores; with `publishable`, with noise, and its standard deviation."""
        found, spread = [], None
        for number, rows in enumerate(self._encrypted()):
            block = Block(self._name, number, digest(rows))
            sealed = canonical(keys.seal(self._key, self._analyst, BLOCK, block))
            answer = self._opened(block, self._send(Rows(sealed, rows)))
            try:
                if publishable:
                    scores, spread = self.client.publishable_scores(answer, queries=self._number)
                else:
                    scores = self.client.scores(answer)
            except ProtocolError as error:
                raise DepartmentFailed(f"{self._department}: {error}") from None
            found.append(scores)
        return np.concatenate(found), spread

    def end(self) -> tuple[bytes, str]:
        """The receipt, and what it is about; raises where it does not hold."""
        release = released(self._name, tuple(self._answers))
        data = self._send(End(self._signed, release))
        report = receipt.verify(data, self._desk.roster, request=self._name, release=release)
        if not report.ok:
            raise SignatureInvalid(f"the receipt does not hold: {'; '.join(map(str, report.failed))}")
        return data, release

    def _encrypted(self) -> Iterator[bytes]:
        yield self._first
        yield from self._blocks

    def _opened(self, block: Block, data: bytes) -> bytes:
        """The ciphertexts of an answer, if the department signed them as those of this block."""
        reply = messages.decode(data, Scores)
        signed: keys.Signed = keys.decode(reply.signed, keys.Signed)
        answer = keys.open_(signed, ANSWER, Answer, self._desk.roster.public(self._department, "node"))
        if answer != Answer(block.request, block.number, block.rows, digest(reply.scores)):
            raise SignatureInvalid("the scores are not those that the department signed for this block")
        self._answers.append(answer.scores)
        return reply.scores

    def _send(self, message: Begin | Rows | End) -> bytes:
        body = messages.encode(message)
        reply = self._desk.score(self._analyst, self._department, body)
        self.sent, self.received = self.sent + len(body), self.received + len(reply)
        return reply

    def _fitting(self, data: bytes, what: str) -> bytes:
        if len(data) > MOST_BYTES - 2**16:
            raise ParameterError(f"{what} of {len(data):,} bytes; a message has at most {MOST_BYTES:,}")
        return data


def _find(desk: Desk, model: str) -> tuple[Published, str]:
    name, at, department = model.partition("@")
    if not (name and at and department):
        raise ParameterError(f"'model' is {model!r}; allowed is name@department")
    found, unreachable = offers(desk)
    if department not in found:
        why = unreachable.get(department, f"known are: {', '.join(sorted(found)) or 'none'}")
        raise QueryError(f"no models of {department!r}: {why}")
    return find(found[department], name), department


def _columns(table: Table, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named columns of a frame, of a mapping of columns, or of rows; others are not looked at."""
    if not isinstance(table, Mapping) and not hasattr(table, "columns"):
        rows = list(table)
        try:
            return {name: np.array([row[name] for row in rows]) for name in names}
        except (KeyError, TypeError, IndexError):
            raise ParameterError(f"'table': each row needs {', '.join(names)}") from None
    held = table if isinstance(table, Mapping) else table.columns
    if missing := [name for name in names if name not in held]:
        raise ParameterError(f"'table' lacks the columns {', '.join(map(repr, missing))}")
    return {name: np.asarray(table[name]) for name in names}


def _rows(columns: Mapping[str, NDArray[Any]]) -> int:
    return int(next(iter(columns.values())).size)

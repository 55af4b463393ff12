"""A department's end of joins: each step goes through the gate, and only what `mpc.join` makes of the owner's columns comes back.

    hello   the gate judges, the rows are read, and what could fail fails here: a fresh key and the padded size leave
    table   the gate charges and logs, then the blinded table leaves (of a comparison nothing is charged)
    probe   the same for the department whose rows are looked up
    turn    its shares of the computation

A join lives in this process: one that was cut off is asked, and paid, anew. The latest few are kept. Seeds are kept on the disk, so
that none serves twice, whatever process it was claimed in.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mpc import noise as gaussian
from mpc.engine import Seeds
from mpc.errors import Replayed
from mpc.join import Messages, ProbeSide, TableSide, normalise
from sandbox import dp, keys
from sandbox.accounting import Zcdp
from sandbox.errors import CatalogError, QueryError, ScheduleError
from sandbox.gate import Gate
from sandbox.joining.earlier import Earlier, Joins, scope_of
from sandbox.joining.rows import Rows, read
from sandbox.joining.split import Split
from sandbox.judge import Case
from sandbox.query import canonical

from .. import encoding, messages
from . import question as asking
from .messages import PIECE, Piece, Step

KEPT = 4


class Kept(Seeds):
    """Seeds on this department's disk."""

    def __init__(self, store: Joins):
        super().__init__()
        self._store = store

    def claim(self, seed: bytes) -> None:
        super().claim(seed)
        if not self._store.claim(hashlib.sha256(seed).digest()):
            raise Replayed("seed", "has served another session", peer="dealer")


class _Side:
    """A department's end of one join, and what is on its way: pieces that were put, and the answer that is being got."""

    def __init__(self, side: TableSide | ProbeSide, version: str):
        self.side, self.version = side, version
        self.lock = threading.Lock()
        self.put, self.answer = bytearray(), b""

    def taken(self, parts: tuple[bytes, ...]) -> bytes:
        """What a step was given, at once or in pieces before."""
        whole, self.put = bytes(self.put) + _only(parts), bytearray()
        return whole


class Sides:
    """The joins that a department is in. `identity` and `roster` are those of its node; answers go in pieces of `piece` bytes."""

    piece = PIECE

    def __init__(
        self,
        gate: Gate,
        identity: bytes,
        roster: dict[str, bytes],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ):
        self._gate, self._identity, self._roster, self._random = gate, identity, roster, random_bytes
        self._name = gate.catalog.department
        self._kept: OrderedDict[bytes, _Side] = OrderedDict()
        self._lock = threading.Lock()

    def handle(self, body: bytes) -> bytes:
        step = messages.decode(body, Step)
        signed: keys.Signed = keys.decode(step.request, keys.Signed)
        earlier: tuple[Earlier, ...] | None = None
        if step.earlier:
            earlier = keys.decode(step.earlier, tuple[Earlier, ...])
        if step.step == "hello":
            hello = self._hello(signed, earlier, _only(step.parts))
            return messages.encode(Piece(len(hello), hello))
        name = _name(signed, earlier)
        with self._lock:
            kept = self._kept.get(name)
        if kept is None:
            raise ScheduleError("no such join has begun here")
        with kept.lock:
            if step.step == "put":
                if step.offset != len(kept.put):
                    raise ScheduleError("pieces of a message come in their order")
                kept.put += _only(step.parts)
                return b""
            if step.step != "get":
                kept.answer = self._answer(step, signed, kept)
            if not 0 <= step.offset <= len(kept.answer):
                raise ScheduleError("an answer has no such piece")
            piece = kept.answer[step.offset : step.offset + self.piece]
            whole = len(kept.answer)
            if step.offset + len(piece) == whole:
                kept.answer = b""
                if kept.side.finished:
                    with self._lock:
                        self._kept.pop(name, None)
            return messages.encode(Piece(whole, piece))

    def _answer(self, step: Step, signed: keys.Signed, kept: _Side) -> bytes:
        side = kept.side
        if step.step == "turn":
            if not isinstance(side, ProbeSide):
                raise ScheduleError("this department's table is looked up in: it takes no turns")
            return side.receive(kept.taken(step.parts))
        if isinstance(side, ProbeSide) != (step.step == "probe"):
            raise ScheduleError("this department has the other part in the join")
        if not step.earlier:
            clearance: keys.Signed | None = (
                keys.decode(step.clearance, keys.Signed) if step.clearance else None
            )
            case = self._gate.join(signed, clearance)
            if case.version != kept.version:
                raise CatalogError(f"data set {case.table!r}: the data changed while they were read")
        if isinstance(side, ProbeSide):
            hellos, notes = step.parts if len(step.parts) == 2 else (b"", b"")
            return side.probe(hellos, notes)
        return side.table(_only(step.parts))

    def _hello(self, signed: keys.Signed, earlier: tuple[Earlier, ...] | None, announcement: bytes) -> bytes:
        case, engine = self._gate.joined(signed)
        split = self._split(case, earlier)
        assert case.wide is not None
        noise = None if earlier is not None or case.exact else self._noise(case)
        rows = read(engine, split.locals[self._name], bounded=not case.exact)
        if rows.version != case.version:
            raise CatalogError(f"data set {case.table!r}: the data changed while they were read")
        kind = ProbeSide if case.wide.departments[0] == self._name else TableSide
        normaliser = case.dataset.columns[case.wide.joined.on].normaliser
        side = kind(
            self._name,
            self._identity,
            self._roster,
            _identifiers(rows, normaliser),
            rows.flags if rows.flags.shape[1] else (),
            rows.words if rows.words.shape[1] else (),
            question=asking.question(split, case.wide, noise=noise is not None),
            request=asking.digest(case.request, earlier),
            used=Kept(self._gate.state.joins),
            noise=noise,
            random_bytes=self._random,
        )
        hello = side.hello(announcement)
        name = _name(signed, earlier)
        with self._lock:
            self._kept[name] = _Side(side, rows.version)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return hello

    def _split(self, case: Case, earlier: tuple[Earlier, ...] | None) -> Split:
        assert case.split is not None
        assert case.plan is not None
        assert case.wide is not None
        if earlier is None:
            return case.split
        if not case.exact or not earlier:
            raise ScheduleError("only exact requests are compared, and only with earlier releases")
        self._gate.state.joins.checked(case.table, earlier, self._gate.state.roster)
        if any(scope_of(release.asked) != scope_of(case.request) for release in earlier):
            raise QueryError("an earlier release is of another joined table")
        return asking.compared(case.plan, earlier, case.wide)[0]

    def _noise(self, case: Case) -> Callable[[int], NDArray[np.int64]]:
        """This department's share, drawn once it is charged."""
        assert case.charge is not None
        assert case.plan is not None
        assert case.wide is not None
        assert case.request.privacy is not None
        assert isinstance(case.charge.event, Zcdp)
        noise = dp.joined_noise(case.plan, case.charge.event.rho, len(case.wide.departments))
        encoding.check_distance(noise, case.plan.entries, case.request.privacy.delta)
        return lambda terms: gaussian.discrete_gaussian(noise.department_sigma, terms, self._random(32))


def _identifiers(rows: Rows, normaliser: str) -> Messages:
    """Identifiers in one spelling; of rows that the filter leaves out, none."""
    found = normalise(np.ma.getdata(rows.identifiers), normaliser)
    lengths = np.where(rows.nobody, 0, found.lengths)
    octets = np.where(rows.nobody[:, None], 0, found.octets).astype(np.uint8)
    return Messages(octets, lengths)


def _only(parts: tuple[bytes, ...]) -> bytes:
    if len(parts) != 1:
        raise QueryError("malformed step of a join")
    return parts[0]


def _name(signed: keys.Signed, earlier: tuple[Earlier, ...] | None) -> bytes:
    """What a join is known by here."""
    return hashlib.sha256(canonical((signed, earlier))).digest()

"""The coordinator's end of a join, over a network: it relays, gathers, computes with the probe side, and learns the sums.

    hello          every department, at once                    a fresh key and a padded size each
    table          the departments that are looked up in        blinded tables
    probe, turn*   the department whose rows are looked up      its shares

A join is of all its departments: one that vanishes or fails ends it. Before `table` nothing is charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mpc.engine import Seeds
from mpc.errors import ProtocolError
from mpc.join import Coordinator, Question
from sandbox import cohorts, keys
from sandbox.errors import DepartmentFailed, QueryError, TooFewDepartments
from sandbox.gate import Allow
from sandbox.joining.earlier import Earlier
from sandbox.joining.split import Split
from sandbox.joining.wide import Wide
from sandbox.plan import Plan
from sandbox.query import canonical
from sandbox.request import Request

from .. import messages
from ..network import Failure, Network
from ..summing import Progress, ask, named
from . import question as asking
from .messages import PIECE, Name, Piece, Step
from .question import Counts

LAST_WORD = "computing and masking"  # from here on departments are charged


class Driver:
    """Drives the joins of one request. `roster`: the public keys of its departments; `sizes`: their padded rows, once they have said them."""

    piece = PIECE

    def __init__(
        self,
        network: Network,
        roster: Mapping[str, bytes],
        signed: keys.Signed,
        wide: Wide,
        progress: Progress,
    ):
        self._network, self._roster, self._wide, self._progress = network, dict(roster), wide, progress
        self._request: Request = keys.decode(signed.body, Request)
        self._signed = canonical(signed)
        self._used = Seeds()
        self.sizes: dict[str, int] = {}

    def compared(
        self, plan: Plan, earlier: tuple[Earlier, ...], least: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The earlier exact releases, and why the new one must not be shown beside them, if it must not."""
        if not earlier:
            return (), ()
        split, released = asking.compared(plan, earlier, self._wide)
        asked = asking.question(split, self._wide, noise=False)
        self._progress("comparing with earlier releases")
        sums = self._run(asked, asking.digest(self._request, earlier), canonical(earlier), b"", "")
        joint = asking.counts(split, sums, plan, released)
        shape = tuple(len(key.domain) for key in plan.keys)
        return tuple(e.request for e in earlier), cohorts.refusals(joint, shape, released, least)

    def sums(self, split: Split, clearance: bytes, *, noise: bool) -> Counts:
        """The joint sums of the request's terms, once every department is charged."""
        asked = asking.question(split, self._wide, noise=noise)
        return self._run(asked, asking.digest(self._request), b"", clearance, LAST_WORD)

    def _run(self, asked: Question, digest: bytes, earlier: bytes, clearance: bytes, stage: str) -> Counts:
        coordinator = Coordinator(self._roster, asked, digest, used=self._used)

        def call(
            step: Name,
            names: Sequence[str],
            parts: tuple[bytes, ...],
            accept: Callable[[str, bytes], object],
        ) -> object:
            accepted: object = None
            for name, reply in self._exchange(step, names, parts, earlier, clearance).items():
                try:
                    accepted = accept(name, reply)
                except ProtocolError as error:
                    raise DepartmentFailed(f"{name}: {type(error).__name__}: {error}") from None
            return accepted

        probe, tables = asked.probe, asked.tables
        self._progress("agreeing on keys")
        call("hello", self._wide.departments, (coordinator.announce(),), coordinator.accept_hello)
        try:
            hellos, self.sizes = coordinator.hellos(), coordinator.capacities
        except ProtocolError as error:
            raise QueryError(f"the joined table is too large for this query: {error}") from None
        if stage:
            self._progress(stage)
        call("table", tables, (hellos,), coordinator.accept_table)
        turn = call("probe", [probe], (hellos, coordinator.notes()), coordinator.accept_probe)
        while not coordinator.finished:
            assert isinstance(turn, bytes)
            turn = call("turn", [probe], (turn,), coordinator.accept_levels)
        return np.asarray(coordinator.result())

    def _exchange(
        self,
        step: Name,
        names: Sequence[str],
        parts: tuple[bytes, ...],
        earlier: bytes,
        clearance: bytes,
    ) -> dict[str, bytes]:
        """One step with each of these departments: their answers, what is long in pieces."""
        offset = 0
        while len(parts) == 1 and len(parts[0]) - offset > self.piece:
            piece = parts[0][offset : offset + self.piece]
            self._ask(Step("put", self._signed, (piece,), earlier, offset=offset), names)
            offset += self.piece
        rest = (parts[0][offset:],) if len(parts) == 1 else parts
        found = dict.fromkeys(names, b"")
        answers = self._ask(Step(step, self._signed, rest, earlier, clearance), names)
        while answers:
            unfinished = []
            for name, answer in answers.items():
                piece_ = messages.decode(answer, Piece)
                found[name] += piece_.data
                if len(found[name]) < piece_.total and piece_.data:
                    unfinished.append(name)
            answers = {}
            for name in unfinished:
                answers |= self._ask(Step("get", self._signed, (), earlier, offset=len(found[name])), [name])
        return found

    def _ask(self, step: Step, names: Sequence[str]) -> dict[str, bytes]:
        replies = ask(self._network, "join", dict.fromkeys(names, messages.encode(step)))
        lost = {name: reply.reason for name, reply in replies.items() if isinstance(reply, Failure)}
        if lost:
            raise TooFewDepartments(
                [f"{named(lost)} vanished during the join: it needs every department that it names"]
            )
        return {name: reply for name, reply in replies.items() if isinstance(reply, bytes)}


def merged(allowed: Mapping[str, Allow]) -> tuple[Earlier, ...]:
    """The earlier releases of all departments, the first first. Where one has not heard yet which cells were shown, the others have."""
    found: dict[str, Earlier] = {}
    for allow in allowed.values():
        for release in allow.earlier:
            other = found.get(release.request, release)
            shown = tuple(sorted(set(other.shown) & set(release.shown)))
            found[release.request] = Earlier(release.signed, shown)
    return tuple(found.values())

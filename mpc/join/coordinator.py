"""The coordinator in a join: C relays, gathers blinded candidates, computes with B, and learns the sums.

    announce -> accept_hello* -> hellos -> accept_table* -> notes -> accept_probe -> accept_levels* -> result

Protects: a message that is malformed, short, of another session or sent twice raises a PeerError that names the
department. A department that vanishes ends the join: the statistic is over all of them or not at all, and
nothing has been opened before the last message. Does not protect: the sums against departments that lie about
their rows. What C must not learn it never receives: see `mpc.join`. Not for concurrent calls.

`sender` is always the department from whom the network took the message.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mpc import cuckoo
from mpc.engine import Computer, Seeds
from mpc.engine.party import SESSION_BYTES, dealt_bytes
from mpc.errors import Malformed, OutOfOrder, OutOfRange, Replayed, UnknownPeer
from mpc.join import messages
from mpc.join.department import (
    NOTE_BYTES,
    PROBE,
    TABLE,
    dealer_seed,
    indices_bytes,
    named_shares,
    session_of,
    table_bytes,
)
from mpc.join.messages import Announcement, Hello
from mpc.join.question import Question, plan_for
from mpc.join.table import Layout, gather, padded, split
from mpc.secagg import keys

DIGEST_BYTES = 32
Words = NDArray[np.uint64]


class Coordinator:
    """One join over the departments of `question`; `request` is the digest of what an analyst asked."""

    def __init__(
        self,
        roster: Mapping[str, bytes],
        question: Question,
        request: bytes,
        *,
        used: Seeds,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if len(request) != DIGEST_BYTES:
            raise OutOfRange("request", f"must be a digest of {DIGEST_BYTES} bytes")
        self._roster, self._question, self._used = dict(roster), question, used
        self._private = random_bytes(keys.PRIVATE_BYTES)
        self._announcement = Announcement(
            random_bytes(SESSION_BYTES), request, question, keys.public_key(self._private)
        )
        self._signed: dict[str, bytes] = {}
        self._hellos: dict[str, Hello] = {}
        self._tables: dict[str, Words] = {}
        self._notes: dict[str, bytes] = {}
        self._noise: dict[str, Words] = {}
        self._dealt: bytes | memoryview = b""
        self._context = b""
        self._computer: Computer | None = None

    @property
    def departments(self) -> tuple[str, ...]:
        return (self._question.probe, *self._question.tables)

    def announce(self) -> bytes:
        return messages.encode(self._announcement)

    def accept_hello(self, sender: str, message: bytes) -> None:
        if sender not in self.departments:
            raise UnknownPeer("hello", "the sender takes no part", peer=sender)
        if sender in self._signed:
            raise Replayed("hello", "already received", peer=sender)
        hello = messages.read_hello(message, sender, self._roster, self._announcement.digest)
        try:
            honest = hello.capacity == padded(hello.capacity)
        except OutOfRange:
            honest = False
        if not honest:
            raise Malformed("capacity", "must be a padded size", peer=sender)
        self._signed[sender], self._hellos[sender] = message, hello

    def hellos(self) -> bytes:
        """For every department, once all have said hello."""
        self._complete("hellos", self._signed, self.departments)
        if not self._context:
            self._plan = plan_for(self._question, self.capacities)
            self._context = messages.joint_context(self._announcement.digest, self._signed)
        return messages.encode(self._signed)

    @property
    def capacities(self) -> dict[str, int]:
        """The padded number of rows of each department that has said hello."""
        return {name: hello.capacity for name, hello in self._hellos.items()}

    def accept_table(self, sender: str, message: bytes) -> None:
        if not self._context:
            raise OutOfOrder("table", "hellos() comes first")
        if sender not in self._question.tables:
            raise UnknownPeer("table", "the sender brings none", peer=sender)
        if sender in self._tables:
            raise Replayed("table", "already received", peer=sender)
        columns, bins = self._question.columns[sender], cuckoo.bins_for(self._hellos[sender].capacity)
        dealt = dealt_bytes(self._plan) if sender == self._question.dealer else 0
        noise = 8 * len(self._question.terms) if self._question.noise else 0
        lengths = [NOTE_BYTES, table_bytes(bins, columns), noise, dealt]
        parts = messages.unpack_parts(message, TABLE, self._context, lengths, peer=sender)
        self._notes[sender] = bytes(parts[0])
        self._tables[sender] = np.frombuffer(parts[1], dtype="<u8").reshape(-1, bins)
        if noise:
            self._noise[f"noise of {sender}"] = np.frombuffer(parts[2], dtype="<u8")
        if dealt:
            self._dealt = parts[3]

    def notes(self) -> bytes:
        """For the probe side, with the hellos, once all tables are there."""
        self._complete("tables", self._tables, self._question.tables)
        return messages.encode(self._notes)

    def accept_probe(self, sender: str, message: bytes) -> bytes:
        """Gathers, and answers with the first levels of C."""
        self._complete("tables", self._tables, self._question.tables)
        if sender != self._question.probe:
            raise UnknownPeer("probe", "the sender is not the probe side", peer=sender)
        if self._computer is not None:
            raise Replayed("probe", "already received", peer=sender)
        tables, rows = self._question.tables, self._hellos[sender].capacity
        lengths = [indices_bytes(rows)] * len(tables)
        parts = messages.unpack_parts(message, PROBE, self._context, [*lengths, None], peer=sender)
        shares = dict(self._noise)
        for name, part in zip(tables, parts, strict=False):
            indices = np.frombuffer(part, dtype="<u4").astype(np.int64)
            if int(indices.max()) >= self._tables[name].shape[1]:
                raise Malformed("indices", "must be bins of the table", peer=sender)
            columns = self._question.columns[name]
            layout = Layout(columns.flags, len(columns.bounds))
            shares.update(named_shares(name, split(gather(self._tables[name], indices), layout)))
        dealer = self._hellos[self._question.dealer]
        seed = dealer_seed(keys.agree(self._private, dealer.key, peer=dealer.sender), self._context)
        computer = Computer(
            "C", self._plan, session_of(self._context), seed, self._used, shares=shares, dealt=self._dealt
        )
        first = computer.receive(parts[-1])
        self._computer, self._tables = computer, dict.fromkeys(tables, np.zeros(0, dtype=np.uint64))
        return first

    def accept_levels(self, sender: str, message: bytes) -> bytes:
        """A turn of B; the answer is the next turn of C, unless `finished`."""
        if self._computer is None:
            raise OutOfOrder("levels", "accept_probe() comes first")
        if sender != self._question.probe:
            raise UnknownPeer("levels", "the sender is not the probe side", peer=sender)
        return self._computer.receive(message)

    @property
    def finished(self) -> bool:
        return self._computer is not None and self._computer.finished

    def result(self) -> NDArray[np.int64]:
        """The sum of each term, with the departments' noise if the question has any."""
        if self._computer is None or self._computer.outputs is None:
            raise OutOfOrder("result", "the join has not finished")
        return self._computer.outputs["sums"]

    @staticmethod
    def _complete(what: str, present: Mapping[str, object], needed: tuple[str, ...]) -> None:
        missing = sorted(set(needed) - set(present))
        if missing:
            raise OutOfOrder(what, f"are missing from {', '.join(missing)}: a join needs every department")

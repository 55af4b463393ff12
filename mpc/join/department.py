"""A department in a join: `TableSide` (A, whose first deals) and `ProbeSide` (B); bytes in, bytes out.

    hello -> TableSide.table                          one message, then nothing more is asked of a table
    hello -> ProbeSide.probe -> ProbeSide.receive*    bins, then one message for each turn of C

Protects: the owner takes part only in the question that its gate let pass, with the columns that it declared, refuses repeated keys where it declared
none, words beyond their bounds, keys that the roster's identities did not sign, and a session or a seed for the
second time. Does not protect: what the owner's own caller puts into columns. Not for concurrent calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc import bits
from mpc.engine import Computer, Dealer, Plan, Seeds
from mpc.engine.party import SESSION_BYTES
from mpc.errors import FloorViolation, OutOfOrder, OutOfRange, Overflow, Replayed, UnknownPeer, WrongLength
from mpc.join import messages
from mpc.join.messages import COORDINATOR, Announcement, Hello
from mpc.join.normalise import Messages
from mpc.join.question import Columns, Question, plan_for
from mpc.join.table import Layout, Secret, blinded_table, padded, probe, secret_of
from mpc.join.tokens import Rows, added_rows, check_unique, checked, tokenise
from mpc.prg import Keystream
from mpc.secagg import keys

Noise = Callable[[int], NDArray[np.int64]]
Words = NDArray[np.uint64]
NOTE_BYTES = 4 + keys.TAG_BYTES
TABLE, PROBE = b"jointbl1", b"joinprb1"


class Department:
    """What both sides have: identity, rows without nulls, and the checks before anything is sent.

    `identifiers` are normalised; `flags` and `words` have one row each. A row that fails the owner's own filter
    is passed with a null identifier, so that the padded size is that of the whole table and not of the filter's
    yield. `question` and `request`, the digest of what the analyst signed, are what the owner's gate let pass: no
    other is answered. `noise` draws this department's share of the noise, one integer a term.
    """

    def __init__(
        self,
        name: str,
        identity: bytes,
        roster: Mapping[str, bytes],
        identifiers: Messages,
        flags: Any = (),
        words: Any = (),
        *,
        question: Question,
        request: bytes,
        used: Seeds,
        noise: Noise | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.name = name
        self._identity = keys.identity_key(identity)
        if roster.get(name) != self._identity.public_key().public_bytes_raw():
            raise OutOfRange("roster", "must list this department under the public key of its identity")
        self._roster, self._used, self._noise, self._random = dict(roster), used, noise, random_bytes
        self._check_role(question)
        question.check({name: 1})
        if question.noise != (noise is not None):
            raise OutOfRange("noise", "must be what this department adds")
        self._question, self._request = question, request
        every_flag, every_word = checked(flags, words, len(identifiers.lengths))
        present = np.flatnonzero(identifiers.lengths)
        self._identifiers = Messages(identifiers.octets[present], identifiers.lengths[present])
        self._flags, self._words = every_flag[present], every_word[present]
        self._capacity = padded(len(identifiers.lengths))
        self._announcement: Announcement | None = None
        self._private = b""
        self._done = False

    def hello(self, announcement: bytes) -> bytes:
        """Answers C's announcement with a fresh key and the padded number of rows."""
        if self._announcement is not None:
            raise Replayed("announcement", "this session has already begun", peer=COORDINATOR)
        read = messages.decode(announcement, Announcement)
        if len(read.session) != SESSION_BYTES or len(read.key) != keys.PUBLIC_BYTES:
            raise WrongLength("announcement", "session and key must have their lengths", peer=COORDINATOR)
        question = self._question
        if read.question != question or read.request != self._request:
            raise FloorViolation("question", "must be the one that this owner lets pass", peer=COORDINATOR)
        if not {question.probe, *question.tables} <= set(self._roster):
            raise UnknownPeer("tables", "must be in the roster", peer=COORDINATOR)
        rows = self._rows_for(question.columns[self.name])
        self._identifiers, self._flags, self._words = rows
        self._announcement, self._private = read, self._random(keys.PRIVATE_BYTES)
        own = Hello(self.name, read.digest, keys.public_key(self._private), self._capacity)
        return messages.sign_hello(own, self._identity)

    def _check_role(self, question: Question) -> None:
        raise NotImplementedError

    def _rows_for(self, columns: Columns) -> tuple[Messages, NDArray[np.bool_], NDArray[np.int64]]:
        """Identifiers and columns as they enter the join: unique, or added up, and within their bounds."""
        if columns.flags != self._flags.shape[1] or len(columns.bounds) != self._words.shape[1]:
            raise OutOfRange("columns", "must be as many as this department brings", peer=COORDINATOR)
        identifiers = self._identifiers
        rows = Rows(tokenise(self._random(32), identifiers), self._flags, self._words)
        if columns.unique:
            check_unique(rows.tokens)
        else:
            rows, first = added_rows(rows)
            identifiers = Messages(identifiers.octets[first], identifiers.lengths[first])
        for number, bound in enumerate(columns.bounds):
            column = rows.words[:, number]
            if column.size and not -bound <= int(column.min()) <= int(column.max()) <= bound:
                raise Overflow("words", f"column {number} must lie in [-{bound}, {bound}]")
        return identifiers, rows.flags, rows.words

    def _meet(self, hellos: bytes) -> tuple[Announcement, dict[str, Hello], bytes, Plan]:
        """Everybody's hello, checked; the context that they make; the plan over the sizes that they state."""
        announcement = self._announcement
        if announcement is None:
            raise OutOfOrder("hellos", "hello() comes first")
        if self._done:
            raise Replayed("hellos", "this session has been served", peer=COORDINATOR)
        signed = messages.decode(hellos, dict[str, bytes])
        question = announcement.question
        if set(signed) != {question.probe, *question.tables}:
            raise UnknownPeer("hellos", "must be one of each department of the question", peer=COORDINATOR)
        read = {
            name: messages.read_hello(message, name, self._roster, announcement.digest)
            for name, message in signed.items()
        }
        own = read[self.name]
        if own.key != keys.public_key(self._private) or own.capacity != self._capacity:
            raise Replayed("hellos", "must contain this department's own", peer=COORDINATOR)
        for name, hello in read.items():
            if hello.capacity != padded(hello.capacity):
                raise OutOfRange("capacity", f"of {name} must be a padded size")
        context = messages.joint_context(announcement.digest, signed)
        plan = plan_for(question, {name: hello.capacity for name, hello in read.items()})
        return announcement, read, context, plan

    def _shared(self, hello: Hello) -> bytes:
        return keys.agree(self._private, hello.key, peer=hello.sender)

    def _draw_noise(self, terms: int) -> Words:
        assert self._noise is not None
        noise = np.asarray(self._noise(terms))
        if noise.shape != (terms,) or noise.dtype.kind != "i":
            raise OutOfRange("noise", "must be one integer a term")
        return noise.astype(np.int64).view(np.uint64)

    def _close(self) -> None:
        self._private, self._done = b"", True


class TableSide(Department):
    """A: a table in the join."""

    attempts = 0  # to fill the table, of the session that was served

    @property
    def finished(self) -> bool:
        """Whether the table was given."""
        return self._done

    def _check_role(self, question: Question) -> None:
        if self.name not in question.tables:
            raise OutOfRange("tables", "must contain this department, which brings a table")

    def table(self, hellos: bytes) -> bytes:
        """For C: the blinded table; sealed to B the attempt in which it was filled; from the first table, what it deals."""
        announcement, read, context, plan = self._meet(hellos)
        question = announcement.question
        with_probe = self._shared(read[question.probe])
        secret = secret_of(with_probe, context, self.name, question.probe)
        rows = Rows(tokenise(secret.tokens, self._identifiers), self._flags, self._words)
        attempt, table = blinded_table(rows, secret, self._capacity)
        note = keys.seal(with_probe, context, self.name, question.probe, attempt.to_bytes(4, "little"))
        parts: list[bytes | bytearray | memoryview] = [
            note,
            table.data.cast("B"),
            self._blinded_noise(question, secret),
            b"",
        ]
        if self.name == question.dealer:
            with_coordinator = keys.agree(self._private, announcement.key, peer=COORDINATOR)
            seeds = dealer_seed(with_probe, context), dealer_seed(with_coordinator, context)
            parts[3] = Dealer(plan, session_of(context), *seeds, self._used).deal()
        self.attempts = attempt + 1
        self._close()
        return messages.pack_parts(TABLE, context, parts)

    def _blinded_noise(self, question: Question, secret: Secret) -> bytes:
        if not question.noise:
            return b""
        noise = self._draw_noise(len(question.terms))
        return (noise - Keystream(secret.noise).read(noise.size)).tobytes()


class ProbeSide(Department):
    """B: the side whose rows are looked up, and one of the two that compute."""

    def _check_role(self, question: Question) -> None:
        if self.name != question.probe:
            raise OutOfRange("probe", "must be this department, which brings its rows as the probe")

    def probe(self, hellos: bytes, notes: bytes) -> bytes:
        """For C: the bins of each row in each table, and what the computation opens first."""
        announcement, read, context, plan = self._meet(hellos)
        question = announcement.question
        sealed = messages.decode(notes, dict[str, bytes])
        if set(sealed) != set(question.tables):
            raise UnknownPeer("notes", "must be one of each table", peer=COORDINATOR)
        missing = self._capacity - len(self._flags)
        dummies = Keystream(self._random(32)).read(2 * missing).reshape(missing, 2)
        indices, shares = [], {}
        for name in question.tables:
            shared = self._shared(read[name])
            attempt = self._attempt(shared, context, name, sealed[name])
            secret, columns = secret_of(shared, context, name, self.name), question.columns[name]
            tokens = np.concatenate([tokenise(secret.tokens, self._identifiers), dummies])
            layout = Layout(columns.flags, len(columns.bounds))
            own = probe(tokens, secret, attempt, read[name].capacity, layout)
            indices.append(own.indices.astype("<u4").data.cast("B"))
            shares.update(named_shares(name, own.shares))
            if question.noise:
                shares[f"noise of {name}"] = Keystream(secret.noise).read(len(question.terms))
        inputs = {"probe": self._columns(missing)}
        if question.noise:
            inputs[f"noise of {self.name}"] = self._draw_noise(len(question.terms))
        seed = dealer_seed(self._shared(read[question.dealer]), context)
        session = session_of(context)
        self._computer = Computer("B", plan, session, seed, self._used, inputs=inputs, shares=shares)
        self._close()
        return messages.pack_parts(PROBE, context, [*indices, self._computer.start()])

    @property
    def finished(self) -> bool:
        """Whether C has all that it needs."""
        return self._done and self._computer.finished

    def receive(self, levels: bytes) -> bytes:
        """Answers a turn of C."""
        if not self._done:
            raise OutOfOrder("levels", "probe() comes first")
        return self._computer.receive(levels)

    def _attempt(self, shared: bytes, context: bytes, table: str, sealed: bytes) -> int:
        note = keys.unseal(shared, context, table, self.name, sealed)
        if len(note) != 4:
            raise WrongLength("note", "must be 4 bytes", peer=table)
        return int.from_bytes(note, "little")

    def _columns(self, missing: int) -> Words:
        columns = np.zeros((self._flags.shape[1] + self._words.shape[1], self._capacity), dtype=np.uint64)
        rows = self._capacity - missing
        columns[: self._flags.shape[1], :rows] = self._flags.T
        columns[self._flags.shape[1] :, :rows] = self._words.view(np.uint64).T
        return columns


def named_shares(table: str, parts: Mapping[str, Words]) -> dict[str, Words]:
    """The shares of gathered candidates, under the names of the plan's inputs."""
    named = {f"tokens of {table}": parts["tokens"]}
    named |= {f"flags {number} of {table}": flags for number, flags in enumerate(parts["flags"])}
    if len(parts["words"]):
        named[f"words of {table}"] = parts["words"]
    return named


def dealer_seed(shared: bytes, context: bytes) -> bytes:
    """The seed that the dealer shares with one computing party: of this session's fresh keys."""
    return keys.derive(shared, b"join dealer seed", context)


def session_of(context: bytes) -> bytes:
    return context[:SESSION_BYTES]


def indices_bytes(capacity: int) -> int:
    return 3 * 4 * capacity


def table_bytes(bins: int, columns: Columns) -> int:
    return bins * 8 * (1 + bits.words_for(columns.flags) + len(columns.bounds))

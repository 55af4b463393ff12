"""The three parties of a computation as state machines: bytes in, bytes out, no network.

    A  Dealer     one message to C: corrections and shares of A's inputs; B needs its seed only
    B  Computer   opens one level of depth after another with C
    C  Computer   and alone learns the outputs

Every level in which anything is opened is one array from B and one from C. Messages hold as many levels as the
sender can make with what it has: when C and B take turns, each turn of C and each of B carries two, so `depth`
levels cost about depth / 2 calls from C to B (`play` counts them).

Protects: against messages of another session, plan or level, of another length, repeated or truncated; and
against a seed that has served before (`Seeds`), which would show both masks of a word. Does not protect:
contents (`mpc.engine.protocols` says what openings show) nor against whoever alters bytes on the way: the
channels between C and the others must be authentic. Not for concurrent calls.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mpc import bits
from mpc.engine.correlations import Deck, Part, corrected, correction_words, deal
from mpc.engine.operations import OPERATIONS, Call, needs_of, types_of
from mpc.engine.plan import Node, Plan, Type
from mpc.engine.protocols import Opening, Protocol
from mpc.errors import Malformed, OutOfOrder, OutOfRange, Replayed, WrongLength
from mpc.prg import KEY_BYTES, Keystream
from mpc.secagg.keys import derive

Words = NDArray[np.uint64]
Role = Literal["B", "C"]

SESSION_BYTES = 16
_HEADER = struct.Struct("<8s16s32sI")  # magic, session, plan, first level
_DEALT, _LEVELS = b"dealt001", b"levels01"
_WORD = np.dtype("<u8")


class Seeds:
    """The dealer's seeds that an owner has used or accepted; each serves once."""

    def __init__(self) -> None:
        self._used: set[bytes] = set()

    def claim(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise WrongLength("seed", f"must be {KEY_BYTES} bytes", peer="dealer")
        digest = hashlib.sha256(seed).digest()
        if digest in self._used:
            raise Replayed("seed", "has served another session", peer="dealer")
        self._used.add(digest)


class Dealer:
    """A: deals for one session, once, and never receives anything."""

    def __init__(self, plan: Plan, session: bytes, seed_b: bytes, seed_c: bytes, used: Seeds) -> None:
        _check_session(session)
        if seed_b == seed_c:
            raise OutOfRange("seeds", "must differ")
        used.claim(seed_b)
        used.claim(seed_c)
        self._plan, self._session, self._seeds = plan, session, (seed_b, seed_c)
        self._done = False

    def deal(self, inputs: Mapping[str, NDArray[Any]] | None = None) -> bytearray:
        """The message for C. `inputs` are A's own, integers or booleans in the shape that the plan declares."""
        if self._done:
            raise OutOfOrder("deal", "has been called")
        plan, given = self._plan, _encoded(self._plan.input_types("A"), inputs or {})
        names = {i.node: i.name for i in plan.inputs}
        message = bytearray(dealt_bytes(plan))
        _HEADER.pack_into(message, 0, _DEALT, self._session, plan.digest, 0)
        target = np.frombuffer(message, dtype=_WORD, offset=_HEADER.size)
        position = 0
        for index, node in enumerate(plan.nodes):
            needs = needs_of(plan, node)
            if not needs and names.get(index) not in given:
                continue
            keys = [node_key(seed, self._session, plan, index) for seed in self._seeds]
            if names.get(index) in given:
                part = Part((node.type.words,), node.type.kind == "bit")
                target[position : position + part.words] = corrected(
                    part, given[names[index]], Keystream(keys[0])
                )
                position += part.words
            for correction in deal(needs, *keys):
                target[position : position + correction.size] = correction
                position += correction.size
        self._done = True
        return message


class Computer:
    """B or C. `shares` are its shares of inputs held as shares, `inputs` its own in the clear."""

    def __init__(
        self,
        role: Role,
        plan: Plan,
        session: bytes,
        seed: bytes,
        used: Seeds,
        *,
        inputs: Mapping[str, NDArray[Any]] | None = None,
        shares: Mapping[str, Words] | None = None,
        dealt: bytes | bytearray | memoryview = b"",
    ) -> None:
        _check_session(session)
        self._role, self._plan, self._session = role, plan, session
        self._inputs: dict[str, Words] = _encoded(plan.input_types(role), inputs or {})
        self._inputs.update(_checked_shares(plan.input_types("shares"), shares or {}))
        self._corrections = self._read_dealt(dealt) if role == "C" else []
        used.claim(seed)
        self._seed = seed
        self._values: dict[int, Words] = {}
        self._uses = Counter(i for node in plan.nodes for i in node.inputs)
        self._uses.update(plan.outputs.values())
        self._waiting = list(range(len(plan.nodes)))
        self._active: dict[int, tuple[Protocol, list[Opening]]] = {}
        self._own: list[Words] = []  # what this party opened in the current level
        self._queue: list[memoryview] = []  # levels of the peer, not yet used
        self._level = self._sent = self._received = 0
        self._unsent: list[bytes] = []
        self.outputs: dict[str, NDArray[Any]] | None = None
        self.finished = False
        self._advance()

    @property
    def peer(self) -> str:
        return "C" if self._role == "B" else "B"

    def start(self) -> bytes:
        """The levels that this party can open before it hears from the other."""
        return self._message()

    def receive(self, message: bytes | memoryview) -> bytes:
        """Takes the peer's levels; returns the levels that follow from them."""
        self._queue += self._read_levels(message)
        while self._queue and not self.finished:
            self._open(self._queue.pop(0))
            self._advance()
        if self._queue:
            raise WrongLength("levels", "are more than the plan has", peer=self.peer)
        return self._message()

    # one level

    def _advance(self) -> None:
        """Evaluates what needs no opening; gathers what the next level opens."""
        blocked = []
        for index in self._waiting:  # inputs come before their uses
            if all(i in self._values for i in self._plan.nodes[index].inputs):
                self._begin(index)
            else:
                blocked.append(index)
        self._waiting = blocked
        openings = [opening for i in sorted(self._active) for opening in self._active[i][1]]
        if openings:
            self._own = [np.ascontiguousarray(share) for _, share in openings]
            self._unsent.append(b"".join(_octets(share) for share in self._own))
            self._level += 1
        elif self._role == "B":
            self._unsent.append(b"".join(_octets(self._output_share(n)) for n in self._plan.outputs.values()))
            self.finished = True

    def _begin(self, index: int) -> None:
        plan, node = self._plan, self._plan.nodes[index]
        if node.operation == "input":
            self._keep(index, self._input(index, node))
            return
        needs = needs_of(plan, node)
        key = node_key(self._seed, self._session, plan, index) if needs else bytes(KEY_BYTES)
        deck = Deck(key, needs, self._corrections[index] if self._role == "C" else None)
        shares = tuple(self._values[i] for i in node.inputs)
        call = Call(self._role == "B", shares, node, types_of(plan, node), plan, deck)
        result = OPERATIONS[node.operation].run(call)
        for i in node.inputs:
            self._release(i)
        if isinstance(result, np.ndarray):
            self._keep(index, result)
        else:
            self._step(index, result, None)

    def _step(self, index: int, protocol: Protocol, opened: list[Words] | None) -> None:
        try:
            openings = next(protocol) if opened is None else protocol.send(opened)
        except StopIteration as stop:
            self._keep(index, stop.value)
            self._active.pop(index, None)
        else:
            self._active[index] = protocol, openings

    def _open(self, level: memoryview) -> None:
        if not self._active:
            self._finish(level)
            return
        if len(level) != sum(share.nbytes for share in self._own):
            raise WrongLength("level", "must have the length of this party's own", peer=self.peer)
        own, self._own = iter(self._own), []
        for index in sorted(self._active):
            protocol, openings = self._active[index]
            opened = []
            for boolean, _ in openings:
                share = next(own)
                theirs = np.frombuffer(level[: share.nbytes], dtype=_WORD).reshape(share.shape)
                level = level[share.nbytes :]
                opened.append(share ^ theirs if boolean else share + theirs)
            self._step(index, protocol, opened)

    def _finish(self, level: memoryview) -> None:
        """C adds B's shares of the outputs to its own."""
        types = {name: self._plan.nodes[i].type for name, i in self._plan.outputs.items()}
        if len(level) != 8 * sum(type.words for type in types.values()):
            raise WrongLength("outputs", "must be one share of each output", peer=self.peer)
        self.outputs = {}
        for name, type in types.items():
            share = self._output_share(self._plan.outputs[name])
            theirs = np.frombuffer(level[: 8 * type.words], dtype=_WORD)
            level = level[8 * type.words :]
            self.outputs[name] = _decoded(share, theirs, type)
        self.finished = True

    # values

    def _input(self, index: int, node: Node) -> Words:
        declared = next(i for i in self._plan.inputs if i.node == index)
        if declared.name in self._inputs:
            return self._inputs.pop(declared.name)
        shape = node.type.share_shape
        if declared.holder != "A":
            return np.zeros(shape, dtype=np.uint64)
        if self._role == "C":
            return np.frombuffer(self._corrections[index], dtype=_WORD).reshape(shape)
        return (
            Keystream(node_key(self._seed, self._session, self._plan, index))
            .read(node.type.words)
            .reshape(shape)
        )

    def _keep(self, index: int, value: Words) -> None:
        if self._uses[index]:
            self._values[index] = value
        else:
            self._values[index] = np.zeros(0, dtype=np.uint64)

    def _release(self, index: int) -> None:
        self._uses[index] -= 1
        if not self._uses[index]:
            self._values[index] = np.zeros(0, dtype=np.uint64)

    def _output_share(self, index: int) -> Words:
        """A share that is fit to leave: the bits beyond the last of a packed vector are cut off."""
        type, share = self._plan.nodes[index].type, self._values[index]
        if type.kind == "bit":
            return bits.pack(bits.unpack(share, type.size))
        return np.ascontiguousarray(share)

    # messages

    def _message(self) -> bytes:
        header = _HEADER.pack(_LEVELS, self._session, self._plan.digest, self._sent)
        lengths = struct.pack(f"<I{len(self._unsent)}Q", len(self._unsent), *map(len, self._unsent))
        message = b"".join((header, lengths, *self._unsent))
        self._sent += len(self._unsent)
        self._unsent = []
        return message

    def _read_levels(self, message: bytes | memoryview) -> list[memoryview]:
        body = self._body(message, _LEVELS, self._received)
        if len(body) < 4:
            raise Malformed("levels", "are cut off", peer=self.peer)
        (count,) = struct.unpack_from("<I", body)
        if count > len(self._plan.nodes) * 16 or len(body) < 4 + 8 * count:
            raise Malformed("levels", "are cut off", peer=self.peer)
        ends = [4 + 8 * count]
        for length in struct.unpack_from(f"<{count}Q", body, 4):
            ends.append(ends[-1] + length)
        if ends[-1] != len(body):
            raise WrongLength("levels", "must have the lengths that they state", peer=self.peer)
        self._received += count
        return [body[begin:end] for begin, end in pairwise(ends)]

    def _read_dealt(self, message: bytes | bytearray | memoryview) -> list[memoryview]:
        """The corrections of each node, once they are all there."""
        body = self._body(message, _DEALT, 0, peer="dealer")
        if len(body) != 8 * dealt_words(self._plan):
            raise WrongLength("corrections", f"must be {8 * dealt_words(self._plan)} bytes", peer="dealer")
        ends = [0]
        for words in _dealt_words_by_node(self._plan):
            ends.append(ends[-1] + 8 * words)
        return [body[begin:end] for begin, end in pairwise(ends)]

    def _body(
        self, message: bytes | bytearray | memoryview, magic: bytes, level: int, peer: str = ""
    ) -> memoryview:
        peer = peer or self.peer
        if not isinstance(message, (bytes, bytearray, memoryview)) or len(message) < _HEADER.size:
            raise Malformed("message", "is shorter than its header", peer=peer)
        found, session, digest, start = _HEADER.unpack_from(message)
        if found != magic:
            raise Malformed("message", "is not one of this kind", peer=peer)
        if session != self._session or digest != self._plan.digest:
            raise Replayed("message", "belongs to another session or plan", peer=peer)
        if start != level:
            raise Replayed("message", f"must begin at level {level}", peer=peer)
        return memoryview(message)[_HEADER.size :]


def play(b: Computer, c: Computer) -> dict[str, int]:
    """C and B in turns until C has the outputs. Calls, levels and bytes: what a network would carry."""
    traffic = {"calls": 0, "to B": 0, "to C": 0}
    message = c.start()
    while not c.finished:
        reply = b.receive(message)
        traffic["calls"] += 1
        traffic["to B"] += len(message)
        traffic["to C"] += len(reply)
        message = c.receive(reply)
    return traffic | {"levels": c._level}


def node_key(seed: bytes, session: bytes, plan: Plan, index: int) -> bytes:
    """The key of one node's stream, for one holder of a seed."""
    return derive(seed, b"engine correlations", session, plan.digest, index)


def dealt_bytes(plan: Plan) -> int:
    """The length of the dealer's message to C."""
    return _HEADER.size + 8 * dealt_words(plan)


def dealt_words(plan: Plan) -> int:
    return sum(_dealt_words_by_node(plan))


def _dealt_words_by_node(plan: Plan) -> list[int]:
    words = [correction_words(needs_of(plan, node)) for node in plan.nodes]
    for declared in plan.inputs:
        if declared.holder == "A":
            words[declared.node] += plan.nodes[declared.node].type.words
    return words


def _encoded(types: Mapping[str, Type], inputs: Mapping[str, NDArray[Any]]) -> dict[str, Words]:
    """Inputs in the clear as words."""
    if set(types) != set(inputs):
        raise OutOfRange("inputs", f"must be {sorted(types)}")
    encoded = {}
    for name, type in types.items():
        values = np.asarray(inputs[name])
        if values.shape != type.shape or values.dtype.kind not in ("b" if type.kind == "bit" else "iub"):
            raise OutOfRange(
                name, f"must be {'booleans' if type.kind == 'bit' else 'integers'} of shape {type.shape}"
            )
        encoded[name] = (
            bits.pack(values)
            if type.kind == "bit"
            else values.astype(np.int64).view(np.uint64)
            if values.dtype != np.uint64
            else values
        )
    return encoded


def _checked_shares(types: Mapping[str, Type], shares: Mapping[str, Words]) -> dict[str, Words]:
    if set(types) != set(shares):
        raise OutOfRange("shares", f"must be {sorted(types)}")
    for name, type in types.items():
        if shares[name].dtype != np.uint64 or shares[name].shape != type.share_shape:
            raise OutOfRange(name, f"must be words of shape {type.share_shape}")
    return dict(shares)


def _decoded(share: Words, theirs: Words, type: Type) -> NDArray[Any]:
    if type.kind == "bit":
        return bits.unpack(share ^ theirs, type.size).reshape(type.shape)
    return (share.reshape(-1) + theirs).view(np.int64).reshape(type.shape)


def _octets(share: Words) -> bytes | memoryview:
    return share.data.cast("B") if share.size else b""


def _check_session(session: bytes) -> None:
    if len(session) != SESSION_BYTES:
        raise OutOfRange("session", f"must be {SESSION_BYTES} bytes")

"""Private set intersection of two departments, without a helper: the receiver learns which of its rows the sender
has, the sender learns nothing.

    sender -> receiver    session key; base transfer keys; padded size            Sender.start
    receiver -> sender    base transfer key; the hash's attempt; masked matrix    Receiver.answer
    sender -> receiver    F of its tokens in each of three bins, sorted           Sender.finish
    receiver              its rows whose value is among them                      Receiver.result

See `mpc.psi` for the threat model, what is padded and the failure probabilities. Each object serves once.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mpc import aes, bits, cuckoo
from mpc.errors import Malformed, OutOfOrder, OutOfRange, Replayed, WrongLength
from mpc.psi import base_ot, kkrt
from mpc.psi.curve import POINT_BYTES
from mpc.secagg.keys import derive

SESSION_BYTES = 32
MOST_ROWS = cuckoo.MOST_ITEMS
MOST_ATTEMPTS = 16
_START = struct.Struct("<8s32sQ")  # kind, session key, padded size of the sender
_ANSWER = struct.Struct("<8s32sQI")  # kind, session key, bins, attempt
_FINISH = struct.Struct("<8s32sQ")  # kind, session key, values in each of three sets
_KINDS = b"psistrt1", b"psiansw1", b"psifini1"

Words = NDArray[np.uint64]


class Sender:
    """`octets`, `lengths`: identifiers as `mpc.aes.cmac` takes them; those of length 0 are nulls and left out."""

    def __init__(
        self,
        octets: NDArray[np.uint8],
        lengths: NDArray[np.int64],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._identifiers, self._capacity = _present(octets, lengths)
        self._random = random_bytes
        self._session = random_bytes(SESSION_BYTES)
        self._choices = np.frombuffer(random_bytes(kkrt.WIDTH // 8), dtype=np.uint8)
        choices = np.unpackbits(self._choices, bitorder="little").astype(bool)
        self._base = base_ot.Receiver(choices.tolist(), random_bytes)
        self._bits = choices
        self._done = False

    def start(self) -> bytes:
        return _START.pack(_KINDS[0], self._session, self._capacity) + self._base.keys

    def finish(self, answer: bytes | bytearray) -> bytes:
        """Values of the PRF for each token in each of its three bins; each set sorted, which hides the order."""
        if self._done:
            raise Replayed("answer", "this session has been served", peer="receiver")
        _, bins, attempt = _header(answer, _ANSWER, _KINDS[1], self._session, peer="receiver")
        rows = _rows_of(bins)
        if not 0 < bins <= cuckoo.bins_for(MOST_ROWS):
            raise Malformed("bins", "must be a table's", peer="receiver")
        body = memoryview(answer)[_ANSWER.size :]
        if len(body) != POINT_BYTES + kkrt.WIDTH * rows // 8:
            raise WrongLength("answer", "must be a key and one column a base transfer", peer="receiver")
        seeds = self._base.seeds(bytes(body[:POINT_BYTES]), self._session, peer="receiver")
        masked = np.frombuffer(body[POINT_BYTES:], dtype=np.uint8).reshape(kkrt.WIDTH, -1)
        matrix = kkrt.sender_rows(seeds, self._bits, masked)
        tokens = distinct(aes.cmac(token_key(self._session), *self._identifiers))[0]
        codewords = kkrt.Code(self._session).words(tokens)
        codewords &= self._choices.view(np.uint64)
        positions = cuckoo.candidates(aes.encrypt(bin_key(self._session, attempt), tokens), bins)
        message = [_FINISH.pack(_KINDS[2], self._session, self._capacity)]
        for way in range(cuckoo.WAYS):
            low, high = kkrt.evaluate(matrix, positions[way], codewords)
            message += self._padded_set(low, high)
        self._done = True
        return b"".join(message)

    def _padded_set(self, low: Words, high: NDArray[np.uint32]) -> list[bytes]:
        missing = self._capacity - len(low)
        low = np.append(low, np.frombuffer(self._random(8 * missing), dtype="<u8"))
        high = np.append(high, np.frombuffer(self._random(4 * missing), dtype="<u4"))
        order = np.argsort(low)
        return [low[order].tobytes(), high[order].tobytes()]


class Receiver:
    """`octets`, `lengths` as for the sender. `attempts` counts hash keys tried until the table could be filled."""

    attempts = 0

    def __init__(
        self,
        octets: NDArray[np.uint8],
        lengths: NDArray[np.int64],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._count = len(lengths)
        self._numbers = np.flatnonzero(lengths)
        self._identifiers, capacity = _present(octets, lengths)
        self._bins = cuckoo.bins_for(capacity)
        self._random = random_bytes
        self._session = b""
        self._done = False

    def answer(self, start: bytes) -> bytearray:
        if self._session:
            raise Replayed("start", "this session has begun", peer="sender")
        session, self._size = _header(start, _START, _KINDS[0], None, peer="sender")
        if self._size != padded(self._size):
            raise Malformed("size", "must be a padded size", peer="sender")
        keys = bytes(start[_START.size :])
        point, pairs = base_ot.send(keys, kkrt.WIDTH, session, self._random, peer="sender")
        tokens, self._first = distinct(aes.cmac(token_key(session), *self._identifiers))
        placed = self._place(session, tokens)
        occupied = np.flatnonzero(placed != cuckoo.EMPTY)
        rows = _rows_of(self._bins)
        points = np.frombuffer(self._random(16 * rows), dtype="<u8").reshape(-1, 2).copy()
        points[occupied] = tokens[placed[occupied]]
        self._items, self._occupied = placed[occupied], occupied
        message = bytearray(_ANSWER.size + POINT_BYTES + kkrt.WIDTH * rows // 8)
        _ANSWER.pack_into(message, 0, _KINDS[1], session, self._bins, self.attempts - 1)
        message[_ANSWER.size : _ANSWER.size + POINT_BYTES] = point
        masked = np.frombuffer(message, dtype=np.uint8, offset=_ANSWER.size + POINT_BYTES)
        self._values = self._evaluate(pairs, session, points, masked.reshape(kkrt.WIDTH, -1))
        self._tokens, self._session = tokens, session
        return message

    def _evaluate(
        self, pairs: list[tuple[bytes, bytes]], session: bytes, points: Words, masked: NDArray[np.uint8]
    ) -> tuple[Words, NDArray[np.uint32]]:
        """Fills the matrix for the sender; the PRF of each occupied bin's token, in the bins' order."""
        low, high = [], []
        for part, rows in kkrt.receive(pairs, kkrt.Code(session), points, masked):
            begin, end = np.searchsorted(self._occupied, [part.start, part.stop])
            values = kkrt.evaluate(rows, self._occupied[begin:end], first=part.start)
            low.append(values[0])
            high.append(values[1])
        return np.concatenate(low), np.concatenate(high)

    def _place(self, session: bytes, tokens: Words) -> NDArray[np.int64]:
        for attempt in range(MOST_ATTEMPTS):
            self.attempts += 1
            hashes = aes.encrypt(bin_key(session, attempt), tokens)
            try:
                return cuckoo.place(cuckoo.candidates(hashes, self._bins), self._bins)
            except cuckoo.NoAssignment:
                continue
        raise OutOfRange("attempts", f"to fill the table must be at most {MOST_ATTEMPTS}")

    def result(self, finish: bytes) -> NDArray[np.bool_]:
        """For each row whether the sender has its identifier."""
        if not self._session:
            raise OutOfOrder("result", "answer() comes first")
        if self._done:
            raise Replayed("finish", "already received", peer="sender")
        _, size = _header(finish, _FINISH, _KINDS[2], self._session, peer="sender")
        body = memoryview(finish)[_FINISH.size :]
        if size != self._size or len(body) != cuckoo.WAYS * kkrt.DIGEST_BYTES * size:
            raise WrongLength("finish", "must be three sets of the size that was announced", peer="sender")
        found = np.zeros(len(self._tokens), dtype=bool)
        segment = self._bins // cuckoo.WAYS
        for way in range(cuckoo.WAYS):
            part = body[way * kkrt.DIGEST_BYTES * size : (way + 1) * kkrt.DIGEST_BYTES * size]
            low, high = (
                np.frombuffer(part[: 8 * size], dtype="<u8"),
                np.frombuffer(part[8 * size :], dtype="<u4"),
            )
            begin, end = np.searchsorted(self._occupied, [way * segment, (way + 1) * segment])
            mine = slice(int(begin), int(end))
            found[self._items[mine]] = member(self._values[0][mine], self._values[1][mine], low, high)
        self._done = True
        marked = np.zeros(self._count, dtype=bool)
        marked[self._numbers] = found[self._first]
        return marked


def member(
    low: Words, high: NDArray[np.uint32], in_low: Words, in_high: NDArray[np.uint32]
) -> NDArray[np.bool_]:
    """Which pairs (low, high) occur among pairs sorted by low."""
    if (in_low[1:] < in_low[:-1]).any():
        raise Malformed("finish", "a set must be sorted", peer="sender")
    order = np.argsort(low)
    queries = low[order]
    place = np.searchsorted(in_low, queries)
    found = np.zeros(len(low), dtype=bool)
    active = np.arange(len(low))
    while active.size:
        active = active[place[active] < len(in_low)]
        active = active[in_low[place[active]] == queries[active]]
        found[order[active]] |= in_high[place[active]] == high[order[active]]
        place[active] += 1
    return found


def distinct(tokens: Words) -> tuple[Words, NDArray[np.int64]]:
    """Each token once, and for every row which of them it is."""
    first = np.sort(tokens[:, 0])
    if not (first[1:] == first[:-1]).any():
        return tokens, np.arange(len(tokens))
    unique, inverse = np.unique(tokens, axis=0, return_inverse=True)
    return unique, inverse.reshape(-1)


def padded(rows: int) -> int:
    """The size that shows: a multiple of 1/16 of the next power of two, 2048 at least."""
    if not 0 <= rows <= MOST_ROWS:
        raise OutOfRange("rows", f"must be 0 ... {MOST_ROWS}")
    step = max(1 << max(rows - 1, 0).bit_length() >> 4, 64)
    return max(-(-rows // step) * step, cuckoo.LEAST_ITEMS)


def token_key(session: bytes) -> bytes:
    return derive(session, b"psi tokens")


def bin_key(session: bytes, attempt: int) -> bytes:
    return derive(session, b"psi bins", attempt)


def _rows_of(bins: int) -> int:
    """Rows of the matrix: the bins, filled up to whole words."""
    return 64 * bits.words_for(bins)


def _present(
    octets: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> tuple[tuple[NDArray[np.uint8], NDArray[np.int64]], int]:
    present = np.flatnonzero(lengths)
    return (octets[present], lengths[present]), padded(len(lengths))


def _header(
    message: bytes | bytearray, layout: struct.Struct, kind: bytes, session: bytes | None, *, peer: str
) -> tuple:
    """The fields of a header after its kind, if it is of this kind and session."""
    if not isinstance(message, (bytes, bytearray, memoryview)) or len(message) < layout.size:
        raise Malformed("message", "is shorter than its header", peer=peer)
    found, *fields = layout.unpack_from(message)
    if found != kind:
        raise Malformed("message", "is not one of this kind", peer=peer)
    if session is not None and fields[0] != session:
        raise Replayed("message", "belongs to another session", peer=peer)
    return tuple(fields)

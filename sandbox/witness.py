"""A witness co-signs a log's head only after a proof that it continues the head that it saw last.

So a log whose heads carry its cosignature has, up to them, one history for everybody: a rewritten entry, a fork or a log that was cut
is refused here. Text forms as in c2sp.org/tlog-cosignature; what was seen last is in one file, on the disk before a cosignature leaves.

Protects against: an owner who rewrites its own log, key in hand. Does not protect against: what a log never said; history
before the first head seen of a log, which is taken on trust; a witness whose own file is put back.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import msgspec

from . import checkpoint as notes
from . import keys, merkle, receipt
from .checkpoint import Checkpoint
from .errors import EvidenceError, Expired, LogError, ProofInvalid, UnknownSigner
from .query import canonical


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last head of a log, and when it was co-signed."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    root: Annotated[bytes, msgspec.Meta(min_length=merkle.HASH_BYTES, max_length=merkle.HASH_BYTES)]
    time: keys.Seconds


class Witness:
    """A witness with its state at `path`. `name`: its key name, as `checkpoint.origin` makes it. `logs`: the origins that it knows,
    with their nodes' public keys.

    Several processes may use one state: each cosignature locks it.
    """

    def __init__(
        self, path: str | os.PathLike[str], key: keys.SigningKey, name: str, logs: Mapping[str, bytes]
    ):
        self.path, self.name, self.logs = pathlib.Path(path), name, dict(logs)
        self._key = key

    def last(self, origin: str) -> int:
        """The size from which the next consistency proof must lead; 0 where no head of this log was seen."""
        seen = self._read().get(origin)
        return seen.size if seen else 0

    def cosign(self, note: str, proof: Sequence[bytes], now: int) -> str:
        """The note with this witness's cosignature, at `now` (UTC seconds).

        Raises `SignatureInvalid`, `UnknownSigner`, `Expired` (an older head, or a clock that went back) or `ProofInvalid` (a fork).
        """
        origin = notes.parse(note).checkpoint.origin
        if origin not in self.logs:
            raise UnknownSigner(f"{self.name!r} does not witness {origin!r}")
        head = notes.verify(note, self.logs[origin], origin)
        with self._locked():
            state = self._read()
            if origin in state:
                _continues(head, state[origin], proof, now)
            elif proof:
                raise ProofInvalid(f"no head of {origin!r} was seen before, so there is nothing to prove")
            state[origin] = Seen(head.size, head.root, now)
            try:
                keys.write_atomically(self.path, canonical(state))
            except OSError as error:
                raise LogError(f"what {self.name!r} saw could not be kept: {error.strerror}") from None
        return notes.cosign(note, self._key, self.name, now)

    def cosign_receipt(self, data: bytes, proofs: Mapping[str, Sequence[bytes]], now: int) -> bytes:
        """The receipt with this witness's cosignature on each department's head. `proofs`, by department: from `last` to that head.

        Raises as `cosign` does, naming the department: `Expired` where a later head was seen, which is then what the department has to
        complete the receipt with (`sandbox.cosigned`). What was signed until then is seen, and is signed again.
        """
        for part in receipt.read(data).receipt.nodes:
            try:
                note = self.cosign(part.checkpoint, proofs.get(part.department, ()), now)
            except EvidenceError as error:
                raise type(error)(f"{part.department}: {error}") from None
            data = receipt.add(data, part.department, note, ())
        return data

    def _read(self) -> dict[str, Seen]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise LogError(f"what {self.name!r} saw cannot be read: {error.strerror}") from None
        state: dict[str, Seen] = keys.decode(data, dict[str, Seen])
        return state

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _continues(head: Checkpoint, seen: Seen, proof: Sequence[bytes], now: int) -> None:
    """Raise unless the head continues the one seen last."""
    if head.size < seen.size:
        raise Expired(f"a head of {head.size} entries; one of {seen.size} was seen before")
    if now < seen.time:
        raise Expired(f"the clock went back: it is {now}, and the last cosignature is of {seen.time}")
    if seen.size:
        merkle.verify_consistency(seen.size, head.size, seen.root, head.root, proof)
    elif proof or (head.size == 0 and head.root != seen.root):
        raise ProofInvalid("no proof leads from an empty log")

"""The audit log of one node: append-only, crash-safe, with signed heads and Merkle proofs.

    entries.log   frames, one a call of `append` or `append_many`, so that a batch is on the disk whole or not at all
                  frame = magic (4) || payload length (4) || checksum (8) || signature (64) || payload
                  payload = for each entry: length (4) || canonical JSON
                  checksum = SHA-256(signature || payload)[:8]
                  the signature is the node's, over the payload and the tree before it
    head          the last head that was signed, as a C2SP checkpoint; the node signs one over each batch (`sandbox.state`)
    cosigned      the last head that each witness co-signed, where it was handed back (`sandbox.cosigned`)

`append` returns once the frame is on the disk. Opening reads and hashes everything. A damaged last frame that no head covers is what a
crash leaves: it is cut off. Everything else that does not fit is `LogCorrupt`: damage before an intact frame, a log that
is shorter than its last head (rolled back), leads to another root (rewritten), or whose last frame the node did not sign.

Protects against: crashes at any instant; a second writer; anybody who changes or adds to the files but has not the node's key. Does not
protect against: cutting off what no head covers; an owner who has the key and rewrites log and head, or restores both. Witnesses
(`sandbox.witness`) and receipts out there show that.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from . import checkpoint as notes
from . import keys, merkle
from .checkpoint import Checkpoint
from .entries import KIND, Charge, Entry
from .errors import (
    EvidenceError,
    LogCorrupt,
    LogError,
    Malformed,
    ParameterError,
    ProofInvalid,
    SignatureInvalid,
)
from .query import canonical

MAGIC = b"\xffJL1"  # 0xff does not occur in JSON, so no payload holds it
HEADER_BYTES = 80
MAX_PAYLOAD = 1 << 26
MAX_ENTRY = 1 << 20
DOMAIN = "audit-frame"


class AuditLog:
    """The log in `directory`, made where there is none. `origin`: see `checkpoint.origin`. `public` is the node's key.

    With the private `key` it can be appended to, and no second process can open it so; without, it is read as it stands.
    Safe to use from threads.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        origin: str,
        *,
        key: keys.SigningKey | None = None,
        public: bytes | None = None,
    ):
        if (key is None) == (public is None):
            raise ParameterError("an audit log is opened with either 'key', to write, or 'public', to read")
        self.directory, self.origin = pathlib.Path(directory), origin
        self.public = key.public if key is not None else public or b""
        self.cut = 0  # bytes of a torn frame, cut off on opening
        self._key = key
        self._lock = threading.RLock()
        self._tree = merkle.Tree()
        self._offsets, self._lengths = array.array("Q"), array.array("L")
        self._failed = ""
        if key is not None:
            self._prepare(key)
        flags = os.O_RDWR if key is not None else os.O_RDONLY
        try:
            self._file = os.open(self.directory / "entries.log", flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise LogError(f"audit log {origin!r} cannot be opened: {error.strerror}") from None
        try:
            self._open()
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Release the files; the log can be opened again."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file, self._failed = -1, "it is closed"

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._tree)

    def append(self, entry: Entry) -> int:
        """Add an entry and return its index, once it is on the disk."""
        return self.append_many((entry,))

    def append_many(self, entries: Sequence[Entry]) -> int:
        """Add entries, all or none, and return the index of the first, once they are on the disk."""
        leaves = [canonical(entry) for entry in entries]
        for leaf in leaves:
            if len(leaf) > MAX_ENTRY:
                raise ParameterError(f"an entry of {len(leaf)} bytes; allowed are at most {MAX_ENTRY}")
            keys.decode(leaf, KIND)
        payload = b"".join(len(leaf).to_bytes(4) + leaf for leaf in leaves)
        if len(payload) > MAX_PAYLOAD:
            raise ParameterError(f"a batch of {len(payload)} bytes; allowed are at most {MAX_PAYLOAD}")
        with self._lock:
            key = self._usable()
            first = len(self)
            if leaves:
                signature = key.sign(DOMAIN, self._covered(first, payload))
                self._write(_frame(signature, payload))
                self._take(payload, self._end - len(payload))
        return first

    def head(self) -> str:
        """The signed head over all entries, as a note, once it is on the disk."""
        with self._lock:
            key = self._usable()
            checkpoint = Checkpoint(self.origin, len(self), self._tree.root())
            if checkpoint != self.signed:
                self._sign(checkpoint, key)
            return self._note

    def last(self) -> str:
        """The head that was signed last, as a note."""
        return self._note

    def prove(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The proof that entry `index` is in the head of `size` entries."""
        with self._lock:
            return self._tree.inclusion(index, size)

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """The proof that the head of `new` entries continues that of `old`; empty from an empty log."""
        with self._lock:
            return self._tree.consistency(old, new) if old else ()

    def covers(self, head: Checkpoint) -> None:
        """Raise `ProofInvalid` unless this log led to that head."""
        with self._lock:
            if head.size > len(self) or self._tree.root(head.size) != head.root:
                raise ProofInvalid(f"audit log {self.origin!r} never had this head of {head.size} entries")

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
        """The entries from `start` to before `stop`; raises `LogCorrupt` where the file no longer holds what was hashed."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise ParameterError(f"entries {start} … {stop} are not within this log of {len(self)}")
        for index in range(start, stop):
            with self._lock:
                if self._file < 0:
                    raise LogError(f"audit log {self.origin!r} cannot be used: {self._failed}")
                leaf = os.pread(self._file, self._lengths[index], self._offsets[index])
                if merkle.leaf_hash(leaf) != self._tree.leaf(index):
                    self._corrupt(f"entry {index} was changed on the disk")
            try:
                yield keys.decode(leaf, KIND)
            except Malformed as error:
                self._corrupt(f"entry {index}: {error}")

    def verify(self) -> Checkpoint:
        """Read every entry, hash everything anew, compare with the last signed head; returns it or raises `LogCorrupt`."""
        with self._lock:
            anew = merkle.Tree(merkle.leaf_hash(canonical(entry)) for entry in self.entries())
            if anew.root() != self._tree.root() or anew.root(self.signed.size) != self.signed.root:
                self._corrupt("it does not lead to its signed head")
            return self.signed

    # --- opening ---

    def _prepare(self, key: keys.SigningKey) -> None:
        """A new log is first an empty signed head, then an empty file: a head whose file is missing was rolled back."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        head, log = self.directory / "head", self.directory / "entries.log"
        if not log.exists():
            if not head.exists():
                self._sign(Checkpoint(self.origin, 0, merkle.EMPTY_ROOT), key)
            elif self._read_head().size:
                self._corrupt("its entries are gone: rolled back")
            os.close(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
            keys.sync_directory(self.directory)

    def _open(self) -> None:
        if self._key is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise LogError(f"audit log {self.origin!r} is in use by another process") from None
        self.signed = self._read_head()
        self._end, last = 0, None
        size = os.fstat(self._file).st_size
        while self._end < size:
            frame = self._frame_at(self._end, size)
            if frame is None:
                break
            last = (len(self), *frame)
            payload = frame[1]
            self._take(payload, self._end + HEADER_BYTES)
            self._end += HEADER_BYTES + len(payload)
        if len(self) < self.signed.size:
            self._corrupt(
                f"it holds {len(self)} intact entries, and had {self.signed.size} when its head was signed: "
                "damaged or rolled back"
            )
        if self._tree.root(self.signed.size) != self.signed.root:
            self._corrupt("it does not lead to its signed head: an entry was rewritten")
        if last is not None:
            before, signature, payload = last
            try:
                keys.verify(self.public, DOMAIN, self._covered(before, payload), signature)
            except SignatureInvalid:
                self._corrupt(f"the node did not write the frame from entry {before}")
        if self._end < size:
            self._mend(size)
        if self._key is not None:
            os.fsync(
                self._file
            )  # what a killed process wrote may not be on the disk yet, and heads will cover it

    def _mend(self, size: int) -> None:
        """Cut off a torn last frame; a frame that an intact one follows was once on the disk whole, so it was damaged later."""
        rest = os.pread(self._file, min(size - self._end, 2 * MAX_PAYLOAD), self._end)
        position = rest.find(MAGIC, 1)
        while position >= 0:
            if self._frame_at(self._end + position, size) is not None:
                self._corrupt(f"the frame after entry {len(self) - 1} is damaged")
            position = rest.find(MAGIC, position + 1)
        if self._key is not None:
            os.ftruncate(self._file, self._end)
            self.cut = size - self._end

    def _frame_at(self, offset: int, size: int) -> tuple[bytes, bytes] | None:
        """Signature and payload of the frame at `offset`, None where it is not intact."""
        header = os.pread(self._file, HEADER_BYTES, offset)
        length = int.from_bytes(header[4:8])
        if len(header) < HEADER_BYTES or header[:4] != MAGIC or length > min(size - offset, MAX_PAYLOAD):
            return None
        signature, payload = header[16:], os.pread(self._file, length, offset + HEADER_BYTES)
        intact = len(payload) == length and _frame(signature, payload)[:HEADER_BYTES] == header
        return (signature, payload) if intact else None

    def _covered(self, before: int, payload: bytes) -> bytes:
        """What a frame's signature covers: the log, the tree before it, and its entries."""
        text = Checkpoint(self.origin, before, self._tree.root(before)).text()
        return text.encode() + hashlib.sha256(payload).digest()

    def _take(self, payload: bytes, offset: int) -> None:
        """Hash the entries of a frame into the tree."""
        position = 0
        while position < len(payload):
            length = int.from_bytes(payload[position : position + 4])
            position += 4
            if position + length > len(payload):
                self._corrupt(f"entry {len(self)} runs beyond its frame")
            self._tree.append(merkle.leaf_hash(payload[position : position + length]))
            self._offsets.append(offset + position)
            self._lengths.append(length)
            position += length

    def _read_head(self) -> Checkpoint:
        try:
            data = (self.directory / "head").read_bytes()
        except OSError:
            self._corrupt("its signed head is gone")
        try:
            self._note = data.decode()
            return notes.verify(self._note, self.public, self.origin)
        except (EvidenceError, UnicodeDecodeError) as error:
            self._corrupt(f"its signed head does not hold: {error}")

    # --- writing ---

    def _write(self, frame: bytes) -> None:
        """Append to the file durably; where that fails, take back what was written, or stop using the log."""
        try:
            rest = memoryview(frame)
            position = self._end
            while rest:
                written = os.pwrite(self._file, rest, position)
                rest, position = rest[written:], position + written
        except BaseException as error:
            try:
                os.ftruncate(self._file, self._end)
            except OSError:
                self._failed = "a write failed"
            if isinstance(error, OSError):
                raise LogError(
                    f"audit log {self.origin!r}: an entry could not be written: {error.strerror}"
                ) from None
            raise
        try:
            os.fdatasync(self._file)
        except BaseException as error:
            # what reached the disk is unknown, and a second try may report success for pages that were dropped
            self._failed = "its storage failed"
            if isinstance(error, OSError):
                raise LogError(f"audit log {self.origin!r}: {self._failed}: {error.strerror}") from None
            raise
        self._end = position

    def _sign(self, checkpoint: Checkpoint, key: keys.SigningKey) -> None:
        note = notes.sign(checkpoint, key)
        try:
            keys.write_atomically(self.directory / "head", note.encode())
        except OSError as error:
            raise LogError(
                f"audit log {self.origin!r}: its head could not be written: {error.strerror}"
            ) from None
        self._note, self.signed = note, checkpoint

    def _usable(self) -> keys.SigningKey:
        if self._failed:
            raise LogError(f"audit log {self.origin!r} cannot be used: {self._failed}")
        if self._key is None:
            raise LogError(f"audit log {self.origin!r} was opened to read")
        return self._key

    def _corrupt(self, why: str) -> NoReturn:
        raise LogCorrupt(f"audit log {self.origin!r}: {why}")


def uncharged(log: AuditLog, charges: int) -> tuple[Charge, ...]:
    """The charges that the log holds beyond the first `charges` of the ledger: where there are any, the ledger was rolled back."""
    return tuple(entry for entry in log.entries() if isinstance(entry, Charge) and entry.number > charges)


def _frame(signature: bytes, payload: bytes) -> bytes:
    checksum = hashlib.sha256(signature + payload).digest()[:8]
    return MAGIC + len(payload).to_bytes(4) + checksum + signature + payload

"""Signed tree heads in the C2SP text forms: signed-note, tlog-checkpoint and tlog-cosignature (c2sp.org).

    city/health                                       origin: federation/name
    42                                                number of entries
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=      root hash

    — city/health base64(key id || signature)                        the log:   Ed25519 over the text, type 0x01
    — city/regulator base64(key id || time || signature)             a witness: Ed25519 over "cosignature/v1", time and text, type 0x04

    key id = SHA-256(name || 0x0A || type || public key)[:4]

Any tool that reads checkpoints reads these. The parser is stricter than the specification: no extension lines, canonical base64,
32-byte roots. As the specification asks, signatures by unknown keys are ignored, and a known key's signature that does not hold refuses
the note.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping

import msgspec

from . import keys, merkle
from .errors import Malformed, ProofInvalid, SignatureInvalid

MAX_BYTES = 1 << 16
MAX_LINES = 64
DASH = "\N{EM DASH}"

_LOG, _WITNESS = b"\x01", b"\x04"
_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\Z", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z", re.ASCII)


class Checkpoint(msgspec.Struct, frozen=True):
    """A log's head: which log, how many entries, and the root over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text that signatures cover."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class Line(msgspec.Struct, frozen=True):
    """A signature line: the key's name and id, and what follows the id."""

    name: str
    key_id: bytes
    payload: bytes

    def text(self) -> str:
        return f"{DASH} {self.name} {base64.b64encode(self.key_id + self.payload).decode()}\n"


class Note(msgspec.Struct, frozen=True):
    """A parsed note, its signatures not yet checked."""

    checkpoint: Checkpoint
    lines: tuple[Line, ...]

    def text(self) -> str:
        return self.checkpoint.text() + "\n" + "".join(line.text() for line in self.lines)


def origin(federation: str, name: str) -> str:
    """The origin of a department's log, and the key name of whoever signs heads in a federation."""
    return f"{federation}/{name}"


def sign(checkpoint: Checkpoint, key: keys.SigningKey) -> str:
    """The head as a note signed by its log, whose key name is the origin."""
    text = checkpoint.text()
    line = Line(checkpoint.origin, key_id(checkpoint.origin, _LOG, key.public), key.sign_text(text.encode()))
    note = f"{text}\n{line.text()}"
    parse(note)
    return note


def cosign(note: str, key: keys.SigningKey, name: str, time: int) -> str:
    """The note with one signature line more: a witness's, at `time` (UTC seconds)."""
    parsed = parse(note)
    signature = key.sign_text(_cosigned(parsed.checkpoint, time))
    line = Line(name, key_id(name, _WITNESS, key.public), time.to_bytes(8) + signature)
    result = note + line.text()
    parse(result)
    return result


def verify(note: str, public: bytes, expected: str) -> Checkpoint:
    """The head, once its log's signature is checked; raises `Malformed` or `SignatureInvalid`. `expected`: the log's origin."""
    parsed = parse(note)
    checkpoint = parsed.checkpoint
    if checkpoint.origin != expected:
        raise SignatureInvalid(f"a head of {checkpoint.origin!r}, not of {expected!r}")
    lines = _of(parsed, expected, _LOG, public)
    if not lines:
        raise SignatureInvalid(f"{expected!r} has not signed this head with key {keys.fingerprint(public)}")
    for line in lines:
        keys.verify_text(public, checkpoint.text().encode(), line.payload)
    return checkpoint


def cosigned(note: str, public: bytes, name: str) -> int | None:
    """When this witness co-signed the head, None where it did not; raises `SignatureInvalid` where its line does not hold."""
    parsed = parse(note)
    times = []
    for line in _of(parsed, name, _WITNESS, public):
        time = int.from_bytes(line.payload[:8])
        if len(line.payload) != 8 + keys.SIGNATURE_BYTES or time >= 2**63:
            raise SignatureInvalid(f"the cosignature of {name!r} has a wrong length or time")
        keys.verify_text(public, _cosigned(parsed.checkpoint, time), line.payload[8:])
        times.append(time)
    return max(times, default=None)


def merge(note: str, other: str) -> str:
    """The note with the signature lines of another of the same head, one a key; raises `ProofInvalid` where the heads differ."""
    ours, theirs = parse(note), parse(other)
    if ours.checkpoint != theirs.checkpoint:
        raise ProofInvalid("signatures of one head do not belong to another")
    lines = {(line.name, line.key_id): line for line in (*ours.lines, *theirs.lines)}
    merged = Note(ours.checkpoint, tuple(lines.values())).text()
    parse(merged)
    return merged


def known(note: str, public: bytes, witnesses: Mapping[str, bytes]) -> dict[str, int]:
    """Which witnesses co-signed a head, and when; raises `SignatureInvalid` where a line is of nobody else's key, or stands twice.

    So no byte of such a note can change unnoticed. `public`: the log's key; `witnesses`: key names with their keys.
    """
    parsed = parse(note)
    verify(note, public, parsed.checkpoint.origin)
    times = {name: cosigned(note, key, name) for name, key in witnesses.items()}
    found = {name: time for name, time in times.items() if time is not None}
    if len(parsed.lines) != 1 + len(found):
        raise SignatureInvalid(
            f"{parsed.checkpoint.origin!r}: signatures other than the log's and one of each witness known"
        )
    return found


def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    """Four bytes that tell keys of one name apart."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def parse(note: str) -> Note:
    """Read a note strictly; raises `Malformed`. Signatures are not checked here."""
    try:
        encoded = note.encode()
    except UnicodeEncodeError:
        raise Malformed("a note is not valid Unicode") from None
    if len(encoded) > MAX_BYTES:
        raise Malformed(f"a note of {len(encoded)} bytes; allowed are at most {MAX_BYTES}")
    if any(byte < 0x20 and byte != 0x0A for byte in encoded):
        raise Malformed("a note has no control characters but line ends")
    body, blank, signatures = note.partition("\n\n")
    head = body.split("\n")
    if not blank or len(head) != 3 or not signatures.endswith("\n"):
        raise Malformed("a note is an origin, a size, a root, a blank line and signature lines, each ended")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_LINES:
        raise Malformed(f"a note of {len(lines)} signatures; allowed are at most {MAX_LINES}")
    name, size, root = head
    _check_name(name)
    if not _SIZE.match(size) or int(size) > merkle.MAX_SIZE:
        raise Malformed("a head's size is a decimal number without leading zeros")
    checkpoint = Checkpoint(name, int(size), _base64(root))
    if len(checkpoint.root) != merkle.HASH_BYTES:
        raise Malformed(f"a root has {merkle.HASH_BYTES} bytes")
    return Note(checkpoint, tuple(map(_line, lines)))


def _line(text: str) -> Line:
    parts = text.split(" ")
    if len(parts) != 3 or parts[0] != DASH:
        raise Malformed("a signature line is a dash, a name and a signature")
    _check_name(parts[1])
    signature = _base64(parts[2])
    if len(signature) <= 4:
        raise Malformed("a signature line without a signature")
    return Line(parts[1], signature[:4], signature[4:])


def _of(note: Note, name: str, kind: bytes, public: bytes) -> list[Line]:
    """The lines that claim to be of this key."""
    wanted = key_id(name, kind, public)
    return [line for line in note.lines if line.name == name and line.key_id == wanted]


def _cosigned(checkpoint: Checkpoint, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{checkpoint.text()}".encode()


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or any(c.isspace() or c == "+" for c in name):
        raise Malformed(f"{name!r} is not a key name: no spaces, no '+', no control characters")


def _base64(text: str) -> bytes:
    """Decode, refusing every spelling but the canonical one."""
    if _BASE64.match(text):
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            pass
        else:
            if base64.b64encode(data).decode() == text:
                return data
    raise Malformed("not canonical base64")

"""Ed25519 identities (RFC 8032): key files, signatures bound to one use, and sealed values.

    signed bytes  =  "joint-sandbox/v1/" || domain || 0x00 || message

A signature holds for one domain ("request", "approval", "receipt", …) and no other, so none can be replayed as another kind of
statement. A value is signed as its canonical JSON; opening it refuses every other encoding of the same value.

Protects against: forged, altered and re-used signatures; key files that other users of the machine can read; guesses at a passphrase
(scrypt, RFC 7914, before PKCS #8's own 2,048 rounds of PBKDF2). Does not protect against: a process that runs as the key's owner.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import re
import secrets
import stat
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import Expired, KeyUnusable, Malformed, ParameterError, SandboxError, SignatureInvalid
from .prepared import prepared
from .query import MAX_BYTES, MAX_DEPTH, Name, canonical, nesting

Role = Literal["owner", "analyst", "node", "coordinator", "witness"]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Seconds = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
SECRET_BYTES = 32
PREFIX = b"joint-sandbox/v1/"
MAX_FILE = 4096
MAX_NESTING = 4 * MAX_DEPTH
SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 2**26, "dklen": 32}

_DOMAIN = re.compile(r"[a-z][a-z0-9-]{0,63}\Z")
_STRETCH = "passphrase stretched by scrypt, n 32768, r 8, p 1, salt "
_SECRET = re.compile(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}\Z")
_FIELD = 2**255 - 19
# y-coordinates of the points of order 1, 2, 4 and 8, also unreduced. For such a key signatures exist that hold for many messages.
_Y8 = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER = frozenset({0, 1, _Y8, _FIELD - _Y8, _FIELD - 1, _FIELD, _FIELD + 1})

T = TypeVar("T")


class SigningKey:
    """A private key. It never shows itself, and leaves the process only through `save`."""

    __slots__ = ("_private", "public")

    public: bytes

    def __init__(self, private: Ed25519PrivateKey):
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, *, insecure_seed: bytes | None = None) -> SigningKey:
        """A fresh key; `insecure_seed` gives always the same one, for tests."""
        if insecure_seed is None:
            return cls(Ed25519PrivateKey.generate())
        return cls(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(insecure_seed).digest()))

    @classmethod
    def load(cls, path: str | os.PathLike[str], passphrase: str | None = None) -> SigningKey:
        """Read a key file; raises `KeyUnusable` where others could have read it, or the passphrase is another."""
        text = _read_private(pathlib.Path(path))
        password = None
        if text.startswith(_STRETCH):
            if passphrase is None:
                raise KeyUnusable(f"{str(path)!r} is encrypted: its passphrase is needed")
            first, _, text = text.partition("\n")
            password = _stretch(passphrase, _salt(first.removeprefix(_STRETCH), path))
        elif passphrase is not None:
            raise KeyUnusable(f"{str(path)!r} is not encrypted: a passphrase does not belong to it")
        try:
            private = serialization.load_pem_private_key(text.encode(), password)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            why = "not a PKCS #8 PEM file" if password is None else "damaged, or the passphrase is another"
            raise KeyUnusable(f"{str(path)!r} is {why}") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyUnusable(f"{str(path)!r} holds a key of another kind than Ed25519")
        return cls(private)

    def save(self, path: str | os.PathLike[str], passphrase: str | None = None) -> None:
        """Write a new file of mode 0600, whole or not at all; raises `KeyUnusable` where one exists."""
        header, encryption = "", serialization.NoEncryption()  # type: Any, Any
        if passphrase is not None:
            if not passphrase:
                raise ParameterError("'passphrase' is empty; leave it out to store the key unencrypted")
            salt = secrets.token_bytes(16)
            header = f"{_STRETCH}{base64.b64encode(salt).decode()}\n"
            encryption = serialization.BestAvailableEncryption(_stretch(passphrase, salt))
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        _write_new(pathlib.Path(path), header.encode() + pem)

    def sign(self, domain: str, message: bytes) -> bytes:
        """A signature (64 bytes) that holds for this domain alone."""
        return self._private.sign(framed(domain, message))

    def sign_text(self, text: bytes) -> bytes:
        """Sign a C2SP note as it stands: its text has no 0x00, so it is never the signed bytes of a domain."""
        if b"\0" in text:
            raise ParameterError("a note has no byte 0x00")
        return self._private.sign(text)

    def private_bytes(self) -> bytes:
        """The key itself, 32 bytes, for a protocol in this process that signs under labels of its own."""
        return self._private.private_bytes_raw()

    def __repr__(self) -> str:
        return f"SigningKey({fingerprint(self.public)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningKey cannot be pickled or copied: save it to a file")


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value's canonical JSON with the name of its signer and the signature."""

    body: bytes
    signer: Name
    signature: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


def seal(key: SigningKey, name: str, domain: str, value: object) -> Signed:
    """Sign a frozen value for one use."""
    body = canonical(value)
    return Signed(body, name, key.sign(domain, body))


def open_(signed: Signed, domain: str, kind: type[T], public: bytes) -> T:
    """The value, once the signature is checked; raises `SignatureInvalid` or `Malformed`."""
    verify(public, domain, signed.body, signed.signature)
    return decode(signed.body, kind)


def verify(public: bytes, domain: str, message: bytes, signature: bytes) -> None:
    """Raise `SignatureInvalid` unless `public` signed `message` for `domain`."""
    verify_text(public, framed(domain, message), signature)


def verify_text(public: bytes, text: bytes, signature: bytes) -> None:
    """`verify` for bytes that separate domains themselves: C2SP notes."""
    try:
        public_key(public).verify(signature, text)
    except InvalidSignature:
        raise SignatureInvalid(f"the signature does not hold for key {fingerprint(public)}") from None


def public_key(public: bytes) -> Ed25519PublicKey:
    """The key, unless no honest signer has it: wrong length, or a point of small order; raises `Malformed`."""
    if len(public) != PUBLIC_BYTES:
        raise Malformed(f"a public key has {PUBLIC_BYTES} bytes, not {len(public)}")
    if int.from_bytes(public, "little") % 2**255 in _SMALL_ORDER:
        raise Malformed("a public key of small order: signatures of it prove nothing")
    try:
        return Ed25519PublicKey.from_public_bytes(public)
    except ValueError:
        raise Malformed("not an Ed25519 public key") from None


def fingerprint(public: bytes) -> str:
    """A short text for people to compare: 80 bits of SHA-256, in groups of four."""
    digits = hashlib.sha256(public).hexdigest()[:20]
    return " ".join(digits[i : i + 4] for i in range(0, 20, 4))


def framed(domain: str, message: bytes) -> bytes:
    """The bytes that a signature for `domain` covers."""
    if not _DOMAIN.match(domain):
        raise ParameterError(f"'domain' is {domain!r}; allowed are a–z, 0–9 and '-'")
    return PREFIX + domain.encode() + b"\0" + message


def decode(data: bytes, kind: Any) -> Any:
    """A value from another party's bytes, refused unless they are its one canonical encoding; raises `Malformed`."""
    if len(data) > MAX_BYTES:
        raise Malformed(f"{len(data)} bytes; allowed are at most {MAX_BYTES}")
    if nesting(data) > MAX_NESTING:
        raise Malformed(f"nested deeper than {MAX_NESTING} levels")
    try:
        value = msgspec.json.decode(data, type=prepared(kind))
        exact = canonical(value) == data
    except (msgspec.MsgspecError, ValueError, RecursionError, SandboxError) as error:
        raise Malformed(f"malformed {getattr(kind, '__name__', 'value')}: {error}") from None
    if not exact:
        raise Malformed(f"not the canonical encoding of a {getattr(kind, '__name__', 'value')}")
    return value


def unexpired(what: str, expires: int, now: int) -> None:
    """Raise `Expired` at and after `expires` (UTC seconds)."""
    if now >= expires:
        raise Expired(f"{what} expired at {expires}; it is {now} (seconds since 1970, UTC)")


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Replace a file, mode 0600, so that a crash leaves the old bytes or the new."""
    temporary = _temporary(path, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: pathlib.Path) -> None:
    """Make a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def secret(path: pathlib.Path) -> bytes:
    """32 random bytes that are kept in a private file, made where there is none; raises `KeyUnusable`."""
    if not path.exists():
        _write_new(path, secrets.token_hex(SECRET_BYTES).encode())
    text = _read_private(path)
    if not _SECRET.match(text):
        raise KeyUnusable(f"{str(path)!r} is damaged")
    return bytes.fromhex(text)


def _write_new(path: pathlib.Path, data: bytes) -> None:
    try:
        temporary = _temporary(path, data)
        try:
            os.link(temporary, path)  # unlike a rename, fails where a file exists
        finally:
            temporary.unlink()
    except FileExistsError:
        raise KeyUnusable(f"{str(path)!r} exists; a key is never overwritten") from None
    sync_directory(path.parent)


def _temporary(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """A new durable file beside `path`, mode 0600."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _read_private(path: pathlib.Path) -> str:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyUnusable(f"{str(path)!r} is not a regular file")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise KeyUnusable(
                    f"{str(path)!r} has mode {stat.S_IMODE(status.st_mode):04o}, so others can read it; "
                    "make a new key, and keep it at 0600"
                )
            if status.st_uid not in (os.geteuid(), 0):
                raise KeyUnusable(f"{str(path)!r} belongs to another user")
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise KeyUnusable(f"{str(path)!r} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE or not data.isascii():
        raise KeyUnusable(f"{str(path)!r} is not a key file")
    return data.decode()


def _salt(text: str, path: str | os.PathLike[str]) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise KeyUnusable(f"{str(path)!r} is damaged") from None


def _stretch(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, **SCRYPT).hex().encode()

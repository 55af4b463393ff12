"""Key files, signatures bound to one use, sealed values. Vectors: RFC 8032 section 7.1; golang.org/x/mod/sumdb/note."""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from sandbox import keys
from sandbox.errors import Expired, KeyUnusable, Malformed, ParameterError, SignatureInvalid
from sandbox.keys import SigningKey

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    number: float = 0.0
    table: dict[str, int] = {}


@pytest.fixture
def key():
    return SigningKey.generate(insecure_seed=b"a")


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_rfc_8032(public, message, signature):
    keys.verify_text(*map(bytes.fromhex, (public, message, signature)))
    with pytest.raises(SignatureInvalid):
        keys.verify_text(bytes.fromhex(public), bytes.fromhex(message) + b"\0", bytes.fromhex(signature))


def test_a_signature_holds_for_its_domain_key_and_message_alone(key):
    signature = key.sign("request", b"message")
    keys.verify(key.public, "request", b"message", signature)
    other = SigningKey.generate().public
    for public, domain, message in [
        (key.public, "approval", b"message"),
        (key.public, "request", b"message "),
        (other, "request", b"message"),
    ]:
        with pytest.raises(SignatureInvalid):
            keys.verify(public, domain, message, signature)
    with pytest.raises(SignatureInvalid):
        keys.verify_text(key.public, b"message", signature)
    for bad in (b"", signature[:-1], signature + b"\0", bytes(64)):
        with pytest.raises(SignatureInvalid):
            keys.verify(key.public, "request", b"message", bad)


def test_the_other_scalar_of_a_signature_is_refused(key):
    """S + L solves the same equation; RFC 8032 section 5.1.7 refuses it, else one statement had two signatures."""
    signature = key.sign("request", b"message")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    with pytest.raises(SignatureInvalid):
        keys.verify(key.public, "request", b"message", signature[:32] + scalar.to_bytes(32, "little"))


def test_domains_cannot_run_into_messages(key):
    assert keys.framed("a", b"b\0c") == b"joint-sandbox/v1/a\0b\0c"
    for domain in ("", "a\0b", "A", "a b", "a\n", "-a", "ä", "a" * 65):
        with pytest.raises(ParameterError, match="domain"):
            key.sign(domain, b"c")
    with pytest.raises(ParameterError, match="0x00"):
        key.sign_text(keys.framed("a", b"b"))


def _add(p, q):
    """Edwards addition on Ed25519 (RFC 8032, 5.1)."""
    d = -121665 * pow(121666, -1, P)
    (x1, y1), (x2, y2) = p, q
    t = d * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P,
    )


def _small_order_points():
    """All eight, from a random point times the prime order."""
    d = -121665 * pow(121666, -1, P) % P
    found = set()
    for y in range(2, 200):
        u, v = (y * y - 1) % P, (d * y * y + 1) % P
        x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
        if v * x * x % P == -u % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        if v * x * x % P != u:
            continue
        result, base, scalar = (0, 1), (x, y), ORDER
        while scalar:
            if scalar & 1:
                result = _add(result, base)
            base, scalar = _add(base, base), scalar >> 1
        point = (0, 1)
        for _ in range(8):
            point = _add(point, result)
            found.add(point)
        if len(found) == 8:
            return found
    raise AssertionError("no point of order 8 found")


def test_keys_of_small_order_are_refused():
    points = _small_order_points()
    assert {y for _, y in points} == {0, 1, P - 1, keys._Y8, P - keys._Y8}
    for y in keys._SMALL_ORDER:
        for sign in (0, 1):
            encoded = (y + sign * 2**255).to_bytes(32, "little")
            with pytest.raises(Malformed, match="small order"):
                keys.public_key(encoded)


def test_why_keys_of_small_order_are_refused():
    """With the check left out, one signature made without any private key holds for many messages."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    identity = (1).to_bytes(32, "little")
    forged = identity + bytes(32)  # R is the neutral element, S is 0
    held = 0
    for i in range(20):
        try:
            Ed25519PublicKey.from_public_bytes(identity).verify(forged, b"transfer %d" % i)
            held += 1
        except InvalidSignature:
            pass
    assert held == 20
    with pytest.raises(Malformed):
        keys.verify_text(identity, b"transfer", forged)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33)])
def test_public_keys_have_32_bytes(public):
    with pytest.raises(Malformed, match="32 bytes"):
        keys.public_key(public)


def test_a_key_survives_its_file(tmp_path, key):
    old = os.umask(0)
    try:
        key.save(tmp_path / "key.pem")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert SigningKey.load(tmp_path / "key.pem").public == key.public
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_a_key_file_is_never_overwritten(tmp_path, key):
    key.save(tmp_path / "key.pem")
    with pytest.raises(KeyUnusable, match="exists"):
        SigningKey.generate().save(tmp_path / "key.pem")
    assert SigningKey.load(tmp_path / "key.pem").public == key.public
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_of_many_that_save_at_once_one_wins(tmp_path):
    candidates = [SigningKey.generate() for _ in range(16)]

    def save(candidate):
        try:
            candidate.save(tmp_path / "key.pem")
        except KeyUnusable:
            return None
        return candidate.public

    with ThreadPoolExecutor(16) as pool:
        winners = [public for public in pool.map(save, candidates) if public]
    assert winners == [SigningKey.load(tmp_path / "key.pem").public]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_a_key_file_that_others_can_touch_is_refused(tmp_path, key, mode):
    key.save(tmp_path / "key.pem")
    os.chmod(tmp_path / "key.pem", mode)
    with pytest.raises(KeyUnusable, match="others can read"):
        SigningKey.load(tmp_path / "key.pem")


def test_a_passphrase_is_needed_and_must_be_right(tmp_path, key):
    path = tmp_path / "key.pem"
    key.save(path, "correct horse")
    assert SigningKey.load(path, "correct horse").public == key.public
    with pytest.raises(KeyUnusable, match="passphrase is needed"):
        SigningKey.load(path)
    with pytest.raises(KeyUnusable, match="passphrase is another"):
        SigningKey.load(path, "correct horsf")
    with pytest.raises(ParameterError, match="empty"):
        key.save(tmp_path / "other.pem", "")
    plain = tmp_path / "plain.pem"
    key.save(plain)
    with pytest.raises(KeyUnusable, match="not encrypted"):
        SigningKey.load(plain, "correct horse")


def test_a_passphrase_is_stretched_before_pkcs8_sees_it(tmp_path, key):
    """PKCS #8's own key derivation takes half a millisecond a guess; the passphrase itself must not open the PEM block."""
    path = tmp_path / "key.pem"
    key.save(path, "correct horse")
    header, pem = path.read_bytes().split(b"\n", 1)
    assert b"scrypt, n 32768, r 8, p 1" in header
    with pytest.raises(ValueError, match=r"(?i)password|decrypt"):
        serialization.load_pem_private_key(pem, b"correct horse")
    salt = base64.b64decode(header.rsplit(b" ", 1)[1])
    stretched = hashlib.scrypt(b"correct horse", salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    opened = serialization.load_pem_private_key(pem, stretched.hex().encode())
    assert opened.public_key().public_bytes_raw() == key.public


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff" * 100,
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"a" * 5000,
    ],
)
def test_other_files_are_not_keys(tmp_path, content):
    path = tmp_path / "key.pem"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyUnusable):
        SigningKey.load(path)


def test_keys_of_other_kinds_directories_and_nothing_are_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    path = tmp_path / "key.pem"
    path.touch(0o600)
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(KeyUnusable, match="another kind"):
        SigningKey.load(path)
    for absent in (tmp_path, tmp_path / "none.pem"):
        with pytest.raises(KeyUnusable, match="cannot be read"):
            SigningKey.load(absent)


def test_a_key_does_not_show_itself(key):
    secret = key._private.private_bytes_raw()
    shown = repr(key) + str(key) + f"{key}"
    assert secret.hex() not in shown
    assert base64.b64encode(secret).decode() not in shown
    assert keys.fingerprint(key.public) in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled or copied"):
            leak(key)


def test_what_was_sealed_opens(key):
    value = Note("å", 1.5, {"b": 1, "a": 2})
    signed = keys.seal(key, "alice", "note", value)
    assert keys.open_(signed, "note", Note, key.public) == value
    again = msgspec.json.decode(msgspec.json.encode(signed), type=keys.Signed)
    assert keys.open_(again, "note", Note, key.public) == value


def test_sealed_values_open_for_one_use_and_key(key):
    signed = keys.seal(key, "alice", "note", Note("a"))
    with pytest.raises(SignatureInvalid):
        keys.open_(signed, "other", Note, key.public)
    with pytest.raises(SignatureInvalid):
        keys.open_(signed, "note", Note, SigningKey.generate().public)
    with pytest.raises(Malformed):
        keys.open_(signed, "note", keys.Signed, key.public)


@pytest.mark.parametrize(
    "body",
    [
        b'{"text":"a","number":0.0,"table":{"b":1,"a":2}}',
        b'{"number":0.0,"text":"a","table":{}}',
        b'{"text":"a","number":0,"table":{}}',
        b'{"text":"a","number":0.00,"table":{}}',
        b'{"text": "a","number":0.0,"table":{}}',
        b'{"text":"\\u0061","number":0.0,"table":{}}',
        b'{"text":"a","text":"a","number":0.0,"table":{}}',
        b'{"text":"a"}',
        b'{"text":"a","number":0.0,"table":{},"more":1}',
        b'{"text":"a","number":0.0,"table":{}}\n',
        b'{"text":"a","number":NaN,"table":{}}',
        b'{"text":"\\ud800","number":0.0,"table":{}}',
        b'{"text":"\xff","number":0.0,"table":{}}',
        b"",
        b"null",
        b"[" * 100_000,
    ],
)
def test_of_each_value_one_encoding_is_accepted(key, body):
    signed = keys.Signed(body, "alice", key.sign("note", body))
    with pytest.raises(Malformed):
        keys.open_(signed, "note", Note, key.public)


def test_nesting_cannot_hide_behind_brackets_in_strings():
    from sandbox.query import IsIn

    hidden = b'{"node":"is_in","values":["' + b"}" * 5000 + b'"],"term":'
    hidden += b'{"node":"not","term":' * 3000 + b'{"node":"column","name":"a"}' + b"}" * 3001
    with pytest.raises(Malformed, match="nested"):
        keys.decode(hidden, IsIn)
    brackets = Note("]" * 500 + "[" * 500 + '\\"{')
    assert keys.decode(msgspec.json.encode(brackets), Note) == brackets


def test_values_are_bounded():
    with pytest.raises(Malformed, match="at most"):
        keys.decode(b" " * (2**20 + 1), Note)


def test_expiry_is_the_first_second_that_is_too_late():
    keys.unexpired("request", 100, 99)
    with pytest.raises(Expired, match="request expired at 100"):
        keys.unexpired("request", 100, 100)

"""Vectors: RFC 7748, section 6.1 (X25519); RFC 5869, appendix A.3 (HKDF); RFC 8032, section 7.1, test 2 (Ed25519)."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpc.errors import BadSignature, Tampered
from mpc.secagg import keys

ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
ALICE_PUBLIC = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def test_x25519_is_that_of_the_rfc():
    assert keys.public_key(ALICE) == ALICE_PUBLIC
    assert keys.agree(BOB, ALICE_PUBLIC, peer="alice") == SHARED
    assert keys.agree(ALICE, keys.public_key(BOB), peer="bob") == SHARED


def test_points_of_small_order_are_refused():
    for public in (bytes(32), (1).to_bytes(32, "little")):
        with pytest.raises(Tampered, match="mallory: public key"):
            keys.agree(ALICE, public, peer="mallory")


def test_hkdf_is_that_of_the_rfc():
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert HKDF(SHA256(), 32, None, b"").derive(b"\x0b" * 22).hex() == okm
    # and derive() is extract, then one block of expand over the framed label and parts
    extracted = hmac.digest(bytes(32), SHARED, hashlib.sha256)
    info = keys.framed(b"purpose", b"context", 7, "name")
    assert keys.derive(SHARED, b"purpose", b"context", 7, "name") == hmac.digest(
        extracted, info + b"\x01", hashlib.sha256
    )


def test_framing_is_injective():
    variants = [(b"a", b"bc"), (b"ab", b"c"), (b"a", b"b", b"c"), (b"a", b"bc", b""), (b"abc",)]
    assert len({keys.framed(*variant) for variant in variants}) == len(variants)


def test_ed25519_is_that_of_the_rfc():
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    identity = keys.identity_key(seed)
    assert identity.public_key().public_bytes_raw().hex() == public
    signature = identity.sign(keys.framed(b"label", b"body"))
    keys.verify_signature(bytes.fromhex(public), signature, b"label", b"body", peer="p")
    for label, body in ((b"label", b"other"), (b"other", b"body")):
        with pytest.raises(BadSignature):
            keys.verify_signature(bytes.fromhex(public), signature, label, body, peer="p")


def test_the_tag_is_gcm_without_a_plaintext():
    key = keys.derive(SHARED, b"masked input", b"context", 3, "alice")
    expected = AESGCM(key).encrypt(bytes(12), b"", b"header" + b"payload!")
    assert keys.tag(SHARED, b"context", 3, "alice", b"header", memoryview(b"payload!")) == expected


def test_every_key_serves_one_purpose():
    request = bytes(32)
    derived = {
        keys.pairwise_key(SHARED, b"c", 0, request, "a", "b"),
        keys.pairwise_key(SHARED, b"c", 1, request, "a", "b"),
        keys.pairwise_key(SHARED, b"c", 0, request, "a", "c"),
        keys.pairwise_key(SHARED, b"d", 0, request, "a", "b"),
        keys.pairwise_key(SHARED, b"c", 0, b"\x01" * 32, "a", "b"),
        keys.self_key(SHARED, b"c", 0, request, "a"),
        keys.self_key(SHARED, b"c", 0, request, "b"),
        keys.commitment(SHARED, b"c", 0, "a"),
    }
    assert len(derived) == 8

"""HTTP message signatures: RFC 9421's own Ed25519 example (appendix B.2.6, keys from B.1.4), and what a coordinator accepts."""

from __future__ import annotations

import base64
import contextlib
import itertools

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from federated.http import signatures
from federated.http.signatures import LIFETIME, SKEW, Call, Verifier
from sandbox.errors import Expired, Malformed, Refused, SignatureInvalid
from sandbox.keys import SigningKey, verify_text
from sandbox.roster import Roster, member

NOW = 1_800_000_000
BODY = b'{"hello": "world"}'
PUBLIC = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
PRIVATE = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----
"""
COVERED = ("date", "@method", "@path", "@authority", "content-type", "content-length")
PARAMETERS = (
    '("date" "@method" "@path" "@authority" "content-type" "content-length")'
    ';created=1618884473;keyid="test-key-ed25519"'
)
VALUES = {
    "date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "@method": "POST",
    "@path": "/foo",
    "@authority": "example.com",
    "content-type": "application/json",
    "content-length": "18",
}
EXPECTED = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="


def test_the_example_of_rfc_9421():
    text = signatures.base(COVERED, PARAMETERS, VALUES)
    assert text.decode().splitlines()[0] == '"date": Tue, 20 Apr 2021 02:07:55 GMT'
    assert not text.endswith(b"\n")
    key = SigningKey(load_pem_private_key(PRIVATE, None))
    assert key.public == load_pem_public_key(PUBLIC).public_bytes_raw()
    assert base64.b64encode(key.sign_text(text)).decode() == EXPECTED
    verify_text(key.public, text, base64.b64decode(EXPECTED))
    with pytest.raises(SignatureInvalid):
        verify_text(key.public, text.replace(b"/foo", b"/fox"), base64.b64decode(EXPECTED))


def test_the_example_of_rfc_9530():
    # Appendix D: the representation {"hello": "world"} followed by a line feed.
    expected = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert signatures.content_digest(b'{"hello": "world"}\n') == expected


class Coordinator:
    """A roster, two of its analysts, and a verifier whose clock is `now`."""

    def __init__(self):
        self.keys = {
            name: SigningKey.generate(insecure_seed=name.encode()) for name in ("ann", "李雷", "coordinator")
        }
        members = [member(name, "analyst", "x", self.keys[name].public) for name in ("ann", "李雷")]
        members.append(member("coordinator", "coordinator", "x", self.keys["coordinator"].public))
        self.roster, self.now = Roster("city", tuple(members)), NOW
        self.verifier = Verifier(lambda: self.roster, lambda: self.now)

    def call(self, name="ann", method="POST", path="/api/v1/requests", query="", body=BODY, at=NOW, key=None):
        to = signatures.coordinator(self.roster)
        fields = signatures.sign(key or self.keys[name], name, to, method, path, query, body, at)
        return Call(method, path, query, fields)


@pytest.fixture
def coordinator():
    return Coordinator()


def changed(call: Call, **fields: str) -> Call:
    """The call with other header fields, `_` for `-`."""
    other = {name.replace("_", "-"): value for name, value in fields.items()}
    return msgspec.structs.replace(call, fields={**call.fields, **other})


@pytest.mark.parametrize("name", ["ann", "李雷"])
def test_a_call_is_its_signers(coordinator, name):
    call = coordinator.call(name, query="wait=2&seen=%22x%22")
    assert coordinator.verifier.analyst(call) == name
    signatures.check_body(call, BODY)
    assert all(value.isascii() for value in call.fields.values())


def test_an_empty_body_has_a_digest_too(coordinator):
    call = coordinator.call(method="GET", body=b"")
    assert coordinator.verifier.analyst(call) == "ann"
    signatures.check_body(call, b"")
    with pytest.raises(SignatureInvalid, match="body"):
        signatures.check_body(call, b"x")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "DELETE"},
        {"path": "/api/v1/explain"},
        {"path": "/api/v1/requests/"},
        {"query": "wait=1"},
    ],
    ids=str,
)
def test_every_covered_part_is_covered(coordinator, change):
    call = msgspec.structs.replace(coordinator.call(), **change)
    with pytest.raises(SignatureInvalid, match="was changed on its way"):
        coordinator.verifier.analyst(call)


def test_another_digest_is_not_the_signed_one(coordinator):
    call = changed(coordinator.call(), content_digest=signatures.content_digest(b"other"))
    with pytest.raises(SignatureInvalid, match="was changed on its way"):
        coordinator.verifier.analyst(call)


def test_a_call_to_one_coordinator_proves_nothing_to_another(coordinator):
    call, other = coordinator.call(), Coordinator()
    key = SigningKey.generate(insecure_seed=b"another coordinator")
    others = (*other.roster.members[:2], member("coordinator", "coordinator", "x", key.public))
    other.roster = Roster("city", others)
    with pytest.raises(SignatureInvalid, match="another coordinator"):
        other.verifier.analyst(call)
    readdressed = changed(call, sandbox_coordinator=signatures.coordinator(other.roster))
    with pytest.raises(SignatureInvalid, match="was changed on its way"):
        other.verifier.analyst(readdressed)


def test_a_stranger_is_told_the_same_whoever_they_pose_as(coordinator):
    stranger = SigningKey.generate()
    texts = set()
    for name in ("ann", "nobody", "coordinator"):
        with pytest.raises(SignatureInvalid) as caught:
            coordinator.verifier.analyst(coordinator.call(name, key=stranger))
        texts.add(str(caught.value))
    assert len(texts) == 1
    with pytest.raises(SignatureInvalid):  # only analysts call
        coordinator.verifier.analyst(coordinator.call("coordinator"))


def test_a_call_is_accepted_once(coordinator):
    call = coordinator.call()
    coordinator.verifier.analyst(call)
    with pytest.raises(Expired, match="accepted once"):
        coordinator.verifier.analyst(call)
    coordinator.verifier.analyst(coordinator.call())


@pytest.mark.parametrize("ahead", [-LIFETIME + 1, 0, SKEW])
def test_clocks_may_differ_by_a_minute(coordinator, ahead):
    assert coordinator.verifier.analyst(coordinator.call(at=NOW + ahead)) == "ann"


@pytest.mark.parametrize(("ahead", "text"), [(-LIFETIME, "expired"), (SKEW + 1, "in the future")])
def test_and_by_no_more(coordinator, ahead, text):
    with pytest.raises(Expired, match=text):
        coordinator.verifier.analyst(coordinator.call(at=NOW + ahead))


def test_no_call_is_accepted_again_at_any_time(coordinator):
    """Nonces are forgotten when there are many, yet only after the call itself has expired."""
    call = coordinator.call(at=NOW + SKEW)
    coordinator.verifier.analyst(call)
    signatures_kept, signatures.NONCES = signatures.NONCES, 3
    try:
        for later in range(0, LIFETIME + SKEW + 5, 5):
            coordinator.now = NOW + later
            for _ in range(3):
                with contextlib.suppress(Refused):  # too many at once
                    coordinator.verifier.analyst(coordinator.call(at=coordinator.now - LIFETIME + 1))
            with pytest.raises(Expired):
                coordinator.verifier.analyst(call)
    finally:
        signatures.NONCES = signatures_kept


def test_what_is_remembered_of_one_analyst_is_bounded_and_another_is_not_touched(coordinator, monkeypatch):
    monkeypatch.setattr(signatures, "NONCES", 5)
    for _ in range(5):
        coordinator.verifier.analyst(coordinator.call())
    with pytest.raises(Refused, match="5 calls within"):
        coordinator.verifier.analyst(coordinator.call())
    assert coordinator.verifier.analyst(coordinator.call("李雷")) == "李雷"
    coordinator.now += LIFETIME
    assert coordinator.verifier.analyst(coordinator.call(at=coordinator.now)) == "ann"
    assert sum(map(len, coordinator.verifier._nonces.values())) <= 6


def test_a_longer_life_than_allowed_is_refused(coordinator, monkeypatch):
    monkeypatch.setattr(signatures, "LIFETIME", LIFETIME + 1)
    call = coordinator.call()
    monkeypatch.setattr(signatures, "LIFETIME", LIFETIME)
    with pytest.raises(Expired, match=f"1 to {LIFETIME} s"):
        coordinator.verifier.analyst(call)


@pytest.mark.parametrize("name", signatures.FIELDS)
def test_an_unsigned_call_names_what_it_lacks(coordinator, name):
    call = coordinator.call()
    fields = {field: value for field, value in call.fields.items() if field != name}
    with pytest.raises(SignatureInvalid, match=f"has no {name}"):
        coordinator.verifier.analyst(msgspec.structs.replace(call, fields=fields))


def rewritten(coordinator, change) -> Call:
    """A call whose parameters are changed and then signed, as another implementation might write them."""
    call = coordinator.call()
    text = change(call.fields[signatures.INPUT])
    label, _, parameters = text.partition("=")
    covered = [part.strip('"') for part in parameters[1 : parameters.find(")")].split()]
    values = call.values() | {"@authority": "x"}
    data = signatures.base([c for c in covered if c in values], parameters, values)
    signature = base64.b64encode(coordinator.keys["ann"].sign_text(data)).decode()
    return changed(call, signature_input=text, signature=f"{label}=:{signature}:")


def test_order_and_label_are_the_callers(coordinator):
    def change(text):
        first, *rest = text.replace("sandbox=", "other-1=").split(";")
        return ";".join([first.replace('"@method" "@path"', '"@path" "@method"'), *reversed(rest)])

    assert coordinator.verifier.analyst(rewritten(coordinator, change)) == "ann"


CHANGES = {
    "fewer components": lambda text: text.replace('"@query" ', ""),
    "no body": lambda text: text.replace('"content-digest" ', ""),
    "a component twice": lambda text: text.replace('"@path"', '"@path" "@path"'),
    "one more component": lambda text: text.replace('"@path"', '"@path" "@authority"'),
    "no component": lambda text: "sandbox=()" + text[text.index(";") :],
    "component with a parameter": lambda text: text.replace('"content-digest"', '"content-digest";sf'),
    "no expiry": lambda text: text.replace(f";expires={NOW + LIFETIME}", ""),
    "no nonce": lambda text: text[: text.index(";nonce")] + text[text.index(";keyid") :],
    "long nonce": lambda text: text.replace(';nonce="', ';nonce="1'),
    "a parameter twice": lambda text: f'{text};tag="joint-sandbox"',
    "one more parameter": lambda text: f'{text};more="x"',
    "another tag": lambda text: text.replace('tag="joint-sandbox"', 'tag="other"'),
    "another algorithm": lambda text: text.replace("ed25519", "hmac-sha256"),
    "created as text": lambda text: text.replace(f"created={NOW}", f'created="{NOW}"'),
    "created as a fraction": lambda text: text.replace(f"created={NOW}", f"created={NOW}.5"),
    "created before 1970": lambda text: text.replace(f"created={NOW}", "created=-1"),
    "white space": lambda text: text.replace(";keyid", "; keyid"),
    "two signatures": lambda text: f"{text}, {text.replace('sandbox=', 'more=')}",
    "name with space": lambda text: text.replace('keyid="ann"', 'keyid="an n"'),
    "name not escaped as it should": lambda text: text.replace('keyid="ann"', 'keyid="%61nn"'),
    "name not in UTF-8": lambda text: text.replace('keyid="ann"', 'keyid="%FF"'),
    "very long": lambda text: text.replace('keyid="ann"', f'keyid="{"a" * 2000}"'),
    "empty": lambda _text: "",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_only_the_one_form_is_read(coordinator, change):
    with pytest.raises(Malformed):
        coordinator.verifier.analyst(rewritten(coordinator, change))


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sandbox=",
        "sandbox=::",
        "sandbox=:AAAA:",
        "other=:{}:",
        "sandbox=:{}",
        "sandbox=:{}:;x",
        "sandbox=:{}=:",
        "sandbox={}",
    ],
)
def test_and_one_form_of_signature(coordinator, signature):
    call = coordinator.call()
    value = call.fields["signature"].split(":")[1]
    with pytest.raises(Malformed):
        coordinator.verifier.analyst(changed(call, signature=signature.format(value)))


def test_no_bit_of_a_signature_can_change(coordinator):
    call = coordinator.call()
    data = bytearray(base64.b64decode(call.fields["signature"].split(":")[1]))
    for place, bit in itertools.product(range(64), (0, 7)):
        other = bytearray(data)
        other[place] ^= 1 << bit
        text = f"sandbox=:{base64.b64encode(bytes(other)).decode()}:"
        with pytest.raises(SignatureInvalid):
            coordinator.verifier.analyst(changed(call, signature=text))
    assert coordinator.verifier.analyst(call) == "ann"

"""Heads in C2SP text form. Vectors: sum.golang.org and the example of c2sp.org/tlog-cosignature (whose log signature is sum.golang.org's, over
its own origin); golang.org/x/mod/sumdb/note; key ids from github.com/transparency-dev/formats; the log `monkeys` from
github.com/transparency-dev/witness."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import checkpoint, keys
from sandbox.checkpoint import Checkpoint, Line
from sandbox.errors import EvidenceError, Malformed, SignatureInvalid
from sandbox.keys import SigningKey

NODE = SigningKey.generate(insecure_seed=b"node")
OTHER = SigningKey.generate(insecure_seed=b"other")
WITNESS = SigningKey.generate(insecure_seed=b"witness")
HEAD = Checkpoint("city/health", 42, bytes(range(32)))
NOTE = checkpoint.sign(HEAD, NODE)

MONKEYS_KEY = base64.b64decode("AULaJMvTtDLHPUcUrjdDad9vDlh/PTfC2VV60JUtCfWT")[1:]
MONKEYS = [
    "monkeys\n5\n41smjBUiAU70EtKlT6lIOIYtRTYxYXsDB+XHfcvu/BE=\n\n"
    "— monkeys 202fftzGl3LVoqjXfwCFZZXs8I+5G22+Ek2K0AOyBuSJ/8/CZawNF+6fNlTKOCd622pbzJNkkJFWuw9DbicZCkEx9AY=\n",
    "monkeys\n8\nV8K9aklZ4EPB+RMOk1/8VsJUdFZR77GDtZUQq84vSbo=\n\n"
    "— monkeys 202ffoUEboiQYpHzICeaFmoy3RNviHTpAxYrq/eO4QQVQMvu9UebKBMX2MJC76NLthZaKsnKbCA8GxrjePZhvDCH7Ag=\n",
]
EXAMPLE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


@pytest.mark.parametrize(
    ("name", "material", "expected"),
    [
        ("PeterNeumann", "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "c74f20a3"),
        ("sum.golang.org", "Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8", "033de0ae"),
        ("monkeys", "AULaJMvTtDLHPUcUrjdDad9vDlh/PTfC2VV60JUtCfWT", "db4d9f7e"),
        ("remora.n621.de", "BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2", "da77ade7"),
    ],
)
def test_published_key_ids(name, material, expected):
    data = base64.b64decode(material)
    assert checkpoint.key_id(name, data[:1], data[1:]).hex() == expected


def test_a_published_note():
    public = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    signature = base64.b64decode(
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    )
    text = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    assert signature[:4].hex() == "c74f20a3"
    keys.verify_text(public, text, signature[4:])


@pytest.mark.parametrize(("note", "size"), [(MONKEYS[0], 5), (MONKEYS[1], 8)])
def test_published_checkpoints_verify(note, size):
    assert checkpoint.verify(note, MONKEYS_KEY, "monkeys").size == size
    with pytest.raises(SignatureInvalid):
        checkpoint.verify(note.replace(f"\n{size}\n", f"\n{size + 1}\n"), MONKEYS_KEY, "monkeys")


def test_the_example_of_the_specification():
    note = checkpoint.parse(EXAMPLE)
    assert note.text() == EXAMPLE
    assert note.checkpoint.origin == "example.com/behind-the-sofa"
    assert note.checkpoint.size == 20852163
    assert [line.name for line in note.lines] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert note.lines[0].key_id.hex() == "033de0ae"
    assert int.from_bytes(note.lines[1].payload[:8]) == 1679315147
    sum_golang_org = base64.b64decode("Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")[1:]
    text = note.checkpoint.text().replace("example.com/behind-the-sofa", "go.sum database tree").encode()
    keys.verify_text(sum_golang_org, text, note.lines[0].payload)


def test_the_text_form():
    root = base64.b64encode(HEAD.root).decode()
    first, _, signatures = NOTE.partition("\n\n")
    assert first == f"city/health\n42\n{root}"
    name, encoded = signatures.removeprefix("— ").split(" ")
    assert name == "city/health"
    data = base64.b64decode(encoded)
    assert data[:4] == checkpoint.key_id("city/health", b"\x01", NODE.public)
    keys.verify_text(NODE.public, f"{first}\n".encode(), data[4:])
    assert checkpoint.verify(NOTE, NODE.public, "city/health") == HEAD


def test_a_head_is_of_its_log_and_key():
    for public, origin in ((OTHER.public, "city/health"), (NODE.public, "city/labour")):
        with pytest.raises(SignatureInvalid):
            checkpoint.verify(NOTE, public, origin)


def test_witnesses_add_their_lines():
    once = checkpoint.cosign(NOTE, WITNESS, "city/regulator", 1_700_000_000)
    twice = checkpoint.cosign(once, OTHER, "city/court", 1_700_000_100)
    assert twice.startswith(once)
    assert checkpoint.verify(twice, NODE.public, "city/health") == HEAD
    assert checkpoint.cosigned(twice, WITNESS.public, "city/regulator") == 1_700_000_000
    assert checkpoint.cosigned(twice, OTHER.public, "city/court") == 1_700_000_100
    assert checkpoint.cosigned(NOTE, WITNESS.public, "city/regulator") is None
    assert checkpoint.cosigned(twice, WITNESS.public, "city/court") is None
    assert checkpoint.cosigned(twice, OTHER.public, "city/regulator") is None


def test_a_cosignature_covers_its_time_and_head():
    note = checkpoint.parse(checkpoint.cosign(NOTE, WITNESS, "city/regulator", 1000))
    line = note.lines[1]
    for payload in (
        (999).to_bytes(8) + line.payload[8:],
        line.payload[:-1],
        line.payload + b"\0",
        line.payload[:8],
        (2**63).to_bytes(8) + line.payload[8:],
    ):
        forged = NOTE + Line(line.name, line.key_id, payload).text()
        with pytest.raises(SignatureInvalid):
            checkpoint.cosigned(forged, WITNESS.public, "city/regulator")
    elsewhere = checkpoint.sign(Checkpoint("city/health", 43, HEAD.root), NODE) + line.text()
    with pytest.raises(SignatureInvalid):
        checkpoint.cosigned(elsewhere, WITNESS.public, "city/regulator")


def test_a_log_signature_is_no_cosignature_and_the_reverse():
    """A key that signs as a log and as a witness has a key id for each, and the signed texts differ."""
    line = checkpoint.parse(NOTE).lines[0]
    as_witness = Line(
        "city/health", checkpoint.key_id("city/health", b"\x04", NODE.public), bytes(8) + line.payload
    )
    with pytest.raises(SignatureInvalid):
        checkpoint.cosigned(HEAD.text() + "\n" + as_witness.text(), NODE.public, "city/health")
    cosigned = checkpoint.parse(checkpoint.cosign(NOTE, NODE, "city/health", 7)).lines[1]
    as_log = Line("city/health", line.key_id, cosigned.payload[8:])
    with pytest.raises(SignatureInvalid):
        checkpoint.verify(HEAD.text() + "\n" + as_log.text(), NODE.public, "city/health")


def test_signatures_of_unknown_keys_are_ignored_and_bad_ones_of_known_keys_are_not():
    stranger = Line("city/stranger", b"abcd", bytes(64)).text()
    assert checkpoint.verify(NOTE + stranger, NODE.public, "city/health") == HEAD
    line = checkpoint.parse(NOTE).lines[0]
    bad = Line(line.name, line.key_id, bytes(64)).text()
    for note in (NOTE + bad, NOTE.replace(line.text(), bad + line.text())):
        with pytest.raises(SignatureInvalid):
            checkpoint.verify(note, NODE.public, "city/health")
    same_name = Line(line.name, b"abcd", bytes(64)).text()
    assert checkpoint.verify(NOTE + same_name, NODE.public, "city/health") == HEAD


@pytest.mark.parametrize(
    "change",
    [
        ("42", "042"),
        ("42", "+42"),
        ("42", " 42"),
        ("42", "42 "),
        ("42", "4_2"),
        ("42", "٤٢"),
        ("42", "-1"),
        ("42", str(2**63)),
        ("42", "9" * 30),
        ("42", ""),
        ("city/health\n", ""),
        ("city/health\n42", "\n42"),
        ("city/health\n42", "city health\n42"),
        ("city/health\n42", "city+health\n42"),
        ("\n\n", "\nextension\n\n"),
        ("\n\n", "\n"),
        ("\n\n", "\n\n\n"),
        ("—", "-"),
        ("—", "–"),
        ("— ", "—"),
        ("— ", "—  "),
        ("=\n\n", "\n\n"),
        ("=\n\n", "==\n\n"),
        ("8=\n\n", "9=\n\n"),
        ("\n42", "\r\n42"),
        ("\n42", "\n42\x00"),
        ("\n42", "\n\t42"),
    ],
)
def test_the_parser_is_strict(change):
    assert change[0] in NOTE
    with pytest.raises(Malformed):
        checkpoint.parse(NOTE.replace(*change, 1))


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        HEAD.text(),
        HEAD.text() + "\n",
        NOTE[:-1],
        NOTE + "\n",
        NOTE + "— a \n",
        NOTE + "— a AAAA\n",
        NOTE + "— a AAAAAA==\n",
        NOTE + "— a+b AAAAAAAA\n",
        NOTE + "\ud800",
        NOTE + "— a AAAAAAAA\n" * 64,
        NOTE + "— a " + "A" * 70_000 + "\n",
    ],
)
def test_what_is_no_note(note):
    with pytest.raises(Malformed):
        checkpoint.parse(note)


def test_what_is_signed_can_be_parsed():
    for origin in ("", "a b", "a\nb", "a+b"):
        with pytest.raises(Malformed):
            checkpoint.sign(Checkpoint(origin, 1, bytes(32)), NODE)
        with pytest.raises(Malformed):
            checkpoint.cosign(NOTE, WITNESS, origin, 1)
    assert checkpoint.parse(checkpoint.sign(Checkpoint("市/卫健委", 0, bytes(32)), NODE)).checkpoint.size == 0


@given(position=st.integers(0, len(NOTE.encode()) - 1), byte=st.integers(0, 255))
def test_no_changed_byte_of_a_head_goes_unnoticed(position, byte):
    data = bytearray(NOTE.encode())
    data[position] = byte
    if bytes(data) != NOTE.encode():
        with pytest.raises(EvidenceError):
            checkpoint.verify(data.decode(errors="surrogateescape"), NODE.public, "city/health")

"""Receipts and witnesses: a receipt is completed with cosignatures afterwards, and `verify` counts those that hold, no others."""

from __future__ import annotations

import random

import msgspec
import pytest
from test_receipt import KEYS, NODES, NOW, ROSTER, Made, verify

from sandbox import checkpoint, cosigned, entries, keys, receipt, roster
from sandbox.audit import AuditLog
from sandbox.checkpoint import origin
from sandbox.errors import Expired, Malformed, ParameterError, ProofInvalid, SignatureInvalid, UnknownSigner
from sandbox.keys import SigningKey
from sandbox.query import canonical
from sandbox.witness import Witness

LOGS = {f"city/{name}": KEYS[name].public for name in NODES}
SECOND = SigningKey.generate(insecure_seed=b"auditor")
BOTH = roster.Roster("city", (*ROSTER.members, roster.member("auditor", "witness", "Bureau", SECOND.public)))
KNOWN = {origin("city", m.name): m.public for m in BOTH.of("witness")}


def witness(path, name="regulator", key=KEYS["regulator"]):
    return Witness(path / f"{name}.json", key, f"city/{name}", LOGS)


@pytest.fixture
def made(tmp_path):
    return Made(tmp_path)


def log(path, name="health"):
    return AuditLog(path / name, f"city/{name}", key=KEYS[name])


def grow(path, entries_more=1):
    """Every department goes on with its business."""
    for name in NODES:
        with log(path, name) as grown:
            grown.append_many([entries.Stop(time=NOW)] * entries_more)
            grown.head()


def visit(path, visitor, now=NOW):
    """A witness's visit: each department hands over its head and a proof, and keeps what comes back."""
    for name in NODES:
        with log(path, name) as visited:
            proof = visited.consistency(visitor.last(visited.origin), visited.signed.size)
            note = visitor.cosign(visited.last(), proof, now)
            assert cosigned.keep(visited, note, KNOWN) == {visitor.name: now}


def completed(path, data):
    for name in NODES:
        with log(path, name) as opened:
            data = cosigned.complete(data, opened)
    return data


def witnessed(data):
    return receipt.read(data).witnessed


def test_a_witness_signs_the_heads_in_a_receipt(made, tmp_path):
    data = made.issue()
    signed = witness(tmp_path).cosign_receipt(data, {}, NOW)
    report = verify(signed, witnesses=1)
    assert report.ok
    assert str(report).count(f"regulator at {NOW}, 2 entries") == len(NODES)
    assert [check.name for check in verify(signed, witnesses=2).failed] == [f"{n}: witnesses" for n in NODES]
    assert canonical(msgspec.structs.replace(receipt.read(signed), witnessed=())) == data, "the same receipt"


def test_the_next_receipt_takes_a_proof_of_each_department(made, tmp_path):
    regulator = witness(tmp_path)
    regulator.cosign_receipt(made.issue(), {}, NOW)
    later = Made(tmp_path, 1)
    with pytest.raises(ProofInvalid, match="health: the consistency proof is empty"):
        regulator.cosign_receipt(later.issue(), {}, NOW)
    sizes = {part.department: checkpoint.parse(part.checkpoint).checkpoint.size for part in later.parts}
    proofs = {}
    for name in NODES:
        with log(tmp_path, name) as opened:
            proofs[name] = opened.consistency(regulator.last(f"city/{name}"), sizes[name])
    assert verify(regulator.cosign_receipt(later.issue(), proofs, NOW), witnesses=1).ok


def test_a_receipt_is_completed_after_a_visit(made, tmp_path):
    """The way that always goes: the witness has seen later heads than the receipt's, and signs no earlier one."""
    data, regulator = made.issue(), witness(tmp_path)
    with log(tmp_path) as opened, pytest.raises(ParameterError, match="no witness has co-signed a head"):
        cosigned.complete(data, opened)
    grow(tmp_path, 4)
    visit(tmp_path, regulator, NOW + 5)
    with pytest.raises(Expired, match="health: a head of 2 entries; one of 7 was seen before"):
        regulator.cosign_receipt(data, {}, NOW + 6)
    signed = completed(tmp_path, data)
    report = verify(signed, witnesses=1)
    assert report.ok
    assert str(report).count(f"regulator at {NOW + 5}, 7 entries") == len(NODES)
    assert completed(tmp_path, signed) == signed, "the same again changes nothing"
    grow(tmp_path)
    visit(tmp_path, regulator, NOW + 9)
    assert len(witnessed(completed(tmp_path, signed))) == 2 * len(NODES)
    assert verify(completed(tmp_path, signed), witnesses=1).ok


def test_witnesses_that_came_at_different_times_add_up(made, tmp_path):
    data = made.issue()
    visit(tmp_path, witness(tmp_path))
    grow(tmp_path)
    visit(tmp_path, witness(tmp_path, "auditor", SECOND), NOW + 1)
    signed = completed(tmp_path, data)
    assert receipt.verify(signed, BOTH, witnesses=2, now=NOW).ok
    assert not receipt.verify(signed, BOTH, witnesses=3, now=NOW).ok
    # Both on one head stand in one note.
    merged = witness(tmp_path / "health", "auditor", SECOND).cosign_receipt(
        witness(tmp_path / "health").cosign_receipt(data, {}, NOW), {}, NOW
    )
    assert len(witnessed(merged)) == len(NODES)
    assert receipt.verify(merged, BOTH, witnesses=2, now=NOW).ok
    again = witness(tmp_path / "health").cosign_receipt(merged, {}, NOW + 7)
    assert f"regulator at {NOW + 7}" in str(receipt.verify(again, BOTH, witnesses=2, now=NOW + 7))


def test_a_witness_that_the_roster_does_not_know_counts_nothing(made, tmp_path):
    strangers = {"regulator": SigningKey.generate(), "somebody": SigningKey.generate(), "auditor": SECOND}
    for name, key in strangers.items():
        stranger = witness(tmp_path, name, key)
        signed = stranger.cosign_receipt(made.issue(), {}, NOW)
        for least in (0, 1):
            failed = verify(signed, witnesses=least).failed
            assert [check.name for check in failed] == [f"{node}: witnesses" for node in NODES]
        with log(tmp_path) as opened:
            note = stranger.cosign(opened.head(), opened.consistency(stranger.last(opened.origin)), NOW)
            with pytest.raises(SignatureInvalid):
                cosigned.keep(opened, note, {"city/regulator": KEYS["regulator"].public})


def test_a_forked_log_completes_no_receipt(made, tmp_path):
    """The owner rewrites its log after the release and has the new history co-signed by a witness that never saw the old."""
    data, fork = made.issue(), tmp_path / "fork"
    with log(fork) as forked:
        forked.append_many([entries.Stop(time=NOW + i) for i in range(5)])
        note = witness(tmp_path).cosign(forked.head(), (), NOW)
        cosigned.keep(forked, note, KNOWN)
        with pytest.raises(ProofInvalid):
            cosigned.complete(data, forked)
        proof = forked.consistency(2)
    with pytest.raises(ProofInvalid):
        receipt.add(data, "health", note, proof)
    with log(tmp_path) as opened, pytest.raises(ProofInvalid, match="never had this head"):
        cosigned.keep(opened, note, KNOWN)
    forced = receipt.Witnessed(department="health", checkpoint=note, proof=proof)
    bad = canonical(msgspec.structs.replace(receipt.read(data), witnessed=(forced,)))
    assert [check.name for check in verify(bad).failed] == ["health: witnesses"]


def test_only_heads_of_its_departments_in_order(made, tmp_path):
    signed = witness(tmp_path).cosign_receipt(made.issue(), {}, NOW)
    parts = witnessed(signed)
    for changed in (parts[::-1], (parts[0], *parts)):
        bad = canonical(msgspec.structs.replace(receipt.read(signed), witnessed=changed))
        assert [check.name for check in verify(bad).failed] == ["departments"]
    strange = msgspec.structs.replace(parts[0], department="oak")
    bad = canonical(msgspec.structs.replace(receipt.read(signed), witnessed=(strange,)))
    assert "departments" in [check.name for check in verify(bad).failed]
    swapped = msgspec.structs.replace(parts[0], checkpoint=parts[1].checkpoint)
    bad = canonical(msgspec.structs.replace(receipt.read(signed), witnessed=(swapped,)))
    assert [check.name for check in verify(bad).failed] == ["health: witnesses"]
    with pytest.raises(ParameterError, match="no head of 'oak'"):
        receipt.add(signed, "oak", parts[0].checkpoint, ())
    other = AuditLog(tmp_path / "oak", "city/oak", key=KEYS["centre"])
    with other, pytest.raises(ParameterError, match="no head of 'city/oak'"):
        cosigned.complete(signed, other)
    explicit = made.issue()[:-1] + b',"witnessed":[]}'
    assert [check.name for check in verify(explicit).failed] == ["format"], "one encoding of one receipt"


def test_no_byte_of_a_cosignature_or_its_proof_can_change(made, tmp_path):
    regulator = witness(tmp_path)
    grow(tmp_path, 3)
    visit(tmp_path, regulator)
    data = completed(tmp_path, made.issue())
    assert verify(data).ok
    generator = random.Random(7)
    for position in range(data.index(b'"witnessed"'), len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << generator.randrange(8)
        assert not verify(bytes(changed)).ok, position


def test_what_is_kept_is_of_this_log_and_the_latest(made, tmp_path):
    regulator = witness(tmp_path)
    with log(tmp_path) as opened:
        early = regulator.cosign(opened.last(), (), NOW)
        with pytest.raises(SignatureInvalid, match="no witness of the roster"):
            cosigned.keep(opened, opened.last(), KNOWN)
        with pytest.raises(Malformed):
            cosigned.keep(opened, early[:-1], KNOWN)
        size = opened.signed.size
        opened.append(entries.Stop(time=NOW))
        late = regulator.cosign(opened.head(), opened.consistency(size), NOW)
        cosigned.keep(opened, late, KNOWN)
        with pytest.raises(Expired, match="a later head is kept"):
            cosigned.keep(opened, early, KNOWN)
        assert cosigned.kept(opened) == {"city/regulator": late}
        assert (opened.directory / cosigned.FILE).stat().st_mode & 0o777 == 0o600
    with log(tmp_path, "water") as other, pytest.raises(SignatureInvalid, match="a head of 'city/health'"):
        cosigned.keep(other, late, KNOWN)


def test_a_file_that_was_tampered_with_completes_nothing(made, tmp_path):
    visit(tmp_path, witness(tmp_path))
    with log(tmp_path) as opened:
        note = cosigned.kept(opened)["city/regulator"]
        for changed in (b"{", canonical({"city/regulator": note.replace("\n2\n", "\n3\n")}), b"[]"):
            keys.write_atomically(opened.directory / cosigned.FILE, changed)
            with pytest.raises((Malformed, SignatureInvalid)):
                cosigned.complete(made.issue(), opened)


def test_a_receipt_of_others_is_not_witnessed(made, tmp_path):
    elsewhere = Witness(
        tmp_path / "w", KEYS["regulator"], "town/regulator", {"town/health": KEYS["health"].public}
    )
    with pytest.raises(UnknownSigner, match="health: 'town/regulator' does not witness 'city/health'"):
        elsewhere.cosign_receipt(made.issue(), {}, NOW)

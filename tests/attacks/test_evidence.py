"""Attacks on the evidence. Each succeeds with one defence left out and is found out with it in place.

The attackers: a department's owner, who has its node's key and files; a thief of the files without the key; a coordinator.
"""

from __future__ import annotations

import hashlib
import shutil

import msgspec
import pytest

from sandbox import audit, checkpoint, entries, keys, ledger, merkle, receipt, roster
from sandbox.audit import AuditLog
from sandbox.errors import Expired, LogCorrupt, ProofInvalid, SignatureInvalid
from sandbox.keys import SigningKey
from sandbox.query import canonical
from sandbox.witness import Witness

NOW = 1_790_000_000
ORIGIN = "city/health"
NODES = ("health", "labour", "water")
KEYS = {
    name: SigningKey.generate(insecure_seed=name.encode()) for name in (*NODES, "centre", "ana", "regulator")
}
ROSTER = roster.Roster(
    "city",
    (
        *(roster.member(name, "node", name.title(), KEYS[name].public) for name in NODES),
        roster.member("centre", "coordinator", "City", KEYS["centre"].public),
        roster.member("ana", "analyst", "University", KEYS["ana"].public),
        roster.member("regulator", "witness", "Court", KEYS["regulator"].public),
    ),
)
REFUSED = entries.Refusal(time=NOW, request=f"{1:064x}", reasons=("purpose not permitted",))
HISTORY = [
    entries.Start(time=NOW, department="health", code="1", roster=ROSTER.digest()),
    REFUSED,
    *(
        entries.Charge(time=NOW, request=f"{n:064x}", dataset="survey", analyst="ana", number=n)
        for n in range(1, 4)
    ),
]
DENIED_NEVER = entries.Decision(time=NOW, request=f"{1:064x}", policy=f"{2:064x}", verdict="allow")
REWRITTEN = [DENIED_NEVER if entry is REFUSED else entry for entry in HISTORY]


def written(directory, history, name="health"):
    """A log as its owner writes it, key in hand; also anew, in the place of an old one."""
    shutil.rmtree(directory, ignore_errors=True)
    log = AuditLog(directory, f"city/{name}", key=KEYS[name])
    log.append_many(history)
    log.head()
    return log


def regulator(path):
    return Witness(path / "seen.json", KEYS["regulator"], "city/regulator", {ORIGIN: KEYS["health"].public})


def attested(directory, name, statement):
    entry = entries.Release(
        time=NOW,
        department=name,
        statement=statement.digest(),
        request=statement.request,
        release=statement.release,
        dataset="survey",
        policy=f"{5:064x}",
        data_version="2024",
        code=statement.code,
        epsilon=statement.epsilon,
        delta=statement.delta,
    )
    with AuditLog(directory, f"city/{name}", key=KEYS[name]) as log:
        return receipt.attest(log, entry)


def released(path, **changes):
    """A statement and the departments' parts of it."""
    facts = {
        "federation": "city",
        "request": f"{1:064x}",
        "release": f"{2:064x}",
        "analyst": "ana",
        "purpose": "planning",
        "code": "1",
        "departments": NODES,
        "issued": NOW,
        "epsilon": 0.5,
        "delta": 1e-6,
    }
    statement = receipt.Statement(**{**facts, **changes})
    return statement, [attested(path / name, name, statement) for name in NODES]


def verify(data, **options):
    return receipt.verify(data, ROSTER, now=NOW, **options)


def test_an_owner_rewrites_a_past_entry(tmp_path):
    """A refusal becomes a permission. The log itself cannot tell; a witness, or anybody with an old head, can."""
    with written(tmp_path / "log", HISTORY) as log:
        old = log.head()
        watched = regulator(tmp_path)
        watched.cosign(old, log.consistency(watched.last(ORIGIN)), NOW)
    with written(tmp_path / "log", [*REWRITTEN, entries.Stop(time=NOW)]) as log:
        new = log.head()
        log.verify()  # the defence left out: nothing is wrong
        assert REFUSED not in list(log.entries())
        assert checkpoint.verify(new, KEYS["health"].public, ORIGIN).size == len(HISTORY) + 1
        with pytest.raises(ProofInvalid):
            watched.cosign(new, log.consistency(watched.last(ORIGIN)), NOW + 1)
        before, after = checkpoint.parse(old).checkpoint, checkpoint.parse(new).checkpoint
        with pytest.raises(ProofInvalid):
            merkle.verify_consistency(
                before.size, after.size, before.root, after.root, log.consistency(before.size)
            )


def test_an_owner_takes_back_a_release_that_has_a_receipt(tmp_path):
    """The receipt out there proves an entry that the new log does not hold."""
    statement, parts = released(tmp_path)
    data = receipt.issue(statement, parts, KEYS["centre"], "centre")
    with written(tmp_path / "health", HISTORY) as log:
        log.verify()  # the defence left out
        part, head = parts[0], checkpoint.parse(log.head()).checkpoint
        with pytest.raises(ProofInvalid):
            merkle.verify_inclusion(
                merkle.leaf_hash(canonical(part.entry)),
                part.index,
                head.size,
                log.prove(part.index),
                head.root,
            )
    assert verify(data).ok


def test_a_thief_rewrites_a_past_entry_without_the_key(tmp_path):
    """With the head left out, intact frames would be enough; the signed head leads elsewhere."""
    with written(tmp_path / "log", HISTORY) as log:
        log.append(entries.Stop(time=NOW))
        log.head()
    path = tmp_path / "log" / "entries.log"
    data = path.read_bytes()
    length = audit.HEADER_BYTES + int.from_bytes(data[4:8])
    signature, payload = data[16 : audit.HEADER_BYTES], data[audit.HEADER_BYTES : length]
    forged = audit._frame(signature, payload.replace(b"not permitted", b"was permitted"))
    path.write_bytes(forged + data[length:])

    class WithoutHead(AuditLog):
        def _read_head(self):
            return checkpoint.Checkpoint(self.origin, 0, merkle.EMPTY_ROOT)

        def _covered(self, before, payload):
            return self.covered

    with pytest.raises(LogCorrupt, match="rewritten"):
        AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"])
    WithoutHead.covered = checkpoint.Checkpoint(
        ORIGIN, len(HISTORY), merkle.Tree(merkle.leaf_hash(canonical(e)) for e in HISTORY).root()
    ).text().encode() + bytes.fromhex(_digest_of_last(path))
    with WithoutHead(tmp_path / "log", ORIGIN, key=KEYS["health"]) as log:
        [changed] = [entry for entry in log.entries() if isinstance(entry, entries.Refusal)]
        assert changed.reasons == ("purpose was permitted",)


def _digest_of_last(path):
    data, position = path.read_bytes(), 0
    while position < len(data):
        length = int.from_bytes(data[position + 4 : position + 8])
        payload = data[position + audit.HEADER_BYTES : position + audit.HEADER_BYTES + length]
        position += audit.HEADER_BYTES + length
    return hashlib.sha256(payload).hexdigest()


def test_the_log_is_cut_to_hide_its_end(tmp_path):
    """Without the separate head, a shorter log is a log; with it, it was longer once."""
    written(tmp_path / "log", HISTORY).close()
    early = (tmp_path / "log" / "head").read_bytes()
    short = (tmp_path / "log" / "entries.log").read_bytes()
    with AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"]) as log:
        log.append(entries.Stop(time=NOW))
        log.head()
    (tmp_path / "log" / "entries.log").write_bytes(short)
    with pytest.raises(LogCorrupt, match="rolled back"):
        AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"])
    (tmp_path / "log" / "head").write_bytes(early)  # the defence left out: the head is put back too
    with AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"]) as log:
        assert log.verify().size == len(HISTORY)


def test_the_whole_log_is_copied_back(tmp_path):
    """Log and head together: only who saw the longer one can tell, and then whatever comes after."""
    written(tmp_path / "log", HISTORY).close()
    shutil.copytree(tmp_path / "log", tmp_path / "copy")
    watched = regulator(tmp_path)
    with AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"]) as log:
        log.append(REFUSED)
        watched.cosign(log.head(), (), NOW)
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "copy", tmp_path / "log")
    with AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"]) as log:
        log.verify()  # the defence left out
        with pytest.raises(Expired, match="was seen before"):
            watched.cosign(log.head(), (), NOW + 1)
        log.append_many([DENIED_NEVER, DENIED_NEVER])
        with pytest.raises(ProofInvalid):
            watched.cosign(log.head(), log.consistency(watched.last(ORIGIN)), NOW + 2)


def test_the_ledger_is_copied_back_to_spend_its_budget_again(tmp_path):
    """The ledger alone grants what was spent before; the log holds charges that the ledger has lost."""
    caps = ledger.Caps(releases=3)
    path = tmp_path / "ledger.db"

    def charge(number, log=None):
        book = ledger.Ledger(path)
        request = number.to_bytes(32)
        charged = book.charge(ledger.Charge(request, "survey", "ana", "planning", float(NOW)), caps)
        if log is not None:
            log.append(
                entries.Charge(
                    time=NOW, request=request.hex(), dataset="survey", analyst="ana", number=charged.number
                )
            )
        book.close()

    def count():
        book = ledger.Ledger(path)
        charges = len(book.history("survey"))
        book.close()
        return charges

    with AuditLog(tmp_path / "log", ORIGIN, key=KEYS["health"]) as log:
        charge(1, log)
        shutil.copy(path, tmp_path / "copy.db")
        for number in (2, 3):
            charge(number, log)
        assert audit.uncharged(log, count()) == ()
        shutil.copy(tmp_path / "copy.db", path)
        for left in tmp_path.glob("ledger.db-*"):
            left.unlink()
        lost = audit.uncharged(log, count())
        assert [int(entry.request, 16) for entry in lost] == [2, 3]
        for number in (4, 5):  # the defence left out: five releases where three were allowed
            charge(number)


def test_a_node_shows_two_histories_to_two_people(tmp_path):
    """Both receipts hold; of the two heads a witness co-signs one."""
    watched, good = regulator(tmp_path), []
    for number, side in enumerate(("left", "right")):
        statement, parts = released(tmp_path / side, release=f"{number:064x}")
        assert verify(receipt.issue(statement, parts, KEYS["centre"], "centre")).ok  # without a witness
        try:
            seen = watched.cosign(parts[0].checkpoint, (), NOW)
        except ProofInvalid:
            seen = parts[0].checkpoint
        parts[0] = msgspec.structs.replace(parts[0], checkpoint=seen)
        report = verify(receipt.issue(statement, parts, KEYS["centre"], "centre"), witnesses=1)
        good.append(not any(check.name == "health: witnesses" for check in report.failed))
    assert good == [True, False]


def test_a_coordinator_states_another_release_or_cost(tmp_path):
    """Its own signature holds over anything; the departments' logs hold the digest of what they agreed to."""
    statement, parts = released(tmp_path)
    for change in (
        {"release": f"{9:064x}"},
        {"epsilon": 0.1},
        {"purpose": "marketing"},
        {"analyst": "regulator"},
    ):
        lie = msgspec.structs.replace(statement, **change)
        data = receipt.issue(lie, parts, KEYS["centre"], "centre")
        document = receipt.read(data)
        keys.verify(  # the defence left out: only the issuer's signature is checked
            KEYS["centre"].public, receipt.DOMAIN, canonical(document.receipt), document.signature
        )
        failed = {check.name for check in verify(data).failed}
        assert {f"{name}: entry" for name in NODES} <= failed


def test_a_coordinator_makes_up_a_department(tmp_path):
    """A log that nobody's node signed, under a department's name."""
    statement, parts = released(tmp_path)
    with AuditLog(tmp_path / "made up", ORIGIN, key=KEYS["centre"]) as log:
        parts[0] = receipt.attest(log, parts[0].entry)
    report = verify(receipt.issue(statement, parts, KEYS["centre"], "centre"))
    assert [check.name for check in report.failed] == ["health: head"]


def test_a_signature_is_used_for_something_else(tmp_path, monkeypatch):
    """A node is brought to sign a value of the attacker's choice for one use, and that is shown as another use."""
    key, value = KEYS["health"], entries.Stop(time=1, reason="as you like")
    signed = keys.seal(key, "health", "greeting", value)
    with pytest.raises(SignatureInvalid):
        keys.open_(signed, "confession", entries.Stop, key.public)
    monkeypatch.setattr(keys, "framed", lambda domain, message: message)
    signed = keys.seal(key, "health", "greeting", value)
    assert keys.open_(signed, "confession", entries.Stop, key.public) == value

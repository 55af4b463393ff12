"""The audit log: what crashes leave, what tampering leaves, and that the two are told apart."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading

import pytest

from sandbox import audit, checkpoint, entries, keys, merkle
from sandbox.audit import AuditLog
from sandbox.errors import LogCorrupt, LogError, ParameterError
from sandbox.keys import SigningKey
from sandbox.query import canonical

ORIGIN = "city/health"
KEY = SigningKey.generate(insecure_seed=b"health")
DIGEST = "ab" * 32


def refusal(number):
    return entries.Refusal(time=number, request=f"{number:064x}", reasons=("too small",))


def opened(directory, **options):
    return AuditLog(directory, ORIGIN, key=KEY, **options)


def filled(directory, count=5, head=True):
    with opened(directory) as log:
        for number in range(count):
            log.append(refusal(number))
        if head:
            log.head()
    return directory / "entries.log"


def frame_starts(path):
    data, starts, position = path.read_bytes(), [], 0
    while position < len(data):
        starts.append(position)
        position += audit.HEADER_BYTES + int.from_bytes(data[position + 4 : position + 8])
    return starts


ALL_KINDS = [
    entries.Start(time=1, department="health", code="1", roster=DIGEST, ledger=3),
    entries.Catalogue(time=2, catalogue=DIGEST),
    entries.Policy(time=2, dataset="survey", policy=DIGEST),
    entries.Request(time=3, request=DIGEST, dataset="survey", analyst="ana", purpose="为了规划"),
    entries.Decision(time=3, request=DIGEST, policy=DIGEST, verdict="needs approval", reasons=("a", "b")),
    entries.Approval(time=4, contract=DIGEST, approver="own", verdict="approve"),
    entries.Charge(
        time=5, request=DIGEST, dataset="survey", analyst="ana", number=1, epsilon=0.5, delta=1e-6
    ),
    entries.Release(
        time=6,
        department="health",
        statement=DIGEST,
        request=DIGEST,
        release=DIGEST,
        dataset="survey",
        policy=DIGEST,
        data_version="2024",
        code="1",
    ),
    entries.Quota(
        time=6, request=DIGEST, model="credit", analyst="ana", purpose="p", number=1, rows=9, version=DIGEST
    ),
    entries.Refusal(time=7, request=DIGEST, reasons=("small cell",), charged=True),
    entries.Stop(time=8),
]


def test_every_kind_of_entry_comes_back(tmp_path):
    assert {type(entry) for entry in ALL_KINDS} == set(entries.Entry.__args__)
    with opened(tmp_path) as log:
        assert [log.append(entry) for entry in ALL_KINDS] == list(range(len(ALL_KINDS)))
    with opened(tmp_path) as log:
        assert list(log.entries()) == ALL_KINDS
        assert list(log.entries(2, 5)) == ALL_KINDS[2:5]
        assert log.append(entries.Start(time=9, department="health", code="1", roster=DIGEST)) == len(
            ALL_KINDS
        )


def test_heads_are_over_the_canonical_entries(tmp_path):
    leaves = [merkle.leaf_hash(canonical(entry)) for entry in ALL_KINDS]
    with opened(tmp_path) as log:
        empty = checkpoint.verify(log.last(), KEY.public, ORIGIN)
        assert (empty.size, empty.root) == (0, merkle.EMPTY_ROOT)
        log.append(ALL_KINDS[0])
        early = checkpoint.verify(log.head(), KEY.public, ORIGIN)
        log.append_many(ALL_KINDS[1:])
        head = checkpoint.verify(log.head(), KEY.public, ORIGIN)
        assert (head.size, head.root) == (len(leaves), merkle.Tree(leaves).root())
        assert log.head() == log.last()
        for index, leaf in enumerate(leaves):
            merkle.verify_inclusion(leaf, index, head.size, log.prove(index, head.size), head.root)
        merkle.verify_consistency(1, head.size, early.root, head.root, log.consistency(1, head.size))
        assert log.consistency(0, head.size) == ()
        assert log.verify() == head


def test_a_batch_is_one_frame(tmp_path):
    with opened(tmp_path) as log:
        assert log.append_many([refusal(0), refusal(1)]) == 0
        assert log.append_many([]) == 2
        assert log.append_many([refusal(2)]) == 2
    assert len(frame_starts(tmp_path / "entries.log")) == 2


@pytest.mark.parametrize("head", [0, 3])
def test_a_frame_torn_anywhere_is_cut_off(tmp_path, head):
    path = filled(tmp_path, 3, head=bool(head))
    whole = path.read_bytes()
    [*_, last] = frame_starts(path)
    with opened(tmp_path) as log:
        log.append_many([refusal(3), refusal(4)])
    longer = path.read_bytes()
    for cut in range(len(whole) + 1, len(longer)):
        path.write_bytes(longer[:cut])
        with opened(tmp_path) as log:
            assert len(log) == 3
            assert log.cut == cut - len(whole)
            assert path.read_bytes() == whole
    if not head:  # no head covers the last entry, so it can be torn too
        for cut in range(last + 1, len(whole)):
            path.write_bytes(whole[:cut])
            with opened(tmp_path) as log:
                assert len(log) == 2


def test_a_torn_frame_may_be_of_full_length(tmp_path):
    """File systems may grow the file before the data are there: zeros, or a sector missing."""
    path = filled(tmp_path, 3)
    whole = path.read_bytes()
    with opened(tmp_path) as log:
        log.append_many([refusal(n) for n in range(3, 12)])
    frame = path.read_bytes()[len(whole) :]
    for torn in (bytes(len(frame)), frame[:512] + bytes(len(frame) - 512), bytes(512) + frame[512:]):
        path.write_bytes(whole + torn)
        with opened(tmp_path) as log:
            assert (len(log), log.cut) == (3, len(frame))
            assert log.append(refusal(3)) == 3
        with opened(tmp_path) as log:
            assert (len(log), log.cut) == (4, 0)


def test_damage_before_an_intact_frame_is_no_torn_tail(tmp_path):
    path = filled(tmp_path, 6, head=False)
    whole, starts = path.read_bytes(), frame_starts(path)
    for start in starts[:-1]:
        for offset in (0, 5, 9, 20, 79, 90):
            path.write_bytes(flipped(whole, start + offset))
            with pytest.raises(LogCorrupt):
                opened(tmp_path)
            assert len(path.read_bytes()) == len(whole)  # nothing was cut


def test_any_flipped_bit_under_a_head_is_found(tmp_path):
    path = filled(tmp_path, 6)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(flipped(whole, position))
        with pytest.raises(LogCorrupt):
            opened(tmp_path)
    path.write_bytes(whole)
    with opened(tmp_path) as log:
        assert log.verify().size == 6


def flipped(data, position):
    return data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]


def test_a_rolled_back_log_is_found(tmp_path):
    path = filled(tmp_path, 6)
    whole = path.read_bytes()
    for start in frame_starts(path):
        path.write_bytes(whole[:start])
        with pytest.raises(LogCorrupt, match="rolled back"):
            opened(tmp_path)
    path.unlink()
    with pytest.raises(LogCorrupt, match="rolled back"):
        opened(tmp_path)


def test_a_rewritten_or_reordered_log_is_found(tmp_path):
    """With intact frames: the writer has the format, but neither the key nor the old head."""
    path = filled(tmp_path, 4)
    data, starts = path.read_bytes(), [*frame_starts(path), path.stat().st_size]
    frames = [data[a:b] for a, b in itertools.pairwise(starts)]
    payload = bytearray(frames[1][audit.HEADER_BYTES :])
    payload[payload.index(b"small")] = ord("S")
    forged = audit._frame(frames[1][16 : audit.HEADER_BYTES], bytes(payload))
    for order in ([frames[0], forged, *frames[2:]], [frames[1], frames[0], *frames[2:]]):
        path.write_bytes(b"".join(order))
        with pytest.raises(LogCorrupt, match="rewritten"):
            opened(tmp_path)


def test_a_frame_that_the_node_did_not_write_is_found(tmp_path):
    """Beyond the last head too: appended by another key, or moved from another place or log."""
    path = filled(tmp_path / "a", 3)
    whole = path.read_bytes()
    stranger = SigningKey.generate()
    leaf = canonical(refusal(3))
    payload = len(leaf).to_bytes(4) + leaf
    with opened(tmp_path / "a") as log:
        covered = log._covered(3, payload)
    with AuditLog(tmp_path / "b", "city/labour", key=KEY) as log:
        for number in range(5):
            log.append(refusal(number))
    other = tmp_path / "b" / "entries.log"
    [*_, fourth, fifth] = frame_starts(other)
    last = frame_starts(path)[-1]
    for forged in (
        audit._frame(stranger.sign(audit.DOMAIN, covered), payload),
        audit._frame(KEY.sign("other", covered), payload),
        audit._frame(bytes(64), payload),
        whole[last:],  # a copy of the last frame
        other.read_bytes()[fourth:fifth],  # the right place, in another log of the same key
    ):
        path.write_bytes(whole + forged)
        assert audit._frame(forged[16:80], forged[80:]) == forged
        with pytest.raises(LogCorrupt, match="did not write"):
            opened(tmp_path / "a")
    path.write_bytes(whole + audit._frame(KEY.sign(audit.DOMAIN, covered), payload))
    with opened(tmp_path / "a") as log:
        assert len(log) == 4


def test_heads_are_guarded(tmp_path):
    filled(tmp_path, 3)
    head = tmp_path / "head"
    note = head.read_bytes()
    other = checkpoint.sign(checkpoint.parse(note.decode()).checkpoint, SigningKey.generate()).encode()
    elsewhere = checkpoint.sign(checkpoint.Checkpoint("city/labour", 0, merkle.EMPTY_ROOT), KEY).encode()
    for forged in (b"", b"\xff", note[:-1], other, elsewhere, flipped(note, 12)):
        head.write_bytes(forged)
        with pytest.raises(LogCorrupt, match="head"):
            opened(tmp_path)
    head.unlink()
    with pytest.raises(LogCorrupt, match="head is gone"):
        opened(tmp_path)
    head.write_bytes(note)
    with pytest.raises(LogCorrupt):
        AuditLog(tmp_path, ORIGIN, key=SigningKey.generate())
    with pytest.raises(LogCorrupt):
        AuditLog(tmp_path, "city/labour", key=KEY)


def test_a_change_under_an_open_log_is_found(tmp_path):
    with opened(tmp_path) as log:
        log.append_many([refusal(n) for n in range(3)])
        log.head()
        path = tmp_path / "entries.log"
        path.write_bytes(path.read_bytes().replace(b"small", b"Small", 1))
        with pytest.raises(LogCorrupt, match="entry 0"):
            log.verify()
        with pytest.raises(LogCorrupt, match="entry 0"):
            list(log.entries())


def test_one_writer(tmp_path):
    with opened(tmp_path) as log:
        log.append(refusal(0))
        with pytest.raises(LogError, match="another process"):
            opened(tmp_path)
        code = (
            "import sys\nfrom sandbox import audit, keys, errors\n"
            "key = keys.SigningKey.generate(insecure_seed=b'health')\n"
            "try:\n    audit.AuditLog(sys.argv[1], 'city/health', key=key)\n"
            "except errors.LogError as error:\n    print(error)"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert "in use by another process" in said.stdout
        assert log.append(refusal(1)) == 1
    with opened(tmp_path) as log:
        assert len(log) == 2


def test_readers_need_no_private_key_and_change_nothing(tmp_path):
    path = filled(tmp_path, 3)
    with opened(tmp_path) as writer:
        writer.append(refusal(3))
        path.write_bytes(path.read_bytes() + b"torn")
        before = path.read_bytes()
        with AuditLog(tmp_path, ORIGIN, public=KEY.public) as reader:
            assert len(reader) == 4
            assert reader.verify().size == 3
            assert reader.last() == writer.last()
            for call in (lambda: reader.append(refusal(4)), reader.head):
                with pytest.raises(LogError, match="to read"):
                    call()
        assert path.read_bytes() == before
    with pytest.raises(LogError, match="cannot be opened"):
        AuditLog(tmp_path / "nothing", ORIGIN, public=KEY.public)
    with pytest.raises(ParameterError):
        AuditLog(tmp_path, ORIGIN)


def test_a_closed_log_says_so(tmp_path):
    log = opened(tmp_path)
    log.append(refusal(0))
    log.close()
    log.close()
    for call in (lambda: log.append(refusal(0)), log.head, log.verify, lambda: list(log.entries())):
        with pytest.raises(LogError, match="closed"):
            call()


def test_entries_that_could_not_be_read_are_not_written(tmp_path):
    long = entries.Stop(time=1, reason="a" * 2001)
    with opened(tmp_path) as log:
        before = (tmp_path / "entries.log").read_bytes()
        for bad in (long, entries.Stop(time=-1), entries.Catalogue(time=1, catalogue="AB" * 32), keys.Signed):
            with pytest.raises((keys.Malformed, TypeError)):
                log.append(bad)
        with pytest.raises(keys.Malformed):
            log.append_many([refusal(0), long])
        assert len(log) == 0
        assert (tmp_path / "entries.log").read_bytes() == before


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    """A real limit on the file's size, in a process of its own: writes fail in the middle of a frame."""
    code = (
        "import resource, signal, sys\nfrom sandbox import audit, entries, errors, keys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "key = keys.SigningKey.generate(insecure_seed=b'health')\n"
        "log = audit.AuditLog(sys.argv[1], 'city/health', key=key)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 10**9))\n"
        "done = failed = 0\n"
        "for number in range(30):\n"
        "    entry = entries.Refusal(time=number, request=f'{number:064x}', reasons=('too small',))\n"
        "    try:\n        log.append(entry); done += 1\n"
        "    except errors.LogError: failed += 1\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))\n"
        "log.append(entries.Stop(time=99)); log.head(); log.verify()\n"
        "print(done, failed)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    done, failed = map(int, said.stdout.split())
    assert done > 5
    assert failed > 5
    with opened(tmp_path) as log:
        assert [entry.time for entry in log.entries()] == [*range(done), 99]
        assert log.cut == 0


def test_killed_at_any_instant_it_keeps_what_it_acknowledged(tmp_path):
    """kill -9 at random instants: every acknowledged entry is there, in order, and the log opens and verifies."""
    code = (
        "import sys\nfrom sandbox import audit, entries, keys\n"
        "key = keys.SigningKey.generate(insecure_seed=b'health')\n"
        "log = audit.AuditLog(sys.argv[1], 'city/health', key=key)\n"
        "number = len(log)\n"
        "print('open', flush=True)\n"
        "while True:\n"
        "    batch = [entries.Refusal(time=number + i, request=f'{number + i:064x}', reasons=()) for i in range(number % 3 + 1)]\n"
        "    log.append_many(batch); number += len(batch)\n"
        "    if number % 4 == 0: log.head()\n"
        "    print(number, flush=True)\n"
    )
    generator = random.Random(7)
    acknowledged = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "open\n"
        killer = threading.Timer(generator.uniform(0.0, 0.05), os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        lines = [line for line in process.stdout.read().split("\n") if line]
        killer.join()
        process.wait()
        acknowledged = int(lines[-1]) if lines else acknowledged
        with opened(tmp_path) as log:
            assert len(log) >= acknowledged
            assert [entry.time for entry in log.entries()] == list(range(len(log)))
            log.verify()
            acknowledged = len(log)
    assert acknowledged > 0


def test_threads_share_a_log(tmp_path):
    with opened(tmp_path) as log:
        indices: list[int] = []

        def work(base):
            for number in range(base, base + 10):
                indices.append(log.append(refusal(number)))
                log.head()

        threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(indices) == list(range(80))
        assert sorted(entry.time for entry in log.entries()) == list(range(80))
        assert log.verify().size == 80


def test_files_are_the_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        filled(tmp_path / "log", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "log").iterdir())


def test_a_crash_while_a_log_is_made_leaves_one_that_opens(tmp_path):
    with opened(tmp_path):
        pass
    (tmp_path / "entries.log").unlink()
    with opened(tmp_path) as log:
        assert len(log) == 0
    pathlib.Path(tmp_path / "head").unlink()
    with pytest.raises(LogCorrupt):
        opened(tmp_path)


def test_charges_that_a_ledger_lost(tmp_path):
    with opened(tmp_path) as log:
        charges = [
            entries.Charge(time=n, request=f"{n:064x}", dataset="survey", analyst="ana", number=n)
            for n in range(1, 6)
        ]
        for charge in charges:
            log.append_many([charge, refusal(9)])
        assert audit.uncharged(log, 5) == ()
        assert audit.uncharged(log, 3) == tuple(charges[3:])


def test_errors_hold_no_data(tmp_path):
    path = filled(tmp_path, 3)
    path.write_bytes(path.read_bytes().replace(b"too small", b"secret 42", 1))
    with pytest.raises(LogCorrupt) as caught:
        opened(tmp_path)
    assert "secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)

"""A witness signs one history. The log `monkeys` and its proof: github.com/transparency-dev/witness, persistence tests."""

from __future__ import annotations

import base64
import multiprocessing

import pytest

from sandbox import checkpoint, entries, merkle
from sandbox.audit import AuditLog
from sandbox.checkpoint import Checkpoint
from sandbox.errors import Expired, LogError, Malformed, ProofInvalid, SignatureInvalid, UnknownSigner
from sandbox.keys import SigningKey
from sandbox.witness import Witness

NODE = SigningKey.generate(insecure_seed=b"node")
KEY = SigningKey.generate(insecure_seed=b"regulator")
NAME, ORIGIN = "city/regulator", "city/health"
MONKEYS_KEY = base64.b64decode("AULaJMvTtDLHPUcUrjdDad9vDlh/PTfC2VV60JUtCfWT")[1:]
MONKEYS_5 = (
    "monkeys\n5\n41smjBUiAU70EtKlT6lIOIYtRTYxYXsDB+XHfcvu/BE=\n\n"
    "— monkeys 202fftzGl3LVoqjXfwCFZZXs8I+5G22+Ek2K0AOyBuSJ/8/CZawNF+6fNlTKOCd622pbzJNkkJFWuw9DbicZCkEx9AY=\n"
)
MONKEYS_8 = (
    "monkeys\n8\nV8K9aklZ4EPB+RMOk1/8VsJUdFZR77GDtZUQq84vSbo=\n\n"
    "— monkeys 202ffoUEboiQYpHzICeaFmoy3RNviHTpAxYrq/eO4QQVQMvu9UebKBMX2MJC76NLthZaKsnKbCA8GxrjePZhvDCH7Ag=\n"
)
PROOF = [
    bytes.fromhex(text)
    for text in (
        "b9e1d62618f7fee8034e4c5010f727ab24d8e4705cb296c374bf2025a87a10d2",
        "aac66cd7a79ce4012d80762fe8eec3a77f22d1ca4145c3f4cee022e7efcd599d",
        "89d0f753f66a290c483b39cd5e9eafb12021293395fad3d4a2ad053cfbcfdc9e",
        "29e40bb79c966f4c6fe96aff6f30acfce5f3e8d84c02215175d6e018a5dee833",
    )
]


def witness(path):
    return Witness(path / "seen.json", KEY, NAME, {ORIGIN: NODE.public})


def tree(size, first=0):
    return merkle.Tree(merkle.leaf_hash(b"%d" % (first if i == 0 else i)) for i in range(size))


def head(of, size=None):
    size = len(of) if size is None else size
    return checkpoint.sign(Checkpoint(ORIGIN, size, of.root(size)), NODE)


def test_a_growing_log_is_cosigned(tmp_path):
    with AuditLog(tmp_path / "log", ORIGIN, key=NODE) as log:
        for now in range(100, 110):
            log.append_many([entries.Stop(time=n) for n in range(now % 3)])
            someone = witness(tmp_path)  # a new process each time
            note = log.head()
            size = checkpoint.parse(note).checkpoint.size
            cosigned = someone.cosign(note, log.consistency(someone.last(ORIGIN), size or None), now)
            assert cosigned.startswith(note)
            assert checkpoint.cosigned(cosigned, KEY.public, NAME) == now
            assert someone.last(ORIGIN) == size


def test_published_heads(tmp_path):
    other = Witness(tmp_path / "seen.json", KEY, NAME, {"monkeys": MONKEYS_KEY})
    other.cosign(MONKEYS_5, [], 1)
    with pytest.raises(ProofInvalid):
        other.cosign(MONKEYS_8, PROOF[:-1], 2)
    assert checkpoint.cosigned(other.cosign(MONKEYS_8, PROOF, 2), KEY.public, NAME) == 2
    with pytest.raises(Expired):
        other.cosign(MONKEYS_5, [], 3)


def test_a_rewritten_history_is_refused(tmp_path):
    honest, rewritten = tree(5), tree(8, first=99)
    someone = witness(tmp_path)
    someone.cosign(head(honest), [], 1)
    for proof in (rewritten.consistency(5), tree(8).consistency(5), [], [bytes(32)] * 4):
        with pytest.raises(ProofInvalid):
            someone.cosign(head(rewritten), proof, 2)
    assert someone.last(ORIGIN) == 5
    someone.cosign(head(tree(8)), tree(8).consistency(5), 2)


def test_a_fork_at_the_same_size_is_refused(tmp_path):
    someone = witness(tmp_path)
    someone.cosign(head(tree(5)), [], 1)
    with pytest.raises(ProofInvalid, match="two different trees of 5"):
        someone.cosign(head(tree(5, first=99)), [], 2)
    assert someone.cosign(head(tree(5)), [], 3)


def test_shrinking_is_refused(tmp_path):
    someone = witness(tmp_path)
    someone.cosign(head(tree(5)), [], 1)
    with pytest.raises(Expired, match="one of 5 was seen"):
        someone.cosign(head(tree(4)), [], 2)
    with pytest.raises(Expired):
        someone.cosign(head(tree(0)), [], 2)


def test_time_does_not_go_back(tmp_path):
    someone = witness(tmp_path)
    someone.cosign(head(tree(5)), [], 10)
    with pytest.raises(Expired, match="clock went back"):
        someone.cosign(head(tree(6)), tree(6).consistency(5), 9)
    someone.cosign(head(tree(6)), tree(6).consistency(5), 10)


def test_only_logs_and_keys_that_it_knows(tmp_path):
    someone = witness(tmp_path)
    stranger = SigningKey.generate()
    for note, error in (
        (checkpoint.sign(Checkpoint(ORIGIN, 5, tree(5).root()), stranger), SignatureInvalid),
        (checkpoint.sign(Checkpoint("city/labour", 5, tree(5).root()), NODE), UnknownSigner),
        (head(tree(5)).replace("\n5\n", "\n6\n"), SignatureInvalid),
        (head(tree(5))[:-1], Malformed),
    ):
        with pytest.raises(error):
            someone.cosign(note, [], 1)
    assert not (tmp_path / "seen.json").exists()


def test_a_proof_must_have_something_to_prove(tmp_path):
    someone = witness(tmp_path)
    with pytest.raises(ProofInvalid, match="nothing to prove"):
        someone.cosign(head(tree(5)), [bytes(32)], 1)
    someone.cosign(head(tree(0)), [], 1)
    with pytest.raises(ProofInvalid, match="empty log"):
        someone.cosign(head(tree(5)), [bytes(32)], 2)
    with pytest.raises(ProofInvalid, match="empty log"):
        someone.cosign(checkpoint.sign(Checkpoint(ORIGIN, 0, bytes(32)), NODE), [], 2)
    someone.cosign(head(tree(5)), [], 2)


def test_what_it_saw_is_kept_before_it_signs(tmp_path):
    someone = witness(tmp_path)
    someone.path.mkdir()  # cannot be replaced by a file
    with pytest.raises(LogError):
        someone.cosign(head(tree(5)), [], 1)
    someone.path.rmdir()
    someone.cosign(head(tree(5)), [], 1)
    assert someone.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b'{"city/health":{}}', b"{} ", b"\xff"])
def test_a_damaged_memory_is_not_an_empty_one(tmp_path, content):
    someone = witness(tmp_path)
    someone.path.write_bytes(content)
    with pytest.raises(Malformed):
        someone.cosign(head(tree(5)), [], 1)


def _race(path, first, results):
    try:
        witness(path).cosign(head(tree(5, first=first)), [], 1)
        results.put("signed")
    except ProofInvalid:
        results.put("refused")


def test_processes_that_race_sign_one_history(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path, first, results)) for first in range(4)]
    for racer in racers:
        racer.start()
    said = sorted(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert said == ["refused"] * 3 + ["signed"]

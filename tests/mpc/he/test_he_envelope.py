"""Damaged, truncated, foreign and hostile bytes: 10,000 mutations end in our errors, never in another one or a value."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest

from mpc.errors import Malformed, ProtocolError, Tampered, WrongLength
from mpc.he import columns, envelope, seal
from mpc.he.envelope import NoHeader
from mpc.he.keys import EvaluationKey, PublicKey, SecretKey
from mpc.he.models import features_of, linear
from mpc.he.packed import PackedSum
from mpc.he.parameters import SUM, Parameters
from mpc.he.scoring import ScoreClient, ScoreServer

SUMS = PackedSum.integers(0, 9, addends=2)
SMALL = Parameters("ckks", 2048, (27, 27))


def mutations(message, count, seed):
    """Flipped bits, overwritten words, cuts, insertions, foreign bytes; half of them near the front, where structure is."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        data = bytearray(message)
        at = int(generator.integers(len(data) if generator.random() < 0.5 else min(len(data), 200)))
        match int(generator.integers(6)):
            case 0:
                data[at] ^= 1 << int(generator.integers(8))
            case 1:
                data[at : at + 8] = generator.bytes(8)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = generator.bytes(int(generator.integers(1, 40)))
            case 4:
                data[at : at + 8] = b"\xff" * len(data[at : at + 8])
            case 5:
                data = bytearray(generator.bytes(int(generator.integers(1, 400))))
        if data != message:
            yield bytes(data)


def resealed(message):
    """The same with a digest that fits: what a sender who means harm would do."""
    return message[:8] + hashlib.sha256(message[40:]).digest() + message[40:]


def test_8000_mutations_of_every_message_are_refused():
    key = SecretKey.generate(SUM)
    server = ScoreServer(linear(features_of({"x": (0, 1)}), [1.0]))
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    [block] = client.ask({"x": [0.5]})
    answer = server.score(block)
    small = SecretKey.generate(SMALL)
    targets = [
        (SUMS.encrypt(np.arange(5), key).to_bytes(), lambda m: SUMS.read(m, key.fingerprint)),
        (block, server.score),
        (answer, client.scores),
        (small.public_key().to_bytes(), lambda m: PublicKey.from_bytes(m, SMALL)),
        (
            small.evaluation_key(multiply=True, rotations=(1,)).to_bytes(),
            lambda m: EvaluationKey.from_bytes(m, SMALL),
        ),
        (small.expose(), lambda m: SecretKey.from_exposed(m, SMALL)),
    ]
    count = 0
    for seed, (message, read) in enumerate(targets):
        for mutated in mutations(message, 1350, seed):
            count += 1
            with pytest.raises(ProtocolError):
                read(mutated)
    assert count >= 8000
    assert abs(client.scores(answer)[0, 0] - 0.5) <= client.error  # the state is as it was


def test_2000_mutations_with_a_fitting_digest_end_in_our_errors_or_in_ciphertexts():
    """SEAL's own checks are the second line. What it accepts is a ciphertext in range, of something else."""
    key = SecretKey.generate(SUM)
    message = SUMS.encrypt(np.arange(5), key).to_bytes()
    outcomes = {"refused": 0, "read": 0}
    for mutated in mutations(message, 2000, 99):
        try:
            vector = SUMS.read(resealed(mutated) if len(mutated) > 40 else mutated, key.fingerprint)
        except ProtocolError:
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert all(seal.bindings().is_valid_for(part, seal.context(SUM)) for part in vector.ciphertexts())
    assert outcomes["refused"] > 1000
    assert sum(outcomes.values()) > 1990


def test_what_is_checked_in_which_order(sum_key):
    good = envelope.pack("thing", SUM, sum_key.fingerprint, NoHeader(), [b"part"])
    read = lambda m, kind="thing", parameters=SUM, key=sum_key.fingerprint: envelope.unpack(  # noqa: E731
        m, kind, parameters, key, NoHeader, most_part_bytes=4
    )
    assert read(good) == (sum_key.fingerprint, NoHeader(), [b"part"])
    with pytest.raises(Malformed, match="another kind"):
        read(good, kind="other")
    with pytest.raises(Malformed, match="other parameters"):
        read(good, parameters=SMALL)
    with pytest.raises(Tampered, match="another key"):
        read(good, key=bytes(16))
    with pytest.raises(Tampered, match="digest"):
        read(good[:-1])
    with pytest.raises(Malformed, match="not a message of homomorphic"):
        read(b"")
    for parts in ([b"longer"], [b""]):
        with pytest.raises(WrongLength, match=r"1 \.\.\. 4 bytes"):
            read(envelope.pack("thing", SUM, sum_key.fingerprint, NoHeader(), parts))
    with pytest.raises(WrongLength, match="fingerprint"):
        read(envelope.pack("thing", SUM, b"short", NoHeader(), []), key=None)


def test_a_ciphertext_of_another_level_scale_or_size_is_refused(score_key):
    parameters = score_key.parameters
    ciphertext = score_key.encrypt(columns.encode(parameters, np.ones(4)))
    evaluator = seal.bindings().Evaluator(seal.context(parameters))
    lower, squared = seal.bindings().Ciphertext(), seal.bindings().Ciphertext()
    evaluator.mod_switch_to_next(ciphertext, lower)
    evaluator.square(ciphertext, squared)
    assert columns.read(parameters, seal.dump(ciphertext), 2, parameters.scale, "rows").size() == 2
    for wrong in (lower, squared):
        with pytest.raises(Malformed, match="expected level"):
            columns.read(parameters, seal.dump(wrong), 2, parameters.scale, "rows")
    with pytest.raises(Malformed, match="expected scale"):
        columns.read(parameters, seal.dump(ciphertext), 2, 2.0**40, "rows")


def test_headers_are_read_strictly(sum_key):
    class Longer(msgspec.Struct, array_like=True):
        extra: int

    message = envelope.pack("thing", SUM, sum_key.fingerprint, Longer(1), [])
    with pytest.raises(Malformed):
        envelope.unpack(message, "thing", SUM, None, NoHeader, most_part_bytes=4)

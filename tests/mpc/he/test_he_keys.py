"""Secret keys stay where they are: no pickle, copy, repr, log or message holds one; a file does when asked for."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import stat

import msgspec
import numpy as np
import pytest

from mpc.errors import Malformed, OutOfRange, Tampered
from mpc.he import columns, seal
from mpc.he.keys import EvaluationKey, PublicKey, SecretKey
from mpc.he.models import features_of, linear
from mpc.he.packed import PackedSum
from mpc.he.parameters import SUM, score_parameters
from mpc.he.scoring import ScoreClient, ScoreServer


def secret_pieces(key):
    """The secret in every form that it could travel in: SEAL's bytes, compressed as they are, and raw coefficients."""
    packed = seal.dump(key._handle)
    values = key._handle.data()
    raw = np.array([values.data(i) for i in range(64)], dtype="<u8").tobytes()
    return [packed[16:64], packed[-64:], raw]


def test_no_pickle_and_no_copy(sum_key):
    for thing in (sum_key, sum_key.public_key(), sum_key.evaluation_key()):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy, lambda x: pickle.dumps({"held": [x]})):
            with pytest.raises(OutOfRange, match="never pickled"):
                attempt(thing)
        with pytest.raises(TypeError):
            msgspec.msgpack.encode(thing)


def test_nothing_that_travels_or_is_shown_holds_the_secret(caplog):
    caplog.set_level(logging.DEBUG)
    server = ScoreServer(linear(features_of({"x": (0, 1)}), [1.0]))
    client = ScoreClient(server.offer())
    messages = [server.offer(), client.keys()]
    server.accept_keys(messages[-1])
    for block in client.ask({"x": [0.5]}):
        messages += [block, server.score(block)]
    key = client._key
    shown = [repr(client), repr(key), str(key), repr(vars(server)), caplog.text, repr(client.offer)]
    pieces = secret_pieces(key)
    assert pieces[0] in key.expose()  # the search finds what is there
    for piece in pieces:
        assert not any(piece in message for message in messages)
        assert not any(piece.hex() in text for text in shown)


def test_the_vectors_of_a_sum_do_not_hold_it_either(sum_key):
    vector = PackedSum.integers(0, 9, addends=2).encrypt(np.arange(10), sum_key)
    messages = [vector.to_bytes(), (vector + vector).to_bytes(), sum_key.public_key().to_bytes()]
    assert not any(piece in message for piece in secret_pieces(sum_key) for message in messages)
    assert sum_key.fingerprint.hex()[:8] in repr(vector)


def test_saved_for_the_owner_alone_and_never_over_another(tmp_path, sum_key):
    path = tmp_path / "secret"
    old = os.umask(0)
    try:
        sum_key.save(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        sum_key.save(path)
    again = SecretKey.load(path, SUM)
    sums = PackedSum.integers(0, 9, addends=1)
    assert again.fingerprint == sum_key.fingerprint
    assert sums.decrypt(sums.encrypt(np.arange(10), sum_key), again).tolist() == list(range(10))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path, sum_key, mode):
    path = tmp_path / "secret"
    sum_key.save(path)
    path.chmod(mode)
    with pytest.raises(OutOfRange, match="0600"):
        SecretKey.load(path, SUM)


def test_kinds_and_parameters_are_not_mixed(sum_key, score_key):
    public = sum_key.public_key().to_bytes()
    with pytest.raises(Malformed):
        EvaluationKey.from_bytes(public, SUM)
    with pytest.raises(Malformed):
        SecretKey.from_exposed(public, SUM)
    with pytest.raises(Malformed, match="other parameters"):
        PublicKey.from_bytes(public, score_key.parameters)
    assert PublicKey.from_bytes(public, SUM).fingerprint == sum_key.fingerprint


def test_keys_have_fingerprints_of_their_own(sum_key):
    others = {SecretKey.generate(SUM).fingerprint for _ in range(20)}
    assert len(others | {sum_key.fingerprint}) == 21


def test_only_the_rotations_asked_for(score_key):
    key = score_key.evaluation_key(rotations=(1, 4))
    assert key.relinearise is None
    element = 2 * score_key.parameters.degree
    held = [step for step in (1, 2, 3, 4, 8) if key.rotate.has_key(pow(3, step, element))]
    assert held == [1, 4]
    read = EvaluationKey.from_bytes(key.to_bytes(), score_key.parameters)
    assert (read.rotations, read.fingerprint) == ((1, 4), score_key.fingerprint)
    with pytest.raises(OutOfRange, match="rotations"):
        score_key.evaluation_key(rotations=(0,))


def test_decrypting_with_another_key_is_refused(sum_key):
    sums = PackedSum.integers(0, 9, addends=2)
    vector = sums.encrypt(np.arange(3), sum_key)
    other = SecretKey.generate(SUM)
    with pytest.raises(Tampered, match="another key"):
        sums.decrypt(vector, other)
    with pytest.raises(Tampered, match="different keys"):
        vector + sums.encrypt(np.arange(3), other)
    with pytest.raises(Tampered, match="another key"):
        sums.read(vector.to_bytes(), other.fingerprint)


def test_a_symmetric_ciphertext_is_half_as_long(score_key):
    seeded = columns.encrypt(score_key, np.ones(8))
    whole = seal.dump(score_key.encrypt(columns.encode(score_key.parameters, np.ones(8))))
    assert len(seeded) < 0.55 * len(whole)
    assert len(whole) <= score_parameters(2, 8192).most_ciphertext_bytes

"""Each defence has an attack that succeeds without it, and fails with it."""

from __future__ import annotations

import numpy as np
import pytest

from mpc.errors import OutOfRange
from mpc.he import columns, flooding, seal
from mpc.he.arithmetic import Arithmetic
from mpc.he.circuit import run
from mpc.he.flooding import gaussian, publishable
from mpc.he.keys import EvaluationKey, SecretKey
from mpc.he.models import features_of, linear
from mpc.he.parameters import Parameters
from mpc.he.plan import plan
from mpc.he.scoring import ScoreClient, ScoreServer

TINY = Parameters("ckks", 2048, (30, 24))
PRIME = seal.chain(TINY)[0][1]


def numbers(polynomial, count):
    return [polynomial.data(i) for i in range(count)]


def recovered_secret(ciphertext, values):
    """Li and Micciancio: the decrypted values, encoded again, are c0 + c1 s exactly; solve for s, point by point."""
    n = TINY.degree
    plaintext = seal.bindings().Plaintext()
    seal.bindings().CKKSEncoder(seal.context(TINY)).encode(
        values.tolist(), list(seal.chain(TINY)[0][0]), ciphertext.scale, plaintext
    )
    message = numbers(plaintext, n)
    halves = ciphertext.dyn_array()
    c0, c1 = ([halves.at(i) for i in range(start, start + n)] for start in (0, n))
    return [(m - a) * pow(b, -1, PRIME) % PRIME for m, a, b in zip(message, c0, c1, strict=True)]


def complex_slots(key, ciphertext):
    """What the owner of the key sees, imaginary halves included."""
    encoder = seal.bindings().CKKSEncoder(seal.context(TINY))
    return np.array(encoder.decode_complex(key.decrypt(ciphertext)))


def test_decrypted_values_give_the_secret_key_away_unless_flooded():
    key = SecretKey.generate(TINY)
    ciphertext = key.encrypt(columns.encode(TINY, np.linspace(-1, 1, TINY.slots)))
    secret = numbers(key._handle.data(), TINY.degree)
    seen = complex_slots(key, ciphertext)
    assert recovered_secret(ciphertext, seen) == secret  # the attack, with the defence off
    error = np.abs(seen - np.linspace(-1, 1, TINY.slots)).max()
    shown, spread = publishable(seen.real, error, bits=16)
    assert spread > 100 * error
    guess = recovered_secret(ciphertext, shown + 1j * seen.imag)  # even with more than is published
    assert sum(a == b for a, b in zip(guess, secret, strict=True)) < 10


FEATURES = features_of({"first": (-1, 1), "second": (-1, 1)})
SAME = {"first": np.linspace(-1, 1, 50), "second": np.linspace(-1, 1, 50)}


def evaluated(weights, client, block_parts, scheme):
    """What the circuit of these weights gives for the client's own ciphertexts: the client can compute it, too."""
    fingerprint = client._key.fingerprint
    arithmetic = Arithmetic(scheme.parameters, EvaluationKey(scheme.parameters, fingerprint, None, None, ()))
    top = scheme.parameters.levels
    inputs = [
        arithmetic.fresh(columns.read(scheme.parameters, part, top, scheme.parameters.scale, "rows"))
        for part in block_parts
    ]
    [output] = run(plan(linear(FEATURES, weights)).circuit, arithmetic, inputs, 50)
    return output


def parts_of(message, client, kind):
    from mpc.he import envelope
    from mpc.he.scoring import _Block

    parameters = client.offer.parameters
    return envelope.unpack(
        message, kind, parameters, None, _Block, most_part_bytes=parameters.most_ciphertext_bytes
    )[2]


def test_an_evaluated_ciphertext_tells_two_models_with_equal_scores_apart_unless_flooded():
    """Both columns are equal, so that weights (0.7, 0.1) and (0.1, 0.7) give the same scores. The client has a guess."""
    truth, other = (0.7, 0.1), (0.1, 0.7)
    server = ScoreServer(linear(FEATURES, truth))
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    [block] = client.ask(SAME)
    parts = parts_of(block, client, "rows")
    bare = seal.dump(evaluated(truth, client, parts, server.plan).ciphertext)
    guesses = {w: seal.dump(evaluated(w, client, parts, server.plan).ciphertext) for w in (truth, other)}
    assert [w for w, guess in guesses.items() if guess == bare] == [truth]  # without flooding: found

    [answer] = parts_of(server.score(block), client, "scores")
    assert answer not in guesses.values()
    parameters = server.plan.parameters
    seen = columns.decrypt(client._key, columns.read(parameters, answer, 0, parameters.scale, "scores"))
    noise = {
        w: seen - columns.decrypt(client._key, evaluated(w, client, parts, server.plan).ciphertext)
        for w in (truth, other)
    }
    ratio = np.std(noise[truth]) / np.std(noise[other])
    assert abs(ratio - 1) < 2.0**-15  # the difference of the two is lost in the flood


def test_the_flood_is_as_wide_as_planned():
    server = ScoreServer(linear(FEATURES, (0.7, 0.1)))
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    [block] = client.ask({name: np.zeros(4096) for name in ("first", "second")})
    [part] = parts_of(server.score(block), client, "scores")
    parameters = server.plan.parameters
    slots = columns.decrypt(client._key, columns.read(parameters, part, 0, parameters.scale, "scores"))
    planned = flooding.deviation(server.plan.noise, 20) * np.sqrt(parameters.degree / 2)
    spread = 7 / np.sqrt(2 * 4096)  # seven standard deviations of a standard deviation: one in 10^11
    assert abs(np.std(slots) / planned - 1) < spread
    assert abs(np.std(slots) / (planned * 1.5) - 1) > spread
    assert planned > 2**18 * server.plan.noise


def test_a_fresh_answer_each_time():
    """Two answers to the same rows share neither half: the other half is rerandomised, not only the values."""
    answers = []
    for _ in range(2):
        server = ScoreServer(linear(FEATURES, (0.7, 0.1)))
        client = ScoreClient(server.offer())
        server.accept_keys(client.keys())
        [block] = client.ask(SAME)
        answers.append(parts_of(server.score(block), client, "scores")[0])
    assert answers[0] != answers[1]


def test_gaussian_numbers_are_standard_normal():
    draws = gaussian(200_001, key=bytes(32))
    assert draws.size == 200_001
    assert abs(draws.mean()) < 5 / np.sqrt(draws.size)
    assert abs(draws.var() - 1) < 5 * np.sqrt(2 / draws.size)
    assert abs((draws**4).mean() / 3 - 1) < 5 * np.sqrt(32 / 3 / draws.size)
    assert abs(np.mean(np.abs(draws) > 3) - 0.0026998) < 5 * np.sqrt(0.0027 / draws.size)
    assert gaussian(0).size == 0


def test_publishing_needs_an_error_to_hide():
    for arguments in ({"error": 0.0}, {"error": 1.0, "queries": 0}, {"error": 1.0, "bits": 8}):
        with pytest.raises(OutOfRange):
            publishable(np.zeros(3), **arguments)


def test_published_scores_are_noisy_by_what_is_said():
    server = ScoreServer(linear(FEATURES, (0.5, 0.25)))
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    table = {name: np.zeros(4096) for name in ("first", "second")}
    [block] = client.ask(table)
    shown, spread = client.publishable_scores(server.score(block))
    together = np.hypot(spread, server.plan.errors.flooding / 9)
    assert abs(np.std(shown) / together - 1) < 0.1

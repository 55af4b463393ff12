"""Vectors: RFC 7748, section 5.2 and 6.1; RFC 7693, appendix. Oracles: hashlib, and the OT relations themselves."""

import hashlib
import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc import errors
from mpc.psi import base_ot, curve, kkrt
from mpc.psi.blake2s import digests
from mpc.psi.intersection import distinct, member, padded
from mpc.secagg.keys import public_key

CONTEXT = bytes(32)


def test_scalar_multiplication_is_that_of_the_rfc():
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    product = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert curve.multiply(scalar, point, peer="x").hex() == product


def test_public_keys_lie_on_the_curve_and_half_of_all_strings():
    assert curve.on_curve((9).to_bytes(32, "little"))  # the base point
    assert all(curve.on_curve(public_key(secrets.token_bytes(32))) for _ in range(20))
    assert not any(curve.on_curve(value.to_bytes(32, "little")) for value in (0, 1, 2**255 - 20, 2**255 - 10))
    strings = [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(2000)]
    on = sum(curve.on_curve(s[:-1] + bytes([s[-1] & 127])) for s in strings)
    assert abs(on - 1000) < 5 * 22.4  # five deviations of a fair coin


def test_a_point_and_its_multiples_stay_on_one_side():
    """On the curve for hashed points; on the twist, multiples stay there, which is why such strings are refused."""
    scalar = bytes(range(32))
    twist = next(p for p in (i.to_bytes(32, "little") for i in range(2, 99)) if not curve.on_curve(p))
    assert not curve.on_curve(curve.multiply(scalar, twist, peer="x"))
    for i in range(5):
        assert curve.on_curve(curve.multiply(scalar, curve.hash_to_point(bytes([i])), peer="x"))
        assert curve.on_curve(curve.unknown_key(secrets.token_bytes))


@given(st.lists(st.booleans(), max_size=10))
def test_a_base_transfer_gives_the_chosen_seed_and_not_the_other(choices):
    receiver = base_ot.Receiver(choices, secrets.token_bytes)
    answer, pairs = base_ot.send(receiver.keys, len(choices), CONTEXT, secrets.token_bytes, peer="r")
    seeds = receiver.seeds(answer, CONTEXT, peer="s")
    assert seeds == [pair[choice] for pair, choice in zip(pairs, choices, strict=True)]
    assert len({seed for pair in pairs for seed in pair}) == 2 * len(choices)


def test_short_and_degenerate_keys_are_refused():
    receiver = base_ot.Receiver([True, False], secrets.token_bytes)
    with pytest.raises(errors.WrongLength):
        base_ot.send(receiver.keys[:-1], 2, CONTEXT, secrets.token_bytes, peer="r")
    with pytest.raises(errors.WrongLength):
        receiver.seeds(b"short", CONTEXT, peer="s")
    with pytest.raises(errors.Tampered):
        receiver.seeds(bytes(32), CONTEXT, peer="s")


def test_blake2s_of_the_rfc_and_the_library():
    blocks = np.random.default_rng(0).integers(0, 2**32, (9000, 16), dtype=np.uint32)
    for size in (1, 10, 12, 16, 32):
        found = digests(blocks, size)
        for row in (0, 1, 4095, 4096, 8999):
            expected = hashlib.blake2s(blocks[row].tobytes(), digest_size=size).digest()
            assert found[row].tobytes()[:size] == expected
            assert not any(found[row].tobytes()[size:])
    assert digests(blocks[:0], 12).shape == (0, 3)


def extension(rows=128, seed=0):
    """An OT extension with dealt seeds: what each side holds."""
    random = np.random.default_rng(seed)
    choices = random.random(kkrt.WIDTH) < 0.5
    pairs = [(random.bytes(32), random.bytes(32)) for _ in range(kkrt.WIDTH)]
    code, tokens = kkrt.Code(CONTEXT), random.integers(0, 2**64, (rows, 2), dtype=np.uint64)
    masked = np.empty((kkrt.WIDTH, rows // 8), dtype=np.uint8)
    own = np.concatenate([block for _, block in kkrt.receive(pairs, code, tokens, masked)])
    codewords = code.words(tokens)
    seeds = [pair[int(choice)] for pair, choice in zip(pairs, choices, strict=True)]
    theirs = kkrt.sender_rows(seeds, choices, masked)
    chosen = np.packbits(choices, bitorder="little").view(np.uint64)
    return codewords, own, theirs, chosen


@pytest.mark.parametrize("rows", [64, 2 * kkrt._BLOCK + 192])
def test_rows_of_the_extension_differ_by_the_chosen_bits_of_the_codeword(rows):
    codewords, own, theirs, chosen = extension(rows)
    assert own.shape == theirs.shape == (rows, 7)
    assert (own ^ theirs == codewords & chosen).all()


def test_the_prf_agrees_at_the_receiver_s_point_and_nowhere_else():
    codewords, own, theirs, chosen = extension()
    bins = np.arange(128)
    mine = kkrt.evaluate(own, bins)
    same = kkrt.evaluate(theirs, bins, codewords & chosen)
    other = kkrt.evaluate(theirs, bins, np.roll(codewords, 1, axis=0) & chosen)
    assert (mine[0] == same[0]).all()
    assert (mine[1] == same[1]).all()
    assert not (mine[0] == other[0]).any()
    block = np.append(own[5], np.uint64(5)).tobytes()
    assert hashlib.blake2s(block, digest_size=12).digest() == mine[0][5].tobytes() + mine[1][5].tobytes()


def test_codewords_differ_in_128_places_or_more():
    tokens = np.stack([np.arange(600, dtype=np.uint64), np.zeros(600, dtype=np.uint64)], axis=1)
    words = np.unpackbits(kkrt.Code(CONTEXT).words(tokens).view(np.uint8), axis=1).astype(int)
    distances = (words[:, None] != words[None]).sum(axis=2)[np.triu_indices(600, 1)]
    assert distances.min() >= 128
    # binomial(448, 1/2): mean 224, deviation 10.6; the mean of 179,700 (pairwise independent) within 6 of 0.025
    assert abs(distances.mean() - 224) < 6 * 0.025


@given(st.lists(st.integers(0, 5), max_size=30), st.lists(st.integers(0, 5), max_size=30), st.integers(0, 3))
def test_membership_of_pairs_with_equal_first_halves(mine, theirs, mix):
    def halves(values):
        numbers = np.array(values, dtype=np.int64)
        return (numbers // 2).astype(np.uint64), ((numbers * mix) % 3).astype(np.uint32)

    low, high = halves(sorted(theirs))
    found = member(*halves(mine), low, high)
    pairs = set(zip(low.tolist(), high.tolist(), strict=True))
    assert found.tolist() == [pair in pairs for pair in zip(*(h.tolist() for h in halves(mine)), strict=True)]


def test_distinct_tokens():
    tokens = np.array([[3, 1], [1, 2], [3, 1], [3, 2]], dtype=np.uint64)
    unique, which = distinct(tokens)
    assert (unique[which] == tokens).all()
    assert len(unique) == 3
    assert padded(padded(5000)) == padded(5000) >= 5000

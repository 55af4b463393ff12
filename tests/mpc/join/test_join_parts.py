"""Vectors: RFC 4493, section 4 (NIST SP 800-38B's for AES-128). Oracles: `cryptography`'s CMAC, scipy's matching."""

import itertools
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from mpc import aes, cuckoo
from mpc.errors import OutOfRange
from mpc.join import NORMALISERS, normalise
from mpc.join import table as tables

RFC_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
RFC_MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
RFC_TAGS = {
    0: "bb1d6929e95937287fa37d129b756746",
    16: "070a16b46b4d4144f79bdd9dd04a287c",
    40: "dfa66747de9ae63030ca32611497c827",
    64: "51f0bebf7e3b9d92fc49741779363cfe",
}


def cmac_of(key, messages):
    octets = np.zeros((len(messages), max(map(len, messages))), dtype=np.uint8)
    for row, message in zip(octets, messages, strict=True):
        row[: len(message)] = np.frombuffer(message, dtype=np.uint8)
    return [tag.tobytes() for tag in aes.cmac(key, octets, np.array([len(m) for m in messages]))]


def test_cmac_vectors_of_the_rfc():
    tags = cmac_of(RFC_KEY, [RFC_MESSAGE[:length] for length in RFC_TAGS])
    assert [tag.hex() for tag in tags] == list(RFC_TAGS.values())


@given(st.lists(st.binary(max_size=70), min_size=1, max_size=20), st.sampled_from([16, 32]))
def test_cmac_is_the_library_s(messages, size):
    key = bytes(range(size))
    for message, tag in zip(messages, cmac_of(key, messages), strict=True):
        oracle = CMAC(AES(key))
        oracle.update(message)
        assert tag == oracle.finalize()


def test_aes_vector_of_fips_197():
    block = np.frombuffer(bytes.fromhex("00112233445566778899aabbccddeeff"), dtype="<u8").reshape(1, 2)
    found = aes.encrypt(bytes(range(32)), np.repeat(block, 3, axis=0))
    assert found.tobytes() == bytes.fromhex("8ea2b7ca516745bfeafc49904b496089") * 3


def hashes_of(seed, items):
    return np.random.default_rng(seed).integers(0, 2**64, (items, 2), dtype=np.uint64)


@pytest.mark.parametrize("items", [0, 1, 2048, 60_000])
def test_every_item_lies_once_in_one_of_its_bins(items):
    bins = cuckoo.bins_for(items)
    positions = cuckoo.candidates(hashes_of(items, items), bins)
    placed = cuckoo.place(positions, bins)
    occupied = np.flatnonzero(placed != cuckoo.EMPTY)
    assert sorted(placed[occupied].tolist()) == list(range(items))
    assert (positions[:, placed[occupied]] == occupied).any(axis=0).all()
    assert (positions // (bins // 3) == np.arange(3)[:, None]).all()


@pytest.mark.parametrize("seed", range(60))
def test_placing_fails_exactly_when_no_assignment_exists(seed):
    """Overfull small tables, where both happen; the oracle is Hopcroft and Karp's matching."""
    items, bins = 28, 30
    positions = cuckoo.candidates(hashes_of(seed, items), bins)
    edges = csr_matrix((np.ones(3 * items), (np.tile(np.arange(items), 3), positions.ravel())), (items, bins))
    exists = (maximum_bipartite_matching(edges, perm_type="column") >= 0).all()
    if exists:
        cuckoo.place(positions, bins)
    else:
        with pytest.raises(cuckoo.NoAssignment):
            cuckoo.place(positions, bins)


def test_both_outcomes_occurred_above():
    outcomes = set()
    for seed in range(60):
        try:
            cuckoo.place(cuckoo.candidates(hashes_of(seed, 28), 30), 30)
            outcomes.add(True)
        except cuckoo.NoAssignment:
            outcomes.add(False)
    assert outcomes == {True, False}


@pytest.mark.parametrize("items", [2048, 2500, 4096, 2**14, 2**17])
def test_a_table_fails_with_probability_below_2_to_minus_40(items):
    assert cuckoo.failure_exponent(items, cuckoo.bins_for(items)) < -40


def test_the_bound_is_what_happens_in_a_small_table_and_grows_with_the_load():
    """Six items in nine bins, where the union bound is nearly tight: failures of 20,000 draws, within five deviations."""
    items, bins, draws = 6, 9, 20_000
    failures = 0
    for seed in range(draws):
        try:
            cuckoo.place(cuckoo.candidates(hashes_of(seed, items), bins), bins)
        except cuckoo.NoAssignment:
            failures += 1
    expected = draws * 2 ** cuckoo.failure_exponent(items, bins)
    assert expected > 20
    assert abs(failures - expected) < 5 * math.sqrt(expected)
    assert cuckoo.failure_exponent(2048, 2400) > cuckoo.failure_exponent(2048, 2700)


def test_associated_stirling_numbers_count_partitions():
    def brute(size, parts):
        codes = itertools.product(range(parts), repeat=size)
        return sum(all(c.count(p) >= 2 for p in range(parts)) for c in codes) // math.factorial(parts)

    for size, parts in [(2, 1), (4, 2), (5, 2), (6, 3), (7, 3)]:
        assert cuckoo.associated_stirling(size, parts) == brute(size, parts)


@pytest.mark.parametrize("rows", [0, 1, 2048, 2049, 10_000, 2**20, 2**20 + 1, 2**22])
def test_padded_sizes(rows):
    size = tables.padded(rows)
    assert rows <= size <= max(2048, rows * 9 / 8 + 64)
    assert size % 64 == 0
    assert tables.padded(size) == size


def test_too_many_rows_are_refused():
    with pytest.raises(OutOfRange, match="rows"):
        tables.padded(2**22 + 1)


def spelt(values, normaliser):
    found = normalise(values, normaliser)
    return [row[:length].tobytes().decode() for row, length in zip(found.octets, found.lengths, strict=True)]


@pytest.mark.parametrize(
    ("normaliser", "value", "expected"),
    [
        ("text", "Ａｂ  Ｃ ", "ab c"),
        ("text", "Straße", "strasse"),
        ("exact", " Ab", " Ab"),
        ("resident id", "11010519491231002x", "11010519491231002X"),  # the standard's own example
        ("resident id", "１１０１０５ 19491231 002Ｘ", "11010519491231002X"),
        ("resident id", "110105491231002", "11010519491231002X"),  # 15 digits
        ("resident id", "110105194912310021", ""),
        ("resident id", "11010519490231002X", ""),
        ("phone", "+86 138-0013-8000", "13800138000"),
        ("phone", "008613800138000", "13800138000"),
        ("phone", "13800138000", "13800138000"),
        ("phone", "12800138000", ""),
        ("credit code", "91350100m000100y43", "91350100M000100Y43"),  # the standard's own example
        ("credit code", "91350100M000100Y44", ""),
        ("credit code", "91350100I000100Y43", ""),
        ("text", None, ""),
        ("text", float("nan"), ""),
        ("resident id", 110101199003078515, "110101199003078515"),
    ],
)
def test_spellings(normaliser, value, expected):
    assert spelt([value], normaliser) == [expected]


LETTERS = st.text("0123456789ABXYabxyzIＡ１ -é王", max_size=19)
IDS = st.one_of(
    LETTERS,
    st.sampled_from(["11010519491231002X", "13800138000", "91350100M000100Y43"]),
    st.from_regex(r"[0-9]{17}[0-9Xx]", fullmatch=True),
    st.from_regex(r"1[0-9]{10}", fullmatch=True),
)


@pytest.mark.parametrize("normaliser", sorted(NORMALISERS))
@given(values=st.lists(IDS, max_size=12))
def test_columns_are_spelt_as_single_texts_are(normaliser, values):
    scalar = NORMALISERS[normaliser][0]
    assert spelt(values, normaliser) == [scalar(value) for value in values]
    assert spelt(np.array(values, dtype=np.str_), normaliser) == [scalar(value) for value in values]


def test_leap_days_and_check_characters_over_many_numbers():
    random = np.random.default_rng(0)
    dates = [
        f"{y:04}{m:02}{d:02}"
        for y in (1900, 1999, 2000, 2024)
        for m in (0, 2, 4, 12, 13)
        for d in (0, 28, 29, 30, 31, 32)
    ]
    stems = [f"110105{date}{random.integers(1000):03}" for date in dates]
    numbers = [f"{stem}{check}" for stem in stems for check in "0123456789X"]
    scalar = NORMALISERS["resident id"][0]
    expected = [scalar(number) for number in numbers]
    assert spelt(numbers, "resident id") == expected
    assert sum(map(bool, expected)) == 8 + 8 + 9 + 9  # days that exist, of the years above, one check each


def test_integers_are_their_digits_and_other_things_are_refused():
    assert spelt(np.array([0, 42, -7, 2**63 - 1]), "exact") == ["0", "42", "-7", str(2**63 - 1)]
    assert spelt([42, "42", np.int32(42)], "exact") == ["42"] * 3
    for value in (1.5, b"x", True):
        with pytest.raises(OutOfRange, match="identifier"):
            normalise([value], "text")
    with pytest.raises(OutOfRange, match="normaliser"):
        normalise(["x"], "soundex")

"""No parameters below 128 bits; presets of the right size; SEAL agrees."""

from __future__ import annotations

import pytest

from mpc.errors import OutOfRange
from mpc.he import seal
from mpc.he.parameters import MOST_LEVELS, STANDARD_128, SUM, Parameters, score_parameters


@pytest.mark.parametrize("degree", [2048, 4096, 8192, 16384, 32768])
def test_the_table_is_the_limit(degree):
    limit = STANDARD_128[degree]
    count = next(n for n in range(2, 20) if limit // n + limit % n <= 60)
    bits = (limit // count + limit % count, *[limit // count] * (count - 1))
    assert sum(Parameters("ckks", degree, bits).coefficient_bits) == limit
    longer = (*bits[:-1], bits[-1] + 1)
    with pytest.raises(OutOfRange, match="128 bits of security"):
        Parameters("ckks", degree, longer)


def test_seal_knows_the_same_table():
    bindings = seal.bindings()
    found = {n: bindings.CoeffModulus.MaxBitCount(n, bindings.SEC_LEVEL_TYPE.TC128) for n in STANDARD_128}
    assert found == STANDARD_128


@pytest.mark.parametrize("levels", range(1, MOST_LEVELS + 1))
def test_every_preset_is_accepted_by_seal_and_has_its_levels(levels):
    parameters = score_parameters(levels)
    assert parameters.levels == levels
    assert sum(parameters.coefficient_bits) <= STANDARD_128[parameters.degree]
    if parameters.degree < 32768:
        assert len(seal.chain(parameters)) == levels + 1


def test_sums_use_the_smallest_lattice():
    assert (SUM.degree, SUM.coefficient_bits, SUM.slots) == (4096, (54, 55), 4096)
    assert seal.context(SUM).parameters_set()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("ckks", 5000, (30, 30)), "degree"),
        (("ckks", 8192, (60,)), "two moduli"),
        (("ckks", 8192, (61, 60)), "20 ... 60"),
        (("ckks", 16384, (60, 40, 50, 60)), "equal size"),
        (("ckks", 8192, (60, 40, 60), 20), "without a plaintext"),
        (("bfv", 4096, (54, 55), 46), "plain_bits"),
    ],
)
def test_what_cannot_work_is_refused(arguments, match):
    with pytest.raises(OutOfRange, match=match):
        Parameters(*arguments)


def test_levels_without_room_are_refused():
    with pytest.raises(OutOfRange, match="levels"):
        score_parameters(MOST_LEVELS + 1)
    with pytest.raises(OutOfRange, match="no room for 3 levels"):
        score_parameters(3, 8192)


def test_digests_tell_parameters_apart():
    digests = {score_parameters(n).digest for n in range(1, MOST_LEVELS + 1)} | {SUM.digest}
    assert len(digests) == MOST_LEVELS + 1

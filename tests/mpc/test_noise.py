"""False-alarm rate of every statistical test: 1e-6; keys are fixed, so an alarm is a change of code, not of luck
(OpenDP draws afresh: its comparison keeps that rate per run)."""

import hashlib
import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import opendp.prelude as dp
import pytest
from scipy import stats

from mpc import noise
from mpc.errors import OutOfRange
from mpc.noise import discrete_gaussian, statistical_distance
from mpc.prg import Keystream

ALARM = 1e-6
KEY = hashlib.sha256(b"tests/mpc/test_noise").digest()


def exact_mass(sigma, x):
    mass = np.exp(-(x.astype(float) ** 2) / (2 * sigma**2))
    return mass / mass.sum()


def fit(samples, sigma):
    """p-value of a chi-square test against the discrete Gaussian with this sigma, in bins of at least 20 expected."""
    span = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    expected = exact_mass(sigma, span) * samples.size
    width = max(1, int(sigma / 4))
    observed = np.bincount(np.clip(samples - span[0], 0, span.size - 1), minlength=span.size)
    starts = np.arange(0, span.size, width)
    expected, observed = np.add.reduceat(expected, starts), np.add.reduceat(observed, starts)
    thick = expected >= 20
    rest = (observed[~thick].sum(), expected[~thick].sum())
    chi_square = ((observed[thick] - expected[thick]) ** 2 / expected[thick]).sum()
    chi_square += (rest[0] - rest[1]) ** 2 / max(rest[1], 1e-9) if rest[1] > 1 else 0
    return stats.chi2.sf(chi_square, thick.sum() - (0 if rest[1] > 1 else 1))


def exact_distance(sigma):
    """Total variation between the distribution that the alias table yields and the exact law, to 400 bits."""
    table = noise.alias_table(Fraction(sigma) ** 2)
    columns = table.alias.size
    capacity = 1 << (noise._WEIGHT_BITS - table.column_bits)
    weights = [0] * columns
    for column in range(columns):
        threshold = (int(table.high[column]) << 64) + int(table.low[column])
        weights[column] += threshold
        weights[int(table.alias[column])] += capacity - threshold
    assert sum(weights) == 2**noise._WEIGHT_BITS
    with mpmath.workprec(400):
        variance = mpmath.mpf(sigma) ** 2
        mass = [mpmath.exp(-(mpmath.mpf(m) ** 2) / (2 * variance)) * (2 if m else 1) for m in range(columns)]
        beyond = (
            mpmath.exp(-(mpmath.mpf(columns) ** 2) / (2 * variance)) * columns
        )  # more than the rest of the tail
        total = mpmath.fsum(mass) + beyond
        differences = [abs(w / mpmath.mpf(2) ** 127 - p / total) for w, p in zip(weights, mass, strict=True)]
        return float((mpmath.fsum(differences) + beyond / total) / 2)


@pytest.mark.parametrize("sigma", [0.25, 0.7, 1.0, 3.3, 34.0, 200.0])
def test_the_table_is_as_close_to_the_exact_law_as_stated(sigma):
    assert 0 < exact_distance(sigma) <= statistical_distance(sigma) < 2.0**-110


@pytest.mark.parametrize("sigma", [600.0, 1e5])
def test_a_convolution_is_as_close_to_the_exact_law_as_stated(sigma):
    """Its smoothing factor, sum over y of exp(-(y - c z)^2 / 2 tau^2), evaluated exactly where it is extreme."""
    variance, smoothing = Fraction(sigma) ** 2, 0.0
    parts = noise._convolution(variance)
    assert sum(k**2 * part for k, part in parts) == variance
    for (outer, first), (inner, _) in pairwise(parts):
        whole = sum(k**2 * part for k, part in parts[parts.index((outer, first)) :]) / outer**2
        second = (whole - first) / (inner // outer) ** 2
        with mpmath.workprec(400):
            tau2 = mpmath.mpf(first.numerator) / first.denominator * second.numerator / second.denominator
            tau2 = tau2 * whole.denominator / whole.numerator
            sums = [
                mpmath.fsum(mpmath.exp(-((y - shift) ** 2) / (2 * tau2)) for y in range(-60, 61))
                for shift in (mpmath.mpf(0), mpmath.mpf(1) / 2)
            ]
            smoothing += float((sums[0] - sums[1]) / sums[1])
    tables = sum((noise._largest_magnitude(part) + 2) * 2.0**-127 for _, part in parts)
    assert tables + smoothing <= statistical_distance(sigma) < 2.0**-110


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.2, 100.0, 512.0, 513.0, 4096.0, 2e5])
def test_samples_fit_the_law_and_not_its_neighbours(sigma):
    samples = discrete_gaussian(sigma, 400_000, KEY)
    assert fit(samples, sigma) > ALARM
    assert fit(samples, sigma * 2 / 3) < ALARM
    assert fit(samples, sigma * 3 / 2) < ALARM


@pytest.mark.parametrize("sigma", [2.0**20, 2.0**24, 2.0**40])
def test_large_sigma_has_the_right_mean_and_variance(sigma):
    n = 400_000
    scaled = discrete_gaussian(sigma, n, KEY) / sigma
    limit = stats.norm.isf(ALARM / 2)
    assert abs(scaled.mean()) < limit / math.sqrt(n)
    assert abs((scaled**2).mean() - 1) < limit * math.sqrt(2 / n)
    assert stats.kstest(scaled, "norm").pvalue > ALARM
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(scaled / wrong, "norm").pvalue < ALARM
    # every residue is hit: a convolution that left holes would show modulo its factors
    for modulus in (2, 42, 192):
        counts = np.bincount(discrete_gaussian(sigma, n, KEY) % modulus, minlength=modulus)
        assert stats.chisquare(counts).pvalue > ALARM


@pytest.mark.parametrize("sigma", [2.5, 40.0])
def test_agrees_with_opendp(sigma):
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    theirs = np.array(dp.m.make_gaussian(*space, scale=sigma)([0] * 30_000))
    ours = discrete_gaussian(sigma, 300_000, KEY)
    edges = np.unique(np.quantile(ours, np.linspace(0, 1, 21)[1:-1]))

    def agreement(samples):
        table = [np.bincount(np.searchsorted(edges, s), minlength=edges.size + 1) for s in (samples, theirs)]
        return stats.chi2_contingency(np.array(table)).pvalue

    assert agreement(ours) > ALARM
    for factor in (2 / 3, 3 / 2):
        assert agreement(discrete_gaussian(sigma * factor, 300_000, KEY)) < ALARM


def test_an_undecided_word_is_decided_by_the_next_64_bits():
    table = noise.alias_table(Fraction(9))
    column = next(c for c in range(table.alias.size) if table.low[c] and table.alias[c] != c)
    word = np.array([(column << (64 - table.column_bits)) | int(table.high[column])], dtype=np.uint64)
    outcomes = set()
    for key in range(64):
        more = Keystream(bytes([key]) * 32)
        expected = (
            column if Keystream(bytes([key]) * 32).read(1)[0] < table.low[column] else table.alias[column]
        )
        assert noise.look_up(table, word, more)[0] == expected
        outcomes.add(int(expected))
    assert len(outcomes) == 2
    below, above = word - np.uint64(1), word + np.uint64(1)
    assert noise.look_up(table, below, more)[0] == column
    assert noise.look_up(table, above, more)[0] == table.alias[column]


def test_the_key_alone_decides():
    for sigma in (3.0, 1e6):
        first = discrete_gaussian(sigma, 100_000, KEY)
        assert (first == discrete_gaussian(sigma, 100_000, KEY)).all()
        assert (first[:70_000] != discrete_gaussian(sigma, 100_000, bytes(32))[:70_000]).any()
    assert discrete_gaussian(3.0, 0, KEY).size == 0


def test_the_range_is_named():
    for sigma in (0.0, 0.2, -1.0, math.nan, math.inf, 2.0**41):
        with pytest.raises(OutOfRange, match=r"sigma: must be 0\.25 \.\.\. 1099511627776"):
            discrete_gaussian(sigma, 1, KEY)
    with pytest.raises(OutOfRange, match="size"):
        discrete_gaussian(1.0, -1, KEY)
    with pytest.raises(OutOfRange, match="key"):
        discrete_gaussian(1.0, 1, b"short")

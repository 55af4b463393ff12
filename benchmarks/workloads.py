"""The sizes that ours and the peers are measured at, and the inputs made from them: the same work for all.

Needs numpy alone, since the peers' environments have no more. Sizes follow the mode of the run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Sizes

# secagg
PARTIES = 5
CELLS = Sizes(quick=(100_000,), default=(1_000_000,), full=(10_000, 100_000, 1_000_000, 10_000_000))

# he
VALUES = Sizes(quick=(100_000,), default=(1_000_000,))
BITS, ADDENDS = 16, 8  # of a value; how many are added
SCORED = Sizes(quick=(4_096,), default=(10_000,))
FEATURES, HIDDEN, RANGE = 30, 32, 3.0

# dp
SAMPLES = Sizes(quick=(10_000,), default=(1_000_000,))
SIGMA = 100.0
PEOPLE = Sizes(quick=(30_000,), default=(300_000,))
EPSILON, DELTA = 0.5, 1e-6
REGIONS, INCOME = 20, 200_000

# learning
TRAINED = Sizes(quick=(6_000,), default=(60_000,))
INPUTS, LOT = 64, 512

# linkage
ROWS = Sizes(quick=(1 << 16,), default=(1 << 20,), full=(1 << 14, 1 << 16, 1 << 18, 1 << 20))
ELEMENTS = Sizes(quick=(100_000,), default=(1_000_000,), full=(10_000, 100_000, 1_000_000))
GRAM_COLUMNS = 20


def vector(cells: int, party: int) -> Any:
    """What a party adds to a sum: 64-bit words."""
    return np.random.default_rng(party).integers(0, 2**60, cells, dtype=np.uint64)


def words(count: int) -> Any:
    """Values of 16 bits to encrypt and add."""
    return np.random.default_rng(0).integers(0, 2**BITS, count)


def rows(count: int) -> Any:
    """Rows to be scored, each feature within the declared range."""
    return np.random.default_rng(1).uniform(-RANGE, RANGE, (count, FEATURES))


def weights() -> Any:
    """A linear or logistic model's, without the intercept 0.1."""
    return np.random.default_rng(2).normal(size=FEATURES) / 10


def network() -> tuple[Any, Any]:
    """Both layers' weights of an MLP whose biases are 0.1 and 0.2 and whose activation is the square."""
    generator = np.random.default_rng(3)
    return generator.normal(size=(HIDDEN, FEATURES)) / 10, generator.normal(size=(1, HIDDEN)) / 10


def people(count: int, seed: int = 0) -> dict[str, Any]:
    """Regions by number, ages, incomes within their declared bounds."""
    generator = np.random.default_rng(seed)
    return {
        "region": generator.integers(0, REGIONS, count),
        "age": generator.integers(0, 101, count),
        "income": generator.lognormal(10, 0.6, count).clip(0, INCOME),
    }


def identifiers(count: int) -> tuple[Any, Any]:
    """18-digit numbers at two departments, which share about half of them."""
    random = np.random.default_rng(count)
    pool = 110101190001010000 + random.permutation(3 * count // 2)
    return pool[:count], random.permutation(pool)[:count]


def secrets(count: int) -> tuple[Any, Any]:
    """Two vectors of integers below 2^30 in absolute value."""
    random = np.random.default_rng(0)
    return random.integers(-(2**30), 2**30, count), random.integers(-(2**30), 2**30, count)


def matrix(count: int) -> Any:
    """Of integers below 2^20, `count` in all."""
    return np.random.default_rng(1).integers(-(2**20), 2**20, (GRAM_COLUMNS, count // GRAM_COLUMNS))

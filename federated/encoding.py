"""A department's sums -> one vector of words, and the joint vector -> joint sums.

Exact mode: every sum is an exact integer (`sandbox.plan`) and travels as it is, in one or two words (`mpc.fixedpoint`). DP mode: every
sum is divided by its row bound and moved to the grid of `sandbox.dp`, in integers, and discrete Gaussian noise (`mpc.noise`)
is added before anything else happens to it. Both ends derive the layout from the plan: per component its cells, then per histogram
and level its cells x bins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc import noise as gaussian
from mpc.fixedpoint import Encoding
from sandbox import dp
from sandbox.engine import LocalSums
from sandbox.errors import ParameterError
from sandbox.plan import BRANCHING, Plan

DP_ENCODING_BOUND = 2**62
Words = NDArray[np.uint64]


class JointSums(msgspec.Struct, frozen=True):
    """The sums over all departments that took part.

    Exact: `components` hold integers on each component's grid. DP: floats in the units of the data, each with its noise's
    standard deviation in `deviations`. `leaves` holds per histogram and level counts of shape [cells, bins].
    """

    plan: Plan
    departments: int
    components: list[NDArray[Any]]
    leaves: list[list[NDArray[Any]]]
    deviations: list[float]
    leaf_deviation: float = 0.0


def words(plan: Plan, max_rows: int, parties: int) -> int:
    """Length of the vector."""
    if not plan.exact:
        return plan.entries
    bins = sum(leaves.bins for leaves in plan.leaves)
    return plan.cells * (sum(e.words for e in _encodings(plan, max_rows, parties)) + bins)


def encode(
    plan: Plan,
    sums: LocalSums,
    noise: dp.Noise | None,
    *,
    max_rows: int,
    parties: int,
    random_bytes: Callable[[int], bytes],
) -> Words:
    """One department's vector, with its share of the noise in DP mode."""
    if noise is None:
        vectors = [
            e.encode(s) for e, s in zip(_encodings(plan, max_rows, parties), sums.components, strict=True)
        ]
        count = Encoding(max_rows * parties, parties)
        return np.concatenate([*vectors, *(count.encode(leaves.ravel()) for leaves in sums.leaves)])
    parts = [
        _quantised(s, c.bound, noise.grid) for c, s in zip(plan.components, sums.components, strict=True)
    ]
    for leaves, counts in zip(plan.leaves, sums.leaves, strict=True):
        parts += [level.ravel() * noise.grid for level in _tree(counts, leaves.levels)]
    vector = np.concatenate(parts)
    vector += gaussian.discrete_gaussian(noise.department_sigma, vector.size, random_bytes(32))
    return Encoding(DP_ENCODING_BOUND, parties).encode(vector)


def decode(
    plan: Plan, joint: Words, noise: dp.Noise | None, *, max_rows: int, parties: int, present: int
) -> JointSums:
    """The joint sums of `present` departments out of `parties`."""
    if noise is None:
        components, start = [], 0
        for encoding in _encodings(plan, max_rows, parties):
            end = start + plan.cells * encoding.words
            components.append(encoding.decode(joint[start:end]))
            start = end
        leaves = []
        count = Encoding(max_rows * parties, parties)
        for spec in plan.leaves:
            end = start + plan.cells * spec.bins
            leaves.append([count.decode(joint[start:end]).reshape(plan.cells, spec.bins)])
            start = end
        return JointSums(plan, present, components, leaves, [0.0] * len(components))
    entries = Encoding(DP_ENCODING_BOUND, parties).decode(joint) / noise.grid
    deviation = noise.variance(present) ** 0.5
    units = [float(np.ldexp(float(c.bound), -c.exponent)) for c in plan.components]
    stacked = entries[: plan.cells * len(units)].reshape(len(units), plan.cells)
    start, leaves = stacked.size, []
    for spec in plan.leaves:
        levels = []
        for bins in spec.levels:
            end = start + plan.cells * bins
            levels.append(entries[start:end].reshape(plan.cells, bins))
            start = end
        leaves.append(levels)
    components = [row * unit for row, unit in zip(stacked, units, strict=True)]
    return JointSums(plan, present, components, leaves, [deviation * unit for unit in units], deviation)


def check_noise(plan: Plan, rows_per_unit: int, rho: float, honest: int, delta: float) -> dp.Noise:
    """The noise of a DP release; raises `ParameterError` unless the sampler's statistical distance, over all entries, vanishes beside
    delta.
    """
    noise = dp.noise_for(plan, rows_per_unit, rho, honest)
    check_distance(noise, plan.entries, delta)
    return noise


def check_distance(noise: dp.Noise, entries: int, delta: float) -> None:
    """That the sampler's statistical distance, over all entries, vanishes beside delta."""
    distance = gaussian.statistical_distance(noise.department_sigma) * entries
    if distance > delta / 100:
        raise ParameterError(
            f"'delta' is {delta:g}; {entries} sums need at least {100 * distance:.3g} for the sampler's precision"
        )


def _encodings(plan: Plan, max_rows: int, parties: int) -> list[Encoding]:
    return [Encoding(component.bound * max_rows * parties, parties) for component in plan.components]


def _quantised(sums: NDArray[Any], bound: int, grid: int) -> NDArray[np.int64]:
    """round(sum * grid / bound), in exact integers: one row moves it by at most grid, plus 1 for the rounding."""
    exact = sums.astype(object)
    return ((exact * (2 * grid) + bound) // (2 * bound)).astype(np.int64)


def _tree(counts: NDArray[np.int64], levels: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Counts of every level, leaves first: each bin of a level is the sum of `BRANCHING` bins below."""
    tree = [counts]
    for bins in levels[1:]:
        below = tree[-1]
        padded = np.zeros((below.shape[0], bins * BRANCHING), dtype=np.int64)
        padded[:, : below.shape[1]] = below
        tree.append(padded.reshape(below.shape[0], bins, BRANCHING).sum(axis=2))
    return tree

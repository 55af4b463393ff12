"""One step of DP-SGD: a secret Poisson sample, clipped gradients on a grid, discrete Gaussian noise (Abadi et al., CCS 2016).

A department's sum of clipped gradients is moved to the grid of unit clip / 2^k and rounded. One record more or less moves the rounded
vector by at most

    sensitivity = 2^k (1 + SLACK) + sqrt(d)     units,

sqrt(d) for the rounding of d numbers (half a unit each, before and after), SLACK for float32: the factor and the sum of a record's
own gradient, and what its presence in a batch does to the last bits of the others'. Noise of deviation z * sensitivity is added
in the same integers, so sums over departments are exact and no floating-point hole shows (Mironov, CCS 2012). Among departments each of n adds
variance sigma^2 / (n - t), as in `sandbox.dp`, where sums of discrete Gaussians are discussed; LEAST_SIGMA keeps that in place.

The accountant speaks of the continuous sampled Gaussian. For an integer order a, expanding the sampled mixture leaves moments
E[exp(j x.D / sigma^2)], D the integer shift of a record, and those of the discrete Gaussian equal the continuous ones exactly, since
a shift by integers leaves the sum over the integers as it is. Between integers both curves are bounded by the same chord, and they differ by
a factor 1 + O(exp(-2 pi^2 sigma^2)), sigma >= 32. The sampler's statistical distance over all steps is below delta / 100 for
any training that may be declared.

The sample is drawn with probability floor(q 2^64) / 2^64 <= q a record, from a key that never leaves the department. Does not protect against
whoever measures how long a step takes: that grows with the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from mpc.noise import discrete_gaussian
from mpc.prg import KEY_BYTES, Keystream
from sandbox.errors import ParameterError

from .clipping import clipped_sum
from .network import Data, Network

SLACK = 2.0**-8
LEAST_SIGMA = 32.0
RandomBytes = Callable[[int], bytes]


class Grid(msgspec.Struct, frozen=True):
    """The integers that a sum becomes: value = integer * unit. `sigma` is the deviation of one department's noise, in units."""

    unit: float
    sensitivity: float
    sigma: float

    def integers(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Raises `ParameterError` for what is not finite, or so large that no honest sum is."""
        scaled = np.rint(values / self.unit)
        if not np.all(np.abs(scaled) < 2.0**62):
            raise ParameterError("a sum of gradients is not finite, or beyond the range of the grid")
        return scaled.astype(np.int64)

    def values(self, integers: NDArray[np.int64]) -> NDArray[np.float64]:
        return integers.astype(np.float64) * self.unit

    def noise(self, size: int, random_bytes: RandomBytes) -> NDArray[np.int64]:
        return discrete_gaussian(self.sigma, size, random_bytes(KEY_BYTES))


def grid(size: int, norm: float, noise_multiplier: float, honest: int) -> Grid:
    """The grid and noise for vectors of `size` numbers that a record moves by at most `norm`, hidden by `honest` departments' noise."""
    steps = 1 << max(16, math.ceil(math.log2(512 * math.sqrt(size))))
    sensitivity = steps * (1 + SLACK) + math.sqrt(size)
    sigma = noise_multiplier * sensitivity / math.sqrt(honest)
    if sigma < LEAST_SIGMA:
        raise ParameterError(f"'noise_multiplier' must be above {noise_multiplier * LEAST_SIGMA / sigma:.3g}")
    return Grid(norm / steps, sensitivity, sigma)


def sample(rows: int, probability: float, random_bytes: RandomBytes) -> torch.Tensor:
    """Which of `rows` records are drawn: each by itself, so that there may be none."""
    words = Keystream(random_bytes(KEY_BYTES)).read(rows)
    threshold = math.floor(probability * 2.0**64)
    drawn = np.arange(rows) if threshold >= 1 << 64 else np.flatnonzero(words < np.uint64(threshold))
    return torch.from_numpy(drawn)


def noisy_gradient(
    network: Network, data: Data, probability: float, clip: float, on: Grid, random_bytes: RandomBytes
) -> NDArray[np.int64]:
    """This department's part of one step: the sum of clipped gradients over a fresh sample, and its noise."""
    drawn = data.take(sample(len(data), probability, random_bytes))
    total = on.integers(clipped_sum(network, drawn, clip).numpy())
    return total + on.noise(total.size, random_bytes)

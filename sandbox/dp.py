"""Differential privacy: sensitivity, noise scale, and the accounting of one release. Pure functions.

Neighbouring tables differ by one unit, added or removed at one department. Every family of a plan (`sandbox.plan`) is moved to a grid
on which one row contributes at most `GRID`; a unit has at most `rows_per_unit` rows, so the stacked vector of k families
has L2 sensitivity rows_per_unit * sqrt(k) * (GRID + 1), the 1 for the department's own rounding to the grid.

One discrete Gaussian covers the vector. Its variance is spread over the departments: each of n adds sigma^2 / (n - t), so that any n - t
honest ones make the sum private even if t drop out or tell their part. A sum of discrete Gaussians is not one exactly;
Kairouz, Liu and Steinke ("The Distributed Discrete Gaussian Mechanism", ICML 2021, Theorem 1) bound the difference by
tau = 10 * sum_k exp(-2 pi^2 s^2 k / (k + 1)) for a department's deviation s, which is below 10^-4000 for s >= 32: less is refused.

Cost is in zCDP (Bun and Steinke, TCC 2016): rho = sensitivity^2 / (2 sigma^2). Conversion to (epsilon, delta) by Canonne, Kamath
and Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020), Proposition 12.
"""

from __future__ import annotations

import functools
import math

import msgspec

from .errors import ParameterError
from .plan import Plan

GRID = 1 << 10
MIN_DEPARTMENT_SIGMA = 32.0
MAX_SIGMA = float(1 << 23)
MAX_EPSILON = 100.0
JOINED_GRID = 1 << 26
MAX_JOINED_SIGMA = float(1 << 40)


class Noise(msgspec.Struct, frozen=True):
    """The noise of one release, in units of the grid: a row contributes at most `grid` to one entry of each family."""

    rho: float
    sensitivity: float
    sigma: float
    department_sigma: float
    grid: int

    def variance(self, departments: int) -> float:
        """Variance of an entry of the joint sum, in families' row bounds squared, when `departments` took part."""
        return departments * (self.department_sigma / self.grid) ** 2


def noise_for(plan: Plan, rows_per_unit: int, rho: float, honest: int) -> Noise:
    """The noise that makes a release of `plan` rho-zCDP when at least `honest` departments add theirs.

    Raises `ParameterError` where no supported noise serves.
    """
    grid = GRID
    while True:
        sensitivity = rows_per_unit * math.sqrt(plan.families) * (grid + 1)
        sigma = sensitivity / math.sqrt(2 * rho)
        if sigma <= MAX_SIGMA or grid == 1:
            break
        grid //= 2
    department_sigma = sigma / math.sqrt(honest)
    if sigma > MAX_SIGMA or department_sigma < MIN_DEPARTMENT_SIGMA:
        raise ParameterError(
            f"'epsilon' asks for noise with deviation {sigma / grid:.3g} row bounds in each sum; supported are "
            f"{MIN_DEPARTMENT_SIGMA * math.sqrt(honest) / GRID:.3g} to {MAX_SIGMA:.3g}: change epsilon, or ask for fewer sums"
        )
    return Noise(rho, sensitivity, sigma, department_sigma, grid)


def joined_noise(plan: Plan, rho: float, departments: int) -> Noise:
    """The same for a joined table, whose sums are of rows on a grid of `JOINED_GRID` each: a person is one row, and moves one entry of each
    family by at most that. Each department adds noise enough with any one of the others left out, so that no one can take it off.

    Raises `ParameterError` where no supported noise serves.
    """
    sensitivity = math.sqrt(plan.families) * JOINED_GRID
    sigma = sensitivity / math.sqrt(2 * rho)
    department_sigma = sigma / math.sqrt(departments - 1)
    if department_sigma > MAX_JOINED_SIGMA or department_sigma < MIN_DEPARTMENT_SIGMA:
        raise ParameterError(
            f"'epsilon' asks for noise with deviation {sigma / JOINED_GRID:.3g} row bounds in each sum; supported are up to "
            f"{MAX_JOINED_SIGMA / JOINED_GRID:.3g}: change epsilon, or ask for fewer sums"
        )
    return Noise(rho, sensitivity, sigma, department_sigma, JOINED_GRID)


def check_epsilon(epsilon: float) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon <= MAX_EPSILON:
        raise ParameterError(f"'epsilon' is {epsilon!r}; allowed are numbers above 0, to {MAX_EPSILON:g}")


def check_delta(delta: float) -> None:
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 1e-15 <= delta <= 1e-3:
        raise ParameterError(f"'delta' is {delta!r}; allowed are 1e-15 to 1e-3")


def delta_of(rho: float, epsilon: float) -> float:
    """The least delta that Proposition 12 gives: inf over a > 1 of exp((a-1)(a rho - eps)) / (a-1) * (1 - 1/a)^a."""
    low, high = 1 + 1e-10, 2 + (epsilon + 1) / (2 * rho)
    for _ in range(64):  # the logarithm's derivative, (2a-1) rho - eps + log(1 - 1/a), grows with a
        alpha = (low + high) / 2
        if (2 * alpha - 1) * rho - epsilon + math.log1p(-1 / alpha) < 0:
            low = alpha
        else:
            high = alpha
    log_delta = (alpha - 1) * (alpha * rho - epsilon) - math.log(alpha - 1) + alpha * math.log1p(-1 / alpha)
    return math.exp(min(log_delta, 0.0))


@functools.lru_cache(maxsize=1024)
def epsilon_of(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP implies (epsilon, delta)-DP; 0 for rho = 0."""
    if rho <= 0:
        return 0.0
    low, high = 0.0, rho + 2 * math.sqrt(rho * math.log(1 / delta))
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(rho, middle) <= delta else (middle, high)
    return high


@functools.lru_cache(maxsize=1024)
def rho_of(epsilon: float, delta: float) -> float:
    """The largest rho for which rho-zCDP implies (epsilon, delta)-DP."""
    check_epsilon(epsilon)
    check_delta(delta)
    low, high = 0.0, epsilon + 1.0
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, epsilon) <= delta else (low, middle)
    return low

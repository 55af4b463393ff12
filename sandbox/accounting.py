"""What DP releases cost, together: a closed set of events, and the epsilon of their sum. Pure functions.

An event is what a privacy accountant must know of one release. The set is a small part of dp-accounting's `DpEvent`s with a JSON form
of its own, so that what a ledger holds can be read in ten years, and decoding it loads no class by name.

Totals are Rényi DP curves (Mironov, CSF 2017), not privacy loss distributions (PLD): composing curves at fixed orders is adding two
vectors, so that the thousandth event costs what the first did and a sum can be kept in one row of a database, while a PLD
convolution starts from all events, or keeps a grid that grows. PLD would be tighter for Laplace and for sampled events (by 1 to 10 %); for
the Gaussian releases that statistics make nothing is lost, since their curve is a line, order x rho (zCDP).

That line is kept as the one number rho, apart from the `curve` of all other events. Without others the total is `dp.epsilon_of`, the infimum over
*all* orders, so a release that asks for epsilon e and stands alone costs e and no more. With others it is the least over `ORDERS`
that dp-accounting's RDP accountant finds (Canonne, Kamath and Steinke, NeurIPS 2020, Proposition 12, as in `dp`), which for totals
from 0.02 on lies at most 0.3 % above that infimum. Both are upper bounds: nothing is ever counted short.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import dp
from .errors import InternalError, ParameterError
from .query import Node

if TYPE_CHECKING:
    import dp_accounting

# Part of the ledger's format: another choice needs another `ledger.FORMAT`.
ORDERS: tuple[float, ...] = (
    *(round(1 + 0.02 * 1.08**i, 4) for i in range(80)),
    *(float(order) for order in range(11, 64)),
    *(float(round(64 * 1.1**i)) for i in range(44)),
)
_LARGEST = 1024.0


class Zcdp(Node, frozen=True, tag="zcdp"):
    """A rho-zCDP release: the distributed discrete Gaussian of `dp`."""

    rho: float

    def __post_init__(self) -> None:
        _check("rho", self.rho, 1e-15, 1e6)


class Gaussian(Node, frozen=True, tag="gaussian"):
    """Gaussian noise; the multiplier is its deviation over the L2 sensitivity."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _check("noise_multiplier", self.noise_multiplier, 1e-3, 1e7)


class Laplace(Node, frozen=True, tag="laplace"):
    """Laplace noise; the multiplier is its scale over the L1 sensitivity."""

    noise_multiplier: float

    def __post_init__(self) -> None:
        _check("noise_multiplier", self.noise_multiplier, 1e-3, 1e7)


class SampledGaussian(Node, frozen=True, tag="sampled_gaussian"):
    """`steps` times Gaussian noise on a fresh Poisson sample: DP-SGD."""

    probability: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        _check("probability", self.probability, 1e-9, 1)
        _check("noise_multiplier", self.noise_multiplier, 1e-2, 1e7)
        _check("steps", self.steps, 1, 10**9)


Event = Union[Zcdp, Gaussian, Laplace, SampledGaussian]


class Cost(msgspec.Struct, frozen=True, eq=False):
    """RDP of order a: rho a + curve(a); `curve` at `ORDERS`."""

    rho: float
    curve: NDArray[np.float64]

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.rho + other.rho, self.curve + other.curve)


NOTHING = Cost(0.0, np.zeros(len(ORDERS)))
NOTHING.curve.flags.writeable = False


def cost(event: Event) -> Cost:
    """What one event adds. The first with a new probability and multiplier takes 30 ms, any other microseconds."""
    match event:
        case Zcdp(rho):
            return Cost(rho, NOTHING.curve)
        case Gaussian(multiplier):
            return Cost(1 / (2 * multiplier**2), NOTHING.curve)
    return Cost(0.0, _curve(event))


def epsilon(cost: Cost, delta: float) -> float:
    """The epsilon of all that `cost` sums up, at `delta`."""
    if not cost.curve.any():
        return dp.epsilon_of(cost.rho, delta)
    from dp_accounting import rdp

    total = cost.rho * np.array(ORDERS) + cost.curve
    return float(rdp.compute_epsilon(ORDERS, total.tolist(), delta)[0])


def dp_event(event: Event) -> dp_accounting.DpEvent:
    """The same in dp-accounting's terms."""
    import dp_accounting as their

    match event:
        case Zcdp(rho):
            return their.ZCDpEvent(rho)
        case Gaussian(multiplier):
            return their.GaussianDpEvent(multiplier)
        case Laplace(multiplier):
            return their.LaplaceDpEvent(multiplier)
        case SampledGaussian(probability, multiplier, steps):
            step = their.PoissonSampledDpEvent(probability, their.GaussianDpEvent(multiplier))
            return their.SelfComposedDpEvent(step, steps)
    raise InternalError(f"{type(event).__name__} is not an event")


def _curve(event: Event) -> NDArray[np.float64]:
    """The curve of an event that is no line. Steps add up; what one step costs is kept."""
    if isinstance(event, SampledGaussian):
        return event.steps * _step(event.probability, event.noise_multiplier)
    return _of(dp_event(event), ORDERS)


@functools.lru_cache(maxsize=256)
def _step(probability: float, multiplier: float) -> NDArray[np.float64]:
    """One sampled step. Beyond `_LARGEST`, where the series takes longest and orders seldom matter, as if nothing were sampled: an
    upper bound."""
    orders = np.array(ORDERS)
    low = [order for order in ORDERS if order <= _LARGEST]
    sampled = _of(dp_event(SampledGaussian(probability, multiplier, 1)), low)
    curve = np.minimum(
        np.append(sampled, np.full(len(orders) - len(low), np.inf)), orders / (2 * multiplier**2)
    )
    curve.flags.writeable = False
    return curve


def _of(event: dp_accounting.DpEvent, orders: Sequence[float]) -> NDArray[np.float64]:
    from dp_accounting import rdp

    logging.getLogger("absl").addFilter(_converging)
    curve = rdp.RdpAccountant(orders).compose(event).rdp
    # Where the accountant's series has lost all digits it gives nonsense: such an order bounds nothing.
    curve[~(curve >= 0)] = np.inf
    return curve


def _converging(record: logging.LogRecord) -> bool:
    """Whether a line of the accountant's is for people: not that a series at some order does not converge, which then bounds nothing."""
    return "failed to converge" not in record.getMessage()


def _check(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not (math.isfinite(value) and low <= value <= high):
        raise ParameterError(f"{name!r} of a privacy event is {value!r}; allowed are {low:g} to {high:g}")

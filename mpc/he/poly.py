"""Functions as Chebyshev polynomials over a declared range, with a proven bound of the approximation's error.

    f(mid + half x) ~ p(x) = sum c_k T_k(x),  x in [-1, 1]

The bound is derived: with x = cos(theta), g = p - f is compared on a grid of 2^15 + 1 angles at distance h. Where f
has a second derivative, |g| between two points exceeds the larger of them by h^2/8 max|g''| at most; where not
(ReLU), by h/2 max|g'|. Derivatives of p are bounded by sum k |c_k| and sum k^2 |c_k|. Outside the range
nothing is claimed: whoever plans a computation derives ranges that cannot be left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from mpc.errors import OutOfRange

Function = Literal["exp", "gelu", "logistic", "relu", "silu", "softplus", "square", "tanh"]
MOST_DEGREE = 64
_GRID = 2**15


class _Shape(msgspec.Struct, frozen=True):
    """A function, and bounds of its first two derivatives on [lower, upper]."""

    function: Callable[[NDArray[Any]], NDArray[Any]]
    slope: Callable[[float, float], float]
    curvature: Callable[[float, float], float] | None


def _erf(x: NDArray[Any]) -> NDArray[Any]:
    return np.vectorize(math.erf, otypes=[float])(x)


def _logistic(x: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * (1 + np.tanh(x / 2))


def _most(lower: float, upper: float) -> float:
    return max(abs(lower), abs(upper))


_SHAPES: dict[str, _Shape] = {
    "exp": _Shape(np.exp, lambda a, b: math.exp(b), lambda a, b: math.exp(b)),
    "gelu": _Shape(lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))), lambda a, b: 1.13, lambda a, b: 0.8),
    "logistic": _Shape(_logistic, lambda a, b: 0.25, lambda a, b: 0.0963),
    "relu": _Shape(lambda x: np.maximum(x, 0), lambda a, b: 1.0, None),
    "silu": _Shape(lambda x: x * _logistic(x), lambda a, b: 1.1, lambda a, b: 0.5),
    "softplus": _Shape(lambda x: np.logaddexp(0, x), lambda a, b: 1.0, lambda a, b: 0.25),
    "square": _Shape(np.square, lambda a, b: 2 * _most(a, b), lambda a, b: 2.0),
    "tanh": _Shape(np.tanh, lambda a, b: 1.0, lambda a, b: 0.77),
}


class Approximation(msgspec.Struct, frozen=True):
    """sum c_k T_k((x - mid) / half), within `error` of the function for every x in [mid - half, mid + half]."""

    coefficients: tuple[float, ...]
    mid: float
    half: float
    error: float
    slope: float  # Lipschitz constant of the function itself on the range

    @property
    def magnitude(self) -> float:
        """A bound of |p| over the range."""
        return sum(abs(c) for c in self.coefficients)

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        return chebyshev.chebval((values - self.mid) / self.half, self.coefficients)


def approximate(function: Function, lower: float, upper: float, degree: int) -> Approximation:
    """The Chebyshev interpolant of this degree.

    >>> approximate("logistic", -4, 4, 7).error < 0.004
    True
    """
    shape = _SHAPES[function]
    if not 1 <= degree <= MOST_DEGREE:
        raise OutOfRange("degree", f"must be 1 ... {MOST_DEGREE}")
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= upper):
        raise OutOfRange("range", "must be finite, the lower end first")
    if function == "exp" and upper > 700:
        raise OutOfRange("range", "of an exponential must end below 700")
    mid = (lower + upper) / 2
    half = max((upper - lower) / 2, 1e-9 * (1 + abs(mid)))
    nodes = chebyshev.chebpts1(degree + 1)
    basis = chebyshev.chebvander(nodes, degree)
    coefficients = 2 / (degree + 1) * basis.T @ shape.function(mid + half * nodes)
    coefficients[0] /= 2
    coefficients[np.abs(coefficients) < 1e-15 * np.abs(coefficients).max()] = 0.0
    theta = np.linspace(0, math.pi, _GRID + 1)
    points = np.cos(theta)
    seen = float(np.abs(chebyshev.chebval(points, coefficients) - shape.function(mid + half * points)).max())
    step, k = math.pi / _GRID, np.arange(degree + 1)
    slope = shape.slope(mid - half, mid + half)
    if function == "square" and degree >= 2:
        between = 0.0  # x^2 is its own interpolant
    elif shape.curvature is None:
        between = step / 2 * (float(k @ np.abs(coefficients)) + half * slope)
    else:
        bend = half**2 * shape.curvature(mid - half, mid + half) + half * slope
        between = step**2 / 8 * (float(k**2 @ np.abs(coefficients)) + bend)
    doubles = 1e-13 * float(np.abs(coefficients).sum())
    return Approximation(tuple(coefficients.tolist()), mid, half, seen + between + doubles, slope)


def function_of(name: Function) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The function itself, on arrays."""
    return _SHAPES[name].function

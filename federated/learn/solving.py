"""Normal equations from joint sums: rank, solution, inverse. Columns are scaled to a unit diagonal first, so that only collinearity counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sandbox.errors import QueryError

from .moments import Scale

Floats = NDArray[np.float64]
SINGULAR = 1e-11  # least eigenvalue of a correlation matrix whose inverse still has digits


class Factored:
    """A symmetric positive definite matrix, factored. Raises `QueryError` naming the columns where it is singular."""

    def __init__(self, matrix: Floats, names: tuple[str, ...], noise: Floats):
        diagonal = np.diag(matrix)
        flat = diagonal <= noise
        if flat.any():
            raise QueryError(f"{_named(names, flat)} has the same value in every row: leave it out")
        self._scale = 1 / np.sqrt(diagonal)
        correlation = matrix * np.outer(self._scale, self._scale)
        values, vectors = np.linalg.eigh(correlation)
        if values[0] < SINGULAR:
            involved = np.abs(vectors[:, 0]) > 1e-3
            raise QueryError(
                f"{_named(names, involved)} determine each other: leave one out, or add a penalty"
            )
        self._values, self._vectors = values, vectors

    def solve(self, right: Floats) -> Floats:
        return self._scale * (self._vectors @ ((self._vectors.T @ (self._scale * right)) / self._values))

    def inverse(self) -> Floats:
        core = (self._vectors / self._values) @ self._vectors.T
        return core * np.outer(self._scale, self._scale)


def rounding(scale: Scale, columns: int, rows: int) -> Floats:
    """What the diagonal of a column that never varies can reach: it is known to 2^-44 of its centre."""
    center = np.abs(scale.center[:columns]) / scale.scale[:columns]
    return rows * (center * 2.0**-44) ** 2


def _named(names: tuple[str, ...], flags: NDArray[np.bool_]) -> str:
    return "features " + ", ".join(name for name, flag in zip(names, flags, strict=True) if flag)

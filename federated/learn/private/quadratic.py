"""Fits from one noisy sum of products: least squares, components, means and deviations.

Least squares by sufficient-statistics perturbation (Vu and Slavković, ICDM Workshops 2009; Wang, "Revisiting differentially private linear regression",
UAI 2018, algorithm AdaSSP, whose ridge keeps the noisy cross-products invertible). Components from the noisy second moments (Dwork, Talwar, Thakurta
and Zhang, "Analyze Gauss", STOC 2014, algorithm 1).

A row is v = (1, u, t), u and t in [-1, 1] by declared bounds; the sum is of the upper triangle of v v'. Standard errors hold the sampling error and
that of the noise, to first order: with A the cross-products, Cov = s^2 A^-1 + sigma^2 (1 + |b|^2) A^-2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox.design_matrix import Rows

from ..layout import symmetric, triangle
from ..models import LinearModel
from ..moments import Moments, vector
from ..pca import components_of
from ..scaler import Scaler
from .learner import ONE, Block, Noisy, PrivateLearner, chunks, triangle_sensitivity

Floats = NDArray[np.float64]
FAILURE = 0.05  # with which the ridge of AdaSSP is too small


class Quadratic(PrivateLearner):
    """Base: the products of (1, u) and, where there is one, the target."""

    def blocks(self, state: Any) -> tuple[Block, ...]:
        size = self._size
        squared = 1 + self.features + (self.design.target is not None)
        return (Block("products", size * (size + 1) // 2, 1 / ONE**2, triangle_sensitivity(squared)),)

    def local(self, state: Any, rows: Rows) -> Sequence[NDArray[np.int64]]:
        total = np.zeros((self._size, self._size), np.int64)
        for part in chunks(rows):
            u = self.integers(rows.matrix[part])
            columns = [np.full(len(u), float(ONE)), *u.T]
            if rows.target is not None:
                center, half = self.target_scale()
                columns.append(np.rint(np.clip((rows.target[part] - center) / half, -1, 1) * ONE))
            v = np.array(columns)
            total += (v @ v.T).astype(np.int64)
        return [total[triangle(self._size)]]

    @property
    def _size(self) -> int:
        return 1 + self.width + (self.design.target is not None)

    def noisy(self, joint: Sequence[Noisy]) -> tuple[float, Floats, float]:
        """Rows (at least 1), products, and the noise's deviation."""
        products = symmetric(joint[0].values, self._size)
        return max(float(products[0, 0]), 1.0), products, joint[0].deviation


class PrivateScaling(Quadratic):
    """`StandardScaler`."""

    def update(self, state: Any, joint: Sequence[Noisy]) -> Scaler:
        rows, products, _ = self.noisy(joint)
        center, half = self.scaled()
        first = np.clip(products[0, 1:] / rows, -1, 1)
        variance = np.clip(np.diag(products)[1:] / rows - first**2, 0, 1)
        return Scaler(
            self.design.names,
            vector(center + half * first),
            vector(half * np.sqrt(variance)),
            round(rows),
            self.parties,
        )


class PrivatePrincipal(Quadratic):
    """`PCA`."""

    def update(self, state: Any, joint: Sequence[Noisy]) -> Any:
        rows, products, _ = self.noisy(joint)
        center, half = self.scaled()
        first = products[0, 1:] / rows
        covariance = (products[1:, 1:] / rows - np.outer(first, first)) * np.outer(half, half)
        mean = vector(center + half * np.clip(first, -1, 1))
        found = Moments(max(round(rows), self.width + 1), self.parties, mean, mean, ())
        return components_of(self.fit, self.design.names, covariance, found)


class PrivateLinear(Quadratic):
    """`LinearRegression`."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.needs_intercept()

    def update(self, state: Any, joint: Sequence[Noisy]) -> LinearModel:
        assert self.design.target is not None
        rows, products, deviation = self.noisy(joint)
        gram, right, square = products[:-1, :-1], products[:-1, -1], products[-1, -1]
        size = len(gram)
        values = np.linalg.eigvalsh(gram)
        # |noise| <= deviation sqrt(size log(2 size^2 / FAILURE)) but for FAILURE
        ridge = max(0.0, deviation * math.sqrt(size * math.log(2 * size**2 / FAILURE)) - values[0])
        inverse = np.linalg.inv(gram + ridge * np.eye(size))
        scaled = inverse @ right
        left_over = square - 2 * scaled @ right + scaled @ gram @ scaled
        residual = max(left_over, deviation)
        privacy = deviation**2 * (1 + scaled @ scaled) * inverse @ inverse
        center, half = self.scaled()
        middle, width = self.target_scale()
        # y = middle + width * (b0 + u b), u = (x - center) / half
        turn = np.zeros((size, size))
        turn[0, 0], turn[0, 1:] = width, -width * center / half
        turn[1:, 1:] = np.diag(width / half)
        coefficients = turn @ scaled
        coefficients[0] += middle
        total = square - products[0, -1] ** 2 / rows
        return LinearModel(
            names=("Intercept", *self.design.names),
            target=self.design.target.name,
            coefficients=vector(coefficients),
            unscaled=tuple(map(vector, turn @ inverse @ turn.T / width**2)),
            rows=max(round(rows), size + 1),
            departments=self.parties,
            residual_squares=float(residual) * width**2,
            total_squares=float(max(total, residual)) * width**2,
            intercept=True,
            noise=tuple(map(vector, turn @ privacy @ turn.T)),
        )

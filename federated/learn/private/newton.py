"""Generalised linear models by Newton's method with noise: `rounds` sums of gradient and Hessian, both perturbed.

The double-noise method of Ganesh, Haghifam, Steinke and Thakurta, "Faster Differentially Private Convex Optimization via Second-Order Methods" (NeurIPS
2023, section 4), here with the exact Hessian, and its eigenvalues held above the noise. It is noisy full-batch gradient descent (Bassily, Smith and
Thakurta, FOCS 2014) with a noisy preconditioner, so a handful of rounds does. Objective perturbation (Kifer, Smith and Thakurta, COLT 2012) would show
the coordinator exact gradients on the way to its minimum, and is not offered.

A row is z = (1, u), u in [-1, 1] by declared bounds. Its residual lies in [-1, 1], for counts in the declared bounds of the target, at which the predicted
mean is capped; a weight at most 1/4, or a multiple of the mean count. Coefficients that are shown are multiples of `STEP`, so that with rows in integers
linear predictors are exact: what a row adds does not depend, by roundings of a matrix product, on the rows beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Rows
from sandbox.errors import ParameterError

from ..layout import symmetric, triangle
from ..learner import State
from ..models import LogisticModel, PoissonModel
from ..moments import Vector, vector
from .learner import BITS, ONE, Block, Noisy, PrivateLearner, chunks, triangle_sensitivity

Floats = NDArray[np.float64]
GRADIENT_SHARE = 0.75
HEAVY = 4.0
STEP = 2.0**-16
LONGEST = 3.0  # of a step, in units of u


class Descent(State, frozen=True, tag="private_newton"):
    """Asks for gradient and Hessian at `at`, the intercept first, in units of u; in the Hessian weights count up to `cap`. `rows` is the sum of
    earlier noisy counts."""

    at: Vector
    cap: float
    rows: float = 0.0
    iteration: int = 0


class PrivateNewton(PrivateLearner):
    """`LogisticRegression`, `PoissonRegressor`."""

    default_rounds = 6

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        wanted = self.fit.estimator
        assert isinstance(wanted, f.LogisticRegression | f.PoissonRegressor)
        assert self.design.target is not None
        self.needs_intercept()
        self.logistic = isinstance(wanted, f.LogisticRegression)
        # The largest mean and residual of a row.
        self.most = 1.0 if self.logistic else self.design.target.high
        if self.most <= 0:
            raise ParameterError("'target' has no bound above 0")

    def initial(self) -> State:
        at = np.zeros(1 + self.width)
        if self.logistic:
            return Descent(vector(at), 0.25)
        at[0] = round(math.log(min(self.most, 1.0)) / STEP) * STEP
        return Descent(vector(at), min(self.most, 1.0))

    def blocks(self, state: Any) -> tuple[Block, ...]:
        state = self.at(state)
        size, squared = 1 + self.width, 1 + self.features
        gradient = Block(
            "gradient", size + 1, self.most / ONE**2, ONE**2 * math.sqrt(squared + 1), GRADIENT_SHARE
        )
        hessian = Block(
            "hessian",
            size * (size + 1) // 2,
            state.cap / ONE**2,
            triangle_sensitivity(squared),
            1 - GRADIENT_SHARE,
        )
        return gradient, hessian

    def local(self, state: Any, rows: Rows) -> Sequence[NDArray[np.int64]]:
        state = self.at(state)
        at, size = np.array(state.at), 1 + self.width
        gradient, hessian = np.zeros(size + 1, np.int64), np.zeros((size, size), np.int64)
        assert rows.target is not None
        for part in chunks(rows):
            z = np.column_stack(
                [np.full(len(rows.matrix[part]), float(ONE)), self.integers(rows.matrix[part])]
            )
            mean, weight = self._means(z @ at / ONE)
            residual = np.rint(np.clip((mean - rows.target[part]) / self.most, -1, 1) * ONE)
            gradient[:-1] += (residual @ z).astype(np.int64)
            rooted = np.rint(z * np.sqrt(np.minimum(weight / state.cap, 1.0))[:, None])
            hessian += (rooted.T @ rooted).astype(np.int64)
        gradient[-1] = len(rows) << (2 * BITS)
        return [gradient, hessian[triangle(size)]]

    def update(self, state: Any, joint: Sequence[Noisy]) -> Any:
        state = self.at(state)
        noisy, hessian = joint
        size = 1 + self.width
        gradient, counted = noisy.values[:-1], max(float(noisy.values[-1] / self.most), 1.0)
        at, penalties = np.array(state.at), self._penalties(counted)
        values, vectors = np.linalg.eigh(symmetric(hessian.values, size) + np.diag(penalties))
        # The spectral norm of the noise is about deviation * 2 sqrt(size): what is below it says nothing.
        floor = 2 * hessian.deviation * math.sqrt(size)
        inverse = (vectors / np.maximum(values, floor)) @ vectors.T
        change = -inverse @ (gradient + penalties * at)
        change *= min(1.0, LONGEST / max(float(np.linalg.norm(change)), 1e-300))
        seen, iteration = state.rows + counted, state.iteration + 1
        if iteration < self.rounds:
            return Descent(
                vector(np.rint((at + change) / STEP) * STEP),
                self._cap(state, gradient, counted),
                seen,
                iteration,
            )
        covariance = inverse + noisy.deviation**2 * inverse @ inverse
        return self._model(at + change, covariance, round(seen / iteration))

    def _cap(self, state: Descent, gradient: Floats, rows: float) -> float:
        """Of weights, in the Hessian: `HEAVY` times the mean of the target, which the first residuals give. It only steers steps."""
        if self.logistic or state.iteration > 0:
            return state.cap
        mean = math.exp(state.at[0]) - float(gradient[0]) / rows
        return min(HEAVY * max(mean, self.most / 1000), self.most)

    def _means(self, predictor: Floats) -> tuple[Floats, Floats]:
        if self.logistic:
            mean = 1 / (1 + np.exp(-np.clip(predictor, -700, 700)))
            return mean, mean * (1 - mean)
        mean = np.exp(np.minimum(predictor, math.log(self.most)))
        return mean, mean

    def _penalties(self, rows: float) -> Floats:
        wanted, (_, half) = self.fit.estimator, self.scaled()
        if isinstance(wanted, f.LogisticRegression):
            strength = 0.0 if wanted.C is None else 1 / wanted.C
        else:
            assert isinstance(wanted, f.PoissonRegressor)
            strength = wanted.alpha * rows
        return np.append(0.0, strength / half**2)

    def _model(self, at: Floats, covariance: Floats, rows: int) -> LogisticModel | PoissonModel:
        assert self.design.target is not None
        center, half = self.scaled()
        turn = np.zeros((1 + self.width, 1 + self.width))
        turn[0, 0], turn[0, 1:] = 1.0, -center / half
        turn[1:, 1:] = np.diag(1 / half)
        common: dict[str, Any] = {
            "names": ("Intercept", *self.design.names),
            "target": self.design.target.name,
            "coefficients": vector(turn @ at),
            "rows": max(rows, self.width + 2),
            "departments": self.parties,
            "intercept": True,
            "log_likelihood": None,
            "null_log_likelihood": None,
            "iterations": self.rounds,
            "covariance_": tuple(map(vector, turn @ covariance @ turn.T)),
        }
        wanted = self.fit.estimator
        if isinstance(wanted, f.LogisticRegression):
            return LogisticModel(classes=self.design.target.classes, C=wanted.C, **common)
        assert isinstance(wanted, f.PoissonRegressor)
        return PoissonModel(alpha=wanted.alpha, **common)

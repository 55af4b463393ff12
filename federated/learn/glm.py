"""Generalised linear models, exactly as on the pooled rows: Newton's method, each step one secure sum of gradient and Hessian.

With canonical links Newton's method is iteratively reweighted least squares (McCullagh and Nelder, "Generalized Linear Models", 1989, section
2.5). A step that does not lower the objective is halved. Penalties are scikit-learn's, on coefficients in the units of the data, and never on
the intercept. Convergence is quadratic: once a step moves no coefficient by more than `tol` of the largest, it is taken and leaves an error of
about `tol`^2. Five to eight sums do.

Separated classes have no maximum likelihood: coefficients grow without end while the likelihood settles. That is found out and refused
(Albert and Anderson, Biometrika 1984); a penalty cures it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.errors import QueryError

from .layout import Part, Sums, real, symmetric, triangle
from .learner import Learner, State
from .models import LogisticModel, PoissonModel
from .moments import BLOCK, Moments, Scale, Vector, blocks, vector
from .solving import Factored, rounding

Floats = NDArray[np.float64]
STEEPEST = 40.0  # of the linear predictor of a Poisson mean: e^40 is beyond any declared count
SETTLED = 1e-7  # of the objective: what a step still gains while coefficients run away
NEAR = 4.0  # deviations from zero up to which columns need no centring
FAR = 1e-2  # in deviations: a step that long is no rounding


class Newton(State, frozen=True, tag="newton"):
    """Asks for objective, gradient and Hessian at `at`, the intercept first, in scaled units.

    `base` is the last point that was accepted, its objective in `best`; `at` = `base` + `step`.
    """

    moments: Moments
    at: Vector
    base: Vector
    step: Vector
    best: float | None = None
    iterations: int = 0


class Generalised(Learner):
    """Base of `Logistic` and `Poisson`: a family gives mean, weight and loss of the linear predictor."""

    intercept: bool
    penalty: float  # on half the squared coefficients, for all rows together
    tol: float
    max_iter: int
    leakage = (
        "The coordinator sees the joint number of rows, means and variances of all columns and, at each of a handful of coefficient vectors, "
        "the joint log-likelihood, its gradient and its Hessian: weighted cross-products of the columns over all rows."
    )

    def __init__(self, fit: f.Fit, schema: Schema, parties: int):
        super().__init__(fit, schema, parties)
        self.width = len(self.design.columns)

    def means(self, predictor: Floats) -> tuple[Floats, Floats]:
        """Mean and weight (its derivative) of each row."""
        raise NotImplementedError

    def loss(self, predictor: Floats, mean: Floats, target: Floats) -> float:
        """Minus the log-likelihood, but for `constant`."""
        raise NotImplementedError

    def constant(self, rows: Rows) -> float:
        """What of minus the log-likelihood depends on the target alone."""
        return 0.0

    def limits(self, steepest: float) -> tuple[float, float, float, float]:
        """What one row reaches where |predictor| <= `steepest`: |mean - target|, weight, |loss|, |constant|."""
        raise NotImplementedError

    def plain(self, mean: float) -> float:
        """The intercept of the model without features."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        return self.width + self.intercept

    def parts(self, state: Any) -> tuple[Part, ...]:
        bound = np.append(1.0, self._scale(state.moments).bound)
        residual, weight, loss, constant = self.limits(float(np.abs(state.at) @ bound))
        rows, columns = triangle(len(bound))
        bounds = [np.array([loss, constant]), residual * bound, weight * bound[rows] * bound[columns]]
        return (real("newton", np.concatenate(bounds)),)

    def sums(self, state: Any, rows: Rows) -> Sums:
        scale, at = self._scale(state.moments), np.array(state.at)
        assert rows.target is not None
        # Sums of x - c; they are scaled at the end, by powers of two.
        loss, total, weights = 0.0, 0.0, 0.0
        slopes, cross, weighted = (
            np.zeros(self.width),
            np.zeros((self.width, self.width)),
            np.zeros(self.width),
        )
        room = np.empty((min(len(rows), BLOCK), self.width), order="F")
        for part in blocks(rows):
            block, target = rows.matrix[part], rows.target[part]
            out = room[: len(block)]
            if scale.center.any():
                block = np.subtract(block, scale.center, out=out)
            predictor = block @ (at[1:] / scale.scale) + at[0]
            mean, weight = self.means(predictor)
            residual, root = mean - target, np.sqrt(weight)
            loss += self.loss(predictor, mean, target)
            total += residual.sum()
            slopes += residual @ block
            rooted = np.multiply(block, root[:, None], out=out)
            weights += float(root @ root)
            weighted += root @ rooted
            cross += rooted.T @ rooted
        upper = triangle(self.width)
        hessian = np.concatenate(
            [[weights], weighted / scale.scale, (cross / np.outer(scale.scale, scale.scale))[upper]]
        )
        return [np.concatenate([[loss, self.constant(rows), total], slopes / scale.scale, hessian])]

    def advance(self, state: Any, joint: Sums) -> Any:
        size, values = 1 + self.width, joint[0]
        hessian = symmetric(values[2 + size :], size)
        return self._next(state, float(values[0]), float(values[1]), values[2 : 2 + size], hessian)

    def begin(self, found: Moments) -> Newton:
        zero = np.zeros(1 + self.width)
        if self.intercept:
            zero[0] = self.plain(found.mean[-1])
        return Newton(found, vector(zero), vector(zero), vector(np.zeros_like(zero)))

    def _next(self, state: Newton, loss: float, constant: float, gradient: Floats, hessian: Floats) -> Any:
        at, base, step = (np.array(values) for values in (state.at, state.base, state.step))
        weights = self._penalties(state.moments)
        objective = loss + float(weights @ at**2) / 2
        slack = 1e-13 * (abs(objective) + state.moments.rows)
        if state.best is not None and not objective <= state.best + slack:
            if np.abs(step).max() < 1e-12 * (1 + np.abs(base).max()):
                raise QueryError("the fit does not converge: scale the features, or add a penalty")
            half = step / 2
            return Newton(
                state.moments, vector(base + half), state.base, vector(half), state.best, state.iterations
            )
        used = slice(0 if self.intercept else 1, None)
        system = hessian + np.diag(weights)
        change = np.zeros_like(at)
        factored = self._factored(system, state.moments, used)
        change[used] = -factored.solve((gradient + weights * at)[used])
        decrement = float(-(gradient + weights * at) @ change)
        if self.penalty == 0 and state.best is not None:
            self._refuse_separation(state.moments.rows, objective, decrement, change)
        if np.abs(change).max() <= self.tol * (1 + np.abs(at).max()):
            return self._model(state, at + change, loss, constant, factored)
        if state.iterations + 1 >= self.max_iter:
            raise QueryError(
                f"no convergence in 'max_iter' = {self.max_iter} steps: allow more, or add a penalty"
            )
        return Newton(
            state.moments, vector(at + change), vector(at), vector(change), objective, state.iterations + 1
        )

    def _refuse_separation(self, rows: int, objective: float, decrement: float, change: Floats) -> None:
        settled = decrement <= SETTLED * (abs(objective) + 1)
        if (settled and np.abs(change).max() > FAR) or self.perfect(objective, rows):
            raise QueryError(
                "the features separate the target: no finite coefficients are most likely; add a penalty, or leave a feature out"
            )

    def perfect(self, objective: float, rows: int) -> bool:
        """Whether every row is told without doubt."""
        return False

    def _model(self, state: Newton, at: Floats, loss: float, constant: float, factored: Factored) -> Any:
        scale, moments = self._scale(state.moments), state.moments
        slopes = at[1:] / scale.scale
        coefficients = np.append(at[0] - scale.center @ slopes, slopes) if self.intercept else slopes
        covariance: tuple[Vector, ...] = ()
        if self.penalty == 0:
            turn = np.zeros((1 + self.width, 1 + self.width))
            turn[0, 0], turn[0, 1:] = 1.0, -scale.center / scale.scale
            turn[1:, 1:] = np.diag(1 / scale.scale)
            used = slice(0 if self.intercept else 1, None)
            covariance = tuple(map(vector, turn[used, used] @ factored.inverse() @ turn[used, used].T))
        assert self.design.target is not None
        common = {
            "names": (("Intercept",) if self.intercept else ()) + self.design.names,
            "target": self.design.target.name,
            "coefficients": vector(coefficients),
            "rows": moments.rows,
            "departments": moments.departments,
            "intercept": self.intercept,
            "iterations": state.iterations + 1,
            "covariance_": covariance,
        }
        return self.finish(common, loss, constant, moments.mean[-1], moments.rows)

    def finish(self, common: dict[str, Any], loss: float, constant: float, mean: float, rows: int) -> Any:
        """The model of these fields; minus the log-likelihood is `loss` + `constant`, `mean` that of the target."""
        raise NotImplementedError

    def _penalties(self, moments: Moments) -> Floats:
        return np.append(0.0, self.penalty * self._rows_factor(moments) / self._scale(moments).scale ** 2)

    def _rows_factor(self, moments: Moments) -> float:
        return 1.0

    def _factored(self, system: Floats, moments: Moments, used: slice) -> Factored:
        scale = self._scale(moments)
        noise = np.append(0.0, rounding(scale, self.width, moments.rows))
        return Factored(system[used, used], (("Intercept", *self.design.names))[used], noise[used])

    def _scale(self, moments: Moments) -> Scale:
        short = Moments(moments.rows, moments.departments, moments.mean[:-1], moments.deviation[:-1], ())
        return Scale(self.low[:-1], self.high[:-1], short, self.intercept, NEAR)


class Logistic(Generalised):
    """`LogisticRegression`."""

    def __init__(self, fit: f.Fit, schema: Schema, parties: int):
        super().__init__(fit, schema, parties)
        wanted = fit.estimator
        assert isinstance(wanted, f.LogisticRegression)
        self.intercept, self.tol, self.max_iter, self.C = (
            wanted.fit_intercept,
            wanted.tol,
            wanted.max_iter,
            wanted.C,
        )
        self.penalty = 0.0 if wanted.C is None else 1 / wanted.C

    def means(self, predictor: Floats) -> tuple[Floats, Floats]:
        mean = 1 / (1 + np.exp(-np.clip(predictor, -700, 700)))
        return mean, mean * (1 - mean)

    def loss(self, predictor: Floats, mean: Floats, target: Floats) -> float:
        # log(1 + e^x) - x y
        return float(
            (np.maximum(predictor, 0) + np.log1p(np.exp(-np.abs(predictor)))).sum() - predictor @ target
        )

    def limits(self, steepest: float) -> tuple[float, float, float, float]:
        return 1.0, 0.25, 2 * steepest + 1, 0.0

    def perfect(self, objective: float, rows: int) -> bool:
        return objective < 1e-6 * rows

    def plain(self, mean: float) -> float:
        return math.log(mean / (1 - mean))

    def begin(self, found: Moments) -> Newton:
        positive = round(found.mean[-1] * found.rows)
        if positive in (0, found.rows):
            raise QueryError("all rows have the same class of the target: two are needed")
        return super().begin(found)

    def finish(
        self, common: dict[str, Any], loss: float, constant: float, mean: float, rows: int
    ) -> LogisticModel:
        assert self.design.target is not None
        null = (
            rows * (mean * math.log(mean) + (1 - mean) * math.log1p(-mean))
            if self.intercept
            else -rows * math.log(2)
        )
        return LogisticModel(
            log_likelihood=-loss - constant,
            null_log_likelihood=null,
            classes=self.design.target.classes,
            C=self.C,
            **common,
        )


class Poisson(Generalised):
    """`PoissonRegressor`."""

    def __init__(self, fit: f.Fit, schema: Schema, parties: int):
        super().__init__(fit, schema, parties)
        wanted = fit.estimator
        assert isinstance(wanted, f.PoissonRegressor)
        self.intercept, self.tol, self.max_iter = wanted.fit_intercept, wanted.tol, wanted.max_iter
        self.penalty = wanted.alpha

    def means(self, predictor: Floats) -> tuple[Floats, Floats]:
        mean = np.exp(np.minimum(predictor, STEEPEST))
        return mean, mean

    def loss(self, predictor: Floats, mean: Floats, target: Floats) -> float:
        return float(mean.sum() - np.minimum(predictor, STEEPEST) @ target)

    def constant(self, rows: Rows) -> float:
        if "factorials" not in rows.kept:
            from scipy import special

            assert rows.target is not None
            rows.kept["factorials"] = float(special.gammaln(rows.target + 1).sum())
        return float(rows.kept["factorials"])

    def limits(self, steepest: float) -> tuple[float, float, float, float]:
        mean, most = math.exp(min(steepest, STEEPEST)), float(self.high[-1])
        return mean + most, mean, mean + (steepest + 1) * most, math.lgamma(most + 1) + 1

    def plain(self, mean: float) -> float:
        return math.log(mean)

    def begin(self, found: Moments) -> Newton:
        if found.mean[-1] <= 0:
            raise QueryError("the target is 0 in all rows: its logarithm has no mean")
        return super().begin(found)

    def _rows_factor(self, moments: Moments) -> float:
        return float(moments.rows)

    def finish(
        self, common: dict[str, Any], loss: float, constant: float, mean: float, rows: int
    ) -> PoissonModel:
        null = rows * (mean * math.log(mean) - mean) if self.intercept else -float(rows)
        null -= constant
        return PoissonModel(
            log_likelihood=-loss - constant,
            null_log_likelihood=null,
            alpha=self.penalty,
            **common,
        )

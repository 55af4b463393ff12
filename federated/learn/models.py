"""Fitted linear models as plain values, with the tables that statsmodels prints and scikit-learn's objects.

Coefficients are in the units of the data; the intercept comes first where there is one. Under DP the covariance holds sampling and privacy noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.query import Scalar

Floats = NDArray[np.float64]
Vector = tuple[float, ...]
LOG_2PI = math.log(2 * math.pi)


class Model(msgspec.Struct, frozen=True, tag_field="model"):
    """Base of fitted models: frozen values that can be sent, logged and scored with."""

    def raw(self, matrix: Floats) -> Floats:
        """Scores of rows [rows, columns] in the columns of the design."""
        raise NotImplementedError

    def predict(self, matrix: Floats) -> Floats:
        """The predicted mean of each row, or probability of the second class; of more than two classes, of each [rows, classes]."""
        return self.raw(matrix)


class _Linear(Model, frozen=True):
    """names, coefficients and covariance: the intercept first where there is one."""

    names: tuple[str, ...]
    target: str
    coefficients: Vector
    rows: int
    departments: int
    intercept: bool

    def raw(self, matrix: Floats) -> Floats:
        constant, slopes = self.split()
        return constant + matrix @ slopes

    def split(self) -> tuple[float, Floats]:
        """Intercept (0 without one) and slopes."""
        values = np.array(self.coefficients)
        return (float(values[0]), values[1:]) if self.intercept else (0.0, values)

    @property
    def parameters(self) -> int:
        return len(self.coefficients)

    @property
    def residual_freedom(self) -> int:
        return self.rows - self.parameters

    def _fill(self, estimator: Any) -> Any:
        constant, slopes = self.split()
        estimator.coef_, estimator.intercept_ = slopes, constant
        estimator.n_features_in_ = len(slopes)
        return estimator


class LinearModel(_Linear, frozen=True, tag="linear"):
    """Least squares. `unscaled` is (X'X)^-1; `noise` is the covariance that privacy added, if any."""

    unscaled: tuple[Vector, ...]
    residual_squares: float
    total_squares: float
    noise: tuple[Vector, ...] = ()

    @property
    def r_squared(self) -> float:
        """NaN where the target never varies, as statsmodels has it."""
        return 1 - _ratio(self.residual_squares, self.total_squares)

    @property
    def adjusted_r_squared(self) -> float:
        return 1 - _ratio((1 - self.r_squared) * (self.rows - self.intercept), self.residual_freedom)

    @property
    def covariance(self) -> Floats:
        sampling = np.array(self.unscaled) * _ratio(self.residual_squares, self.residual_freedom)
        return sampling + np.array(self.noise) if self.noise else sampling

    @property
    def standard_errors(self) -> Floats:
        return np.sqrt(np.diag(self.covariance))

    @property
    def t_values(self) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array(self.coefficients) / self.standard_errors

    @property
    def p_values(self) -> Floats:
        from scipy import special

        return np.asarray(2 * special.stdtr(self.residual_freedom, -np.abs(self.t_values)))

    @property
    def f_statistic(self) -> tuple[float, float]:
        """F of all slopes together, and its p-value."""
        from scipy import special

        freedom = self.parameters - self.intercept
        between = _ratio(self.total_squares - self.residual_squares, freedom)
        value = _ratio(between, _ratio(self.residual_squares, self.residual_freedom))
        return value, float(special.fdtrc(freedom, self.residual_freedom, value))

    @property
    def log_likelihood(self) -> float:
        n = self.rows
        if not self.residual_squares:
            return math.inf  # of a target that is a sum of its features
        return -n / 2 * (LOG_2PI + math.log(self.residual_squares / n) + 1)

    def interval(self, level: float = 0.95) -> Floats:
        """Confidence intervals of the coefficients, [coefficients, 2]."""
        from scipy import special

        half = special.stdtrit(self.residual_freedom, 0.5 + level / 2) * self.standard_errors
        return np.column_stack([self.coefficients - half, self.coefficients + half])

    def summary(self) -> str:
        """The table that statsmodels prints, without what needs single residuals (Durbin-Watson, Jarque-Bera)."""
        value, probability = self.f_statistic
        log_likelihood, k = self.log_likelihood, self.parameters
        head = [
            ("Dep. Variable:", self.target, "R-squared:", f"{self.r_squared:.3f}"),
            ("Model:", "OLS", "Adj. R-squared:", f"{self.adjusted_r_squared:.3f}"),
            ("No. Observations:", str(self.rows), "F-statistic:", f"{value:#.4g}"),
            ("Df Residuals:", str(self.residual_freedom), "Prob (F-statistic):", f"{probability:#.3g}"),
            ("Df Model:", str(k - self.intercept), "Log-Likelihood:", f"{log_likelihood:#.5g}"),
            ("Departments:", str(self.departments), "AIC:", f"{-2 * log_likelihood + 2 * k:#.4g}"),
            ("", "", "BIC:", f"{-2 * log_likelihood + math.log(self.rows) * k:#.4g}"),
        ]
        return table("OLS Regression Results", head, self, "t", self.t_values, self.p_values, self.interval())

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.linear_model.LinearRegression`."""
        from sklearn.linear_model import LinearRegression

        return self._fill(LinearRegression(fit_intercept=self.intercept))


class _Generalised(_Linear, frozen=True):
    """By maximum (penalised) likelihood. `covariance_` is the inverse Hessian: () under a penalty, where it is no covariance of estimates.

    Under DP no likelihood is known, and the covariance holds sampling and privacy noise.
    """

    log_likelihood: float | None
    null_log_likelihood: float | None
    iterations: int
    covariance_: tuple[Vector, ...] = ()

    @property
    def standard_errors(self) -> Floats:
        return (
            np.sqrt(np.diag(np.array(self.covariance_)))
            if self.covariance_
            else np.full(self.parameters, np.nan)
        )

    @property
    def z_values(self) -> Floats:
        return np.array(self.coefficients) / self.standard_errors

    @property
    def p_values(self) -> Floats:
        from scipy import special

        return np.asarray(2 * special.ndtr(-np.abs(self.z_values)))

    @property
    def pseudo_r_squared(self) -> float:
        """McFadden's; NaN where no likelihood is known."""
        own, null = self.log_likelihood, self.null_log_likelihood
        return math.nan if own is None or null is None else 1 - _ratio(own, null)

    def interval(self, level: float = 0.95) -> Floats:
        """Confidence intervals of the coefficients, [coefficients, 2]."""
        from scipy import special

        half = special.ndtri(0.5 + level / 2) * self.standard_errors
        return np.column_stack([self.coefficients - half, self.coefficients + half])

    def summary(self) -> str:
        """The table that statsmodels prints."""
        from scipy import special

        freedom = self.parameters - self.intercept
        own = math.nan if self.log_likelihood is None else self.log_likelihood
        null = math.nan if self.null_log_likelihood is None else self.null_log_likelihood
        name = type(self).__name__.removesuffix("Model")
        head = [
            ("Dep. Variable:", self.target, "No. Observations:", str(self.rows)),
            ("Model:", name, "Df Residuals:", str(self.residual_freedom)),
            ("Method:", "MLE" if self.covariance_ else "penalised", "Df Model:", str(freedom)),
            ("Departments:", str(self.departments), "Pseudo R-squ.:", f"{self.pseudo_r_squared:#.4g}"),
            ("No. Iterations:", str(self.iterations), "Log-Likelihood:", f"{own:#.5g}"),
            ("", "", "LL-Null:", f"{null:#.5g}"),
            ("", "", "LLR p-value:", f"{special.chdtrc(freedom, max(2 * (own - null), 0.0)):#.4g}"),
        ]
        return table(
            f"{name} Regression Results", head, self, "z", self.z_values, self.p_values, self.interval()
        )


class LogisticModel(_Generalised, frozen=True, tag="logistic"):
    """`classes` in scikit-learn's order; coefficients are the log-odds of the second."""

    classes: tuple[Scalar, ...] = ()
    C: float | None = None

    def predict(self, matrix: Floats) -> Floats:
        from scipy import special

        return np.asarray(special.expit(self.raw(matrix)))

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.linear_model.LogisticRegression`."""
        from sklearn.linear_model import LogisticRegression

        constant, slopes = self.split()
        estimator = LogisticRegression(
            C=self.C if self.C is not None else np.inf, fit_intercept=self.intercept
        )
        estimator.coef_, estimator.intercept_ = slopes[None], np.array([constant])
        estimator.classes_, estimator.n_features_in_ = np.array(self.classes), len(slopes)
        estimator.n_iter_ = np.array([self.iterations], np.int32)
        return estimator


class PoissonModel(_Generalised, frozen=True, tag="poisson"):
    """Coefficients are those of the logarithm of the mean."""

    alpha: float = 0.0

    def predict(self, matrix: Floats) -> Floats:
        return np.exp(self.raw(matrix))

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.linear_model.PoissonRegressor`."""
        from sklearn._loss.loss import HalfPoissonLoss
        from sklearn.linear_model import PoissonRegressor

        estimator = self._fill(PoissonRegressor(alpha=self.alpha, fit_intercept=self.intercept))
        estimator.n_iter_, estimator._base_loss = self.iterations, HalfPoissonLoss()
        return estimator


def _ratio(above: float, below: float) -> float:
    """NaN of 0 / 0, infinite of anything else over 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(above, below))


def table(
    title: str,
    head: Sequence[tuple[str, str, str, str]],
    model: _Linear,
    statistic: str,
    values: Floats,
    p_values: Floats,
    interval: Floats,
) -> str:
    """A summary as statsmodels lays it out, 78 characters wide or as wide as the longest name asks."""
    errors: Floats = model.standard_errors  # type: ignore[attr-defined]
    wide = max(12, *(len(name) + 1 for name in model.names))
    columns = ("coef", "std err", statistic, f"P>|{statistic}|", "[0.025", "0.975]")
    width = wide + 66
    lines = [title.center(width), "=" * width]
    half = width // 2 - 2
    lines += [f"{a:<18}{b:>{half - 18}}    {c:<20}{d:>{width - half - 24}}".rstrip() for a, b, c, d in head]
    lines += ["=" * width, " " * wide + "".join(f"{name:>11}" for name in columns), "-" * width]
    for i, name in enumerate(model.names):
        numbers = (
            f"{model.coefficients[i]:#.4f}"
            if abs(model.coefficients[i]) < 1e5
            else f"{model.coefficients[i]:#.4g}",
            f"{errors[i]:#.3f}" if abs(errors[i]) < 1e5 else f"{errors[i]:#.3g}",
            f"{values[i]:#.3f}",
            f"{p_values[i]:#.3f}",
            *(f"{edge:#.3f}" if abs(edge) < 1e5 else f"{edge:#.3g}" for edge in interval[i]),
        )
        lines.append(f"{name:<{wide}}" + "".join(f"{number:>11}" for number in numbers))
    return "\n".join([*lines, "=" * width])

"""Least squares, exactly as on the pooled rows, in three secure sums: moments, cross-products, and residuals at the solution.

Normal equations on centred, scaled columns; the residuals then give the sum of squares without cancellation, and one step of iterative
refinement (Björck, "Numerical Methods for Least Squares Problems", 1996, section 2.9.3), so that coefficients are those of an orthogonal
factorisation. Standard errors are the classical ones, s^2 (X'X)^-1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows

from .layout import Part, Sums, real, symmetric, triangle
from .learner import Learner, State
from .models import LinearModel
from .moments import Moments, Scale, Vector, blocks, vector
from .solving import Factored, rounding

Floats = NDArray[np.float64]


class Products(State, frozen=True, tag="linear_products"):
    """Asks for the cross-products of columns and target."""

    moments: Moments


class Residuals(State, frozen=True, tag="linear_residuals"):
    """Asks for the residuals of `coefficients`, in scaled units; `upper` is the triangle of the cross-products."""

    moments: Moments
    upper: Vector
    coefficients: Vector


class Linear(Learner):
    """`LinearRegression`."""

    leakage = (
        "The coordinator sees the joint number of rows, means and variances of all columns, their joint cross-products with each other and "
        "with the target, and the joint residual sum of squares: what the summary table can be worked out from, and no more rounds."
    )

    def __init__(self, fit: f.Fit, schema: Schema, parties: int):
        super().__init__(fit, schema, parties)
        assert isinstance(fit.estimator, f.LinearRegression)
        self.intercept = fit.estimator.fit_intercept
        self.width = len(self.design.columns)

    @property
    def parameters(self) -> int:
        return self.width + self.intercept

    def begin(self, found: Moments) -> Products:
        return Products(found)

    def parts(self, state: Any) -> tuple[Part, ...]:
        match state:
            case Products(moments):
                bound = self.scale(moments).bound
                rows, columns = triangle(len(bound))
                return (real("products", bound[rows] * bound[columns]),)
            case Residuals(moments, _, coefficients):
                bound = self.scale(moments).bound
                most = bound[-1] + np.abs(coefficients) @ bound[:-1]
                bounds = np.concatenate([[most, most * most], most * bound[:-1]])
                return (real("residuals", bounds),)
        raise TypeError(type(state).__name__)

    def sums(self, state: Any, rows: Rows) -> Sums:
        scale = self.scale(state.moments)
        if isinstance(state, Products):
            total = np.zeros((len(scale.center), len(scale.center)))
            for z, y in self._scaled(scale, rows):
                block = np.column_stack([z, y])
                total += block.T @ block
            return [total[triangle(len(total))]]
        sums, coefficients = np.zeros(2 + self.width), np.array(state.coefficients)
        for z, y in self._scaled(scale, rows):
            residual = y - z @ coefficients
            sums[0] += residual.sum()
            sums[1] += residual @ residual
            sums[2:] += residual @ z
        return [sums]

    def advance(self, state: Any, joint: Sums) -> Any:
        match state:
            case Products(moments):
                products = symmetric(joint[0], self.width + 1)
                factored = self._factored(products, moments)
                return Residuals(moments, vector(joint[0]), vector(factored.solve(products[:-1, -1])))
        return self._model(state, joint[0])

    def _model(self, state: Residuals, sums: Floats) -> LinearModel:
        products = symmetric(np.array(state.upper), self.width + 1)
        factored, scale, moments = (
            self._factored(products, state.moments),
            self.scale(state.moments),
            state.moments,
        )
        step = factored.solve(sums[2:])
        squares = float(sums[1] - step @ sums[2:]) * scale.scale[-1] ** 2
        # y = c_y + s_y (z b), z = (x - c) / s
        to_units = scale.scale[-1] / scale.scale[:-1]
        slopes = (np.array(state.coefficients) + step) * to_units
        inverse = factored.inverse() * np.outer(1 / scale.scale[:-1], 1 / scale.scale[:-1])
        total = products[-1, -1] * scale.scale[-1] ** 2
        if self.intercept:
            # The means are off by a rounding: the mean residual says by how much.
            mean, shift = scale.center[:-1], sums[0] * scale.scale[-1] / moments.rows
            slopes = np.append(scale.center[-1] + shift - mean @ slopes, slopes)
            corner = 1 / moments.rows + mean @ inverse @ mean
            inverse = np.block(
                [[np.array([[corner]]), -(mean @ inverse)[None]], [-(inverse @ mean)[:, None], inverse]]
            )
        assert self.design.target is not None
        return LinearModel(
            names=(("Intercept",) if self.intercept else ()) + self.design.names,
            target=self.design.target.name,
            coefficients=vector(slopes),
            unscaled=tuple(map(vector, inverse)),
            rows=moments.rows,
            departments=moments.departments,
            residual_squares=max(squares, 0.0),
            total_squares=float(total),
            intercept=self.intercept,
        )

    def scale(self, moments: Moments) -> Scale:
        """The centre and scale of each column, the target's last."""
        return Scale(self.low, self.high, moments, self.intercept)

    def _factored(self, products: Floats, moments: Moments) -> Factored:
        noise = rounding(self.scale(moments), self.width, moments.rows)
        return Factored(products[:-1, :-1], self.design.names, noise)

    def _scaled(self, scale: Scale, rows: Rows) -> Any:
        assert rows.target is not None
        for part in blocks(rows):
            yield (
                scale.apply(rows.matrix[part], slice(0, self.width)),
                scale.apply(rows.target[part], self.width),
            )

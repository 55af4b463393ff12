"""Least squares on a joined table, at the coordinator: from sums and cross-products to the model that the learner of rows makes.

`federated.learn.linear` asks its departments for moments, cross-products and residuals, one round after the other. Here one join gives all
cross-products, in integers on their grids, and the sums of those rounds follow from them in fractions, without rounding: the sum of
squared residuals of coefficients b is that of the target less 2 b'X'y less b'X'X b.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from sandbox import fit as f
from sandbox.disclosure import Rules
from sandbox.errors import Denied
from sandbox.joining.products import Regression
from sandbox.joining.wide import Wide

from ..learn.layout import triangle
from ..learn.linear import Linear
from ..learn.models import LinearModel
from ..learn.moments import Moments, vector
from .question import Counts
from .question import vector as entries


def model(fit: f.Fit, wide: Wide, asked: Regression, sums: Counts, rules: Rules | None) -> LinearModel:
    """The model; raises `Denied` where disclosure control refuses it, `QueryError` where the rows have none."""
    learner = Linear(fit, wide.schema, len(wide.departments))
    exact = [
        Fraction(value) / Fraction(2) ** exponent
        for value, exponent in zip(entries(asked.split, sums).tolist(), asked.exponents, strict=True)
    ]
    size = len(asked.centers)
    rows, first, products = int(exact[0]), exact[1 : 1 + size], exact[1 + size :]
    if (rules is not None and rows < rules.min_cell) or rows == 0:
        raise Denied([f"fewer than {rules.min_cell if rules else 1} rows"])
    second = [[Fraction(0)] * size for _ in range(size)]
    for i, j, value in zip(*triangle(size), products, strict=True):
        second[i][j] = second[j][i] = value
    means = [Fraction(c) + s / rows for c, s in zip(asked.centers, first, strict=True)]
    spread = [float(second[j][j] / rows - (first[j] / rows) ** 2) for j in range(size)]
    # How many are not the lower of two values follows from their sum; of other numbers nobody counts those that are not 0.
    assert learner.design.target is not None
    two = [c.level is not None or learner.design.two[c.feature] for c in learner.design.columns]
    two.append(learner.design.target.two)
    whole = [
        round((mean - Fraction(low)) * rows) if counted else rows
        for mean, low, counted in zip(means, learner.low.tolist(), two, strict=True)
    ]
    moments = Moments(
        rows,
        len(wide.departments),
        vector(np.array(list(map(float, means)))),
        vector(np.sqrt(np.maximum(spread, 0.0))),
        tuple(whole),
    )
    state = learner.begin(moments)
    if rules is not None and (reasons := learner.refusals(state, rules)):
        raise Denied(reasons)
    scale = learner.scale(moments)
    off = [Fraction(c) - Fraction(own) for c, own in zip(scale.center.tolist(), asked.centers, strict=True)]
    unit = [Fraction(s) for s in scale.scale.tolist()]
    total = [(first[j] - rows * off[j]) / unit[j] for j in range(size)]
    scaled = [
        [
            (second[i][j] - off[i] * first[j] - off[j] * first[i] + rows * off[i] * off[j])
            / (unit[i] * unit[j])
            for j in range(size)
        ]
        for i in range(size)
    ]
    upper = np.array([float(scaled[i][j]) for i, j in zip(*triangle(size), strict=True)])
    count = np.array([rows])
    solved = learner.update(state, [count, upper])
    b = [Fraction(value) for value in solved.coefficients]
    y = size - 1
    left = [scaled[y][j] - sum(b[k] * scaled[k][j] for k in range(y)) for j in range(y)]
    squares = scaled[y][y] - sum(b[k] * (scaled[y][k] + left[k]) for k in range(y))
    residual = [total[y] - sum(b[k] * total[k] for k in range(y)), squares, *left]
    found: LinearModel = learner.update(solved, [count, np.array(list(map(float, residual)))])
    return found

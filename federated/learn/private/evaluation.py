"""How good a model is, privately: one noisy histogram of scores by class, or five noisy sums of a regression.

Everything that `federated.learn.evaluation` tells follows from the histogram, at the middles of its bins, and so costs nothing more. Intervals hold the
sampling error as there and, simulated, that of the noise. A row adds to one bin (as in Stoddard, Chen and Machanavajjhala, "Differentially Private
Algorithms for Empirical Machine Learning", 2014, for ROC curves); its score is worked out by itself, column by column, so that it does not depend, by
roundings of a matrix product, on the rows beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.errors import QueryError

from ..evaluation import check
from ..figures import CALIBRATION, Calibration, Classified, Regressed
from ..learner import Start
from .learner import ONE, Block, Noisy, PrivateLearner, chunks

Floats = NDArray[np.float64]
BINS = 200  # of the log-odds between ±REACH: tenths of probability are not cut by them exactly
REACH = 8.0
GRID = ONE**2
DRAWS = 400
Z95 = 1.959963984540054


class PrivateEvaluation(PrivateLearner):
    """Evaluates `model` on the rows of `fit`, whose target has two classes or is a number."""

    def __init__(self, fit: f.Fit, schema: Schema, parties: int, rho: float, honest: int, model: Any):
        super().__init__(fit, schema, parties, rho, honest)
        self.model, self.binary = model, bool(check(self.design, model).classes)

    def blocks(self, state: Start) -> tuple[Block, ...]:
        if self.binary:
            return (Block("scores", 2 * BINS, 1 / GRID, float(GRID)),)
        return (Block("residuals", 5, 1 / GRID, GRID * math.sqrt(5)),)

    def local(self, state: Start, rows: Rows) -> Sequence[NDArray[np.int64]]:
        assert rows.target is not None
        total = np.zeros(2 * BINS if self.binary else 5, np.int64)
        for part in chunks(rows):
            score, target = self._scores(rows.matrix[part]), rows.target[part]
            if self.binary:
                place = np.clip((score + REACH) * (BINS / (2 * REACH)), 0, BINS - 1).astype(np.int64)
                total += np.bincount(target.astype(np.int64) * BINS + place, minlength=2 * BINS) * GRID
            else:
                center, half = self.target_scale()
                t = np.clip((target - center) / half, -1, 1)
                residual = np.clip((target - score) / (2 * half), -1, 1)
                for i, values in enumerate((np.ones(len(t)), residual, residual**2, t, t**2)):
                    total[i] += np.rint(values * GRID).astype(np.int64).sum()
        return [total]

    def update(self, state: Start, joint: Sequence[Noisy]) -> Classified | Regressed:
        return self._classified(joint[0]) if self.binary else self._regressed(joint[0])

    def _classified(self, noisy: Noisy) -> Classified:
        counts = noisy.values.reshape(2, BINS)
        first, second = np.maximum(counts.sum(1), 1.0)
        if min(first, second) < 5 * noisy.deviation * math.sqrt(BINS):
            raise QueryError("the noise leaves too little to evaluate: use a larger epsilon, or more rows")
        edges = np.linspace(-REACH, REACH, BINS + 1)
        chance = 1 / (1 + np.exp(-(edges[:-1] + edges[1:]) / 2))
        # Not secret: it only says how far noise of this size moves the figures.
        draws = counts + np.random.default_rng(0).normal(0, noisy.deviation, (DRAWS, 2, BINS))
        rows = float(first + second)
        auc, ks, loss, brier, right = _figures(counts[None], chance)[:, 0]
        spread = _figures(draws, chance).std(axis=1)
        sampling = math.sqrt(max(auc * (1 - auc), 0.0) / min(first, second))  # at most, whatever the scores
        slack = math.sqrt(math.log(4 / 0.05) / 2) * (1 / math.sqrt(first) + 1 / math.sqrt(second))
        losses = np.array([-np.log1p(-chance), -np.log(chance)])
        second_moment = float((counts * losses**2).sum()) / rows
        loss_half = Z95 * math.hypot(math.sqrt(max(second_moment - loss**2, 0.0) / rows), spread[2])
        accuracy_half = Z95 * math.hypot(math.sqrt(max(right * (1 - right), 0.0) / rows), spread[4])
        said = chance > 0.5
        confusion = [[max(round(float(part[flag].sum())), 0) for flag in (~said, said)] for part in counts]
        tied = float(np.maximum(counts[0], 0) @ np.maximum(counts[1], 0) / (first * second))
        return Classified(
            rows=round(rows),
            departments=self.parties,
            auc=float(auc),
            auc_interval=_within(auc, Z95 * math.hypot(sampling, spread[0])),
            auc_bounds=(float(auc) - tied / 2, float(auc) + tied / 2),
            ks=float(ks),
            ks_interval=_within(ks, slack + Z95 * float(spread[1])),
            log_loss=float(loss),
            log_loss_interval=(float(loss) - loss_half, float(loss) + loss_half),
            brier=float(brier),
            accuracy=float(right),
            accuracy_interval=_within(right, accuracy_half),
            confusion=((confusion[0][0], confusion[0][1]), (confusion[1][0], confusion[1][1])),
            calibration=tuple(_tenth(i, counts, chance, noisy.deviation) for i in range(CALIBRATION)),
        )

    def _regressed(self, noisy: Noisy) -> Regressed:
        rows, residual, square, first, second = noisy.values.tolist()
        rows = max(rows, 1.0)
        variance = second / rows - (first / rows) ** 2
        if variance <= 2 * noisy.deviation / rows:
            raise QueryError("the noise leaves too little to evaluate: use a larger epsilon, or more rows")
        _, half = self.target_scale()
        mean = max(square / rows, 0.0)
        r_squared = 1 - 4 * mean / variance
        # To first order; squares of residuals lie in [0, 1], so that their variance is at most mean (1 - mean).
        error = math.hypot(noisy.deviation / rows, math.sqrt(mean * max(1 - mean, 0.0) / rows))
        both = 4 * math.hypot(error / variance, mean / variance**2 * math.sqrt(5) * noisy.deviation / rows)
        return Regressed(
            rows=round(rows),
            departments=self.parties,
            r_squared=r_squared,
            r_squared_interval=(r_squared - Z95 * both, min(r_squared + Z95 * both, 1.0)),
            rmse=2 * half * math.sqrt(mean),
            rmse_interval=(
                2 * half * math.sqrt(max(mean - Z95 * error, 0.0)),
                2 * half * math.sqrt(mean + Z95 * error),
            ),
            bias=-2 * half * residual / rows,
        )

    def _scores(self, matrix: Floats) -> Floats:
        """Log-odds of the second class, or predictions."""
        if hasattr(self.model, "split"):
            constant, slopes = self.model.split()
            score = np.full(len(matrix), constant)
            for column, slope in zip(matrix.T, slopes, strict=True):
                score += column * slope
            return score
        if hasattr(self.model, "alone"):
            return np.asarray(self.model.alone(matrix))
        raw: Floats = self.model.raw(matrix)
        return raw[:, 1] - raw[:, 0] if raw.ndim == 2 else raw


def _figures(counts: Floats, chance: Floats) -> Floats:
    """AUC, KS, log-loss, Brier score and accuracy of histograms [draws, 2, bins]: [5, draws]."""
    first, second = counts[:, 0], counts[:, 1]
    m, n = np.maximum(first.sum(1), 1.0), np.maximum(second.sum(1), 1.0)
    below = np.cumsum(first, axis=1) - first / 2
    auc = (second * below).sum(1) / (m * n)
    ks = np.abs(np.cumsum(first, axis=1) / m[:, None] - np.cumsum(second, axis=1) / n[:, None]).max(1)
    loss = (first @ -np.log1p(-chance) + second @ -np.log(chance)) / (m + n)
    brier = (first @ chance**2 + second @ (1 - chance) ** 2) / (m + n)
    right = (first @ (chance <= 0.5) + second @ (chance > 0.5)) / (m + n)
    return np.array([np.clip(auc, 0, 1), np.clip(ks, 0, 1), loss, brier, np.clip(right, 0, 1)])


def _within(value: float, half: float) -> tuple[float, float]:
    return max(float(value) - half, 0.0), min(float(value) + half, 1.0)


def _tenth(number: int, counts: Floats, chance: Floats, deviation: float) -> Calibration:
    """One tenth; None where its rows do not stand out from the noise."""
    low, high = number / CALIBRATION, (number + 1) / CALIBRATION
    own = (chance >= low) & (chance < high)
    both = counts.sum(0)[own]
    rows = float(both.sum())
    if rows < 5 * deviation * math.sqrt(2 * max(int(own.sum()), 1)):
        return Calibration(low, high, None, None, None)
    observed = min(max(float(counts[1, own].sum()) / rows, 0.0), 1.0)
    return Calibration(low, high, round(rows), float(both @ chance[own]) / rows, observed)

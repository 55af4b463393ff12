"""How good a model is on the joint rows: one secure sum after the state that holds the model.

A classifier's scores are counted by class in `BINS` equal bins of the log-odds between ±`REACH`: AUC and KS follow from the counts. Rows of one bin count as
tied; `auc_bounds` say how far that can be off. Log-loss, Brier score and the confusion matrix are exact sums. A regression has R^2 and root mean
squared error.

Intervals are at 95 %: AUC by DeLong, DeLong and Clarke-Pearson (Biometrics 1988), KS by the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's
constant on both samples, accuracy by Wilson, means by their standard error, R^2 by Olkin and Finn (Psychological Bulletin 1995).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import QueryError

from .estimators import Models
from .layout import Layout, Sums, real, whole
from .learner import Learner, State
from .moments import blocks

Floats = NDArray[np.float64]
Interval = tuple[float, float]
BINS = 16384
REACH = 12.0
LEAST = 1e-15  # a probability is cut to [LEAST, 1 - LEAST], as scikit-learn's log_loss does
CALIBRATION = 10
Z95 = 1.959963984540054


class Scoring(State, frozen=True, tag="scoring"):
    """Asks for the sums of `model` on the rows of a fit."""

    model: Models


class Calibration(msgspec.Struct, frozen=True):
    """One tenth of the probabilities: rows, mean prediction, share of the second class. None where there are too few rows."""

    low: float
    high: float
    rows: int | None
    predicted: float | None
    observed: float | None


class Classified(msgspec.Struct, frozen=True):
    """A classifier of two classes. `confusion` is [[true first, said second], [said first of second, true second]] at probability 1/2."""

    rows: int
    departments: int
    auc: float
    auc_interval: Interval
    auc_bounds: Interval
    ks: float
    ks_interval: Interval
    log_loss: float
    log_loss_interval: Interval
    brier: float
    accuracy: float
    accuracy_interval: Interval
    confusion: tuple[tuple[int, int], tuple[int, int]]
    calibration: tuple[Calibration, ...]


class Regressed(msgspec.Struct, frozen=True):
    """A regression."""

    rows: int
    departments: int
    r_squared: float
    r_squared_interval: Interval
    rmse: float
    rmse_interval: Interval
    bias: float


class Evaluation(Learner):
    """Evaluates `model` on the rows of `fit`, which has a target."""

    leakage = (
        "The coordinator sees the joint distribution of the model's scores by class, and the joint sums of its losses; of a regression the joint sums of "
        "residuals and their squares."
    )

    def __init__(self, fit: f.Fit, schema: Schema, parties: int, model: Any):
        super().__init__(fit, schema, parties)
        if self.design.target is None:
            raise QueryError("'target': an evaluation needs one")
        if model.names[-len(self.design.names) :] != self.design.names:
            raise QueryError("the model was fitted on other features, or in another order")
        self.model = model
        self.binary = len(self.design.target.classes) == 2

    def start(self) -> Scoring:
        return Scoring(self.model)

    def layout(self, state: Any) -> Layout:
        rows = self.schema.max_rows * self.parties
        if self.binary:
            worst = -math.log(LEAST)
            return Layout(
                (
                    whole("counts", 2 + 2 * BINS + 4 + 2 * CALIBRATION),
                    real("losses", np.array([worst, worst**2, 1.0])),
                    real("predicted", np.ones(CALIBRATION)),
                ),
                rows,
            )
        reach = self._reach()
        target = max(abs(self.low[-1]), abs(self.high[-1]))
        bounds = [reach, reach**2, reach**4, target, target**2]
        return Layout((whole("counts", 2), real("residuals", np.array(bounds))), rows)

    def local(self, state: Any, rows: Rows) -> Sums:
        assert rows.target is not None
        size = np.array([len(rows), len(rows) > 0], np.int64)
        if not self.binary:
            sums, reach, middle = np.zeros(5), self._reach(), self._middle()
            for part in blocks(rows):
                target = rows.target[part]
                residual = np.clip(target - state.model.predict(rows.matrix[part]), -reach, reach)
                centred = target - middle
                sums += [
                    residual.sum(),
                    residual @ residual,
                    (residual**4).sum(),
                    centred.sum(),
                    centred @ centred,
                ]
            return [size, sums]
        scores, confusion = np.zeros(2 * BINS, np.int64), np.zeros(4, np.int64)
        tenths, losses, predicted = np.zeros(2 * CALIBRATION, np.int64), np.zeros(3), np.zeros(CALIBRATION)
        for part in blocks(rows):
            probability = self._probability(state.model, rows.matrix[part])
            target = rows.target[part]
            second = target.astype(np.int64)
            odds = np.log(probability) - np.log1p(-probability)
            place = np.clip((odds + REACH) * (BINS / (2 * REACH)), 0, BINS - 1).astype(np.int64)
            scores += np.bincount(second * BINS + place, minlength=2 * BINS)
            confusion += np.bincount(2 * second + (probability > 0.5), minlength=4)
            tenth = np.minimum((probability * CALIBRATION).astype(np.int64), CALIBRATION - 1)
            tenths += np.bincount(second * CALIBRATION + tenth, minlength=2 * CALIBRATION)
            predicted += np.bincount(tenth, probability, CALIBRATION)
            loss = -np.where(second, np.log(probability), np.log1p(-probability))
            losses += [loss.sum(), loss @ loss, np.square(probability - target).sum()]
        return [np.concatenate([size, scores, confusion, tenths]), losses, predicted]

    def update(self, state: Any, joint: Sums) -> Classified | Regressed:
        rows, departments = (int(value) for value in joint[0][:2])
        if rows < 2:
            raise QueryError("fewer than two rows take part in the evaluation")
        if not self.binary:
            return self._regressed(rows, departments, joint[1])
        counts = np.asarray(joint[0][2:])
        scores, rest = counts[: 2 * BINS].reshape(2, BINS), counts[2 * BINS :]
        first, second = (int(part.sum()) for part in scores)
        if not first or not second:
            raise QueryError("all rows have the same class of the target: two are needed")
        confusion, tenths = rest[:4].reshape(2, 2), rest[4:].reshape(2, CALIBRATION)
        loss, squares, brier = (float(value) / rows for value in joint[1])
        auc, deviation, tied = _auc(scores)
        ks = float(np.abs(np.cumsum(scores[0]) / first - np.cumsum(scores[1]) / second).max())
        slack = math.sqrt(math.log(4 / 0.05) / 2) * (1 / math.sqrt(first) + 1 / math.sqrt(second))
        right = int(confusion.trace())
        half = Z95 * math.sqrt(max(squares - loss**2, 0.0) / rows)
        return Classified(
            rows=rows,
            departments=departments,
            auc=auc,
            auc_interval=_within(auc, Z95 * deviation),
            auc_bounds=(auc - tied / 2, auc + tied / 2),
            ks=ks,
            ks_interval=_within(ks, slack),
            log_loss=loss,
            log_loss_interval=(loss - half, loss + half),
            brier=brier,
            accuracy=right / rows,
            accuracy_interval=_wilson(right, rows),
            confusion=(
                (int(confusion[0, 0]), int(confusion[0, 1])),
                (int(confusion[1, 0]), int(confusion[1, 1])),
            ),
            calibration=tuple(
                _tenth(i, int(tenths[:, i].sum()), int(tenths[1, i]), float(joint[2][i]))
                for i in range(CALIBRATION)
            ),
        )

    def _regressed(self, rows: int, departments: int, sums: Floats) -> Regressed:
        residual, square, fourth, total, total_square = (float(value) / rows for value in sums)
        variance = total_square - total**2
        if variance <= 0:
            raise QueryError("the target has the same value in every row: it has no R^2")
        r_squared = 1 - square / variance
        k = len(self.design.columns)
        positive = max(r_squared, 0.0)
        spread = 4 * positive * (1 - positive) ** 2 * max(rows - k - 1, 1) ** 2 / ((rows**2 - 1) * (rows + 3))
        half = Z95 * math.sqrt(max(fourth - square**2, 0.0) / rows)
        return Regressed(
            rows=rows,
            departments=departments,
            r_squared=r_squared,
            r_squared_interval=(
                r_squared - Z95 * math.sqrt(spread),
                min(r_squared + Z95 * math.sqrt(spread), 1.0),
            ),
            rmse=math.sqrt(square),
            rmse_interval=(math.sqrt(max(square - half, 0.0)), math.sqrt(square + half)),
            bias=-residual,
        )

    def _probability(self, model: Any, matrix: Floats) -> Floats:
        if hasattr(model, "means"):  # naive Bayes: from both classes' joint densities
            both = model.raw(matrix)
            probability = 1 / (1 + np.exp(np.clip(both[:, 0] - both[:, 1], -700, 700)))
        else:
            probability = model.predict(matrix)
        return np.clip(probability, LEAST, 1 - LEAST)

    def _middle(self) -> float:
        return float(self.low[-1] / 2 + self.high[-1] / 2)

    def _reach(self) -> float:
        """Residuals are cut to ten widths of the target: a prediction beyond that is no better for being farther."""
        return 10 * float(self.high[-1] - self.low[-1])


def suppressed(found: Classified | Regressed, rules: Rules) -> Classified | Regressed:
    """The evaluation without tenths of fewer than `rules.min_cell` rows. Raises `QueryError` where a class, or all, has fewer."""
    smallest = found.rows if isinstance(found, Regressed) else min(map(sum, found.confusion))
    if rules.min_cell and smallest < rules.min_cell:
        raise QueryError(
            f"fewer than {rules.min_cell} rows, of a class or in all, take part in the evaluation"
        )
    if isinstance(found, Regressed):
        return found
    shown = []
    for tenth in found.calibration:
        rows, share = tenth.rows or 0, tenth.observed or 0.0
        seconds = round(rows * share)
        few = rows < rules.min_cell or 0 < seconds < rules.min_cell or 0 < rows - seconds < rules.min_cell
        shown.append(Calibration(tenth.low, tenth.high, None, None, None) if few else tenth)
    return msgspec.structs.replace(found, calibration=tuple(shown))


def _auc(scores: NDArray[np.int64]) -> tuple[float, float, float]:
    """AUC with ties as halves, its standard deviation, and the share of pairs that are tied."""
    first, second = scores.astype(np.float64)
    m, n = first.sum(), second.sum()
    below = np.cumsum(first) - first
    above = n - np.cumsum(second)
    # The placement of each row of one class among the other's.
    of_second, of_first = (below + first / 2) / m, (above + second / 2) / n
    auc = float(second @ of_second / n)
    spread_second = float(second @ (of_second - auc) ** 2) / max(n - 1, 1)
    spread_first = float(first @ (of_first - auc) ** 2) / max(m - 1, 1)
    return auc, math.sqrt(spread_second / n + spread_first / m), float(first @ second / (m * n))


def _within(value: float, half: float) -> Interval:
    return max(value - half, 0.0), min(value + half, 1.0)


def _wilson(successes: int, trials: int) -> Interval:
    share, spread = successes / trials, Z95**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return center - half, center + half


def _tenth(number: int, rows: int, seconds: int, predicted: float) -> Calibration:
    edges = number / CALIBRATION, (number + 1) / CALIBRATION
    return Calibration(*edges, rows, predicted / rows if rows else None, seconds / rows if rows else None)

"""How good a model is on the joint rows: one secure sum. `figures` says what is worked out from it, and what of that may be shown.

A classifier's scores are counted by class in `BINS` equal bins of the log-odds between ±`REACH`: AUC and KS follow from the counts, and rows of one bin
count as tied. Log-loss, Brier score and confusion matrix are exact sums. With `by_department`, each department adds to sums of its own, and the joint
ones are their total: that shows the coordinator every department's.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows, design
from sandbox.disclosure import NONE, Rules
from sandbox.errors import Denied, QueryError, Refused

from . import figures, moments
from .figures import BINS, CALIBRATION, Figures, Missed, Scored
from .layout import Layout, Part, Sums, real, whole
from .learner import Start
from .moments import blocks

Floats = NDArray[np.float64]
LEAST = 1e-15  # a probability is cut to [LEAST, 1 - LEAST], as scikit-learn's log_loss does


class Scorer(Protocol):
    """A model: its columns, and for rows in them predictions, or probabilities of the second class."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def predict(self, matrix: Floats) -> Floats: ...


class Evaluation:
    """Evaluates `model` on the rows of `fit`, which has a target of two classes, or a number."""

    def __init__(self, fit: f.Fit, schema: Schema, parties: int, model: Any, by_department: bool = False):
        self.schema, self.parties, self.model = schema, parties, model
        self.design = design(fit, schema)
        self.target = check(self.design, model)
        self.binary, self.places = bool(self.target.classes), parties if by_department else 1

    @property
    def leakage(self) -> str:
        whose = "joint" if self.places == 1 else "every department's own"
        return (
            f"The coordinator sees the {whose} distribution of the model's scores by class, and sums of its losses"
            if self.binary
            else f"The coordinator sees the {whose} sums of residuals, of the target, and of their second and fourth powers"
        ) + ", before disclosure control."

    def start(self) -> Start:
        return Start()

    def shown(self, state: Start) -> Start:
        return state

    def layout(self, state: Start) -> Layout:
        rows = self.schema.max_rows * self.parties
        parts: tuple[Part, ...]
        if self.binary:
            worst = -math.log(LEAST)
            parts = (
                whole("counts", moments.size(self.design) + 2 * BINS + 4 + 2 * CALIBRATION),
                real("losses", np.array([worst, worst**2, 1.0])),
                real("predicted", np.ones(CALIBRATION)),
            )
        else:
            reach, target = self._reach(), max(abs(self.target.low), abs(self.target.high), self._width())
            parts = (
                whole("counts", moments.size(self.design)),
                real("residuals", np.array([reach, reach, reach**2, reach**4])),
                real("targets", np.array([target, target, target**2, target**4])),
                real("raw", np.array([target, target**2])),
            )
        return Layout(parts * self.places, rows)

    def local(self, state: Start, rows: Rows, place: int = 0) -> Sums:
        """A department's sums; `place` is its number where each has sums of its own."""
        own = self._scored(rows) if self.binary else self._missed(rows)
        none = [np.zeros_like(part) for part in own]
        return [
            part for i in range(self.places) for part in (own if i == place or self.places == 1 else none)
        ]

    def update(self, state: Start, joint: Sums) -> Figures:
        """Everything, as no disclosure rule lets it be shown but that of level general-1."""
        return self.result(joint, NONE)

    def result(self, joint: Sums, rules: Rules) -> Figures:
        """The joint figures; raises `Denied` where `rules` show nothing, `QueryError` where there is nothing to show."""
        parts = len(joint) // self.places
        total = [sum(joint[i::parts][1:], start=np.asarray(joint[i])) for i in range(parts)]
        return self._result(total, rules)

    def each(self, joint: Sums, rules: Rules) -> list[Figures | str]:
        """Each department's figures by its number, or why there are none."""
        alone = Rules(rules.min_cell, rules.rounding, rules.dominance, min_departments=1)
        found: list[Figures | str] = []
        parts = len(joint) // self.places
        for i in range(self.places):
            try:
                found.append(self._result(joint[i * parts : (i + 1) * parts], alone))
            except Refused as error:
                found.append("; ".join(error.reasons))
            except QueryError as error:
                found.append(str(error))
        return found

    def _result(self, sums: Sums, rules: Rules) -> Figures:
        found = moments.counted(self.design, np.asarray(sums[0][: moments.size(self.design)]))
        rows, departments = found.rows, found.departments
        reasons = moments.refusals(self.design, found, 0, rules, target=True)
        if reasons:
            raise Denied(reasons)
        if not self.binary:
            residuals, targets, raw = (np.asarray(part) for part in sums[1:4])
            missed = Missed(residuals, targets, raw, self._width())
            return figures.regressed(rows, departments, len(self.design.columns), missed, rules)
        counts = np.asarray(sums[0][moments.size(self.design) :])
        scores, rest = counts[: 2 * BINS].reshape(2, BINS), counts[2 * BINS :]
        scored = Scored(scores, sums[1], rest[:4].reshape(2, 2), rest[4:].reshape(2, CALIBRATION), sums[2])
        return figures.classified(rows, departments, scored, rules)

    def _scored(self, rows: Rows) -> list[NDArray[Any]]:
        assert rows.target is not None
        size = moments.counts(self.design, rows)
        scores, confusion = np.zeros(2 * BINS, np.int64), np.zeros(4, np.int64)
        tenths, losses, predicted = np.zeros(2 * CALIBRATION, np.int64), np.zeros(3), np.zeros(CALIBRATION)
        for part in blocks(rows):
            probability, target = probabilities(self.model, rows.matrix[part]), rows.target[part]
            second = target.astype(np.int64)
            scores += np.bincount(second * BINS + figures.places(probability), minlength=2 * BINS)
            confusion += np.bincount(2 * second + (probability > 0.5), minlength=4)
            tenth = np.minimum((probability * CALIBRATION).astype(np.int64), CALIBRATION - 1)
            tenths += np.bincount(second * CALIBRATION + tenth, minlength=2 * CALIBRATION)
            predicted += np.bincount(tenth, probability, CALIBRATION)
            loss = -np.where(second, np.log(probability), np.log1p(-probability))
            losses += [loss.sum(), loss @ loss, np.square(probability - target).sum()]
        return [np.concatenate([size, scores, confusion, tenths]), losses, predicted]

    def _missed(self, rows: Rows) -> list[NDArray[Any]]:
        assert rows.target is not None
        residuals, targets, raw, reach = np.zeros(4), np.zeros(4), np.zeros(2), self._reach()
        middle = self.target.low / 2 + self.target.high / 2
        for part in blocks(rows):
            target = rows.target[part]
            r = np.clip(target - self.model.predict(rows.matrix[part]), -reach, reach)
            t = target - middle
            residuals += [np.abs(r).sum(), r.sum(), r @ r, (r**4).sum()]
            targets += [t.sum(), np.abs(t).sum(), t @ t, (t**4).sum()]
            raw += [np.abs(target).sum(), target @ target]
        return [moments.counts(self.design, rows), residuals, targets, raw]

    def _width(self) -> float:
        return self.target.high - self.target.low or 1.0

    def _reach(self) -> float:
        """Residuals are cut to ten widths of the target: a prediction beyond that is no better for being farther."""
        return 10 * self._width()


def check(wanted: Any, model: Scorer) -> Any:
    """The target of an evaluation's design; raises `QueryError` where there is none of two classes or numbers, or the model has other columns."""
    target = wanted.target
    if target is None:
        raise QueryError("'target': an evaluation needs one")
    if len(target.classes) not in (0, 2):
        raise QueryError(f"'target' has {len(target.classes)} classes; evaluations are of 2, or of a number")
    if model.names[-len(wanted.names) :] != wanted.names:
        raise QueryError("the model was fitted on other features, or in another order")
    return target


def probabilities(model: Any, matrix: Floats) -> Floats:
    """Of the second class."""
    if hasattr(model, "means"):  # naive Bayes: from both classes' joint densities
        both = model.raw(matrix)
        if both.shape[1] != 2:
            raise QueryError("the model was fitted on one class: two are needed")
        probability = 1 / (1 + np.exp(np.clip(both[:, 0] - both[:, 1], -700, 700)))
    else:
        probability = model.predict(matrix)
    return np.clip(probability, LEAST, 1 - LEAST)

"""`GaussianNB`: means and variances of every column per class, in three secure sums: moments, then sizes and means, then squares about them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Rows
from sandbox.errors import QueryError
from sandbox.query import Scalar

from .layout import Part, Sums, real, whole
from .learner import Learner, State
from .models import Model
from .moments import Moments, Vector, blocks, vector

Floats = NDArray[np.float64]


class Bayes(Model, frozen=True, tag="gaussian_nb"):
    """Per class: joint rows, means and variances (with `smoothing` added), for classes that have rows."""

    names: tuple[str, ...]
    classes: tuple[Scalar, ...]
    counts: tuple[int, ...]
    means: tuple[Vector, ...]
    variances: tuple[Vector, ...]
    smoothing: float
    rows: int
    departments: int

    def raw(self, matrix: Floats) -> Floats:
        """log P(class, row), [rows, classes]."""
        found = np.empty((len(matrix), len(self.classes)))
        for i, (count, mean, variance) in enumerate(
            zip(self.counts, self.means, self.variances, strict=True)
        ):
            constant = np.log(count / self.rows) - np.log(2 * np.pi * np.array(variance)).sum() / 2
            found[:, i] = constant - (((matrix - np.array(mean)) ** 2) / np.array(variance)).sum(1) / 2
        return found

    def predict(self, matrix: Floats) -> Floats:
        raw = self.raw(matrix)
        odds = np.exp(raw - raw.max(axis=1, keepdims=True))
        found: Floats = odds / odds.sum(axis=1, keepdims=True)
        return found[:, 1] if len(self.classes) == 2 else found

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.naive_bayes.GaussianNB`."""
        from sklearn.naive_bayes import GaussianNB

        found = GaussianNB()
        found.classes_, found.class_count_ = np.array(self.classes), np.array(self.counts, float)
        found.class_prior_ = found.class_count_ / self.rows
        found.theta_, found.var_ = np.array(self.means), np.array(self.variances)
        found.epsilon_, found.n_features_in_ = self.smoothing, len(self.names)
        return found


class ClassMeans(State, frozen=True, tag="class_means"):
    """Asks for the rows of each class and their offsets from the joint mean."""

    moments: Moments


class ClassSpreads(State, frozen=True, tag="class_spreads"):
    """Asks for squares about each class's mean."""

    moments: Moments
    counts: tuple[int, ...]
    means: tuple[Vector, ...]


class NaiveBayes(Learner):
    """`GaussianNB`."""

    leakage = "The coordinator sees, per class of the target, the joint number of rows and the joint means and variances of all columns."

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        assert self.design.target is not None
        self.classes, self.width = self.design.target.classes, len(self.design.columns)

    def begin(self, found: Moments) -> ClassMeans:
        return ClassMeans(found)

    def parts(self, state: Any) -> tuple[Part, ...]:
        centers = self._centers(state)
        reach = np.maximum(np.abs(self.low[:-1] - centers), np.abs(self.high[:-1] - centers))
        if isinstance(state, ClassMeans):
            return whole("counts", len(centers)), real("offsets", reach.ravel())
        return (real("squares", (reach**2).ravel()),)

    def sums(self, state: Any, rows: Rows) -> Sums:
        centers, target = self._centers(state), rows.target
        assert target is not None
        power = 1 if isinstance(state, ClassMeans) else 2
        sums, counts = np.zeros_like(centers), np.zeros(len(centers), np.int64)
        for part in blocks(rows):
            which = target[part].astype(np.intp)
            counts += np.bincount(which, minlength=len(centers))
            moved = (rows.matrix[part] - centers[which]) ** power
            for j in range(self.width):
                sums[:, j] += np.bincount(which, moved[:, j], len(centers))
        return [counts, sums.ravel()] if power == 1 else [sums.ravel()]

    def advance(self, state: Any, joint: Sums) -> Any:
        match state:
            case ClassMeans(moments):
                counts = np.asarray(joint[0])
                if (counts > 0).sum() < 2:
                    raise QueryError("all rows have the same class of the target: two are needed")
                offsets = joint[1].reshape(len(self.classes), self.width) / np.maximum(counts, 1)[:, None]
                means = self._centers(state) + offsets
                return ClassSpreads(moments, tuple(counts.tolist()), tuple(map(vector, means)))
        return self._model(state, joint[0].reshape(len(self.classes), self.width))

    def _model(self, state: ClassSpreads, squares: Floats) -> Bayes:
        wanted = self.fit.estimator
        assert isinstance(wanted, f.GaussianNB)
        counts, means = np.array(state.counts), np.array(state.means)
        shown = np.flatnonzero(counts)
        variances = squares[shown] / counts[shown, None]
        # The variance of a column over all rows, from its classes.
        mean = (counts[shown, None] * means[shown]).sum(0) / counts.sum()
        total = (squares[shown] + counts[shown, None] * (means[shown] - mean) ** 2).sum(0) / counts.sum()
        smoothing = wanted.var_smoothing * float(total.max())
        if not (variances + smoothing > 0).all():
            raise QueryError(
                "a feature has the same value in every row of a class: leave it out, or smooth more"
            )
        return Bayes(
            self.design.names,
            tuple(self.classes[i] for i in shown),
            tuple(counts[shown].tolist()),
            tuple(map(vector, means[shown])),
            tuple(map(vector, variances + smoothing)),
            smoothing,
            state.moments.rows,
            state.moments.departments,
        )

    @property
    def parameters(self) -> int:
        return 2 * len(self.classes) * self.width + len(self.classes) - 1

    def _centers(self, state: Any) -> Floats:
        if isinstance(state, ClassMeans):
            return np.tile(np.array(state.moments.mean[:-1]), (len(self.classes), 1))
        return np.array(state.means)

"""`StandardScaler`: means and deviations of all columns, in one secure sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from .learner import Learner
from .models import Floats, Model, Vector
from .moments import Moments


class Scaler(Model, frozen=True, tag="scaler"):
    """Joint means and population deviations."""

    names: tuple[str, ...]
    mean: Vector
    deviation: Vector
    rows: int
    departments: int

    def raw(self, matrix: Floats) -> Floats:
        """The scaled columns; a constant one is only moved to 0."""
        deviation = np.array(self.deviation)
        return (matrix - np.array(self.mean)) / np.where(deviation > 0, deviation, 1.0)

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.preprocessing.StandardScaler`; a constant column is left at scale 1, as there."""
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        deviation = np.array(self.deviation)
        scaler.mean_, scaler.var_ = np.array(self.mean), deviation**2
        scaler.scale_ = np.where(deviation > 0, deviation, 1.0)
        scaler.n_samples_seen_, scaler.n_features_in_ = np.int64(self.rows), len(deviation)
        return scaler


class Scaling(Learner):
    """`StandardScaler`."""

    leakage = "The coordinator sees the joint number of rows and the joint mean and variance of every column."

    def begin(self, found: Moments) -> Scaler:
        # What is left of a column that never varies is the rounding of its squares.
        deviation = np.array(found.deviation)
        deviation[deviation <= 1e-7 * (self.high - self.low)] = 0.0
        return Scaler(self.design.names, found.mean, tuple(deviation.tolist()), found.rows, found.departments)

    @property
    def parameters(self) -> int:
        return 2 * len(self.design.columns)

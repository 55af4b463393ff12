"""`GaussianNB` from one noisy sum per class: rows, u and u^2 (Vaidya, Shafiq, Basu and Hong, "Differentially Private Naive Bayes Classification", WI-IAT
2013, with Gaussian noise). A row is in one class, so the classes share one sensitivity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox.design_matrix import Rows

from ..moments import vector
from ..naive_bayes import Bayes
from .learner import ONE, Block, Noisy, PrivateLearner, chunks

LEAST_VARIANCE = 1e-4  # of u: below it a noisy variance says nothing


class PrivateBayes(PrivateLearner):
    """`GaussianNB`."""

    def blocks(self, state: Any) -> tuple[Block, ...]:
        size = len(self._classes) * (1 + 2 * self.width)
        return (Block("classes", size, 1 / ONE**2, ONE**2 * math.sqrt(1 + 2 * self.features)),)

    def local(self, state: Any, rows: Rows) -> Sequence[NDArray[np.int64]]:
        sums = np.zeros((len(self._classes), 1 + 2 * self.width), np.int64)
        assert rows.target is not None
        for part in chunks(rows):
            u, which = self.integers(rows.matrix[part]), rows.target[part].astype(np.intp)
            for number in range(len(sums)):
                own = u[which == number]
                values = np.concatenate([[len(own) * ONE**2], own.sum(0) * ONE, (own * own).sum(0)])
                sums[number] += values.astype(np.int64)
        return [sums.ravel()]

    def update(self, state: Any, joint: Sequence[Noisy]) -> Bayes:
        sums = joint[0].values.reshape(len(self._classes), -1)
        counts = np.maximum(sums[:, 0], 1.0)
        center, half = self.scaled()
        first = np.clip(sums[:, 1 : 1 + self.width] / counts[:, None], -1, 1)
        variance = np.clip(sums[:, 1 + self.width :] / counts[:, None] - first**2, LEAST_VARIANCE, 1)
        counted = np.maximum(np.rint(counts), 1).astype(int)
        return Bayes(
            self.design.names,
            self._classes,
            tuple(counted.tolist()),
            tuple(map(vector, center + half * first)),
            tuple(map(vector, half**2 * variance)),
            0.0,
            int(counted.sum()),
            self.parties,
        )

    @property
    def _classes(self) -> tuple[Any, ...]:
        assert self.design.target is not None
        return self.design.target.classes

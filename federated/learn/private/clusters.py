"""`KMeans` by noisy Lloyd steps: per cluster the number of rows and the sum of u, both perturbed (Blum, Dwork, McSherry and Nissim, "Practical Privacy:
the SuLQ Framework", PODS 2005, section 4.2; Su, Cao, Li, Bertino and Jin, CODASPY 2016). First centres are drawn within the declared bounds from the
seed, never from rows. A cluster with fewer rows than the noise keeps its centre.

Rows and centres are integers when they are compared, so that distances are exact: a row's cluster does not depend, by roundings of a matrix product, on
the rows beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Rows

from ..kmeans import Clusters
from ..learner import State
from ..moments import Vector, vector
from .learner import ONE, Block, Noisy, PrivateLearner, chunks

UNITS = 1 << 16  # of the weight of the widest column


class NoisyLloyd(State, frozen=True, tag="private_lloyd"):
    """Asks for the sums of the clusters of `centers`, in the units of the data."""

    centers: tuple[Vector, ...]
    iteration: int = 0


class PrivateClustering(PrivateLearner):
    """`KMeans`."""

    default_rounds = 6

    def initial(self) -> State:
        wanted = self._wanted
        low, high = self.design.low, self.design.high
        if wanted.init is not None:
            return NoisyLloyd(wanted.init)
        drawn = np.random.default_rng(wanted.random_state).random((wanted.n_clusters, self.width))
        return NoisyLloyd(tuple(map(vector, low + drawn * (high - low))))

    def blocks(self, state: Any) -> tuple[Block, ...]:
        size = self._wanted.n_clusters * (1 + self.width)
        return (Block("clusters", size, 1 / ONE**2, ONE**2 * math.sqrt(1 + self.features)),)

    def local(self, state: Any, rows: Rows) -> Sequence[NDArray[np.int64]]:
        centers = self.integers(np.array(self.at(state).centers))
        half = self.scaled()[1]
        # Distances are in the units of the data, as the exact ones.
        weights = np.rint((half / half.max()) ** 2 * UNITS)
        squares, heavy = (weights * centers**2).sum(1), (weights * centers).T
        sums = np.zeros((len(centers), 1 + self.width), np.int64)
        for part in chunks(rows):
            u = self.integers(rows.matrix[part])
            cluster = (squares - 2 * u @ heavy).argmin(axis=1)
            sums[:, 0] += np.bincount(cluster, minlength=len(centers)) * ONE**2
            for j in range(self.width):
                sums[:, 1 + j] += (np.bincount(cluster, u[:, j], len(centers)) * ONE).astype(np.int64)
        return [sums.ravel()]

    def update(self, state: Any, joint: Sequence[Noisy]) -> Any:
        state = self.at(state)
        sums, deviation = joint[0].values.reshape(len(state.centers), -1), joint[0].deviation
        center, half = self.scaled()
        sizes = sums[:, 0]
        means = center + half * np.clip(sums[:, 1:] / np.maximum(sizes, 1.0)[:, None], -1, 1)
        known = sizes > 2 * deviation
        centers = tuple(map(vector, np.where(known[:, None], means, np.array(state.centers))))
        if state.iteration + 1 < self.rounds:
            return NoisyLloyd(centers, state.iteration + 1)
        counted = tuple(max(round(size), 0) for size in sizes.tolist())
        return Clusters(self.design.names, centers, counted, None, self.rounds, sum(counted), self.parties)

    @property
    def _wanted(self) -> f.KMeans:
        assert isinstance(self.fit.estimator, f.KMeans)
        return self.fit.estimator

"""`KMeans`: Lloyd's algorithm, one secure sum a step: rows and coordinates per cluster, and squared distances.

Equal to scikit-learn's from the same first centres (`algorithm="lloyd"`, `n_init=1`), but that a cluster without rows keeps its centre:
which row lies farthest is for no one to know. First centres that are not given are drawn around the joint mean, from moments and seed alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import QueryError

from .layout import Part, Sums, real, whole
from .learner import Learner, State
from .models import Model
from .moments import Moments, Vector, blocks, vector

Floats = NDArray[np.float64]


class Clusters(Model, frozen=True, tag="k_means"):
    """Centres in the units of the data; `sizes` are joint rows, `inertia` the joint squared distance (None under DP)."""

    names: tuple[str, ...]
    centers: tuple[Vector, ...]
    sizes: tuple[int, ...]
    inertia: float | None
    iterations: int
    rows: int
    departments: int

    def predict(self, matrix: Floats) -> Floats:
        """The index of each row's nearest centre."""
        return nearest(matrix, np.array(self.centers))[0].astype(np.float64)

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.cluster.KMeans`, without `labels_`: those are rows'."""
        from sklearn.cluster import KMeans

        found = KMeans(n_clusters=len(self.centers), n_init=1)
        found.cluster_centers_ = np.array(self.centers)
        found.inertia_, found.n_iter_ = self.inertia, self.iterations
        found._n_threads, found._n_features_out = 1, len(self.centers)
        found.n_features_in_ = len(self.names)
        return found


class Lloyd(State, frozen=True, tag="lloyd"):
    """Asks for the sums of the clusters of `centers`; `last`: for their sizes and inertia only, to end with. `sizes` were those of the
    centres before."""

    moments: Moments
    centers: tuple[Vector, ...]
    sizes: tuple[int, ...] = ()
    iterations: int = 0
    last: bool = False


class Clustering(Learner):
    """`KMeans`."""

    leakage = (
        "The coordinator sees the joint number of rows, means and variances of all columns and, at each step, the joint size, mean and squared "
        "distance of every cluster."
    )

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        assert isinstance(self.fit.estimator, f.KMeans)
        self.wanted = self.fit.estimator

    def parts(self, state: Any) -> tuple[Part, ...]:
        centers = np.array(state.centers)
        reach = np.maximum(np.abs(self.low - centers), np.abs(self.high - centers))
        return (
            whole("sizes", len(centers)),
            real("offsets", reach.ravel()),
            real("squares", (reach**2).sum(1)),
        )

    def sums(self, state: Any, rows: Rows) -> Sums:
        centers = np.array(state.centers)
        sizes, offsets, squares = (
            np.zeros(len(centers), np.int64),
            np.zeros_like(centers),
            np.zeros(len(centers)),
        )
        for part in blocks(rows):
            block = rows.matrix[part]
            cluster, _ = nearest(block, centers)
            sizes += np.bincount(cluster, minlength=len(centers))
            moved = block - centers[cluster]
            for j in range(centers.shape[1]):
                offsets[:, j] += np.bincount(cluster, moved[:, j], len(centers))
            squares += np.bincount(cluster, np.einsum("ij,ij->i", moved, moved), len(centers))
        return [sizes, offsets.ravel(), squares]

    def advance(self, state: Any, joint: Sums) -> Any:
        sizes, offsets, squares = joint
        centers = np.array(state.centers)
        if state.last:
            return Clusters(
                self.design.names,
                state.centers,
                tuple(sizes.tolist()),
                float(squares.sum()),
                state.iterations,
                state.moments.rows,
                state.moments.departments,
            )
        shift = offsets.reshape(centers.shape) / np.maximum(sizes, 1)[:, None]
        iterations = state.iterations + 1
        tolerance = self.wanted.tol * float(np.mean(np.square(state.moments.deviation)))
        done = float((shift**2).sum()) <= tolerance or iterations >= self.wanted.max_iter
        return Lloyd(
            state.moments, tuple(map(vector, centers + shift)), tuple(sizes.tolist()), iterations, done
        )

    @property
    def parameters(self) -> int:
        return self.wanted.n_clusters * len(self.low)

    def refusals(self, state: Any, rules: Rules) -> tuple[str, ...]:
        found = super().refusals(state, rules)
        sizes = getattr(state, "sizes", ())  # of a model, too
        if rules.min_cell and sizes and min(sizes) < rules.min_cell:
            found += (f"a cluster has fewer than {rules.min_cell} rows: ask for fewer clusters",)
        return found

    def begin(self, found: Moments) -> Lloyd:
        if found.rows < self.wanted.n_clusters:
            raise QueryError(f"'n_clusters' is {self.wanted.n_clusters}, more than there are rows")
        centers = self.wanted.init
        if centers is None:
            generator = np.random.default_rng(self.wanted.random_state)  # nothing secret: centres are shown
            drawn = generator.standard_normal((self.wanted.n_clusters, len(self.low)))
            around = np.array(found.mean) + drawn * np.array(found.deviation)
            centers = tuple(map(vector, np.clip(around, self.low, self.high)))
        return Lloyd(found, centers)


def nearest(matrix: Floats, centers: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Each row's nearest centre, the first of several, and its squared distance but for the row's own square."""
    distances = np.einsum("ij,ij->i", centers, centers) - 2 * matrix @ centers.T
    cluster = distances.argmin(axis=1)
    return cluster, distances[np.arange(len(matrix)), cluster]

"""`PCA`: principal components of the joint covariance matrix, in two secure sums: moments, then centred cross-products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Rows
from sandbox.errors import QueryError

from .layout import Part, Sums, real, symmetric, triangle
from .learner import Learner, State
from .models import Model
from .moments import Moments, Scale, Vector, blocks, vector

Floats = NDArray[np.float64]


class Components(Model, frozen=True, tag="pca"):
    """Components are rows, of unit length; the largest entry of each is positive, as scikit-learn has it."""

    names: tuple[str, ...]
    mean: Vector
    components: tuple[Vector, ...]
    explained_variance: Vector
    total_variance: float
    rows: int
    departments: int

    def raw(self, matrix: Floats) -> Floats:
        return (matrix - np.array(self.mean)) @ np.array(self.components).T

    def to_sklearn(self) -> Any:
        """A fitted `sklearn.decomposition.PCA`."""
        from sklearn.decomposition import PCA

        kept, width = len(self.components), len(self.names)
        pca, variance = PCA(n_components=kept), np.array(self.explained_variance)
        pca.mean_, pca.components_ = np.array(self.mean), np.array(self.components)
        pca.explained_variance_ = variance
        pca.explained_variance_ratio_ = variance / self.total_variance
        pca.singular_values_ = np.sqrt(variance * (self.rows - 1))
        left = min(width, self.rows) - kept
        pca.noise_variance_ = max(self.total_variance - variance.sum(), 0.0) / left if left else 0.0
        pca.n_components_, pca.n_samples_, pca.n_features_in_ = kept, self.rows, width
        return pca


class Covariance(State, frozen=True, tag="pca_covariance"):
    """Asks for the centred cross-products."""

    moments: Moments


class Principal(Learner):
    """`PCA`."""

    leakage = (
        "The coordinator sees the joint number of rows, the joint means and the joint covariance matrix of all columns, of which the "
        "components are a function."
    )

    def begin(self, found: Moments) -> Covariance:
        if found.rows < 2:
            raise QueryError("components need at least two rows")
        return Covariance(found)

    def parts(self, state: Any) -> tuple[Part, ...]:
        bound = Scale(self.low, self.high, state.moments).bound
        rows, columns = triangle(len(bound))
        return (real("products", bound[rows] * bound[columns]),)

    def sums(self, state: Any, rows: Rows) -> Sums:
        scale = Scale(self.low, self.high, state.moments)
        total = np.zeros((len(self.low), len(self.low)))
        for part in blocks(rows):
            z = scale.apply(rows.matrix[part])
            total += z.T @ z
        return [total[triangle(len(total))]]

    def advance(self, state: Any, joint: Sums) -> Any:
        scale = Scale(self.low, self.high, state.moments)
        covariance = symmetric(joint[0], len(self.low)) * np.outer(scale.scale, scale.scale)
        return components_of(
            self.fit, self.design.names, covariance / (state.moments.rows - 1), state.moments
        )

    @property
    def parameters(self) -> int:
        return len(self.low)


def components_of(fit: f.Fit, names: tuple[str, ...], covariance: Floats, moments: Moments) -> Components:
    """The principal components of a covariance matrix."""
    wanted = fit.estimator
    assert isinstance(wanted, f.PCA)
    most = min(len(covariance), moments.rows)
    kept = most if wanted.n_components is None else wanted.n_components
    if kept > most:
        raise QueryError(f"'n_components' is {kept}; {len(covariance)} columns allow at most {most}")
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T
    largest = np.abs(vectors).argmax(axis=1)
    vectors = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
    return Components(
        names,
        moments.mean,
        tuple(map(vector, vectors[:kept])),
        vector(values[:kept]),
        float(values.sum()),
        moments.rows,
        moments.departments,
    )

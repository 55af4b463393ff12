"""Which learner a request asks for, and every state and model that can be sent."""

from __future__ import annotations

from typing import Union

from sandbox import dp
from sandbox import fit as f
from sandbox.catalog import Schema

from .booster import Booster
from .glm import Logistic, Newton, Poisson
from .kmeans import Clustering, Clusters, Lloyd
from .learner import Learner, Start
from .linear import Linear, Products, Residuals
from .models import LinearModel, LogisticModel, PoissonModel
from .naive_bayes import Bayes, ClassMeans, ClassSpreads, NaiveBayes
from .pca import Components, Covariance, Principal
from .private.bayes import PrivateBayes
from .private.clusters import NoisyLloyd, PrivateClustering
from .private.learner import PrivateLearner
from .private.newton import Descent, PrivateNewton
from .private.quadratic import PrivateLinear, PrivatePrincipal, PrivateScaling
from .private.trees import PrivateBoosting, RandomTrees
from .scaler import Scaler, Scaling
from .trees import Boosting, Growing, Quantiles

States = Union[
    Start, Products, Residuals, Newton, Covariance, Lloyd, ClassMeans, ClassSpreads, Quantiles, Growing,
    Descent, NoisyLloyd, RandomTrees,
]  # fmt: skip
Models = Union[Scaler, LinearModel, LogisticModel, PoissonModel, Components, Clusters, Bayes, Booster]

_EXACT: dict[type, type[Learner]] = {
    f.StandardScaler: Scaling,
    f.LinearRegression: Linear,
    f.LogisticRegression: Logistic,
    f.PoissonRegressor: Poisson,
    f.PCA: Principal,
    f.KMeans: Clustering,
    f.GaussianNB: NaiveBayes,
    f.HistGradientBoostingClassifier: Boosting,
    f.HistGradientBoostingRegressor: Boosting,
}
_PRIVATE: dict[type, type[PrivateLearner]] = {
    f.StandardScaler: PrivateScaling,
    f.LinearRegression: PrivateLinear,
    f.LogisticRegression: PrivateNewton,
    f.PoissonRegressor: PrivateNewton,
    f.PCA: PrivatePrincipal,
    f.KMeans: PrivateClustering,
    f.GaussianNB: PrivateBayes,
    f.HistGradientBoostingClassifier: PrivateBoosting,
    f.HistGradientBoostingRegressor: PrivateBoosting,
}


def exact(fit: f.Fit, schema: Schema, parties: int) -> Learner:
    """The learner of an exact fit among `parties` departments. Raises `QueryError` or `ParameterError` where it cannot run."""
    return _EXACT[type(fit.estimator)](fit, schema, parties)


def private(
    fit: f.Fit, schema: Schema, parties: int, *, epsilon: float, delta: float, honest: int
) -> PrivateLearner:
    """The learner of an (epsilon, delta)-DP fit, of which at least `honest` departments add their noise; `cost` says what to charge."""
    rho = dp.rho_of(epsilon, delta)
    return _PRIVATE[type(fit.estimator)](fit, schema, parties, rho, honest)

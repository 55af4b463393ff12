"""What may be asked to be fitted: a closed, declared request, as `sandbox.query` is for statistics. Frozen values; nothing is run here.

A `Fit` names a table, features and a target as expressions of the query algebra (typed and bounded by `sandbox.bounds`), which rows
take part, and an estimator with scikit-learn's name and parameters. It holds no code and no data, so a gate can judge it, log it, and keep
its digest. `check` refuses what has no declared bounds or domain, and every parameter outside its range, before anything is spent.

`cohort` says which rows take part as a query that the differencing defence compares (`sandbox.members`); `refusals` is disclosure control
of fitted models: residual degrees of freedom, parameters per row, and the smallest level of any category (Hundepool et al., "Statistical
Disclosure Control", 2012, section 6; the limits are those of research data centres: at least 10 residual degrees of freedom).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Union, cast

import msgspec

from . import bounds
from . import query as q
from .catalog import Schema
from .errors import ParameterError, QueryError
from .prepared import prepared
from .query import Node
from .ranges import Ranged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.results import Fitted

    from .disclosure import Rules
    from .expressions import Expression
    from .release import Proposal
    from .table import JointTable

MAX_FEATURES = 500
MAX_COLUMNS = 2000
MAX_CLASSES = 100
RESIDUAL_FREEDOM = 10
ROWS_PER_PARAMETER = 3

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
Penalty = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Tolerance = Annotated[float, msgspec.Meta(ge=1e-12, le=1e-1)]
Iterations = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Missing = Literal["drop", "indicator", "keep"]


class _Estimator(Ranged, frozen=True, tag_field="node"):
    """Base of estimators: parameters alone, checked as they are made."""

    def fit(
        self,
        table: JointTable,
        *,
        purpose: str,
        features: Sequence[str] | Mapping[str, Expression] = (),
        target: str | None = None,
        formula: str | None = None,
        missing: Missing = "drop",
        rounds: int | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
    ) -> Fitted:
        """Fit on a joint table: by names of columns (declared, or added by `with_columns`), or by a formula, `"y ~ x + z"`.

        Exactly that of the pooled rows, under disclosure control; with `epsilon` a differentially private one, charged to the same budget as
        queries. Raises `Denied`, `BudgetExceeded`, … as a release does, and `QueryError` where the joint rows have no such model.
        """
        asked = _joint(table)._asked(cast("Estimator", self), features, target, formula, missing, rounds)
        found: Fitted = table._session.model(asked, purpose, epsilon, delta, joined=table.joined)
        return found

    def propose(
        self,
        table: JointTable,
        *,
        purpose: str,
        legal_basis: str,
        features: Sequence[str] | Mapping[str, Expression] = (),
        target: str | None = None,
        formula: str | None = None,
        missing: Missing = "drop",
        rounds: int | None = None,
        epsilon: float | tuple[float, float] | None = None,
        budget: float | None = None,
        runs: int = 1,
        days: float = 30,
    ) -> Proposal:
        """Ask the owners for leave, where `fit` raises `ApprovalNeeded`: a contract for `runs` of this very fit within `days`.

        `epsilon` per run, or its range; `budget` caps its sum (default: what all runs may take).
        """
        asked = _joint(table)._asked(cast("Estimator", self), features, target, formula, missing, rounds)
        return table._session.propose(
            asked,
            purpose,
            legal_basis,
            epsilon=epsilon,
            budget=budget,
            runs=runs,
            ranges=(),
            days=days,
            joined=table.joined,
        )


def _joint(table: JointTable) -> JointTable:
    from .table import JointTable

    if not isinstance(table, JointTable):
        raise QueryError(
            f"a model is fitted on a joint table, city.table(…), not on a {type(table).__name__}"
        )
    return table


class StandardScaler(_Estimator, frozen=True, tag="standard_scaler"):
    """Means and (population) standard deviations."""


class LinearRegression(_Estimator, frozen=True, tag="linear_regression"):
    """Ordinary least squares."""

    fit_intercept: bool = True


class LogisticRegression(_Estimator, frozen=True, tag="logistic_regression"):
    """Two classes, by Newton's method. `C` is scikit-learn's inverse penalty on squared coefficients; None is no penalty."""

    C: Positive | None = 1.0
    fit_intercept: bool = True
    tol: Tolerance = 1e-6
    max_iter: Iterations = 50


class PoissonRegressor(_Estimator, frozen=True, tag="poisson_regressor"):
    """Counts with a logarithmic link, by Newton's method. `alpha` is scikit-learn's penalty on squared coefficients."""

    alpha: Penalty = 1.0
    fit_intercept: bool = True
    tol: Tolerance = 1e-6
    max_iter: Iterations = 50


class PCA(_Estimator, frozen=True, tag="pca"):
    """Principal components of the covariance matrix; None keeps all."""

    n_components: Annotated[int, msgspec.Meta(ge=1, le=MAX_COLUMNS)] | None = None


class KMeans(_Estimator, frozen=True, tag="k_means"):
    """Lloyd's algorithm from centres that are drawn around the joint mean, never from rows; or from `init`."""

    n_clusters: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    init: tuple[tuple[float, ...], ...] | None = None
    random_state: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0
    tol: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-4
    max_iter: Iterations = 300


class GaussianNB(_Estimator, frozen=True, tag="gaussian_nb"):
    """Gaussian naive Bayes."""

    var_smoothing: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-9


class _Boosting(_Estimator, frozen=True):
    """Trees of histograms, grown by levels as `xgboost`'s `hist` does. `min_samples_leaf` counts units of rows, not weight.

    `bins`: edges at equal distances between the declared bounds, or at joint quantiles (one round more).
    """

    max_iter: Iterations = 100
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    max_depth: Annotated[int, msgspec.Meta(ge=1, le=12)] = 6
    min_samples_leaf: Annotated[int, msgspec.Meta(ge=1, le=10**9)] = 20
    min_child_weight: Penalty = 1.0
    l2_regularization: Penalty = 1.0
    max_bins: Annotated[int, msgspec.Meta(ge=2, le=255)] = 255
    bins: Literal["bounds", "quantiles"] = "quantiles"
    random_state: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 0


class HistGradientBoostingClassifier(_Boosting, frozen=True, tag="boosting_classifier"):
    __doc__ = _Boosting.__doc__


class HistGradientBoostingRegressor(_Boosting, frozen=True, tag="boosting_regressor"):
    __doc__ = _Boosting.__doc__


Estimator = Union[
    StandardScaler,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    PCA,
    KMeans,
    GaussianNB,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
]
_CONDITIONS = (q.Compare, q.Logic, q.Not, q.IsIn, q.IsNull, q.Case, q.Cut)
BOOSTING = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
UNSUPERVISED = (StandardScaler, PCA, KMeans)
CLASSIFIERS = (LogisticRegression, GaussianNB, HistGradientBoostingClassifier)


class Fit(Node, frozen=True, tag="fit"):
    """Fit `estimator` on `features`, and `target` where it has one, over the rows of `table` that pass `where`.

    `missing`: "drop" leaves out rows in which a feature is null; "indicator" puts the middle of the declared bounds and adds a column
    that says so; "keep" is for boosting, which learns a direction. A row whose target is null never takes part. `rounds`, for a
    differentially private fit by iterations: how many sums with noise it takes, all paid for up front.
    """

    table: q.Name
    estimator: Estimator
    features: tuple[q.Derived, ...]
    target: q.Derived | None = None
    where: q.Expression | None = None
    missing: Missing = "drop"
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return q.digest(self)


def check(fit: Fit, schema: Schema) -> None:
    """Raise `QueryError` or `ParameterError`, naming the field and what is allowed, unless `fit` can run on `schema`."""
    try:
        msgspec.convert(msgspec.to_builtins(fit), prepared(Fit))  # ranges hold for what was built here, too
    except msgspec.ValidationError as error:
        raise ParameterError(f"fit: {error}") from None
    if not 1 <= len(fit.features) <= MAX_FEATURES:
        raise QueryError(f"'features' has {len(fit.features)} entries; allowed are 1 to {MAX_FEATURES}")
    names = [feature.name for feature in (*fit.features, *((fit.target,) if fit.target else ()))]
    if len(set(names)) != len(names):
        raise QueryError("'features' and 'target' must have names that differ from each other")
    if sum(bounds.size(f.term, {}) for f in fit.features) > bounds.MAX_NODES:
        raise QueryError(f"'features' have more than {bounds.MAX_NODES} parts in all")
    if fit.where is not None and (kind := bounds.infer(fit.where, schema).kind) != "boolean":
        raise QueryError(f"'where': a condition is needed, not {kind}")
    for feature in fit.features:
        typed = bounds.infer(feature.term, schema)
        if typed.kind == "text":
            if typed.domain is None:
                raise QueryError(f"feature {feature.name!r} is text without declared categories")
        else:
            bounds.numeric(feature.term, schema, f"feature {feature.name!r}")
            _check_conditions(feature, schema, f"feature {feature.name!r}")
    _check_missing(fit)
    _check_target(fit, schema)
    _check_estimator(fit)


def classes(target: q.Expression, schema: Schema) -> tuple[q.Scalar, ...]:
    """The declared classes of a target, in scikit-learn's order (sorted); raises `QueryError` where it has none."""
    typed = bounds.infer(target, schema)
    if typed.domain is not None:
        return tuple(sorted(typed.domain))
    if typed.kind == "boolean":
        return (False, True)
    if typed.kind == "integer" and typed.low is not None and typed.high is not None:
        low, high = int(typed.low), int(typed.high)
        if high - low < MAX_CLASSES:
            return tuple(range(low, high + 1))
    raise QueryError(
        f"the target of a classifier needs a declared domain: a category, a boolean, or an integer of at most {MAX_CLASSES} values"
    )


def cohort(fit: Fit, schema: Schema) -> q.Query:
    """How many rows take part: a query whose one cell is the cohort of the fit, for `sandbox.plan` and `sandbox.members`."""
    conditions = required(fit, schema)
    where = conditions[0] if len(conditions) == 1 else q.Logic("and", conditions) if conditions else None
    return q.Query(fit.table, (q.Named("count", q.Count()),), where=where)


def required(fit: Fit, schema: Schema) -> tuple[q.Expression, ...]:
    """The conditions, all of which a row must pass to take part."""
    present = [fit.target.term] if fit.target else []
    if fit.missing == "drop":
        present += [feature.term for feature in fit.features]
    nulls = [q.Not(q.IsNull(term)) for term in present if bounds.infer(term, schema).nullable]
    return (*((fit.where,) if fit.where is not None else ()), *dict.fromkeys(nulls))


def chooses(term: q.Expression, schema: Schema) -> bool:
    """Whether a number depends on a condition, or is one, as a column of two values is: whose rows a fitted coefficient then tells of."""
    return any(
        isinstance(node, _CONDITIONS) or (isinstance(node, q.Column) and two_valued(node, schema))
        for node in q.walk(term)
    )


def two_valued(term: q.Expression, schema: Schema) -> bool:
    """Whether it is a yes or no, or a whole number with two declared values."""
    typed = bounds.infer(term, schema)
    if typed.kind == "integer" and typed.low is not None and typed.high is not None:
        return typed.high - typed.low == 1
    return typed.kind == "boolean"


def chosen(term: q.Expression, schema: Schema) -> q.Expression | None:
    """Of a product of conditions and numbers the rows that all of its conditions choose; None where it is no such product."""
    if not isinstance(term, q.Arithmetic) or not chooses(term, schema):
        return None
    factors: list[q.Expression] = []
    left = [term.right, term.left]
    while left:
        factor = left.pop()
        if isinstance(factor, q.Arithmetic) and chooses(factor, schema):
            left += [factor.right, factor.left]
        elif bounds.infer(factor, schema).kind == "boolean":
            factors.append(factor)
        elif chooses(factor, schema):  # a column of two values
            number = bounds.numeric(factor, schema, "fit")
            factors.append(q.Compare("==", factor, q.Value(int(number.high))))
    return factors[0] if len(factors) == 1 else q.Logic("and", tuple(factors))


def places(model: object) -> bool:
    """Whether the analyst says where clusters begin: the sums of two fits whose first centres part the rows at one person give that person."""
    return isinstance(model, Fit) and isinstance(model.estimator, KMeans) and model.estimator.init is not None


def refusals(
    rules: Rules, rows: int, departments: int, parameters: int, levels: Mapping[str, int]
) -> tuple[str, ...]:
    """Why a fitted model may not be shown, if it may not. `levels`: joint rows of each level of each category.

    A level without rows is not told apart from a small one. All arguments are joint numbers.
    """
    if rules.min_cell == 0:
        return ()
    if rows < rules.min_cell:
        return (f"fewer than {rules.min_cell} rows",)  # and no more is told of them
    reasons = []
    if departments < rules.min_departments:
        reasons.append(f"fewer than {rules.min_departments} departments contribute")
    if rows - parameters < RESIDUAL_FREEDOM:
        reasons.append(f"fewer than {RESIDUAL_FREEDOM} residual degrees of freedom")
    if parameters * ROWS_PER_PARAMETER > rows:
        reasons.append(f"fewer than {ROWS_PER_PARAMETER} rows for each of {parameters} parameters")
    reasons += [
        f"level {level}: fewer than {rules.min_cell} rows"
        for level, n in levels.items()
        if n < rules.min_cell
    ]
    return tuple(reasons)


def _check_conditions(derived: q.Derived, schema: Schema, what: str) -> None:
    """A condition stands alone or as a factor, so that the rows it chooses can be counted."""

    def fits(term: q.Expression) -> bool:
        if isinstance(term, q.Arithmetic) and chooses(term, schema):
            return term.op == "*" and fits(term.left) and fits(term.right)
        column = isinstance(term, q.Column) or bounds.infer(term, schema).kind == "boolean"
        return column or not chooses(term, schema)

    if not fits(derived.term):
        raise QueryError(
            f"{what} mixes a condition into a number; allowed are conditions, and products of conditions and numbers"
        )


def _check_missing(fit: Fit) -> None:
    boosting = isinstance(fit.estimator, BOOSTING)
    if fit.missing == "keep" and not boosting:
        raise ParameterError("'missing' is 'keep'; for this estimator allowed are 'drop' and 'indicator'")
    if fit.missing == "indicator" and boosting:
        raise ParameterError("'missing' is 'indicator'; for boosting allowed are 'drop' and 'keep'")


def _check_target(fit: Fit, schema: Schema) -> None:
    if isinstance(fit.estimator, UNSUPERVISED):
        if fit.target is not None:
            raise QueryError(f"'target': {type(fit.estimator).__name__} takes none")
        return
    if fit.target is None:
        raise QueryError(f"'target': {type(fit.estimator).__name__} needs one")
    if bounds.infer(fit.target.term, schema).kind != "text":
        _check_conditions(fit.target, schema, f"target {fit.target.name!r}")
    if isinstance(fit.estimator, CLASSIFIERS):
        found = classes(fit.target.term, schema)
        binary = not isinstance(fit.estimator, GaussianNB)
        if len(found) != 2 if binary else not 2 <= len(found) <= MAX_CLASSES:
            allowed = "2" if binary else f"2 to {MAX_CLASSES}"
            raise QueryError(f"'target' has {len(found)} declared classes; allowed are {allowed}")
        return
    number = bounds.numeric(fit.target.term, schema, "'target'")
    if isinstance(fit.estimator, PoissonRegressor) and number.low < 0:
        raise QueryError(f"'target' can be {number.low:g}; counts need declared bounds from 0")


def _check_estimator(fit: Fit) -> None:
    match fit.estimator:
        case KMeans(n_clusters, init) if init is not None and len(init) != n_clusters:
            raise ParameterError(f"'init' has {len(init)} centres; 'n_clusters' is {n_clusters}")
        case PCA() if fit.missing != "drop":
            raise ParameterError("'missing': components are of complete rows; allowed is 'drop'")

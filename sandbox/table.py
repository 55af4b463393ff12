"""The builder that an analyst holds: `city.table("t").filter(…).group_by(…).agg(…)`, then `explain`, `mock` or `release`.

Each step returns a new object; nothing moves before `release`. Names follow Polars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, overload

import msgspec

from . import query as q
from .errors import QueryError
from .expressions import Aggregation, Expression, band_labels, col, corr, count, cov, when
from .prepared import prepared

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from federated.results import Trained

    from . import fit
    from .assessment import Method
    from .model import Model
    from .pending import Pending
    from .release import Explanation, Proposal, Release
    from .training import Training


T = TypeVar("T")


class Session(Protocol):
    """What carries a query out: `federated.session.City`."""

    def columns(self, table: str, joined: q.Joined | None = None) -> pd.DataFrame: ...
    def explain(self, query: q.Query, epsilon: float | None, delta: float | None) -> Explanation: ...
    def mock(self, query: q.Query, epsilon: float | None, delta: float | None) -> Release: ...
    def release(
        self, query: q.Query, purpose: str, epsilon: float | None, delta: float | None
    ) -> Release: ...
    def submit(self, query: q.Query, purpose: str, epsilon: float | None, delta: float | None) -> Pending: ...
    def model(
        self,
        model: Model,
        purpose: str,
        epsilon: float | None,
        delta: float | None,
        wait: bool = True,
        joined: q.Joined | None = None,
    ) -> Any: ...
    def train(
        self,
        module: nn.Module,
        fields: dict[str, Any],
        purpose: str,
        epsilon: float | None,
        delta: float | None,
    ) -> Trained: ...
    def training(
        self, module: nn.Module, fields: dict[str, Any], epsilon: float | None, delta: float | None
    ) -> Training: ...
    def formula(
        self, estimator: fit.Estimator, text: str, table: str, derived: Mapping[str, q.Expression]
    ) -> tuple[fit.Estimator, tuple[q.Derived, ...], q.Derived | None]: ...
    def propose(
        self,
        asked: q.Query | Model,
        purpose: str,
        legal_basis: str,
        *,
        epsilon: float | tuple[float, float] | None,
        budget: float | None,
        runs: int,
        ranges: tuple[tuple[float, float], ...],
        days: float,
        joined: q.Joined | None = None,
    ) -> Proposal: ...


class JointQuery:
    """A query that is ready to run. Without `epsilon` it asks for exact joint values, with one for a DP release."""

    def __init__(self, session: Session, query: q.Query):
        self.query, self._session = query, session

    def __repr__(self) -> str:
        names = ", ".join(named.name for named in self.query.aggregates)
        by = f" by {', '.join(self.query.keys)}" if self.query.keys else ""
        return f"<JointQuery {names} of {self.query.title}{by}>"

    def explain(self, *, epsilon: float | None = None, delta: float | None = None) -> Explanation:
        """Steps, who learns what, cost in epsilon, expected error per cell, bytes: before anything is spent."""
        return self._session.explain(self.query, epsilon, delta)

    def mock(self, *, epsilon: float | None = None, delta: float | None = None) -> Release:
        """The same query on made-up rows that keep the schema: to write code against; spends nothing."""
        return self._session.mock(self.query, epsilon, delta)

    @overload
    def release(
        self,
        *,
        purpose: str,
        epsilon: float | None = None,
        delta: float | None = None,
        wait: Literal[True] = True,
    ) -> Release: ...
    @overload
    def release(
        self, *, purpose: str, epsilon: float | None = None, delta: float | None = None, wait: Literal[False]
    ) -> Pending: ...
    def release(
        self,
        *,
        purpose: str,
        epsilon: float | None = None,
        delta: float | None = None,
        wait: bool = True,
    ) -> Release | Pending:
        """Run it. Raises `Denied`, `BudgetExceeded` or `TooFewDepartments` with the reasons, and then nothing was spent.

        `epsilon` (above 0, to 100) asks for a DP release; `delta` defaults to the data set's own. Without `wait`, a `Pending` comes
        back at once: its `result()` is the release.
        """
        run = self._session.release if wait else self._session.submit
        return run(self.query, purpose, epsilon, delta)

    def propose(
        self,
        *,
        purpose: str,
        legal_basis: str,
        epsilon: float | tuple[float, float] | None = None,
        budget: float | None = None,
        runs: int = 1,
        ranges: tuple[tuple[float, float], ...] = (),
        days: float = 30,
    ) -> Proposal:
        """Ask the owners for leave, where a release raises `ApprovalNeeded`: a contract for `runs` releases within `days`.

        `epsilon` per run, or its range; `budget` caps its sum (default: what all runs may take). `ranges` gives each number of the filter, in
        order, a closed range; without, they stay as they are.
        """
        return self._session.propose(
            self.query,
            purpose,
            legal_basis,
            epsilon=epsilon,
            budget=budget,
            runs=runs,
            ranges=ranges,
            days=days,
        )


class Grouped:
    """A table with group keys."""

    def __init__(self, table: JointTable, keys: tuple[str, ...]):
        self._table, self._keys = table, keys

    def agg(self, *aggregations: Aggregation) -> JointQuery:
        return self._table._query(aggregations, self._keys)


class JointTable:
    """One logical table whose rows live at several departments, or, `joined`, its columns."""

    def __init__(
        self,
        session: Session,
        name: str,
        where: q.Expression | None = None,
        derived: tuple[q.Derived, ...] = (),
        joined: q.Joined | None = None,
    ):
        self.name, self.joined = name, joined
        self._session, self._where, self._derived = session, where, derived

    def __repr__(self) -> str:
        return f"<JointTable {self.name if self.joined is None else ' + '.join(self.joined.tables)}>"

    @property
    def columns(self) -> pd.DataFrame:
        """The declared columns: type, bounds or categories, nullable, description."""
        return self._session.columns(self.name, self.joined)

    def filter(self, *conditions: Expression) -> JointTable:
        """Keep rows for which every condition holds; a null condition drops the row."""
        terms = tuple(_of(Expression, condition, "filter").node for condition in conditions)
        if not terms:
            return self
        # A filter sees the columns as they are at this point, so later with_columns cannot change its meaning.
        parts = terms if self._where is None else (self._where, *terms)
        where = parts[0] if len(parts) == 1 else q.Logic("and", parts)
        return JointTable(self._session, self.name, where, self._derived, self.joined)

    def with_columns(self, **columns: Expression) -> JointTable:
        """Add columns computed from others: `with_columns(ill=col("illdays") > 0)`."""
        added = tuple(
            q.Derived(name, _of(Expression, expression, "with_columns").node)
            for name, expression in columns.items()
        )
        return JointTable(self._session, self.name, self._where, self._derived + added, self.joined)

    def group_by(self, *keys: str) -> Grouped:
        """Group by columns with a declared domain: a category, boolean, integer with bounds, or `cut`/`when` column."""
        return Grouped(self, keys)

    def agg(self, *aggregations: Aggregation) -> JointQuery:
        """Aggregate all rows."""
        return self._query(aggregations, ())

    def histogram(self, column: str, breaks: Sequence[float]) -> JointQuery:
        """Rows in each band that `breaks` cut, the two open ends included."""
        name = f"{column}_band"
        try:
            cuts = tuple(map(float, breaks))
        except (TypeError, ValueError):
            cuts = ()
        if not cuts:
            raise QueryError("histogram: 'breaks' must be one or more numbers")
        band = q.Cut(q.Column(column), cuts, band_labels(cuts))
        derived = (*self._derived, q.Derived(name, band))
        table = JointTable(self._session, self.name, self._where, derived, self.joined)
        return table._query((count(),), (name,))

    def crosstab(self, rows: str, columns: str) -> JointQuery:
        """Counts of two keys, and Pearson's chi-squared test of their independence (no continuity correction)."""
        return self._query((count(),), (rows, columns), "crosstab")

    def ttest(self, value: str, by: str, groups: Sequence[q.Scalar] | None = None) -> JointQuery:
        """Welch's t-test of the mean of `value` between the two groups of `by`; `groups` picks two of more."""
        if groups is None:
            return self._means(value, by, "welch")
        if len(set(groups)) != 2:
            raise QueryError("ttest: 'groups' must be two different values")
        first, second = groups
        name = f"{by}_group"
        group = when(col(by) == first).then(str(first)).otherwise(str(second))
        return self.filter(col(by).is_in(groups)).with_columns(**{name: group})._means(value, name, "welch")

    def anova(self, value: str, by: str) -> JointQuery:
        """One-way analysis of variance of `value` between the groups of `by`."""
        return self._means(value, by, "anova")

    def train(
        self,
        module: nn.Module,
        *,
        features: Sequence[str],
        target: str,
        loss: str,
        rounds: int,
        purpose: str,
        epsilon: float | None = None,
        delta: float | None = None,
        **settings: Any,
    ) -> Trained:
        """Train a torch module of the layers that are allowed (`sandbox.architecture`) together; weights begin from `seed`.

        `settings`: see `sandbox.training.Training`: sampling_rate, local_steps, optimiser, strategy, validation, … With `privacy` and
        `epsilon` the noise is chosen so that all rounds together cost no more; they are charged before the first.
        """
        fields = self._trained(features, target, loss=loss, rounds=rounds, **settings)
        return self._session.train(module, fields, purpose, epsilon, delta)

    def propose_training(
        self,
        module: nn.Module,
        *,
        features: Sequence[str],
        target: str,
        purpose: str,
        legal_basis: str,
        epsilon: float | None = None,
        delta: float | None = None,
        runs: int = 1,
        days: float = 30,
        **settings: Any,
    ) -> Proposal:
        """Ask the owners for leave, where `train` raises `ApprovalNeeded`: a contract for `runs` of this very training within `days`."""
        fields = self._trained(features, target, **settings)
        training = self._session.training(module, fields, epsilon, delta)
        return self._session.propose(
            training, purpose, legal_basis, epsilon=epsilon, budget=None, runs=runs, ranges=(), days=days
        )

    def _trained(self, features: Sequence[str], target: str, **settings: Any) -> dict[str, Any]:
        """The fields of a training."""
        self._check_one_table("nothing is trained")
        where = None if self._where is None else self._inlined(self._where)
        named = {"features": self._named(features), "target": self._named([target])[0]}
        return {"table": self.name, "where": where, **named, **settings}

    def _asked(
        self,
        estimator: fit.Estimator,
        features: Sequence[str] | Mapping[str, Expression],
        target: str | None,
        formula: str | None,
        missing: fit.Missing,
        rounds: int | None,
    ) -> fit.Fit:
        """What an estimator is asked to fit."""
        if formula is not None:
            self._check_one_table("no formula is read")
            if features or target:
                raise QueryError("fit: give 'formula', or 'features' and 'target'")
            added = {column.name: self._inlined(q.Column(column.name)) for column in self._derived}
            estimator, named, wanted = self._session.formula(estimator, formula, self.name, added)
        else:
            if isinstance(features, Mapping):
                named = tuple(
                    q.Derived(n, self._inlined(_of(Expression, e, "features").node))
                    for n, e in features.items()
                )
            else:
                named = self._named(features)
            wanted = self._named([target])[0] if target is not None else None
        from .fit import Fit
        from .ranges import plain

        where = None if self._where is None else self._inlined(self._where)
        return Fit(self.name, estimator, named, wanted, where, missing, plain(rounds))

    def _check_one_table(self, what: str) -> None:
        if self.joined is not None:
            raise QueryError(f"{what} on a joined table: fit LinearRegression, by 'features' and 'target'")

    def _evaluate(
        self,
        of: fit.Fit | Training,
        receipt: bytes,
        by_department: bool,
        *,
        purpose: str,
        epsilon: float | None,
        delta: float | None,
    ) -> Any:
        from .assessment import Evaluation

        return self._session.model(
            Evaluation(self._rows(of), receipt, by_department), purpose, epsilon, delta
        )

    def _contribution(self, of: fit.Fit, method: Method, *, purpose: str) -> Any:
        from .assessment import Contribution

        rows = self._rows(of)
        return self._session.model(Contribution(cast("fit.Fit", rows), method), purpose, None, None)

    def _rows(self, of: fit.Fit | Training) -> fit.Fit | Training:
        """The same with this table's rows."""
        self._check_one_table("no model is evaluated")
        from .assessment import on

        return on(of, self.name, None if self._where is None else self._inlined(self._where))

    def _named(self, names: Iterable[str]) -> tuple[q.Derived, ...]:
        """Columns by name; added ones as what they are made of."""
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise QueryError(
                "'features' must be a list of names, or a mapping of names to expressions: ['age', 'sex'], {'aged': col('age') > 65}"
            )
        names = list(names)
        for name in names:
            if not isinstance(name, str):
                raise QueryError(
                    f"'features' and 'target' are names of columns, not {type(name).__name__}: name an expression by with_columns() first"
                )
        return tuple(q.Derived(name, self._inlined(q.Column(name))) for name in names)

    def _inlined(self, term: q.Expression) -> q.Expression:
        """With added columns as what they are made of."""
        from . import bounds

        terms: dict[str, q.Expression] = {}
        sizes: dict[str, int] = {}
        for column in (*self._derived, q.Derived("", term)):
            sizes[column.name] = bounds.size(column.term, sizes)
            if sizes[column.name] > bounds.MAX_NODES:
                raise QueryError(
                    f"expressions have more than {bounds.MAX_NODES} parts once added columns are put in"
                )
            terms[column.name] = bounds.substitute(column.term, terms)
        return terms[""]

    def _means(self, value: str, by: str, analysis: q.Analysis) -> JointQuery:
        x = col(value)
        return self._query(
            (x.count().alias("n"), x.mean().alias("mean"), x.var().alias("var")), (by,), analysis
        )

    def cov(self, columns: Sequence[str]) -> JointQuery:
        """Sample covariance matrix (pairs in which both are not null, as pandas)."""
        return self._matrix(columns, cov, "covariance")

    def corr(self, columns: Sequence[str]) -> JointQuery:
        """Pearson correlation matrix (pairs in which both are not null, as pandas)."""
        return self._matrix(columns, corr, "correlation")

    def _matrix(self, columns: Sequence[str], pair: object, analysis: q.Analysis) -> JointQuery:
        if len(set(columns)) != len(columns) or len(columns) < 2:
            raise QueryError("a matrix needs two or more different columns")
        assert callable(pair)
        pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i:]]
        return self._query(tuple(pair(a, b).alias(f"{a}|{b}") for a, b in pairs), (), analysis)

    def _query(
        self, aggregations: Sequence[Aggregation], keys: tuple[str, ...], analysis: q.Analysis = "table"
    ) -> JointQuery:
        for aggregation in aggregations:
            _of(Aggregation, aggregation, "agg")
        named = tuple(q.Named(a.name, a.aggregate) for a in aggregations)
        join = msgspec.UNSET if self.joined is None else self.joined
        query = q.Query(self.name, named, keys, self._where, self._derived, analysis, join)
        try:  # a malformed tree is the caller's error, here
            msgspec.convert(msgspec.to_builtins(query), prepared(q.Query))
        except (msgspec.ValidationError, TypeError) as error:
            raise QueryError(f"not a query: {error}") from None
        return JointQuery(self._session, query)


def _of(kind: type[T], value: object, where: str) -> T:
    if not isinstance(value, kind):
        example = "col('x') > 1" if kind is Expression else "count() or col('x').mean()"
        raise QueryError(f"{where}: {example} is wanted, not {type(value).__name__}")
    return value

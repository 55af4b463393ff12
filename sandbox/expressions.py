"""What an analyst writes: `col("age") >= 60`, `count()`, `col("visits").mean()`. Names follow Polars.

These objects only build the frozen tree of `sandbox.query`; nothing is checked against a schema here.

>>> from sandbox import col, count
>>> (col("age") >= 60) & col("sex").is_in(["female"])
<Expression logic>
>>> col("visits").quantile(0.5).alias("median_visits").name
'median_visits'
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from . import query as q
from .errors import QueryError


class Expression:
    """A value per row. Compare, combine with & | ~, compute with + - * /, aggregate with the methods below."""

    __slots__ = ("node",)
    __hash__ = None  # type: ignore[assignment]  # `==` builds a comparison

    def __init__(self, node: q.Expression):
        self.node = node

    def __repr__(self) -> str:
        return f"<Expression {self.node.__struct_config__.tag}>"

    def __bool__(self) -> bool:
        raise QueryError("an expression has no truth value: combine conditions with & | ~, not and/or/not")

    def _compare(self, op: Any, other: Any) -> Expression:
        return Expression(q.Compare(op, self.node, _node(other)))

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self._compare("!=", other)

    def __lt__(self, other: Any) -> Expression:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Expression:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Expression:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Expression:
        return self._compare(">=", other)

    def _arithmetic(self, op: Any, left: Any, right: Any) -> Expression:
        return Expression(q.Arithmetic(op, _node(left), _node(right)))

    def __add__(self, other: Any) -> Expression:
        return self._arithmetic("+", self, other)

    def __radd__(self, other: Any) -> Expression:
        return self._arithmetic("+", other, self)

    def __sub__(self, other: Any) -> Expression:
        return self._arithmetic("-", self, other)

    def __rsub__(self, other: Any) -> Expression:
        return self._arithmetic("-", other, self)

    def __mul__(self, other: Any) -> Expression:
        return self._arithmetic("*", self, other)

    def __rmul__(self, other: Any) -> Expression:
        return self._arithmetic("*", other, self)

    def __truediv__(self, other: Any) -> Expression:
        return self._arithmetic("/", self, other)

    def __rtruediv__(self, other: Any) -> Expression:
        return self._arithmetic("/", other, self)

    def __neg__(self) -> Expression:
        return self._arithmetic("-", 0, self)

    def __and__(self, other: Any) -> Expression:
        return Expression(q.Logic("and", (self.node, _node(other))))

    def __or__(self, other: Any) -> Expression:
        return Expression(q.Logic("or", (self.node, _node(other))))

    def __invert__(self) -> Expression:
        return Expression(q.Not(self.node))

    def abs(self) -> Expression:
        return Expression(q.Absolute(self.node))

    def is_in(self, values: Sequence[q.Scalar]) -> Expression:
        return Expression(q.IsIn(self.node, tuple(_plain(value) for value in values)))

    def is_null(self) -> Expression:
        return Expression(q.IsNull(self.node))

    def is_not_null(self) -> Expression:
        return Expression(q.Not(q.IsNull(self.node)))

    def is_between(self, low: float, high: float) -> Expression:
        """low <= value <= high."""
        return (self >= low) & (self <= high)

    def cut(self, breaks: Sequence[float], labels: Sequence[str] | None = None) -> Expression:
        """Bands of a number, closed on the left: `cut([20, 40])` gives "< 20", "20 to < 40", ">= 40".

        Polars' `cut(left_closed=True)`; one label more than breaks.
        """
        cuts = tuple(float(value) for value in breaks)
        return Expression(q.Cut(self.node, cuts, tuple(labels) if labels is not None else band_labels(cuts)))

    def count(self) -> Aggregation:
        """Rows in which the value is not null."""
        return Aggregation(q.Count(self.node), f"{self._name}_count")

    def sum(self) -> Aggregation:
        return Aggregation(q.Sum(self.node), f"{self._name}_sum")

    def mean(self) -> Aggregation:
        return Aggregation(q.Mean(self.node), f"{self._name}_mean")

    def var(self) -> Aggregation:
        """Sample variance (n - 1)."""
        return Aggregation(q.Variance(self.node), f"{self._name}_var")

    def std(self) -> Aggregation:
        """Sample standard deviation (n - 1)."""
        return Aggregation(q.StandardDeviation(self.node), f"{self._name}_std")

    def quantile(self, q_: float) -> Aggregation:
        """The q-quantile, 0 <= q <= 1, with linear interpolation (pandas' default)."""
        if not 0 <= q_ <= 1:
            raise QueryError(f"quantile: q is {q_}; allowed are 0 to 1")
        return Aggregation(q.Quantile(self.node, float(q_)), f"{self._name}_q{float(q_) * 100:g}")

    def median(self) -> Aggregation:
        return Aggregation(q.Quantile(self.node, 0.5), f"{self._name}_median")

    @property
    def _name(self) -> str:
        return self.node.name if isinstance(self.node, q.Column) else "expression"


class Aggregation:
    """A value per group, with the name of its column in the result."""

    __slots__ = ("aggregate", "name")

    def __init__(self, aggregate: q.Aggregate, name: str):
        self.aggregate, self.name = aggregate, name

    def __repr__(self) -> str:
        return f"<Aggregation {self.name}>"

    def alias(self, name: str) -> Aggregation:
        return Aggregation(self.aggregate, name)


class When:
    """`when(condition).then("label")…otherwise("label")`: a text column with the labels as its domain."""

    __slots__ = ("_branches", "_condition")

    def __init__(self, condition: Expression, branches: tuple[tuple[q.Expression, str], ...] = ()):
        self._condition, self._branches = condition, branches

    def then(self, label: str) -> Then:
        return Then((*self._branches, (self._condition.node, label)))


class Then:
    __slots__ = ("_branches",)

    def __init__(self, branches: tuple[tuple[q.Expression, str], ...]):
        self._branches = branches

    def when(self, condition: Expression) -> When:
        return When(condition, self._branches)

    def otherwise(self, label: str) -> Expression:
        return Expression(q.Case(self._branches, label))


def col(name: str) -> Expression:
    """A column of the table, or one made by `with_columns`."""
    return Expression(q.Column(name))


def count() -> Aggregation:
    """Rows of the group."""
    return Aggregation(q.Count(), "count")


def cov(a: str | Expression, b: str | Expression) -> Aggregation:
    """Sample covariance over rows in which both are not null."""
    left, right = _expression(a), _expression(b)
    return Aggregation(q.Covariance(left.node, right.node), f"{left._name}_{right._name}_cov")


def corr(a: str | Expression, b: str | Expression) -> Aggregation:
    """Pearson correlation over rows in which both are not null."""
    left, right = _expression(a), _expression(b)
    return Aggregation(q.Correlation(left.node, right.node), f"{left._name}_{right._name}_corr")


def when(condition: Expression) -> When:
    """Begins a text column: `when(col("age") < 18).then("child").otherwise("adult")`; the labels are its domain."""
    return When(condition)


def band_labels(breaks: Sequence[float]) -> tuple[str, ...]:
    """Labels of the bands that `breaks` cut."""
    inner = [f"{a:g} to < {b:g}" for a, b in itertools.pairwise(breaks)]
    return (f"< {breaks[0]:g}", *inner, f">= {breaks[-1]:g}") if breaks else ()


def _expression(value: str | Expression) -> Expression:
    return col(value) if isinstance(value, str) else value


def _node(value: Any) -> q.Expression:
    return value.node if isinstance(value, Expression) else q.Value(_plain(value))


def _plain(value: Any) -> q.Scalar:
    """A literal as a plain Python scalar; numpy's scalars are unwrapped."""
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        raise QueryError(f"a literal must be a boolean, number or text, not {type(value).__name__}")
    return value

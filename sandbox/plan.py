"""Query + schema -> plan: the sums over rows that every department computes, and where they stand in one vector.

Every statistic here is a function of sums over rows. A `Component` is one such sum, per cell of the group-by: of 1 (rows), of x - c,
of (x - c)(y - c'), with c the midpoint of the declared bounds. Its value on one row is moved to an integer grid *inside* the
SQL, so that a department's sum is an exact integer: no floating-point sum can exceed its sensitivity (Casacuberta et al.,
"Widespread Underestimation of Sensitivity in Differentially Private Libraries", CCS 2022), and no rounding depends on the order
of rows. Whole numbers are exact; reals are rounded to 2^-52 of the largest value that their bounds allow.

The plan follows from the query and the schema alone, so that all departments and the coordinator derive the same one.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

import msgspec

from . import bounds
from . import query as q
from .catalog import MAX_INTEGER, Schema
from .errors import QueryError

GRID_BITS = 52
MAX_ENTRIES = 1 << 24
LEAVES = 4096
BRANCHING = 16


class Factor(msgspec.Struct, frozen=True):
    """`term - center`; for a whole term the center is a multiple of 1/2."""

    term: q.Expression
    center: float
    half_width: float
    whole: bool

    @property
    def doubled(self) -> bool:
        """Whether a whole factor needs 2 (term - center) to be an integer."""
        return self.whole and self.center != int(self.center)


class Component(msgspec.Struct, frozen=True):
    """One sum per cell. `rows`: of the product of the factors over rows in which no term of `requires` is null.

    On one row the value lies within ±`bound` on the grid, value x 2^`exponent` rounded; `whole` says that it is computed in
    integers. `units` counts distinct units with such rows, `departments` is 1 where this department has one.
    """

    kind: Literal["rows", "units", "departments"] = "rows"
    factors: tuple[Factor, ...] = ()
    requires: tuple[q.Expression, ...] = ()
    bound: int = 1
    exponent: int = 0
    whole: bool = True
    error: int = 2  # grid units by which one row may be off where it is not whole: products, then rounding


class Leaves(msgspec.Struct, frozen=True):
    """A histogram per cell for quantiles: `bins` equal bins from `low`; a whole term with few values has a bin a value.

    `levels` are the numbers of bins of the tree from the leaves up, each `BRANCHING` times coarser; one level only in exact mode.
    """

    term: q.Expression
    low: float
    width: float
    bins: int
    values: bool
    levels: tuple[int, ...]


class Key(msgspec.Struct, frozen=True):
    """A group key and its declared domain."""

    name: str
    term: q.Expression
    domain: tuple[str | int | bool | None, ...]


class Measure(msgspec.Struct, frozen=True):
    """Which components one aggregate is made of: indices into `Plan.components`, and into `Plan.leaves`.

    `first` holds sums of x - c (and y - c'), `second` sums of products: (xx,), or (xx, xy, yy) of a pair. `magnitude` is the sum
    of |x|, which dominance needs, where it is not `first` itself up to sign.
    """

    name: str
    aggregate: q.Aggregate
    rows: int | None
    first: tuple[int, ...] = ()
    second: tuple[int, ...] = ()
    magnitude: int | None = None
    leaves: int | None = None


class Plan(msgspec.Struct, frozen=True):
    """The vector: per component its cells, then per leaves and level its cells x bins."""

    where: q.Expression | None
    keys: tuple[Key, ...]
    components: tuple[Component, ...]
    leaves: tuple[Leaves, ...]
    measures: tuple[Measure, ...]
    exact: bool

    @property
    def cells(self) -> int:
        return math.prod(len(key.domain) for key in self.keys)

    @property
    def families(self) -> int:
        """Groups of entries, each with L2 sensitivity one grid bound per row: components, and levels of histograms."""
        return len(self.components) + sum(len(leaves.levels) for leaves in self.leaves)

    @property
    def entries(self) -> int:
        """Numbers in the vector."""
        return self.cells * (len(self.components) + sum(sum(leaves.levels) for leaves in self.leaves))

    def find(self, kind: str, requires: tuple[q.Expression, ...] = ()) -> int | None:
        """Index of the `units` or `departments` component over rows in which `requires` are not null."""
        for i, component in enumerate(self.components):
            if (component.kind, component.requires) == (kind, requires):
                return i
        return None


def compile(query: q.Query, schema: Schema, *, exact: bool) -> Plan:
    """The plan of `query`; raises `QueryError` for whatever cannot be typed, bounded or laid out."""
    derived = _Derived(query, schema)
    where = None
    if query.where is not None:
        where = derived.inline(query.where)
        if (typed := bounds.infer(where, schema)).kind != "boolean":
            raise QueryError(f"filter: a condition is needed, not {typed.kind}")
    keys = tuple(_key(name, derived, schema) for name in query.keys)
    _check_names(query)
    _check_analysis(query, keys)
    builder = _Builder(schema, derived, exact)
    measures = tuple(builder.measure(named) for named in query.aggregates)
    if exact:
        builder.component(())
        rows = {builder.requires(measure) for measure in measures} | {()}
        for requires in sorted(
            rows, key=repr
        ):  # who contributes to a cell, and to a statistic of a column with nulls
            builder.add(Component("departments", requires=requires))
            if schema.unit is not None and schema.rows_per_unit > 1:
                builder.add(Component("units", requires=requires))
    plan = Plan(where, keys, tuple(builder.components), tuple(builder.leaves), measures, exact)
    if plan.entries > MAX_ENTRIES:
        raise QueryError(
            f"the result has {plan.cells} cells and {plan.entries} sums; allowed are at most {MAX_ENTRIES} sums: use fewer or coarser keys"
        )
    return plan


class _Derived:
    """Derived columns, checked. `inline` replaces them by their definitions, which a few columns can make exponentially long:
    all that a plan inlines together has at most `bounds.MAX_NODES` parts."""

    def __init__(self, query: q.Query, schema: Schema):
        self._terms: dict[str, q.Expression] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0
        for column in query.derived:
            if column.name in schema.columns or column.name in self._terms:
                raise QueryError(f"with_columns: {column.name!r} is already a column")
            inlined, size = self.inline(column.term), bounds.size(column.term, self._sizes)
            self._terms[column.name], self._sizes[column.name] = inlined, size
            bounds.infer(inlined, schema)

    def inline(self, term: q.Expression) -> q.Expression:
        self._total += bounds.size(term, self._sizes)
        if self._total > bounds.MAX_NODES:
            raise QueryError(
                f"expressions have {self._total} parts once derived columns are put in; allowed are {bounds.MAX_NODES}"
            )
        return bounds.substitute(term, self._terms)


class _Builder:
    """Collects components, each once."""

    def __init__(self, schema: Schema, derived: _Derived, exact: bool):
        self.schema, self.derived, self.exact = schema, derived, exact
        self.components: dict[Component, int] = {}
        self.leaves: dict[Leaves, int] = {}

    def add(self, component: Component) -> int:
        return self.components.setdefault(component, len(self.components))

    def requires(self, measure: Measure) -> tuple[q.Expression, ...]:
        """What must not be null for a row to count in a measure."""
        return () if measure.rows is None else list(self.components)[measure.rows].requires

    def term(self, term: q.Expression) -> q.Expression:
        return self.derived.inline(term)

    def component(self, terms: tuple[q.Expression, ...], requires: tuple[q.Expression, ...] = ()) -> int:
        factors = tuple(self.factor(term) for term in terms)
        needed = dict.fromkeys(
            term for term in (*terms, *requires) if bounds.infer(term, self.schema).nullable
        )
        size = math.prod(factor.half_width for factor in factors)
        exponent = sum(factor.doubled for factor in factors)
        # Strictly: at 2^53 itself the product may be a rounded 2^53 + 1.
        whole = all(factor.whole for factor in factors) and size * 2**exponent < MAX_INTEGER
        if whole:
            bound = int(size * 2**exponent)
        else:
            exponent = GRID_BITS - math.frexp(size)[1]
            bound = math.ceil(math.ldexp(size, exponent)) + 1
        return self.add(Component("rows", factors, tuple(needed), max(bound, 1), exponent, whole))

    def factor(self, term: q.Expression) -> Factor:
        typed = bounds.numeric(term, self.schema, "aggregate")
        # The center may be rounded, so the half width is what the SQL's own subtraction gives at either end.
        center = typed.low / 2 + typed.high / 2
        return Factor(term, center, max(typed.high - center, center - typed.low), typed.whole)

    def measure(self, named: q.Named) -> Measure:
        name, aggregate = named.name, named.aggregate
        match aggregate:
            case q.Count(None):
                return Measure(name, aggregate, self.component(()))
            case q.Count(term) if term is not None:
                return Measure(name, aggregate, self.component((), (self.term(term),)))
            case q.Sum(term) | q.Mean(term):
                x = self.term(term)
                rows, total = self.component((), (x,)), self.component((x,))
                if not self.exact:
                    return Measure(name, aggregate, rows, (total,))
                return Measure(name, aggregate, rows, (total,), (self.component((x, x)),), self.magnitude(x))
            case q.Variance(term) | q.StandardDeviation(term):
                x = self.term(term)
                rows, total, squares = self.component((), (x,)), self.component((x,)), self.component((x, x))
                return Measure(name, aggregate, rows, (total,), (squares,))
            case q.Covariance(left, right) | q.Correlation(left, right):
                x, y = self.term(left), self.term(right)
                rows = self.component((), (x, y))
                first = (self.component((x,), (y,)), self.component((y,), (x,)))
                products = ((x, x), (x, y), (y, y)) if isinstance(aggregate, q.Correlation) else ((x, y),)
                return Measure(
                    name, aggregate, rows, first, tuple(self.component(pair, (x, y)) for pair in products)
                )
            case q.Quantile(term):
                x = self.term(term)
                leaves = self.leaves_of(x)
                present = self.component((), (x,)) if self.exact else None
                return Measure(
                    name, aggregate, present, leaves=self.leaves.setdefault(leaves, len(self.leaves))
                )
        raise QueryError(f"{type(aggregate).__name__} is not an aggregate")

    def magnitude(self, x: q.Expression) -> int | None:
        typed = bounds.numeric(x, self.schema, "aggregate")
        return self.component((q.Absolute(x),)) if typed.low < 0 < typed.high else None

    def leaves_of(self, x: q.Expression) -> Leaves:
        typed = bounds.numeric(x, self.schema, "quantile")
        span = typed.high - typed.low
        values = typed.whole and span < LEAVES
        bins = int(span) + 1 if values else LEAVES
        levels = [bins]
        while not self.exact and levels[-1] > BRANCHING:
            levels.append(-(-levels[-1] // BRANCHING))
        return Leaves(x, typed.low, 1.0 if values else span / bins, bins, values, tuple(levels))


def _key(name: str, derived: _Derived, schema: Schema) -> Key:
    term = derived.inline(q.Column(name))
    return Key(name, term, bounds.domain(term, schema, name))


def _check_analysis(query: q.Query, keys: tuple[Key, ...]) -> None:
    """That the keys and aggregates are those from which the analysis is derived."""
    kinds = tuple(type(named.aggregate) for named in query.aggregates)
    match query.analysis:
        case "crosstab" if len(keys) == 2 and kinds == (q.Count,):
            return
        case "welch" | "anova" if len(keys) == 1 and kinds == (q.Count, q.Mean, q.Variance):
            groups = len(keys[0].domain)
            if query.analysis == "welch" and groups != 2:
                raise QueryError(
                    f"ttest: {keys[0].name!r} has {groups} declared values: pick two with groups="
                )
            return
        case "covariance" if not keys and set(kinds) == {q.Covariance}:
            return
        case "correlation" if not keys and set(kinds) == {q.Correlation}:
            return
        case "table":
            return
    raise QueryError(f"the keys and aggregates are not those of a {query.analysis}")


def _check_names(query: q.Query) -> None:
    if not query.aggregates:
        raise QueryError(
            "a query needs at least one aggregate, such as count() or col(…).mean(): rows never leave"
        )
    names = [*query.keys, *(named.name for named in query.aggregates)]
    twice = {name for name, times in Counter(names).items() if times > 1}
    if twice:
        raise QueryError(f"two columns of the result are named {min(twice)!r}; use alias()")

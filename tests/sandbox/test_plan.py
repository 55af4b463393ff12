"""Plans: which sums a query needs, on which grid, and what is refused before any department is asked."""

from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import col, corr, count, cov, plan, when
from sandbox import query as q
from sandbox.catalog import MAX_INTEGER, Column, Schema
from sandbox.errors import QueryError
from sandbox.table import JointTable

MANY = settings(max_examples=500, deadline=None, derandomize=True, database=None)
T = JointTable(None, "survey")


@pytest.fixture(scope="module")
def compiled(schema):
    def compile_it(query, exact=False):
        return plan.compile(query.query, schema, exact=exact)

    return compile_it


# --- what a query becomes ---


def test_each_sum_stands_once_however_many_aggregates_need_it(compiled):
    age = col("age")
    result = compiled(T.agg(count(), age.count(), age.sum(), age.mean(), age.var(), age.std()))
    factor = plan.Factor(q.Column("age"), 60.0, 60.0, True)
    assert result.components == (
        plan.Component("rows"),
        plan.Component("rows", (factor,), bound=60),
        plan.Component("rows", (factor, factor), bound=3600),
    )
    assert [(m.rows, m.first, m.second) for m in result.measures] == [
        (0, (), ()),
        (0, (), ()),
        (0, (1,), ()),
        (0, (1,), ()),
        (0, (1,), (2,)),
        (0, (1,), (2,)),
    ]


def test_a_pair_needs_the_rows_in_which_neither_is_null(compiled):
    visits, income = q.Column("visits"), q.Column("income")
    [measure] = compiled(T.agg(corr("visits", "income"))).measures
    components = compiled(T.agg(corr("visits", "income"))).components
    assert all(set(component.requires) == {visits, income} for component in components)
    assert [tuple(f.term for f in components[i].factors) for i in (*measure.first, *measure.second)] == [
        (visits,),
        (income,),
        (visits, visits),
        (visits, income),
        (income, income),
    ]
    [measure] = compiled(T.agg(cov("age", "weight"))).measures
    assert len(measure.second) == 1
    assert all(component.requires == () for component in compiled(T.agg(cov("age", "weight"))).components)


def test_exact_plans_add_what_disclosure_control_needs(compiled):
    """Rows, departments and units per cell, and with a value where there are nulls; squares and magnitudes for dominance."""
    result = compiled(T.group_by("sex").agg(col("income").sum()), exact=True)
    kinds = [component.kind for component in result.components]
    assert kinds.count("departments") == kinds.count("units") == 2
    [measure] = result.measures
    nulls = result.components[measure.rows].requires
    assert nulls
    for requires in ((), nulls):
        for kind in ("departments", "units"):
            found = result.components[result.find(kind, requires)]
            assert (found.kind, found.requires) == (kind, requires)
    assert result.components[measure.second[0]].factors[0].term == q.Column("income")
    assert result.components[measure.magnitude].factors[0].term == q.Absolute(q.Column("income"))
    [measure] = compiled(T.agg(col("age").sum()), exact=True).measures
    assert measure.magnitude is None  # a value that is never negative is its own magnitude


def test_rows_are_units_unless_a_unit_may_have_several(schema):
    one = msgspec.structs.replace(schema, rows_per_unit=1)
    kinds = {c.kind for c in plan.compile(T.agg(count()).query, one, exact=True).components}
    assert kinds == {"rows", "departments"}


def test_cells_and_entries_multiply(compiled):
    by = T.with_columns(band=col("age").cut([20, 40])).group_by("sex", "region", "band")
    result = compiled(by.agg(count(), col("visits").median(), col("income").median()))
    assert result.cells == 2 * 5 * 3
    # A histogram of 12 values has one level; one of 4096 bins has a tree, 16 times coarser at each level.
    assert [leaves.levels for leaves in result.leaves] == [(12,), (4096, 256, 16)]
    assert result.families == 1 + 1 + 3
    assert result.entries == 30 * (1 + 12 + 4096 + 256 + 16)
    exact = compiled(by.agg(col("income").median()), exact=True)
    assert [leaves.levels for leaves in exact.leaves] == [(4096,)]


@pytest.mark.parametrize(
    ("low", "high", "whole", "bound", "exponent"),
    [
        (0, 120, True, 60, 0),
        (0, 121, True, 121, 1),  # twice 60.5
        (-5, 5, True, 5, 0),
        (-MAX_INTEGER, MAX_INTEGER, False, 2**51 + 1, -2),
        (0, MAX_INTEGER, True, 2**52, 0),
        (0, MAX_INTEGER - 1, True, 2**53 - 1, 1),
    ],
)
def test_whole_numbers_stay_whole_while_a_double_holds_them(low, high, whole, bound, exponent):
    schema = Schema({"x": Column("integer", (low, high))})
    component = plan.compile(T.agg(col("x").sum()).query, schema, exact=False).components[1]
    assert (component.whole, component.bound, component.exponent) == (whole, bound, exponent)


@MANY
@given(
    low=st.floats(-1e150, 1e150),
    high=st.floats(-1e150, 1e150),
    value=st.floats(0, 1),
    whole=st.booleans(),
)
def test_no_value_within_its_bounds_passes_the_bound_of_its_sums(low, high, value, whole):
    """The bound is the sensitivity of a row: it must hold for what doubles compute, at both ends too."""
    low, high = sorted((low, high))
    if whole:
        low, high = math.floor(low % 2**53 - 2**52), math.floor(high % 2**53)
    if low >= high:
        return
    column = Column("integer" if whole else "real", (low, high))
    x = col("x")
    result = plan.compile(T.agg(x.sum(), x.var()).query, Schema({"x": column}), exact=False)
    inside = min(max(low + (high - low) * value, low), high)
    for component in result.components[1:]:
        for at in (low, high, math.floor(inside) if whole else inside):
            product = Fraction(1)
            rounded = 1.0
            for factor in component.factors:
                product *= Fraction(at) - Fraction(factor.center)
                rounded *= float(at) - factor.center
            if component.whole:
                assert abs(product * 2**component.exponent) <= component.bound
            else:
                assert abs(round(Fraction(rounded) * Fraction(2) ** component.exponent)) <= component.bound
        assert component.bound <= 2**53  # a row's value is exact in a double
        if not component.whole and math.prod(factor.half_width for factor in component.factors):
            assert component.bound >= 2**51  # the grid is no coarser than 2^-51 of the range


# --- refusals ---


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (T.group_by("income").agg(count()), "group key 'income' has no declared domain"),
        (T.group_by("code").agg(count()), "group key 'code' has 18014398509481985 declared values"),
        (T.group_by("person").agg(count()), "column 'person' identifies units; it cannot be queried"),
        (T.group_by("nobody").agg(count()), "unknown column 'nobody'"),
        (T.agg(col("free").sum()), "aggregate: column 'free' has no declared bounds; its owner must declare"),
        (T.agg(col("free").median()), "quantile: column 'free' has no declared bounds"),
        (T.agg(col("sex").mean()), "aggregate: column 'sex' is text; a number is needed"),
        (T.agg(col("nobody").count()), "unknown column 'nobody'"),
        (T.agg(col("person").count()), "column 'person' identifies units"),
        (T.agg((col("wealth") * col("wealth")).sum()), r"'\*': the result can reach beyond ±1e\+150"),
        (T.filter(col("age")).agg(count()), "filter: a condition is needed, not integer"),
        (T.filter(col("sex")).agg(count()), "filter: a condition is needed, not text"),
        (T.agg(), "a query needs at least one aggregate"),
        (T.group_by("sex").agg(), "a query needs at least one aggregate"),
        (T.agg(count(), count()), r"two columns of the result are named 'count'; use alias\(\)"),
        (T.group_by("sex").agg(count().alias("sex")), "two columns of the result are named 'sex'"),
        (T.group_by("sex", "sex").agg(count()), "two columns of the result are named 'sex'"),
        (T.with_columns(age=col("visits")).agg(count()), "with_columns: 'age' is already a column"),
        (
            T.with_columns(a=col("age")).with_columns(a=col("age")).agg(count()),
            "with_columns: 'a' is already a column",
        ),
        (T.with_columns(a=col("b"), b=col("age")).agg(count()), "unknown column 'b'"),
        (T.with_columns(a=col("a")).agg(count()), "unknown column 'a'"),
        (T.ttest("income", "region"), r"ttest: 'region' has 5 declared values: pick two with groups="),
    ],
)
def test_what_cannot_be_typed_bounded_or_laid_out_is_refused(compiled, query, reason):
    for exact in (True, False):
        with pytest.raises(QueryError, match=reason):
            compiled(query, exact)


def test_too_many_cells_are_refused_before_they_are_laid_out(compiled):
    wide = T.with_columns(a=col("age") * 8, b=col("age") * 8 + 1, c=col("age") * 8 + 2)
    with pytest.raises(QueryError, match=r"887503681 cells and 887503681 sums; allowed are at most 16777216"):
        compiled(wide.group_by("a", "b", "c").agg(count()))
    with pytest.raises(QueryError, match=r"923521 cells and 4033939728 sums"):
        compiled(wide.group_by("a", "b").agg(col("income").median()))
    assert compiled(wide.group_by("a", "b").agg(count())).cells == 961 * 961


def test_derived_columns_cannot_grow_without_end(compiled):
    """Each doubles the one before: 2^60 parts, were they put in."""
    columns = {"d0": col("age") * 1e-30}
    for i in range(60):
        columns[f"d{i + 1}"] = col(f"d{i}") + col(f"d{i}")
    with pytest.raises(
        QueryError, match=r"nested deeper|parts once derived columns are put in; allowed are 100000"
    ):
        compiled(T.with_columns(**columns).agg(col("d60").mean()))
    flat = {f"e{i}": (col("d11") + col("age")) for i in range(40)}
    few = {name: columns[name] for name in list(columns)[:12]}
    with pytest.raises(QueryError, match="parts once derived columns are put in; allowed are 100000"):
        compiled(T.with_columns(**few).with_columns(**flat).agg(count()))


@pytest.mark.parametrize(
    ("analysis", "query"),
    [
        ("crosstab", T.group_by("sex").agg(count())),
        ("crosstab", T.group_by("sex", "insured").agg(col("age").mean())),
        ("welch", T.agg(col("age").count(), col("age").mean(), col("age").var())),
        ("anova", T.group_by("sex").agg(col("age").mean())),
        ("covariance", T.agg(corr("age", "income"))),
        ("correlation", T.group_by("sex").agg(corr("age", "income"))),
        ("correlation", T.agg(corr("age", "income"), count())),
    ],
)
def test_an_analysis_needs_its_own_keys_and_aggregates(schema, analysis, query):
    forged = msgspec.structs.replace(query.query, analysis=analysis)
    with pytest.raises(QueryError, match=f"the keys and aggregates are not those of a {analysis}"):
        plan.compile(forged, schema, exact=False)


def test_a_plan_depends_on_the_query_and_the_schema_alone(schema):
    """All departments and the coordinator derive it: it must survive a query's trip through bytes."""
    table = T.with_columns(g=when(col("age") < 18).then("x").otherwise("y"))
    query = (
        table.filter(col("income") > 0).group_by("g").agg(count(), col("income").var(), cov("age", "income"))
    )
    sent = q.decode(q.canonical(query.query), q.Query)
    for exact in (True, False):
        assert plan.compile(sent, schema, exact=exact) == plan.compile(query.query, schema, exact=exact)

"""The builder: what it builds, and that misuse is the caller's error at the call that is wrong."""

from __future__ import annotations

import msgspec
import pytest

from sandbox import col, corr, count, when
from sandbox import query as q
from sandbox.errors import QueryError
from sandbox.table import JointTable


class Recorder:
    """A session that records what it is asked: a query that is built must not ask for anything."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return lambda *arguments: self.asked.append((name, *arguments))


@pytest.fixture
def session():
    return Recorder()


@pytest.fixture
def table(session):
    return JointTable(session, "t")


def test_nothing_is_asked_before_release(session, table):
    query = table.filter(col("x") > 1).with_columns(y=col("x") * 2).group_by("k").agg(count(), col("y").sum())
    assert session.asked == []
    assert repr(query) == "<JointQuery count, y_sum of t by k>"
    assert repr(table) == "<JointTable t>"
    query.release(purpose="p", epsilon=0.5)
    query.explain(epsilon=0.5, delta=1e-7)
    query.mock()
    assert session.asked == [
        ("release", query.query, "p", 0.5, None),
        ("explain", query.query, 0.5, 1e-7),
        ("mock", query.query, None, None),
    ]


def test_purpose_and_epsilon_are_named_by_the_caller(table):
    query = table.agg(count())
    with pytest.raises(TypeError):
        query.release()
    with pytest.raises(TypeError):
        query.release("p", 0.5)


def test_a_step_leaves_the_table_as_it_was(table):
    filtered = table.filter(col("x") > 1)
    derived = table.with_columns(y=col("x"))
    plain = table.agg(count()).query
    assert plain.where is None
    assert plain.derived == ()
    assert filtered.agg(count()).query.where is not None
    assert derived.agg(count()).query.where is None


def test_filters_add_up(table):
    conditions = (col("x") > 1, col("y") < 2, col("z") == 3)
    step_by_step = table.filter(conditions[0]).filter(conditions[1], conditions[2]).agg(count()).query.where
    first, second, third = (condition.node for condition in conditions)
    assert step_by_step == q.Logic("and", (first, second, third))
    assert table.filter().agg(count()).query.where is None


def test_queries_survive_the_wire(table):
    queries = [
        table.agg(count(), corr("x", "y"), col("x").quantile(0.25)),
        table.filter(~col("b") & col("x").is_in([1, 2])).agg(col("x").abs().mean().alias("m")),
        table.histogram("x", [0, 10]),
        table.crosstab("a", "b"),
        table.ttest("x", "g", groups=[1, 2]),
        table.anova("x", "g"),
        table.corr(["x", "y", "z"]),
    ]
    for query in queries:
        assert q.decode(q.canonical(query.query), q.Query) == query.query


def test_analyses_are_built_from_the_sums_they_need(table):
    def names(query):
        return query.query.analysis, query.query.keys, [named.name for named in query.query.aggregates]

    assert names(table.crosstab("a", "b")) == ("crosstab", ("a", "b"), ["count"])
    assert names(table.anova("x", "g")) == ("anova", ("g",), ["n", "mean", "var"])
    assert names(table.ttest("x", "g")) == ("welch", ("g",), ["n", "mean", "var"])
    assert names(table.ttest("x", "g", groups=["a", "b"]))[1] == ("g_group",)
    assert names(table.cov(["x", "y"])) == ("covariance", (), ["x|x", "x|y", "y|y"])
    assert names(table.corr(["x", "y"])) == ("correlation", (), ["x|x", "x|y", "y|y"])


def test_a_histogram_names_its_bands(table):
    [derived] = table.histogram("x", [0, 10.5]).query.derived
    assert derived.name == "x_band"
    assert derived.term.labels == ("< 0", "0 to < 10.5", ">= 10.5")


MISUSE = {
    "one column": lambda t: t.corr(["x"]),
    "no column": lambda t: t.cov([]),
    "the same column twice": lambda t: t.cov(["x", "x"]),
    "one group": lambda t: t.ttest("x", "g", groups=["a"]),
    "three groups": lambda t: t.ttest("x", "g", groups=["a", "b", "c"]),
    "the same group twice": lambda t: t.ttest("x", "g", groups=["a", "a"]),
    "a group that is no literal": lambda t: t.ttest("x", "g", groups=[None, "b"]),
    "quantile below 0": lambda t: t.agg(col("x").quantile(-0.1)),
    "quantile above 1": lambda t: t.agg(col("x").quantile(1.5)),
    "quantile nan": lambda t: t.agg(col("x").quantile(float("nan"))),
    "python's and": lambda t: t.filter((col("x") > 1) and (col("y") > 1)),
    "a chained comparison": lambda t: t.filter(1 < col("x") < 3),
    "a literal that is a list": lambda t: t.filter(col("x") == [1]),
    "a literal that is None": lambda t: t.filter(col("x") == None),  # noqa: E711
    "a label that is no text": lambda t: t.with_columns(k=when(col("x") > 1).then(1).otherwise("b")).agg(
        count()
    ),
    "an empty alias": lambda t: t.agg(count().alias("")),
    "an alias that is too long": lambda t: t.agg(count().alias("a" * 129)),
    "an alias that is no text": lambda t: t.agg(count().alias(3)),
    "a key that is no text": lambda t: t.group_by(3).agg(count()),
    "a key that is an expression": lambda t: t.group_by(col("x")).agg(count()),
    "an empty key": lambda t: t.group_by("").agg(count()),
    "a value instead of an aggregate": lambda t: t.agg(col("x")),
    "an aggregate by name": lambda t: t.agg("x"),
    "a filter that is true": lambda t: t.filter(True),
    "a filter by name": lambda t: t.filter("x"),
    "a column that is a number": lambda t: t.with_columns(y=3),
    "a column without a name": lambda t: t.agg(col("").sum()),
    "breaks that are text": lambda t: t.histogram("x", ["a"]),
    "no breaks": lambda t: t.histogram("x", []),
}


@pytest.mark.parametrize("misuse", MISUSE)
def test_misuse_is_the_callers_error(session, table, misuse):
    with pytest.raises(QueryError):
        MISUSE[misuse](table)
    assert session.asked == []


def test_an_expression_has_no_truth_value_and_says_what_to_write():
    with pytest.raises(QueryError, match=r"combine conditions with & \| ~"):
        bool(col("x") > 1)


def test_numpys_scalars_are_unwrapped(table):
    np = pytest.importorskip("numpy")
    plain = table.filter(col("x") > 3).agg(count()).query
    assert table.filter(col("x") > np.int64(3)).agg(count()).query == plain
    assert msgspec.json.encode(plain)

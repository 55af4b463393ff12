"""What owners read of a query: every node has words, different queries read differently, and nothing that others chose can pass for our words."""

from __future__ import annotations

import typing

import pytest

from sandbox import col, corr, count, cov, when
from sandbox import query as q
from sandbox.contract import Contract
from sandbox.table import JointTable
from sandbox.wording import aggregate, expression, printable, question

TABLE = JointTable(None, "people")  # type: ignore[arg-type]


def words(joint) -> dict[str, str]:
    return question(joint.query)


def test_a_query_reads_as_what_it_asks():
    bands = TABLE.with_columns(band=col("age").cut([20, 60])).filter(
        col("age") >= 18, ~(col("sex") == "male")
    )
    assert words(bands.group_by("band").agg(count(), col("income").mean())) == {
        "asks": "a table of count: number of rows, income_mean: mean of income",
        "of": 'rows where (age >= 18) and (not (sex == "male"))',
        "by": "band",
        "with": 'band = age cut at 20, 60 into "< 20", "20 to < 60", ">= 60"',
    }
    assert words(TABLE.agg(count()))["of"] == "all rows"
    assert words(TABLE.agg(count()))["by"] == "no groups"
    assert words(TABLE.ttest("income", by="sex"))["asks"].startswith(
        "Welch's t-test of n: number of rows with income"
    )


@pytest.mark.parametrize(
    ("term", "said"),
    [
        ((col("a") - 1) * 2, "(a - 1) * 2"),
        (col("a") - (col("b") * 2), "a - (b * 2)"),
        (col("a").is_in([1, 2]), "a is one of 1, 2"),
        (col("a").is_null(), "a is null"),
        (col("a").abs() > 0.5, "(absolute value of a) > 0.5"),
        ((col("a") > 1) & ((col("b") > 1) | (col("c") == True)), "(a > 1) and ((b > 1) or (c == true))"),  # noqa: E712
        (when(col("a") > 1).then("high").otherwise("low"), '"high" where (a > 1), else "low"'),
    ],
    ids=str,
)
def test_nested_terms_stand_in_brackets(term, said):
    assert expression(term.node) == said


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        (count(), "number of rows"),
        (col("a").count(), "number of rows with a"),
        (col("a").sum(), "sum of a"),
        (col("a").var(), "variance of a"),
        (col("a").std(), "standard deviation of a"),
        (col("a").quantile(0.9), "0.9-quantile of a"),
        (cov("a", "b"), "covariance of a and b"),
        (corr("a", "b"), "correlation of a and b"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_aggregates_have_their_names(aggregation, said):
    assert aggregate(aggregation.aggregate) == said


def test_no_node_is_without_words():
    """Whatever the algebra gains must be readable too."""
    a, b = q.Column("a"), q.Column("b")
    made = {
        q.Column: a, q.Value: q.Value(1), q.Compare: q.Compare("<", a, b), q.Logic: q.Logic("or", (a, b)),
        q.Not: q.Not(a), q.IsIn: q.IsIn(a, (1,)), q.IsNull: q.IsNull(a), q.Arithmetic: q.Arithmetic("+", a, b),
        q.Absolute: q.Absolute(a), q.Cut: q.Cut(a, (1.0,), ("x", "y")), q.Case: q.Case(((a, "x"),), "y"),
    }  # fmt: skip
    assert set(made) == set(typing.get_args(q.Expression))
    said = [expression(node) for node in made.values()]
    assert all(isinstance(text, str) and text for text in said)
    assert len(set(said)) == len(said)
    aggregates = [kind(a, 0.5) if kind is q.Quantile else kind(a, b) if kind in (q.Covariance, q.Correlation) else kind(a)
                  for kind in typing.get_args(q.Aggregate)]  # fmt: skip
    assert len({aggregate(term) for term in aggregates}) == len(aggregates)


@pytest.mark.parametrize(
    "nasty", ["a\nmode         exact", "a\r", "a\x1b[2K", "a\u202eb", "a\u2028b", "a\x00"]
)
def test_what_an_analyst_writes_stays_on_its_line(nasty):
    where = TABLE.filter(col("sex") == nasty).agg(count()).query
    contract = Contract(where, nasty, nasty, "wu", 2_000_000_000)
    clean = Contract(TABLE.filter(col("sex") == "a").agg(count()).query, "a", "a", "wu", 2_000_000_000)
    assert contract.text().replace("\n", "").isprintable()
    names = [[line[:13] for line in text.splitlines()] for text in (contract.text(), clean.text())]
    assert names[0] == names[1]


def test_printable_text_stays_as_it_is():
    for text in ("Statistics Act, article 12", "公共卫生 – ε ≤ 1", ""):
        assert printable(text) == text

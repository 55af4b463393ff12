"""The query tree's bytes: one encoding a value, the same everywhere, and strict decoding of what others send."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import col, corr, count, when
from sandbox import query as q
from sandbox.errors import QueryError
from sandbox.table import JointTable

MANY = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def query(*aggregations, **arguments):
    return q.Query("t", tuple(q.Named(a.name, a.aggregate) for a in aggregations), **arguments)


@pytest.fixture(scope="module")
def every_node():
    """A query that holds every kind of node."""
    table = JointTable(None, "survey").filter(
        (col("age") >= 60) & ~col("region").is_in(["north", "東"]) | (col("insured") == True),  # noqa: E712
        col("income").is_null(),
    )
    table = table.with_columns(
        band=col("age").cut([20, 40.5]),
        group=when(col("age") < 18).then("child").otherwise("adult"),
        ratio=(col("income").abs() - 1) / (col("weight") + 2) * 0.5,
    )
    x = col("ratio")
    aggregations = (count(), x.count(), x.sum(), x.mean(), x.var(), x.std(), x.quantile(0.25))
    return table.group_by("band", "group").agg(*aggregations, corr("age", "ratio")).query


def test_canonical_bytes_are_the_same_on_every_machine_and_version():
    small = query(count(), col("x").mean(), keys=("k",), where=(col("x") >= 1).node)
    assert q.canonical(small) == (
        b'{"table":"t",'
        b'"aggregates":[{"name":"count","aggregate":{"node":"count","term":null}},'
        b'{"name":"x_mean","aggregate":{"node":"mean","term":{"node":"column","name":"x"}}}],'
        b'"keys":["k"],'
        b'"where":{"node":"compare","op":">=","left":{"node":"column","name":"x"},"right":{"node":"value","value":1}},'
        b'"derived":[],"analysis":"table"}'
    )
    assert small.digest().hex() == "e13b4e5081e25c429042b382e014cd2117c78e880fff522346090d8778bf2e37"


def test_the_digest_of_a_query_with_every_node_is_the_recorded_one(every_node):
    assert every_node.digest().hex() == "3470d62424d4f545828f6b296d37e9c02c33d40f2ad1993490b017601e3fbe24"


def test_every_node_survives_the_wire(every_node):
    assert q.decode(q.canonical(every_node), q.Query) == every_node


def test_equal_queries_have_equal_digests_and_others_do_not():
    same = [query(count(), keys=("k",)), query(count(), keys=("k",), where=None, derived=())]
    assert same[0].digest() == same[1].digest()
    others = [
        query(count()),
        query(count(), keys=("l",)),
        query(count().alias("n"), keys=("k",)),
        query(col("k").count(), keys=("k",)),
        query(count(), keys=("k",), where=(col("x") == 1).node),
        query(count(), keys=("k",), where=(col("x") == True).node),  # noqa: E712
        query(count(), keys=("k",), where=(col("x") == "1").node),
        query(count(), keys=("k",), where=(col("x") == 1.5).node),
    ]
    assert len({q.digest(value) for value in [same[0], *others]}) == len(others) + 1


def test_decoding_does_not_depend_on_the_order_of_fields(every_node):
    fields = json.loads(q.canonical(every_node))
    turned = json.dumps(dict(reversed(fields.items())), indent=1).encode()
    assert q.decode(turned, q.Query).digest() == every_node.digest()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"having": None}, "unknown field `having`"),
        ({"table": ""}, "length >= 1"),
        ({"table": "t" * 129}, "length <= 128"),
        ({"table": 3}, "Expected `str`, got `int`"),
        ({"keys": "k"}, "Expected `array`"),
        ({"aggregates": [{"name": "n"}]}, "missing required field `aggregate`"),
        ({"aggregates": [{"name": "n", "aggregate": {"node": "max", "term": None}}]}, "Invalid value 'max'"),
        ({"aggregates": [{"name": "n", "aggregate": {"node": "column", "name": "x"}}]}, "Invalid value"),
        ({"where": {"node": "value", "value": None}}, "where.value"),
        ({"where": {"node": "value", "value": [1]}}, "where.value"),
        ({"where": {"node": "column", "name": "x", "of": "y"}}, "unknown field `of`"),
        ({"where": {"node": "sql", "text": "1 = 1"}}, "Invalid value 'sql'"),
        ({"where": {"name": "x"}}, "missing required field `node`"),
        ({"analysis": "regression"}, "Invalid enum value 'regression'"),
    ],
)
def test_what_is_no_query_is_refused_with_the_place(change, named):
    fields = json.loads(q.canonical(query(count()))) | change
    with pytest.raises(QueryError, match=f"malformed Query: .*{named}"):
        q.decode(json.dumps(fields).encode(), q.Query)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_refused(value):
    fields = json.loads(q.canonical(query(count()))) | {"where": {"node": "value", "value": value}}
    with pytest.raises(QueryError, match="malformed Query"):
        q.decode(json.dumps(fields).encode(), q.Query)


@pytest.mark.parametrize("levels", [200, 5000, 200_000])
def test_deep_nesting_is_refused_and_not_a_recursion_error(levels):
    opening, closing = b'{"node":"not","term":' * levels, b"}" * levels
    text = (
        b'{"table":"t","aggregates":[],"where":' + opening + b'{"node":"column","name":"x"}' + closing + b"}"
    )
    with pytest.raises(QueryError, match=r"nested deeper|allowed are at most"):
        q.decode(text, q.Query)


def test_a_wide_query_is_not_a_deep_one():
    terms = tuple((col("x") == i).node for i in range(500))
    value = query(count(), where=q.Logic("or", terms))
    assert q.decode(q.canonical(value), q.Query) == value


def test_nesting_cannot_hide_behind_brackets_in_strings():
    levels = 20_000
    name = b"]" * 128
    keys = b",".join([b'"' + name + b'"'] * 200)
    deep = b'{"node":"not","term":' * levels + b'{"node":"column","name":"x"}' + b"}" * levels
    with pytest.raises(QueryError, match="nested deeper"):
        q.decode(b'{"table":"t","aggregates":[],"keys":[' + keys + b'],"where":' + deep + b"}", q.Query)


def test_brackets_in_strings_are_no_nesting():
    text = '[{"\\' * 100
    value = query(count(), where=(col("x") == text).node)
    assert q.decode(q.canonical(value), q.Query) == value


def test_a_string_without_end_is_read_once():
    """Else each of its quotes would be tried as a beginning: hours for one message."""
    with pytest.raises(QueryError, match="malformed Query"):
        q.decode(b'"' + b'\\"' * (q.MAX_BYTES // 2 - 1), q.Query)


def test_a_message_that_is_too_long_is_refused_unread():
    with pytest.raises(QueryError, match="message of 1048577 bytes; allowed are at most 1048576"):
        q.decode(b" " * (q.MAX_BYTES + 1), q.Query)


@MANY
@given(st.data())
def test_changed_bytes_are_a_query_or_refused(every_node, data):
    text = bytearray(q.canonical(every_node))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        width = data.draw(st.integers(0, 3))
        text[place : place + width] = data.draw(st.binary(max_size=3))
    try:
        changed = q.decode(bytes(text), q.Query)
    except QueryError:
        return
    assert q.decode(q.canonical(changed), q.Query).digest() == changed.digest()


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"\xff", b'{"table":"\xff"}', b"9" * 5000, b'"\\"'])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(QueryError, match="malformed Query"):
        q.decode(text, q.Query)

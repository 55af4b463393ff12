"""Which rows are in which cell of a plan: what the differencing defence compares. For exact releases only.

A value with nulls is a sum over fewer rows than its cell. So a plan has one *layer* for its cells, and one more for each set of terms
that must not be null together; each layer has a cohort per cell. Without them, a filter that adds one row with a value and nine
without would pass as a difference of ten.

A row is known by a key, a hash of all its declared values, so that it is the same row in the next version of the data, wherever it then
stands; a row that was edited is another one. Rows with equal values differ in how many of them came before. Where a database gives rows no
order, they are put in order by their digests.

Keys and cells never leave the department: only counts do, in sums (`sandbox.differencing`).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

from . import compiler, dialects, syntax, terms
from . import query as q
from .backend import TABLE, Columns
from .catalog import Schema
from .dialects import Dialect
from .engine import Engine
from .plan import Key, Plan

NOWHERE = -1
_ROW, _DIGEST, _INSIDE = "row number", "row digest", "inside"  # no declared name has a space
Layer = tuple[q.Expression, ...]


class Members(msgspec.Struct, frozen=True, eq=False):
    """The cell of every row, or `NOWHERE`, per layer: int32 [layers, rows]; rows in stored order of one version of the data."""

    version: str
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    cells: NDArray[np.int32]


def layers(plan: Plan) -> tuple[Layer, ...]:
    """The sets of terms that must not be null, the empty one first. The plan alone decides, so all departments have the same."""
    return tuple(dict.fromkeys([(), *(component.requires for component in plan.components)]))


def members(source: Engine, plan: Plan) -> Members:
    """The cells of all rows of `source` under `plan`, as exact sums count them. Raises `CatalogError` if the data change meanwhile."""
    schema, sets, backend = source.dataset.schema(), layers(plan), source.backend
    version, columns = source.read(sql(plan, schema, TABLE, backend.dialect, ordered=backend.ordered))
    places = _places(plan, columns)
    cells = np.empty((len(sets), len(places)), np.int32)
    for number, labels in enumerate(cells):
        labels[:] = np.where(np.ma.getdata(columns[f"n{number}"]) == 1, places, NOWHERE) if number else places
    return Members(version, tuple(len(key.domain) for key in plan.keys), sets, cells)


def keys(source: Engine) -> tuple[str, NDArray[np.uint64]]:
    """The version of the data, and a key per row in the order of `members`, all different."""
    backend = source.backend
    query = keys_sql(source.dataset.schema(), TABLE, backend.dialect, ordered=backend.ordered)
    version, columns = source.read(query)
    return version, _distinct(np.ma.getdata(columns["key"]).astype(np.uint64))


def sql(plan: Plan, schema: Schema, relation: str, dialect: Dialect, *, ordered: bool) -> exp.Select:
    """Per row: keys k0, k1, …, the text ones as places in their domains; `inside` the filter 1, else 0; and whether it belongs to layer
    1, 2, …: n1, n2, …"""
    read = [
        syntax.named(compiler.clean(name, schema.columns[name], False), name) for name in compiler.used(plan)
    ]
    digest = [] if ordered else [syntax.named(dialects.row_digest(schema), _DIGEST)]
    clean = exp.select(*(read + digest or [syntax.named(syntax.integer(1), _ROW)]))
    selected = [syntax.named(key_code(key, schema, dialect), f"k{i}") for i, key in enumerate(plan.keys)]
    if plan.where is not None or not plan.keys:
        where = [] if plan.where is None else [terms.expression(plan.where, schema)]
        selected.append(syntax.named(_flag(where), _INSIDE))
    for number, layer in enumerate(layers(plan)[1:], 1):
        present = [syntax.present(terms.expression(term, schema)) for term in layer]
        selected.append(syntax.named(_flag(present), f"n{number}"))
    rows = exp.select(*selected).from_(clean.from_(syntax.table(relation)).subquery("clean"))
    return rows if ordered else rows.order_by(_first(syntax.column(_DIGEST)))


def keys_sql(schema: Schema, relation: str, dialect: Dialect, *, ordered: bool) -> exp.Select:
    """Half an MD5 of each row's values as text, each behind its length: no two different rows give the same text."""
    key = syntax.named(dialects.row_key(schema, dialect), "key")
    query = exp.select(key).from_(syntax.table(relation))
    return query if ordered else query.order_by(_first(dialects.row_digest(schema)))


def _first(digest: exp.Expr) -> exp.Ordered:
    """The order of all of a digest: rows that tie are alike."""
    return exp.Ordered(this=digest, nulls_first=False)


def _distinct(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Keys made different: the n-th of equal keys is moved by n times an odd constant, and mixed (splitmix64)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.zeros(0, int)
    nth = np.empty(len(keys), np.uint64)
    nth[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))
    mixed = keys + nth * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def key_code(key: Key, schema: Schema, dialect: Dialect) -> exp.Expr:
    value = terms.group(key, schema)
    if isinstance(key.term, q.Cut | q.Case) or not isinstance(key.domain[0], str):
        return value
    return dialects.code(value, [text for text in key.domain if isinstance(text, str)], dialect)


def _flag(conditions: list[exp.Expr]) -> exp.Expr:
    """1 where all hold, else 0."""
    if not conditions:
        return syntax.integer(1)
    return syntax.case([(syntax.logic(exp.And, conditions), syntax.integer(1))], syntax.integer(0))


def _places(plan: Plan, columns: Columns) -> NDArray[np.int32]:
    """The cell of every row, `NOWHERE` outside of the filter and of the keys' domains."""
    places = np.zeros(len(next(iter(columns.values()))), np.int32)
    outside = np.zeros(len(places), bool)
    for i, key in enumerate(plan.keys):
        codes = codes_of(key, columns[f"k{i}"])
        outside |= codes < 0
        places = places * np.int32(len(key.domain)) + codes
    if _INSIDE in columns:
        outside |= np.ma.getdata(columns[_INSIDE]) != 1
    places[outside] = NOWHERE
    return places


def codes_of(key: Key, column: Any) -> NDArray[np.int32]:
    """The index of each value in the key's domain, the last of which may be null; -1 for none."""
    values, mask = np.ma.getdata(column), np.ma.getmask(column)
    known = len(key.domain) - (key.domain[-1] is None)
    first = key.domain[0]
    if isinstance(first, int) and not isinstance(first, bool) and not isinstance(key.term, q.Cut | q.Case):
        values = values.astype(np.int64) - first
        values = np.where((values >= 0) & (values < known), values, -1)
    codes = values.astype(np.int32)
    if mask is not np.ma.nomask:
        codes[mask] = known if known < len(key.domain) else -1
    return codes

"""One department's rows as they enter a join: identifiers, marks and words, computed in the owner's own database.

The query is built in layers, each a sub-select of the next:

    clean    the columns that are read, as declared, and clipped to their bounds where noise is added
    persons  where the owner declares a view: its columns, one row a person
    terms    the factors of words
    the marks' conditions, keys and bins, and the words, a row each

Nothing of this leaves the department but through `mpc.join`: blinded, as its shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

from .. import bounds, compiler, syntax
from .. import query as q
from ..backend import TABLE
from ..catalog import DataSet, Schema
from ..dialects import Dialect
from ..engine import Engine
from ..members import codes_of, key_code
from ..plan import BRANCHING, Component, Key, Leaves
from ..syntax import SQL
from ..terms import expression
from .declared import Summary
from .split import Local, Mark
from .wide import person_schema

_KEY = "identifier"
_AGGREGATES = {"sum": exp.Sum, "mean": exp.Avg, "min": exp.Min, "max": exp.Max}


class Rows(msgspec.Struct, frozen=True, eq=False):
    """`identifiers` as stored; `nobody`: rows that the filter leaves out; `flags` [rows, marks] and `words` [rows, words] of int64."""

    version: str
    identifiers: Any
    nobody: NDArray[np.bool_]
    flags: NDArray[np.bool_]
    words: NDArray[np.int64]

    def __repr__(self) -> str:
        return "<Rows>"  # even their number is the department's own


def read(engine: Engine, local: Local, *, bounded: bool) -> Rows:
    """The rows of a department's table; `bounded` (for DP) clips values to their bounds."""
    dataset = engine.dataset
    schema = person_schema(dataset.schema(), dataset.join)
    parts = _Parts(local)
    version, columns = engine.read(sql(dataset, parts, schema, engine.backend.dialect, bounded=bounded))
    found = _Columns(parts, columns)
    words = np.zeros((found.rows, len(local.words)), np.int64)
    for number, word in enumerate(local.words):
        values = found.value(word.component)
        if word.grid:
            values = np.rint(values / word.component.bound * word.grid).astype(np.int64)
        words[:, number] = np.where(found.mark(word.mark), values, 0)
    flags = np.zeros((found.rows, len(local.marks)), bool)
    for number, mark in enumerate(local.marks):
        flags[:, number] = found.mark(mark)
    inside = found.mark(Mark(local.where, local.present))
    return Rows(version, columns[_KEY], ~inside, flags, words)


class _Parts:
    """What marks and words are made of, each once."""

    def __init__(self, local: Local):
        marks = [Mark(local.where, local.present), *local.marks, *(word.mark for word in local.words)]
        self.conditions = _each(term for mark in marks for term in mark.conditions)
        self.present = _each(term for mark in marks for term in mark.present)
        self.keys: list[Key] = _each(key for mark in marks for key, _ in mark.keys)
        self.bins: list[Leaves] = _each(mark.bin[0] for mark in marks if mark.bin is not None)
        self.values: list[Component] = _each(word.component for word in local.words)

    def used(self) -> list[str]:
        terms: list[q.Expression] = [*self.conditions, *self.present]
        terms += [key.term for key in self.keys] + [leaves.term for leaves in self.bins]
        for component in self.values:
            terms += [*(factor.term for factor in component.factors), *component.requires]
        return sorted(frozenset().union(*map(bounds.columns, terms)))


def sql(dataset: DataSet, parts: _Parts, schema: Schema, dialect: Dialect, *, bounded: bool) -> exp.Select:
    """Per row the identifier; conditions h0, …, presence p0, …, keys k0, …, bins b0, …, values c0, …"""
    terms = compiler.Terms(schema)
    values = [
        syntax.named(_value(component, terms, schema), f"c{i}") for i, component in enumerate(parts.values)
    ]
    inner = [
        syntax.named(_flag(expression(term, schema)), f"h{i}") for i, term in enumerate(parts.conditions)
    ]
    inner += [
        syntax.named(_flag(syntax.present(expression(term, schema))), f"p{i}")
        for i, term in enumerate(parts.present)
    ]
    inner += [syntax.named(key_code(key, schema, dialect), f"k{i}") for i, key in enumerate(parts.keys)]
    inner += [syntax.named(compiler.bin_of(leaves, schema), f"b{i}") for i, leaves in enumerate(parts.bins)]
    names = [part.alias for part in inner]
    own = syntax.named(syntax.column(schema.unit or ""), _KEY)
    rows = _persons(dataset, parts.used(), bounded).subquery("persons")
    within = exp.select(own, *inner, *terms.selected()).from_(rows).subquery("terms")
    return exp.select(*map(syntax.column, [_KEY, *names]), *values).from_(within)


def _persons(dataset: DataSet, used: Sequence[str], bounded: bool) -> exp.Select:
    """One row a person: the table as declared, or its owner's view."""
    assert dataset.unit is not None
    view = None if dataset.join is None else dataset.join.view
    if view is None:
        return _clean(dataset, used, bounded)
    summaries = {name: view[name] for name in used}
    read = {column for s in summaries.values() for column in (*s.where, *([s.column] if s.column else []))}
    rows = _clean(dataset, sorted(read), bounded).subquery("clean")
    own = syntax.column(dataset.unit)
    made = [syntax.named(_summary(s, dataset.schema()), name) for name, s in summaries.items()]
    return exp.select(own, *made).from_(rows).group_by(own.copy())


def _clean(dataset: DataSet, used: Sequence[str], bounded: bool) -> exp.Select:
    assert dataset.unit is not None
    columns = [syntax.named(compiler.clean(name, dataset.columns[name], bounded), name) for name in used]
    return exp.select(*columns, syntax.column(dataset.unit)).from_(syntax.table(TABLE))


def _summary(summary: Summary, schema: Schema) -> SQL:
    conditions = [
        expression(q.Compare("==", q.Column(name), q.Value(value)), schema)
        for name, value in summary.where.items()
    ]
    if summary.of in ("count", "any"):
        one: SQL = syntax.integer(1)
        if conditions:
            one = syntax.case([(syntax.logic(exp.And, conditions), syntax.integer(1))], None)
        number = syntax.cast(exp.Count(this=one), "BIGINT")
        return (
            number if summary.of == "count" else exp.paren(exp.GT(this=number, expression=syntax.integer(0)))
        )
    value: SQL = syntax.column(summary.column or "")
    whole = schema.columns[summary.column or ""].type == "integer" and summary.of != "mean"
    if not whole:
        value = syntax.cast(value, "DOUBLE")
    if conditions:
        value = syntax.case([(syntax.logic(exp.And, conditions), value)], None)
    total: SQL = _AGGREGATES[summary.of](this=value)
    if summary.of == "sum":
        total = exp.Coalesce(this=total, expressions=[syntax.integer(0)])
    return syntax.cast(total, "BIGINT" if whole else "DOUBLE")


def _value(component: Component, terms: compiler.Terms, schema: Schema) -> SQL:
    """The value of a component on a row, 0 where a term that it requires is null."""
    value = compiler.value_of(component, terms, schema)
    needed = [syntax.present(terms.plain(term)) for term in component.requires]
    if needed:
        value = syntax.case([(syntax.logic(exp.And, needed), value)], None)
    return syntax.cast(exp.Coalesce(this=value, expressions=[syntax.integer(0)]), "BIGINT")


def _flag(condition: SQL) -> SQL:
    return syntax.case([(condition, syntax.integer(1))], syntax.integer(0))


class _Columns:
    """The columns of the result, by what they were asked for."""

    def __init__(self, parts: _Parts, columns: dict[str, Any]):
        self._parts = parts
        self.rows = len(columns[_KEY])
        self._conditions = {t: self._plain(columns[f"h{i}"]) == 1 for i, t in enumerate(parts.conditions)}
        self._present = {t: self._plain(columns[f"p{i}"]) == 1 for i, t in enumerate(parts.present)}
        self._codes = {key: codes_of(key, columns[f"k{i}"]) for i, key in enumerate(parts.keys)}
        self._bins = {leaves: _bins(columns[f"b{i}"]) for i, leaves in enumerate(parts.bins)}
        self._values = {c: self._plain(columns[f"c{i}"]).astype(np.int64) for i, c in enumerate(parts.values)}

    @staticmethod
    def _plain(column: Any) -> NDArray[Any]:
        return np.asarray(np.ma.getdata(column))

    def value(self, component: Component) -> NDArray[np.int64]:
        return self._values[component]

    def mark(self, mark: Mark) -> NDArray[np.bool_]:
        found = np.ones(self.rows, bool)
        for term in mark.conditions:
            found &= self._conditions[term]
        for term in mark.present:
            found &= self._present[term]
        for key, place in mark.keys:
            found &= self._codes[key] == place
        if mark.bin is not None:
            leaves, level, place = mark.bin
            bins = self._bins[leaves]
            found &= (bins >= 0) & (bins // _BRANCHED[level] == place)
        return found


def _each(parts: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(parts))


def _bins(column: Any) -> NDArray[np.int64]:
    """The finest bin of each row, -1 for null."""
    return np.where(np.ma.getmaskarray(column), -1, np.ma.getdata(column)).astype(np.int64)


_BRANCHED = [BRANCHING**level for level in range(8)]  # finest bins in one of each level

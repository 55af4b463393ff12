"""SQL text -> query tree: one SELECT of group keys and aggregates from one table, in a closed subset of DuckDB's dialect.

    SELECT sex, COUNT(*), AVG(illness_days) FROM health_survey WHERE age >= 60 GROUP BY sex

What does not map onto the algebra of `sandbox.query` is refused with `SQLError`: the reason, line and column. The parser works
by permission: a clause, node or argument that is not named here is refused, so that nothing is silently dropped.
Aggregates are built by `sandbox.expressions`, hence have the same default names. Text is only parsed, never executed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from . import query as q
from .errors import QueryError, SQLError
from .expressions import Aggregation, Expression, Then, col, corr, count, cov, when
from .prepared import prepared

MAX_LENGTH = 100_000
_DIALECT = "duckdb"

# Clauses of SELECT that are refused: the word to point at, and why.
_CLAUSES = {
    "with_": ("WITH", "common table expressions are not supported: ask one table directly"),
    "joins": ("JOIN", "joins are not supported: a query reads one table"),
    "laterals": ("LATERAL", "joins are not supported: a query reads one table"),
    "distinct": ("DISTINCT", "DISTINCT is not supported: use GROUP BY"),
    "having": (
        "HAVING",
        "HAVING is not supported: every cell is released or says why not; filter the result",
    ),
    "order": ("ORDER", "ORDER BY is not supported: cells come in declared order; sort the result"),
    "limit": ("LIMIT", "LIMIT is not supported: every cell of the result is released"),
    "offset": ("OFFSET", "OFFSET is not supported: every cell of the result is released"),
    "qualify": ("QUALIFY", "window functions are not supported"),
    "locks": ("FOR", "locks are not supported: nothing is changed"),
    "windows": ("WINDOW", "window functions are not supported"),
}
_AGGREGATES: dict[type[exp.Expr], Callable[[Expression], Aggregation]] = {
    exp.Count: Expression.count,
    exp.Sum: Expression.sum,
    exp.Avg: Expression.mean,
    exp.Variance: Expression.var,
    exp.Stddev: Expression.std,
    exp.StddevSamp: Expression.std,
    exp.Median: Expression.median,
}
_PAIRS: dict[type[exp.Expr], Callable[[Expression, Expression], Aggregation]] = {
    exp.CovarSamp: cov,
    exp.Corr: corr,
}
_BINARY: dict[type[exp.Expr], Callable[[Any, Any], Expression]] = {
    exp.EQ: Expression.__eq__,
    exp.NEQ: Expression.__ne__,
    exp.LT: Expression.__lt__,
    exp.LTE: Expression.__le__,
    exp.GT: Expression.__gt__,
    exp.GTE: Expression.__ge__,
    exp.Add: Expression.__add__,
    exp.Sub: Expression.__sub__,
    exp.Mul: Expression.__mul__,
    exp.Div: Expression.__truediv__,
}
_REFUSED: dict[type[exp.Expr], str] = {
    exp.Star: "SELECT * is not supported: rows never leave; name group keys and aggregates",
    exp.Query: "sub-queries are not supported",
    exp.Exists: "sub-queries are not supported",
    exp.Window: "window functions are not supported",
    exp.Filter: "FILTER is not supported: put the condition into WHERE",
    exp.Distinct: "DISTINCT is not supported",
    exp.Placeholder: "parameters are not supported: write the value",
    exp.Parameter: "parameters are not supported: write the value",
    exp.Min: "MIN and MAX are refused: they would show one unit's value; QUANTILE_CONT near 0 or 1 serves instead",
    exp.Max: "MIN and MAX are refused: they would show one unit's value; QUANTILE_CONT near 0 or 1 serves instead",
    exp.Null: "NULL is no value to compare with: use IS NULL",
    exp.AggFunc: "an aggregate cannot stand here: aggregates are selected as they are, not nested, computed with or filtered by",
}


def parse(text: str) -> q.Query:
    """The query that `text` asks; raises `SQLError` with the reason and position of what is outside the algebra.

    >>> parse("SELECT sex, AVG(age) FROM people GROUP BY sex").keys
    ('sex',)
    """
    if len(text) > MAX_LENGTH:
        raise SQLError(f"the text has {len(text)} characters; allowed are at most {MAX_LENGTH}")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise SQLError("the text holds half a character (a lone surrogate)")
    try:
        return _Parser(text).query()
    except RecursionError:
        raise SQLError(f"nested deeper than {q.MAX_DEPTH} levels") from None


class _Parser:
    """One text; its methods turn sqlglot's nodes into builder objects, or refuse them."""

    def __init__(self, text: str):
        self.text = text
        self.names: frozenset[str] = frozenset()
        try:
            self.tokens = sqlglot.tokenize(text, dialect=_DIALECT)
            self._check_depth()
            self.statements = [part for part in sqlglot.parse(text, dialect=_DIALECT) if part is not None]
        except ParseError as error:
            first = error.errors[0] if error.errors else {}
            column = first["col"] - len(first.get("highlight") or "") + 1 if "col" in first else None
            reason = first.get("description") or "the text cannot be read"
            if reason.startswith("Required keyword"):
                reason = "something is missing here"
            raise SQLError(f"not SQL: {reason.rstrip('.')}", first.get("line"), column) from None
        except TokenError:
            raise SQLError("not SQL: a quoted text or name, or a comment, does not end") from None

    def query(self) -> q.Query:
        if len(self.statements) != 1:
            ends = [token.start for token in self.tokens if token.text == ";"]
            reason = f"one statement is needed, not {len(self.statements)}"
            raise SQLError(reason, *self._place(min(ends, default=0)))
        [select] = self.statements
        if isinstance(select, exp.SetOperation):
            self.refuse(select, "UNION, INTERSECT and EXCEPT are not supported: ask one SELECT", "UNION")
        if not isinstance(select, exp.Select):
            first = self.tokens[0].text.upper()
            self.refuse(select, "only SELECT is answered: nothing can be changed or listed here", first)
        for clause, value in select.args.items():
            if value and clause not in ("expressions", "from_", "where", "group"):
                word, reason = _CLAUSES.get(clause, (clause, f"{clause.strip('_').upper()} is not supported"))
                self.refuse(value[0] if isinstance(value, list) else value, reason, word)
        table = self.table(select)
        derived, keys, named = self.columns(select)
        where = self.term(select.args["where"].this).node if select.args.get("where") else None
        query = q.Query(table, tuple(named), tuple(keys), where, tuple(derived))
        try:
            return msgspec.convert(msgspec.to_builtins(query), prepared(q.Query))
        except msgspec.ValidationError as error:
            raise SQLError(f"a name or value is outside what a query can hold: {error}") from None

    def table(self, select: exp.Select) -> str:
        source = select.args.get("from_")
        if source is None:
            self.refuse(select, "FROM is missing: a query reads one table")
        table = source.this
        if isinstance(table, exp.Subquery):
            self.refuse(table, "sub-queries are not supported: a query reads one table")
        if not isinstance(table, exp.Table) or not isinstance(table.this, exp.Identifier):
            self.refuse(table, "FROM takes the name of one table")
        alias = table.args.get("alias")
        extra = {name for name, value in table.args.items() if value} - {"this", "alias"}
        if extra or (alias is not None and alias.args.get("columns")):
            self.refuse(table, "FROM takes the name of one table, without a schema, sample or columns")
        self.names = frozenset([table.name, table.alias]) - {""}
        return str(table.name)

    def columns(self, select: exp.Select) -> tuple[list[q.Derived], list[str], list[q.Named]]:
        """What SELECT and GROUP BY name: derived columns, keys, aggregates."""
        aggregates: list[q.Named] = []
        plain: dict[int, tuple[exp.Expr, str, Expression]] = {}
        for i, item in enumerate(select.expressions):
            node = item.this.unnest() if isinstance(item, exp.Alias) else item.unnest()
            if node.find(exp.AggFunc, exp.Window) is not None:
                aggregation = self.aggregate(node)
                aggregates.append(q.Named(item.alias or aggregation.name, aggregation.aggregate))
            else:
                name = item.alias or (node.name if isinstance(node, exp.Column) else "")
                plain[i] = (item, name, self.term(node))
        keys = self.keys(select, plain)
        derived = []
        for i, (item, name, term) in plain.items():
            if i not in keys:
                self.refuse(
                    item,
                    f"{name or 'this expression'!r} is neither an aggregate nor in GROUP BY: rows never leave",
                )
            if not name:
                self.refuse(item, "a computed group key needs a name: write AS name")
            if term.node != q.Column(name):
                derived.append(q.Derived(name, term.node))
        if not aggregates:
            self.refuse(select, "an aggregate is needed, such as COUNT(*) or AVG(…): rows never leave")
        return derived, [plain[i][1] for i in keys], aggregates

    def keys(self, select: exp.Select, plain: dict[int, tuple[exp.Expr, str, Expression]]) -> list[int]:
        """Which items of SELECT are grouped by: given by place, name or expression, in the order of GROUP BY."""
        group = select.args.get("group")
        if group is None:
            return []
        if any(value for name, value in group.args.items() if name != "expressions"):
            self.refuse(group, "GROUP BY takes columns, names and places only", "GROUP")
        keys = []
        for item in group.expressions:
            node = item.unnest()
            if isinstance(node, exp.Literal) and not node.is_string:
                places = [i for i in plain if str(i + 1) == node.name]
                wanted = f"place {node.name}"
            else:
                term = self.term(node)
                by_name = isinstance(node, exp.Column) and not node.table
                places = [i for i, (_, name, _) in plain.items() if by_name and name == node.name]
                places = places or [i for i, (_, _, other) in plain.items() if other.node == term.node]
                wanted = repr(node.name) if by_name else "this expression"
            if not places:
                self.refuse(
                    item, f"GROUP BY: {wanted} is no key in SELECT; select it too, since it names the cells"
                )
            keys.append(places[0])
        return keys

    # --- aggregates ---

    def aggregate(self, node: exp.Expr) -> Aggregation:
        kind = type(node)
        if isinstance(node, exp.WithinGroup):
            return self.within_group(node)
        if isinstance(node, exp.Count) and isinstance(node.this, exp.Star):
            self.only(node, "this", "big_int")
            self.only(node.this)
            return count()
        if kind in _AGGREGATES:
            self.only(node, "this", "big_int")
            if node.this is None:
                self.refuse(node, f"{_name(node)} takes a column; to count rows write COUNT(*)")
            return _AGGREGATES[kind](self.term(node.this))
        if kind in _PAIRS:
            self.only(node, "this", "expression")
            return _PAIRS[kind](self.term(node.this), self.term(node.expression))
        if not isinstance(node, exp.PercentileCont) or node.args.get("expression") is None:
            self.refuse(node, _reason(node, "aggregates"))
        self.only(node, "this", "expression")
        return self.quantile(self.term(node.this), node.expression)

    def within_group(self, node: exp.WithinGroup) -> Aggregation:
        """PERCENTILE_CONT(q) WITHIN GROUP (ORDER BY x)."""
        inner, order = node.this, node.expression
        if (
            not isinstance(inner, exp.PercentileCont)
            or not isinstance(order, exp.Order)
            or len(order.expressions) != 1
        ):
            self.refuse(node, "WITHIN GROUP belongs to PERCENTILE_CONT(q), with one column to order by")
        [ordered] = order.expressions
        self.only(inner, "this")
        self.only(order, "expressions")
        self.only(ordered, "this", "nulls_first")
        return self.quantile(self.term(ordered.this), inner.this)

    def quantile(self, term: Expression, node: exp.Expr) -> Aggregation:
        value = self.literal(node)
        if isinstance(value, bool | str):
            self.refuse(node, "a quantile takes a number from 0 to 1")
        try:
            return term.quantile(value)
        except QueryError as error:
            self.refuse(node, str(error))

    # --- values per row ---

    def term(self, node: exp.Expr) -> Expression:
        kind = type(node)
        if kind in _BINARY:
            self.only(node, "this", "expression", "typed", "safe")
            return _BINARY[kind](self.term(node.this), self.term(node.expression))
        match node:
            case exp.Paren():
                return self.term(node.this)
            case exp.Column():
                return self.column(node)
            case exp.And() | exp.Or():
                terms = tuple(self.term(part).node for part in node.flatten())
                return Expression(q.Logic("and" if kind is exp.And else "or", terms))
            case exp.Not():
                return ~self.term(node.this)
            case exp.Is() if isinstance(node.expression, exp.Null):
                return self.term(node.this).is_null()
            case exp.In():
                if node.args.get("query") is not None:
                    self.refuse(node, _REFUSED[exp.Query])
                self.only(node, "this", "expressions")
                if not node.expressions:
                    self.refuse(node, "IN takes a list of values")
                return self.term(node.this).is_in([self.literal(value) for value in node.expressions])
            case exp.Between():
                self.only(node, "this", "low", "high")
                term, low, high = (self.term(node.args[name]) for name in ("this", "low", "high"))
                return (term >= low) & (term <= high)
            case exp.Abs():
                return self.term(node.this).abs()
            case exp.Case():
                return self.case(node)
            case exp.Neg() if not isinstance(node.this, exp.Literal):
                return -self.term(node.this)
        return Expression(q.Value(self.literal(node)))

    def column(self, node: exp.Column) -> Expression:
        self.only(node, "this", "table")
        if not isinstance(node.this, exp.Identifier):
            self.refuse(node, _reason(node.this, "columns"))
        if node.table and node.table not in self.names:
            self.refuse(node, f"{node.table!r} is not the table of this query")
        return col(node.name)

    def case(self, node: exp.Case) -> Expression:
        self.only(node, "this", "ifs", "default")
        branches: Then | None = None
        for branch in node.args["ifs"]:
            condition = self.term(branch.this)
            if node.this is not None:
                condition = self.term(node.this) == condition
            opened = when(condition) if branches is None else branches.when(condition)
            branches = opened.then(self.label(branch.args["true"]))
        default = node.args.get("default")
        if branches is None or default is None:
            self.refuse(node, "CASE needs WHEN … THEN 'label' and ELSE 'label'")
        return branches.otherwise(self.label(default))

    def label(self, node: exp.Expr) -> str:
        if not isinstance(node, exp.Literal) or not node.is_string:
            self.refuse(
                node, "CASE gives labels in quotes; to sum or average a condition write AVG(condition)"
            )
        return str(node.this)

    def literal(self, node: exp.Expr) -> q.Scalar:
        if isinstance(node, exp.Paren):
            return self.literal(node.this)
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        negative = isinstance(node, exp.Neg)
        inner = node.this if negative else node
        if not isinstance(inner, exp.Literal):
            self.refuse(node, _reason(node, "values"))
        if inner.is_string:
            if negative:
                self.refuse(node, "text has no sign")
            return str(inner.this)
        digits = str(inner.this).replace("_", "")
        try:
            value: int | float = float(digits)
        except ValueError:  # 1e
            self.refuse(node, f"{digits!r} is not a number")
        if not math.isfinite(value):
            self.refuse(node, "a number is needed that is not beyond all bounds")
        value = int(digits) if digits.isdecimal() else value
        return -value if negative else value

    # --- refusing ---

    def only(self, node: exp.Expr, *allowed: str) -> None:
        """Refuse whatever else is written inside `node`: DISTINCT, ORDER BY, a third argument …"""
        for name, value in node.args.items():
            if value and name not in allowed:
                parts = value if isinstance(value, list) else [value]
                where = next((part for part in parts if isinstance(part, exp.Expr)), node)
                what = "a further argument" if name == "expressions" else name.strip("_").upper()
                self.refuse(where, f"{_name(node)}: {what} is not supported here")

    def refuse(self, node: exp.Expr, reason: str, word: str | None = None) -> NoReturn:
        """Raise `SQLError` at `word`, the keyword of the clause, else where `node` begins."""
        unquoted = [token for token in self.tokens if self.text[token.start] not in "'\""]
        starts = [token.start for token in unquoted if word and token.text.upper().split()[:1] == [word]]
        starts = starts or self._called(node)
        around: exp.Expr | None = node
        while not starts and around is not None:
            starts = [part.meta["start"] for part in around.walk() if "start" in part.meta]
            around = around.parent
        raise SQLError(reason, *self._place(min(starts, default=0)))

    def _called(self, node: exp.Expr) -> list[int]:
        """Where the name of a function stands that the parser keeps no place for, such as MAX: the last before its arguments."""
        if not isinstance(node, exp.Func) or "start" in node.meta:
            return []
        names = {name.upper() for name in node.sql_names()}
        pairs = itertools.pairwise(self.tokens)
        found = [a.start for a, b in pairs if b.text == "(" and a.text.upper() in names]
        inside = min((part.meta["start"] for part in node.walk() if "start" in part.meta), default=None)
        return found[:1] if inside is None else [start for start in found if start < inside][-1:]

    def _place(self, start: int) -> tuple[int, int]:
        before = self.text[:start]
        return before.count("\n") + 1, start - before.rfind("\n")

    def _check_depth(self) -> None:
        depth = 0
        for token in self.tokens:
            depth += (token.text.upper() in ("(", "CASE", "[")) - (token.text.upper() in (")", "END", "]"))
            if depth > q.MAX_DEPTH:
                raise SQLError(f"nested deeper than {q.MAX_DEPTH} levels", *self._place(token.start))


def _reason(node: exp.Expr, what: str) -> str:
    for kind, reason in _REFUSED.items():
        if isinstance(node, kind):
            # Aggregates that are merely not offered are told so, unlike those in the wrong place.
            if kind is exp.AggFunc and what == "aggregates":
                break
            return reason
    inner = node.find(exp.AggFunc) if what == "aggregates" and not isinstance(node, exp.AggFunc) else None
    if inner is not None:
        return _REFUSED[exp.AggFunc]
    return f"{_name(node)} is not among the {what} that can be asked for"


def _name(node: exp.Expr) -> str:
    if isinstance(node, exp.Anonymous):
        return str(node.name).upper()
    if isinstance(node, exp.Func):
        return node.sql_name()
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).upper()

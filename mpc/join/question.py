"""What a joined statistic asks, as data, and the plan that computes it on shares.

    sum over joined rows of a product of columns, one number a term:

        count                                  the product of nothing: how many rows joined
        count by group (at A and B)            flag of A's group, flag of B's group
        sum by group                           flag of the group, word
        cross-products, for least squares      word of A, word of B

What touches one department's columns (filters, group indicators, products, squares) it computes before sharing;
rows that fail its filter it passes as nulls. Only products over several departments and comparisons between them
(`Less`) cost protocol: one inner product for all terms of two factors, one more level for each factor beyond.

Protects: C learns the terms' sums, plus noise where departments add it, and sizes. Does not protect: what those
sums tell, which is for disclosure control. A sum that could leave int64 by its declared bounds is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
import numpy as np

from mpc import bits
from mpc.engine import Plan, SecretArray, concatenate
from mpc.engine.plan import Holder, Type
from mpc.errors import OutOfRange, Overflow

MOST_COLUMNS = 8192
MOST_VALUES = 1 << 26  # of all columns, a row of the probe each


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """What a department brings: booleans, and integers with a bound on each magnitude.

    `unique`: every identifier has one row. If not, rows are added up by identifier, all columns must be words,
    their bounds are those of the added rows, and each term takes exactly one of them.
    """

    flags: int
    bounds: tuple[int, ...]
    unique: bool = True


class Column(msgspec.Struct, frozen=True, array_like=True, tag="column"):
    department: str
    kind: Literal["flag", "word"]
    number: int


class Less(msgspec.Struct, frozen=True, array_like=True, tag="less"):
    """1 where left < right, else 0: a predicate over two departments' columns."""

    left: Column
    right: Column


Factor = Column | Less
Term = tuple[Factor, ...]
Product = tuple[Factor | str, ...]  # a table's name stands for its match


class Question(msgspec.Struct, frozen=True, array_like=True):
    """`probe` is B, `tables` the others; the first of them deals. `scales`: each sum is multiplied by its own, before any noise."""

    probe: str
    tables: tuple[str, ...]
    columns: dict[str, Columns]
    terms: tuple[Term, ...]
    noise: bool = False
    scales: tuple[int, ...] = ()

    @property
    def dealer(self) -> str:
        return self.tables[0]

    def check(self, capacities: Mapping[str, int]) -> None:
        """Refuses what cannot be computed exactly."""
        names = (self.probe, *self.tables)
        if not self.tables or len(set(names)) != len(names) or set(self.columns) != set(names):
            raise OutOfRange("tables", "must be one or more, distinct, each with its columns")
        if not self.terms:
            raise OutOfRange("terms", "must be one or more")
        for columns in self.columns.values():
            if not 0 <= columns.flags <= MOST_COLUMNS or len(columns.bounds) > MOST_COLUMNS:
                raise OutOfRange("columns", f"must be at most {MOST_COLUMNS} of a kind")
            if any(not 0 <= bound < 2**62 for bound in columns.bounds):
                raise OutOfRange("bounds", "must be 0 ... 2^62 - 1")
            if columns.flags and not columns.unique:
                raise OutOfRange("flags", "of a table with repeated keys are counts: declare them as words")
        width = sum(columns.flags + len(columns.bounds) for columns in self.columns.values())
        if width * capacities.get(self.probe, 1) > MOST_VALUES:
            raise OutOfRange(
                "columns",
                f"are {width} with {capacities[self.probe]} rows; together they may have {MOST_VALUES} values: use fewer or coarser groups",
            )
        if self.scales and (len(self.scales) != len(self.terms) or min(self.scales) < 1):
            raise OutOfRange("scales", "must be one for each term, each 1 or more")
        for term, scale in zip(self.terms, self.scales or (1,) * len(self.terms), strict=True):
            self._check_term(term, scale * min(capacities.values()))

    def _check_term(self, term: Term, rows: int) -> None:
        bound, uses = rows, dict.fromkeys(self.columns, 0)
        for factor in term:
            compared = isinstance(factor, Less)
            for column in columns_of(factor):
                if not 0 <= column.number < self._count(column):
                    raise OutOfRange("term", "names a column that no department brings")
                if compared and not self.columns[column.department].unique:
                    raise OutOfRange("comparison", "needs departments with unique keys")
                if not compared:
                    uses[column.department] += 1
                    bound *= self._bound(column)
        if bound >= 2**63:
            raise Overflow(
                "term", "could exceed 2^63 by the declared bounds and rows: use coarser units or limbs"
            )
        if any(used != 1 for name, used in uses.items() if not self.columns[name].unique):
            raise OutOfRange("term", "must take exactly one column of each department with repeated keys")

    def _count(self, column: Column) -> int:
        declared = self.columns.get(column.department)
        if declared is None:
            return 0
        return declared.flags if column.kind == "flag" else len(declared.bounds)

    def _bound(self, column: Column) -> int:
        return 1 if column.kind == "flag" else self.columns[column.department].bounds[column.number]


def columns_of(factor: Factor) -> tuple[Column, ...]:
    return (factor.left, factor.right) if isinstance(factor, Less) else (factor,)


def plan_for(question: Question, capacities: Mapping[str, int]) -> Plan:
    """The plan over the padded sizes, the same at every party."""
    question.check(capacities)
    return _Planner(question, capacities).plan


class _Planner:
    def __init__(self, question: Question, capacities: Mapping[str, int]) -> None:
        self._question, self._rows = question, capacities[question.probe]
        self.plan = Plan()
        self._matches: dict[str, SecretArray] = {}
        self._columns: dict[str, SecretArray] = {}
        self._flags: dict[str, SecretArray] = {}
        self._whole: dict[str, SecretArray] = {}  # flags as integers
        self._products: dict[Product, SecretArray] = {}
        mine = question.columns[question.probe]
        node = self.plan.input("probe", "int", (mine.flags + len(mine.bounds), self._rows), "B")
        self._columns[question.probe] = SecretArray(self.plan, node)
        for table in question.tables:
            self._join(table)
        self.plan.output("sums", self._sums().node)

    def _join(self, table: str) -> None:
        """Match bits and selected columns, from the shares of three candidates a row."""
        columns, rows = self._question.columns[table], self._rows
        tokens = self.plan.input(f"tokens of {table}", "bit", (3 * rows, 64), "shares")
        equal = self._node("words are zero", [tokens], Type("bit", (3 * rows,)))
        self._matches[table] = self._folded(equal, 1).reshape(rows)
        if columns.flags:
            planes = []
            for number in range(bits.words_for(columns.flags)):
                packed = self.plan.input(f"flags {number} of {table}", "bit", (3 * rows, 64), "shares")
                count = min(64, columns.flags - 64 * number)
                planes.append(self._node("planes of words", [packed], Type("bit", (count, 3 * rows))))
            flags = planes[0] if len(planes) == 1 else concatenate(planes)
            chosen = self._node("and each", [equal.node, flags.node], flags.type)
            self._flags[table] = self._folded(chosen, columns.flags)
        if columns.bounds:
            words = self.plan.input(f"words of {table}", "int", (len(columns.bounds), 3 * rows), "shares")
            selected = equal * SecretArray(self.plan, words)
            self._columns[table] = selected.reshape(len(columns.bounds), 3, rows).sum(axis=1)

    def _folded(self, array: SecretArray, count: int) -> SecretArray:
        """At most one of three candidates matches: exclusive or is which."""
        rows = self._rows
        shaped = array.reshape(count, 3, rows)
        return self._node("xor rows", [shaped.node], Type("bit", (count, rows)), [1])

    def _node(
        self, operation: str, inputs: list[int], type: Type, parameters: list[int] | None = None
    ) -> SecretArray:
        return SecretArray(self.plan, self.plan.add(operation, inputs, type, parameters or []))

    def _sums(self) -> SecretArray:
        products = [self._factors(term) for term in self._question.terms]
        single = _numbered(p for p in products if len(p) == 1)
        left = _numbered(p[:-1] for p in products if len(p) > 1)
        right = _numbered(p[-1:] for p in products if len(p) > 1)
        found = [self._matrix(list(single)).sum(axis=1)] if single else []
        if left:
            found.append(self._matrix(list(left)).inner(self._matrix(list(right))).reshape(-1))
        sums = found[0] if len(found) == 1 else concatenate(found)
        places = [
            single[p] if len(p) == 1 else len(single) + left[p[:-1]] * len(right) + right[p[-1:]]
            for p in products
        ]
        total = sums.take(places)
        if self._question.scales:
            total = total * np.array(self._question.scales)
        if self._question.noise:
            for name in (self._question.probe, *self._question.tables):
                holder: Holder = "B" if name == self._question.probe else "shares"
                node = self.plan.input(f"noise of {name}", "int", total.shape, holder)
                total = total + SecretArray(self.plan, node)
        return total

    def _factors(self, term: Term) -> Product:
        """What is multiplied: the term's factors, and the match of each table that none of its columns implies.

        A selected column is zero where there is no match. Tables first, the probe's columns last.
        """
        named = {factor.department for factor in term if isinstance(factor, Column)}
        matches: list[Factor | str] = [table for table in self._question.tables if table not in named]
        probe = self._question.probe
        ordered = sorted(term, key=lambda f: isinstance(f, Column) and f.department == probe)
        return (*matches, *ordered)

    def _matrix(self, products: list[Product]) -> SecretArray:
        """Products as rows. Consecutive columns of one department are one slice."""
        rows: list[SecretArray] = []
        start = 0
        while start < len(products):
            stop = start + 1
            while stop < len(products) and _follows(products[stop - 1], products[stop]):
                stop += 1
            first = products[start][0]
            if stop - start > 1 and isinstance(first, Column):
                columns, place = self._place(first)
                rows.append(columns[place : place + stop - start])
            else:
                rows.append(self._product(products[start]).reshape(1, self._rows))
            start = stop
        return rows[0] if len(rows) == 1 else concatenate(rows)

    def _place(self, column: Column) -> tuple[SecretArray, int]:
        """The matrix that a column is a row of, and which."""
        name = column.department
        if name == self._question.probe:
            before = self._question.columns[name].flags if column.kind == "word" else 0
            return self._columns[name], before + column.number
        if column.kind == "word":
            return self._columns[name], column.number
        if name not in self._whole:
            self._whole[name] = self._flags[name].integers()
        return self._whole[name], column.number

    def _product(self, factors: Product) -> SecretArray:
        """A product of vectors, multiplied in halves so that depth grows with the logarithm."""
        if factors not in self._products:
            if len(factors) == 1:
                self._products[factors] = self._vector(factors[0])
            else:
                middle = len(factors) // 2
                self._products[factors] = self._product(factors[:middle]) * self._product(factors[middle:])
        return self._products[factors]

    def _vector(self, factor: Factor | str) -> SecretArray:
        if isinstance(factor, str):
            return self._matches[factor].integers()
        if isinstance(factor, Less):
            return (self._product((factor.left,)) < self._product((factor.right,))).integers()
        columns, place = self._place(factor)
        return columns[place]


def _numbered(parts: Iterable[Product]) -> dict[Product, int]:
    """Each once, numbered in order."""
    return {part: number for number, part in enumerate(dict.fromkeys(parts))}


def _follows(one: Product, other: Product) -> bool:
    """Whether two single columns stand one after the other in their department's matrix."""
    if len(one) != 1 or len(other) != 1:
        return False
    a, b = one[0], other[0]
    if not isinstance(a, Column) or not isinstance(b, Column):
        return False
    return (a.department, a.kind, a.number + 1) == (b.department, b.kind, b.number)

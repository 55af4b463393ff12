"""Features and target of a fit -> columns of a numeric matrix, and the rows of an `Engine` in it. The columns follow from the schema alone.

A number or boolean is one column within its bounds; a category one column of 0 and 1 for each declared level but the first, the reference
(all of them where `reference` is kept, as trees and naive Bayes want). Under `missing = "indicator"` a feature with nulls has a column more, 1
where it is null, and there the middle of its bounds or no level. Under "keep" nulls are NaN.

Rows are read by one SQL query over the declared columns, with the filter and the nulls decided in the database, and kept for as long as the
data's version stands: learners come back for them every round. They never leave the department.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlglot import exp

from . import bounds, compiler, syntax
from . import fit as f
from . import query as q
from .backend import TABLE
from .catalog import DataSet, Schema
from .engine import Engine
from .errors import CatalogError, ParameterError, QueryError
from .terms import expression, number

Floats = NDArray[np.float64]
KEPT_BYTES = 4 << 30


class Column(msgspec.Struct, frozen=True):
    """One column of the matrix, within [low, high]. `feature` is the index of the feature it is made of.

    A level of a category has its index in `level`; `indicator` says where the feature is null.
    """

    name: str
    feature: int
    low: float
    high: float
    level: int | None = None
    indicator: bool = False


class Target(msgspec.Struct, frozen=True):
    """The target within [low, high]; of a classifier the index of its class in `classes`. `two`: it has two values."""

    name: str
    low: float
    high: float
    classes: tuple[q.Scalar, ...] = ()
    two: bool = False


class Watched(msgspec.Struct, frozen=True):
    """A category inside of a condition, or the condition that is a factor of a number: rows of each of its levels are counted, since
    coefficients tell of them. `target`: the target has it."""

    name: str
    term: q.Expression
    levels: tuple[q.Scalar, ...]
    target: bool = False


class Design(msgspec.Struct, frozen=True):
    """The matrix of a fit. `levels[i]` are the declared levels of feature i, () for a number; `whole[i]` says that it is an integer;
    `two[i]` that it has two values; `reference`: whether the first level has no column."""

    fit: f.Fit
    columns: tuple[Column, ...]
    levels: tuple[tuple[str, ...], ...]
    nullable: tuple[bool, ...]
    whole: tuple[bool, ...]
    two: tuple[bool, ...]
    target: Target | None
    reference: bool
    watched: tuple[Watched, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def low(self) -> Floats:
        return np.array([column.low for column in self.columns])

    @property
    def high(self) -> Floats:
        return np.array([column.high for column in self.columns])


class Rows:
    """A department's rows of a design. `matrix` [rows, columns] is column-major; `target` [rows]; `watched` counts rows of each watched level.
    `kept` holds what a learner worked out of them and would work out again, such as bins."""

    __slots__ = ("kept", "matrix", "target", "watched")

    def __init__(self, matrix: Floats, target: Floats | None = None, watched: tuple[int, ...] = ()):
        self.matrix, self.target, self.watched = matrix, target, watched
        self.kept: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.matrix)

    def __repr__(self) -> str:
        return "<Rows>"  # even their number is the department's own


def design(fit: f.Fit, schema: Schema) -> Design:
    """The columns of `fit`; raises `QueryError` or `ParameterError` where it cannot run on `schema`."""
    f.check(fit, schema)
    reference = not isinstance(fit.estimator, (*f.BOOSTING, f.GaussianNB))
    columns: list[Column] = []
    levels: list[tuple[str, ...]] = []
    nullable: list[bool] = []
    whole: list[bool] = []
    for i, feature in enumerate(fit.features):
        typed = bounds.infer(feature.term, schema)
        nullable.append(typed.nullable)
        whole.append(typed.kind in ("integer", "boolean"))
        levels.append(typed.domain or ())
        if typed.domain is not None:
            if len(typed.domain) < 2:
                raise QueryError(f"feature {feature.name!r} has one declared level; at least 2 are needed")
            for code, level in enumerate(typed.domain):
                if code or not reference:
                    columns.append(Column(f"{feature.name}[{level}]", i, 0.0, 1.0, level=code))
        else:
            number = bounds.numeric(feature.term, schema, f"feature {feature.name!r}")
            columns.append(Column(feature.name, i, number.low, number.high))
        if fit.missing == "indicator" and typed.nullable:
            columns.append(Column(f"{feature.name}[null]", i, 0.0, 1.0, indicator=True))
    if len(columns) > f.MAX_COLUMNS:
        raise QueryError(f"the features make {len(columns)} columns; allowed are at most {f.MAX_COLUMNS}")
    _check_shape(fit.estimator, columns)
    two = tuple(f.two_valued(feature.term, schema) for feature in fit.features)
    return Design(
        fit,
        tuple(columns),
        tuple(levels),
        tuple(nullable),
        tuple(whole),
        two,
        _target(fit, schema),
        reference,
        _watched(fit, schema),
    )


class Reader:
    """Reads the rows of designs from engines, each once a version of the data; keeps the latest, up to `KEPT_BYTES`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, bytes, str, bool], Rows] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, source: Engine, wanted: Design, *, bounded: bool) -> Rows:
        """The rows; `bounded` (for DP) clips values to their bounds and limits each unit's rows. Raises `CatalogError` if the data change
        meanwhile."""
        key = (source.name, wanted.fit.digest(), source.version(), bounded)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        version, found = read(source, wanted, bounded=bounded)
        with self._lock:
            self._kept[key[0], key[1], version, bounded] = found
            while len(self._kept) > 1 and sum(r.matrix.nbytes for r in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return found


def read(source: Engine, wanted: Design, *, bounded: bool) -> tuple[str, Rows]:
    """The version of the data, and its rows."""
    query = sql(wanted, source.dataset.schema(), TABLE, bounded=bounded)
    version, columns = source.read(query)
    return version, _rows(wanted, columns)


def own(frame: Any, wanted: Design, schema: Schema) -> tuple[Floats, NDArray[np.bool_]]:
    """All rows of a frame of one's own [rows, columns], in its order, whatever filter and target the fit had; and which of them the model
    can score: a row is NaN where a feature is null, but for those that may be under "indicator" and "keep".

    Only the columns that the features are made of are read. Raises `CatalogError` where one lacks, or does not keep its declaration.
    """
    fit = wanted.fit
    used = sorted(frozenset().union(*(bounds.columns(feature.term) for feature in fit.features)))
    if absent := [name for name in used if name not in frame.columns]:
        raise CatalogError(f"the frame lacks the columns {absent}; the model reads {used}")
    if not len(frame):
        return np.empty((0, len(wanted.columns))), np.zeros(0, np.bool_)
    columns = {name: msgspec.structs.replace(schema.columns[name], nullable=True) for name in used}
    whole = [name for name in used if columns[name].type in ("integer", "boolean")]
    rows = frame[used].assign(**{name: frame[name].convert_dtypes() for name in whole})  # despite nulls
    source = Engine(fit.table, DataSet("general-1", (), columns, max_rows=len(frame)), rows)
    alone = msgspec.structs.replace(fit, target=None, where=None, missing="keep")
    plain = msgspec.structs.replace(wanted, fit=alone, target=None, watched=())
    matrix = read(source, plain, bounded=False)[1].matrix
    known = np.array([fit.missing != "drop" and wanted.nullable[column.feature] for column in wanted.columns])
    complete: NDArray[np.bool_] = np.asarray(~np.isnan(matrix[:, ~known]).any(axis=1))
    if fit.missing == "indicator":
        for j in np.flatnonzero(known):
            column = wanted.columns[j]
            middle = 0.0 if column.level is not None else column.low / 2 + column.high / 2
            matrix[np.isnan(matrix[:, j]), j] = middle
    matrix[~complete] = np.nan
    return matrix, complete


def sql(wanted: Design, schema: Schema, table: str, *, bounded: bool) -> exp.Select:
    """Per row that takes part: f0, f1, … a double, or the index of a level; y the target, or the index of its class."""
    fit = wanted.fit
    conditions = f.required(fit, schema)
    terms = [
        *conditions,
        *(category.term for category in wanted.watched),
        *(feature.term for feature in fit.features),
        *((fit.target.term,) if fit.target else ()),
    ]
    used = sorted(frozenset().union(*map(bounds.columns, terms)))
    clean = [
        exp.alias_(compiler.clean(name, schema.columns[name], bounded), name, quoted=True) for name in used
    ]
    if schema.unit is not None and bounded:
        clean.append(syntax.column(schema.unit))
    rows = exp.select(*clean).from_(syntax.table(table)).subquery("clean")
    where = [expression(condition, schema) for condition in conditions]
    if schema.unit is not None and bounded:
        rows = compiler.kept(rows, where, used, schema.unit).subquery("kept")
        where = [exp.LTE(this=syntax.column(compiler.ROW), expression=syntax.integer(schema.rows_per_unit))]
    selected = [
        exp.alias_(_value(feature.term, wanted.levels[i], schema), f"f{i}", quoted=True)
        for i, feature in enumerate(fit.features)
    ]
    if fit.target is not None and wanted.target is not None:
        value = _value(fit.target.term, wanted.target.classes, schema)
        selected.append(exp.alias_(value, "y", quoted=True))
    for i, category in enumerate(wanted.watched):
        selected.append(exp.alias_(_value(category.term, category.levels, schema), f"w{i}", quoted=True))
    query = exp.select(*selected).from_(rows)
    return query.where(*where, copy=False) if where else query


def _value(term: q.Expression, levels: tuple[q.Scalar, ...], schema: Schema) -> exp.Expr:
    """A double; of a text the index of its level."""
    if not levels or not isinstance(levels[0], str):
        return syntax.cast(number(term, schema), "DOUBLE")
    text = expression(term, schema)
    cases = [
        (exp.EQ(this=text.copy(), expression=syntax.literal(level)), syntax.integer(code))
        for code, level in enumerate(levels)
    ]
    return syntax.cast(syntax.case(cases, None), "DOUBLE")


def _rows(wanted: Design, columns: dict[str, Any]) -> Rows:
    size = len(columns["f0"])
    matrix = np.empty((size, len(wanted.columns)), order="F")
    for j, column in enumerate(wanted.columns):
        values = columns[f"f{column.feature}"]
        null, values = np.ma.getmaskarray(values), np.ma.getdata(values)
        if column.indicator:
            matrix[:, j] = null
        elif column.level is not None:
            matrix[:, j] = values == column.level
            matrix[null, j] = np.nan if wanted.fit.missing == "keep" else 0.0
        else:
            matrix[:, j] = values
            matrix[null, j] = np.nan if wanted.fit.missing == "keep" else column.low / 2 + column.high / 2
    watched: list[int] = []
    for i, category in enumerate(wanted.watched):
        codes = columns[f"w{i}"]
        present = np.ma.getdata(codes)[~np.ma.getmaskarray(codes)].astype(np.int64)  # no and yes: 0 and 1
        watched += np.bincount(present, minlength=len(category.levels)).tolist()
    if wanted.target is None:
        return Rows(matrix, None, tuple(watched))
    target = np.array(np.ma.getdata(columns["y"]), dtype=np.float64)
    classes = wanted.target.classes
    if classes and not isinstance(classes[0], str):  # whole numbers: the first class is the lowest
        target -= float(classes[0])
    return Rows(matrix, target, tuple(watched))


def _check_shape(estimator: f.Estimator, columns: Sequence[Column]) -> None:
    size = len(columns)
    match estimator:
        case f.PCA(n_components) if n_components is not None and n_components > size:
            raise QueryError(f"'n_components' is {n_components}; {size} columns allow at most {size}")
        case f.KMeans(init=init):
            for center in init or ():
                if len(center) != size:
                    raise QueryError(f"'init': each centre needs {size} coordinates, one a column")
                for value, column in zip(center, columns, strict=True):
                    if not column.low <= value <= column.high:
                        raise ParameterError(
                            f"'init' has {value:g} for {column.name!r}; allowed are {column.low:g} to {column.high:g}"
                        )


def _watched(fit: f.Fit, schema: Schema) -> tuple[Watched, ...]:
    """The categories that conditions of features and target are made of, and the conditions that multiply numbers."""
    found: dict[q.Expression, Watched] = {}
    for derived in (*((fit.target,) if fit.target else ()), *fit.features):
        own = derived is fit.target
        if (condition := f.chosen(derived.term, schema)) is not None:
            found.setdefault(condition, Watched(derived.name, condition, (False, True), own))
        for node in q.walk(derived.term):
            if isinstance(node, q.Column | q.Cut | q.Case) and node != derived.term:
                typed = bounds.infer(node, schema)
                if typed.domain is not None:
                    name = node.name if isinstance(node, q.Column) else derived.name
                    found.setdefault(node, Watched(name, node, typed.domain, own))
    return tuple(found.values())


def _target(fit: f.Fit, schema: Schema) -> Target | None:
    if fit.target is None:
        return None
    if isinstance(fit.estimator, f.CLASSIFIERS):
        found = f.classes(fit.target.term, schema)
        return Target(fit.target.name, 0.0, float(len(found) - 1), found)
    number = bounds.numeric(fit.target.term, schema, "'target'")
    return Target(fit.target.name, number.low, number.high, two=f.two_valued(fit.target.term, schema))

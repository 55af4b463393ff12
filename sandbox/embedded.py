"""A frame, or a Parquet or CSV file beside the catalogue, in an embedded DuckDB.

It reads the one declared source and nothing else: no network, no other file, no extension. Parquet is read in place; frames and CSV are
held in memory, compressed, so that sums by a category take a half of the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import re
import threading
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING

import duckdb
from sqlglot import exp

from .backend import TABLE, Columns, Stored, check_columns, check_names
from .catalog import DataSet
from .declaration import ALLOWED, Storage
from .dialects import Dialect, text
from .errors import CatalogError, InternalError
from .syntax import column

if TYPE_CHECKING:
    import pandas

_INTEGERS = frozenset(
    sign + size for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
_UNTYPED = ('"NULL"', "DOUBLE")  # what pandas gives a column without values, whatever was meant
_MEMORY = "compressed"
State = tuple[str, int, int] | None


class Embedded:
    """The data set `name`. `source` is a frame, copied; else `dataset.source` is a file in `directory`."""

    dialect: Dialect = "duckdb"
    ordered = True

    def __init__(
        self,
        name: str,
        dataset: DataSet,
        source: pandas.DataFrame | None = None,
        directory: str | pathlib.Path = ".",
    ):
        check_names(name, dataset)
        assert isinstance(dataset.source, str)
        self.name, self.dataset = name, dataset
        self._path = None if source is not None else pathlib.Path(directory) / dataset.source
        self._lock = threading.Lock()
        self._now = Opened(self, self._connect(source), self.stat())

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Opened]:
        """The frame, or the file as it is now: one that has changed is opened anew."""
        with self._lock:
            state = self.stat()
            if state != self._now.state:
                self._now = Opened(self, self._connect(None), state)
            opened = self._now
        yield opened

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The database that holds the present version."""
        return self._now.connection

    def stat(self) -> State:
        """Name, size and time of the file; None for a frame."""
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError:
            return (self._path.name, -1, -1)
        return (str(self.dataset.source), stat.st_size, stat.st_mtime_ns)

    def _connect(self, frame: pandas.DataFrame | None) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(
            config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        )
        try:
            connection.execute(f"ATTACH ':memory:' AS {_MEMORY} (COMPRESS)")
            if frame is not None:
                connection.register("frame", frame.copy())  # in order: DuckDB reads no reversed views
                self._load(connection, "frame")
                connection.unregister("frame")
            elif self._path is None or not self._path.is_file():
                raise CatalogError(
                    f"data set {self.name!r}: 'source' {self.dataset.source!r} is not a file beside the catalogue"
                )
            elif self._path.suffix == ".parquet":
                self._view(connection, self._path)
            elif self._path.suffix == ".csv":
                self._read_csv(connection, self._path)
            else:
                raise CatalogError(f"data set {self.name!r}: 'source' must end in .parquet or .csv")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
        except duckdb.Error as error:
            kind = type(error).__name__
            raise CatalogError(f"data set {self.name!r}: its source cannot be read ({kind})") from None
        return connection

    def _load(self, connection: duckdb.DuckDBPyConnection, relation: str) -> None:
        check_columns(self.name, self.dataset, stored(connection, relation, self.dataset))
        _hold(connection, exp.select(*map(column, self.dataset.columns)).from_(relation))

    def _view(self, connection: duckdb.DuckDBPyConnection, path: pathlib.Path) -> None:
        """DuckDB opens the file behind its pattern, so it is allowed both."""
        pattern = self._pattern(path)
        texts = [exp.Literal.string(text).sql("duckdb") for text in (str(path.resolve()), pattern)]
        connection.execute(f"SET allowed_paths = [{', '.join(texts)}]")
        connection.execute(
            f'CREATE VIEW "{TABLE}" AS SELECT * FROM read_parquet({texts[1]}, hive_partitioning = false)'
        )

    def _read_csv(self, connection: duckdb.DuckDBPyConnection, path: pathlib.Path) -> None:
        """Read every field as text, then cast by what is declared: no guess from a sample turns '01' into 1."""
        rows = connection.read_csv(
            self._pattern(path), header=True, all_varchar=True, hive_partitioning=False
        )
        rows.create_view("csv")
        found = {row[0] for row in connection.execute('DESCRIBE "csv"').fetchall()}
        fields, broken = [], []
        for name, declared in self.dataset.columns.items():
            if name not in found:
                raise CatalogError(
                    f"data set {self.name!r}, column {name!r}: declared, but the data have no such column"
                )
            field = column(name)
            kind = {"integer": "DOUBLE", "real": "DOUBLE", "boolean": "BOOLEAN"}.get(declared.type, "VARCHAR")
            value = exp.TryCast(this=field, to=exp.DataType.build(kind))
            fields.append(exp.alias_(value, name, quoted=True))
            lost = exp.and_(field.copy().is_(exp.Null()).not_(), value.copy().is_(exp.Null()))
            broken.append(exp.func("BOOL_OR", lost))
        [flags] = connection.execute(exp.select(*broken).from_("csv").sql("duckdb")).fetchall()
        for (name, declared), flag in zip(self.dataset.columns.items(), flags, strict=True):
            if flag:
                raise CatalogError(
                    f"data set {self.name!r}, column {name!r}: fields that cannot be read as {declared.type} occur"
                )
        _hold(connection, exp.select(*fields).from_("csv"))
        connection.execute("DROP VIEW csv")

    def _pattern(self, path: pathlib.Path) -> str:
        """What means this file and no other to DuckDB, which takes every name for a pattern."""
        if "\\" in str(path.resolve()):
            raise CatalogError(f"data set {self.name!r}: the path of its source must not hold a backslash")
        return re.sub(r"[*?[]", r"[\g<0>]", str(path.resolve()))


class Opened:
    """One version of the data in a database of its own."""

    def __init__(self, backend: Embedded, connection: duckdb.DuckDBPyConnection, state: State):
        self.connection = connection
        self._backend, self._state = backend, state
        self._lock = threading.Lock()
        self._digest: str | None = None

    @property
    def state(self) -> Hashable:
        return self._state

    def version(self) -> str:
        """Of a file's name, size and time, or of a frame's content."""
        with self._lock:
            if self._digest is None:
                self._digest = (
                    hashlib.sha256(repr(self._state).encode()).hexdigest() if self._state else self._content()
                )
            return self._digest

    def columns(self) -> Mapping[str, Stored]:
        return stored(self.connection.cursor(), TABLE, self._backend.dataset)

    def run(self, query: exp.Select, *, raw: bool = False) -> Columns:
        """What the database says of an error may hold values, so only its class goes on."""
        cursor = self.connection.cursor()
        try:
            return cursor.execute(text(query, "duckdb")).fetchnumpy()
        except duckdb.Error as error:
            raise InternalError(
                f"the local database could not run a compiled query ({type(error).__name__})"
            ) from None
        finally:
            cursor.close()

    def settled(self) -> bool:
        return self._backend.stat() == self._state

    def _content(self) -> str:
        """A digest of a frame's declared columns, row by row."""
        import pandas

        frame = self.connection.cursor().table(TABLE).df()
        digest = hashlib.sha256(repr([(name, str(kind)) for name, kind in frame.dtypes.items()]).encode())
        digest.update(pandas.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
        return digest.hexdigest()


def stored(cursor: duckdb.DuckDBPyConnection, relation: str, dataset: DataSet) -> dict[str, Stored]:
    """How each column is stored. A column without values is stored as is declared."""
    kinds = dict(row[:2] for row in cursor.execute(f'DESCRIBE "{relation}"').fetchall())
    found = {}
    for name, declared in dataset.columns.items():
        if name not in kinds:
            continue
        kind = kinds[name]
        storage, allowed = _storage(kind), ALLOWED[declared.type]
        if storage not in allowed and kind in _UNTYPED and _empty(cursor, relation, name):
            storage = allowed[0]
        found[name] = Stored(storage, kind.partition("(")[0])  # in brackets can be data: ENUM('…'), STRUCT(…)
    return found


def _storage(kind: str) -> Storage:
    if kind in _INTEGERS:
        return "integer"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        return "fractional"
    if kind == "BOOLEAN":
        return "boolean"
    return "text" if kind == "VARCHAR" or kind.startswith("ENUM") else "other"


def _empty(cursor: duckdb.DuckDBPyConnection, relation: str, name: str) -> bool:
    """Whether a column holds nothing but nulls."""
    [[count]] = cursor.execute(
        exp.select(exp.Count(this=column(name))).from_(relation).sql("duckdb")
    ).fetchall()
    return bool(count == 0)


def _hold(connection: duckdb.DuckDBPyConnection, query: exp.Select) -> None:
    """Keep rows in memory. They are compressed by the checkpoint, and found by the view from any cursor."""
    connection.execute(f'CREATE TABLE {_MEMORY}.main."{TABLE}" AS {query.sql("duckdb")}')
    connection.execute(f"CHECKPOINT {_MEMORY}")
    connection.execute(f'CREATE VIEW "{TABLE}" AS SELECT * FROM {_MEMORY}.main."{TABLE}"')

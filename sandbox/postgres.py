"""A table or view in the owner's own PostgreSQL, read through ADBC. Compiled selects run there, and only their results come to the node.

Results are sums. Where exact releases are compared the node asks for the cell and the digest of each row too, and where a model is fitted for its
features: such rows stay in the node's memory, within the department.

Every request is one transaction that may only read, and that sees one state of the database: REPEATABLE READ. Its settings are its own:
no search path, UTC, a time limit. It costs five round trips.

A version is a digest of all declared values, whatever the order of rows: one scan, about 1 s for a million rows of five columns. It is
kept for as long as no transaction has changed the database, and where the table is an ordinary one, for as long as its row
versions (ctid, xmin) are the same: a scan of 0.06 s for a million rows.

Protects: the owner's server, from any statement that writes; and what errors would tell of values, host, user and password. Does not
protect against the server's own owner. The digest tells versions apart, but does not bind an owner who wants two to look alike.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from sqlglot import exp

from .backend import TABLE, Columns, Stored, check_columns, check_names
from .catalog import DataSet, Postgres
from .dialects import Dialect, row_digest, text
from .errors import CatalogError, InternalError, ParameterError, QueryError
from .postgres_types import DESCRIBE, Type, array, relation
from .syntax import named, table

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection

_IDLE = 4  # connections that are kept for the next request
_KEPT = 8  # digests
_COLUMNS = 1500  # of sums in one result; PostgreSQL gives 1664 at most
_WAIT = 10  # seconds for a connection, or for a lock
_BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_SETTINGS = {
    "search_path": "pg_catalog, pg_temp",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "lock_timeout": f"{_WAIT}s",
}
_STATE = """
SELECT concat_ws(' ', pg_postmaster_start_time(), c.oid, c.relfilenode) AS place, pg_current_snapshot()::text AS snapshot,
       c.relkind = 'r' AND a.amname = 'heap' AND NOT c.relhassubclass AS plain, c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AS stable
FROM pg_class c LEFT JOIN pg_am a ON a.oid = c.relam WHERE c.oid = to_regclass({table})
"""
_ROWS = "SELECT concat_ws(' ', count(*), sum(hashtidextended(ctid, xmin::text::bigint))) AS rows FROM {table}"


class PostgreSQL:
    """The data set `name`, in the table that `dataset.source` names."""

    dialect: Dialect = "postgres"
    ordered = False

    def __init__(self, name: str, dataset: DataSet):
        check_names(name, dataset)
        assert isinstance(dataset.source, Postgres)
        self.name, self.dataset, self.source = name, dataset, dataset.source
        self._driver = _driver()
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._digests: OrderedDict[str, str] = OrderedDict()
        weakref.finalize(self, _close, self._idle)

    def __repr__(self) -> str:
        return f"<PostgreSQL table {self.source.table!r}>"

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Transaction]:
        """A transaction of its own."""
        connection = self._begun()
        ended = False
        try:
            yield Transaction(self, connection)
            self.execute(connection, "COMMIT")
            ended = True
        finally:
            self._give_back(connection, ended)

    # --- connections ---

    def _begun(self) -> Connection:
        """A connection in a new transaction; one that was kept may have been ended by the server."""
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            if kept is None:
                break
            try:
                self._begin(kept)
                return kept
            except CatalogError:
                self._give_back(kept, False)
                self.forget()
        connection = self._connect()
        try:
            self._begin(connection)
        except BaseException:
            self._give_back(connection, False)
            raise
        return connection

    def _begin(self, connection: Connection) -> None:
        settings = {**_SETTINGS, "statement_timeout": f"{self.source.timeout}s"}
        calls = ", ".join(
            f"set_config('{name}', '{value}', true) AS {name}" for name, value in settings.items()
        )
        self.execute(connection, _BEGIN)
        self.fetch(connection, f"SELECT {calls}")

    def _connect(self) -> Connection:
        try:
            return self._driver.connect(_conninfo(self.name, self.source), autocommit=True)
        except self._driver.Error as error:
            raise CatalogError(
                f"data set {self.name!r}: its PostgreSQL cannot be reached ({_kind(error)})"
            ) from None

    def _give_back(self, connection: Connection, ended: bool) -> None:
        with self._lock:
            if ended and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        _close([connection])

    # --- statements ---

    def execute(self, connection: Connection, statement: str) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        except self._driver.Error as error:
            raise self._failed(error) from None

    def fetch(self, connection: Connection, statement: str) -> Columns:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                found = cursor.fetch_arrow_table()
        except self._driver.Error as error:
            raise self._failed(error) from None
        return {name: array(found.column(i)) for i, name in enumerate(found.column_names)}

    def _failed(self, error: Exception) -> Exception:
        """What PostgreSQL says of an error may hold values, so only its class goes on, and its code."""
        at, code = f"data set {self.name!r}", getattr(error, "sqlstate", None) or ""
        if code == "42501":
            return CatalogError(f"{at}: its role may not read {self.source.table!r}")
        if code == "57014":
            return CatalogError(f"{at}: a statement took more than 'timeout', {self.source.timeout} s")
        if not code or code[:2] in ("08", "40", "53", "55", "57"):  # gone, crowded, locked, shut down
            return CatalogError(f"{at}: its PostgreSQL did not answer ({_kind(error)})")
        if code == "54011":
            return QueryError(f"{at}: PostgreSQL gives no more than 1664 columns at once")
        return InternalError(f"PostgreSQL could not run a compiled query ({_kind(error)})")

    # --- digests ---

    def known(self, state: str) -> str | None:
        with self._lock:
            return self._digests.get(state)

    def keep(self, digest: str, *states: str) -> None:
        with self._lock:
            self._digests.update(dict.fromkeys(states, digest))
            while len(self._digests) > _KEPT:
                self._digests.popitem(last=False)

    def forget(self) -> None:
        """After a server that went down: transactions that it lost may have left their numbers to others."""
        with self._lock:
            self._digests.clear()


class Transaction:
    """One state of the table."""

    def __init__(self, backend: PostgreSQL, connection: Connection):
        self._backend, self._connection = backend, connection
        schema, name = (exp.to_identifier(part, quoted=True) for part in backend.source.path)
        self._table = exp.Table(this=name, db=schema)
        self._relations: dict[bool, str] = {}
        self._version: str | None = None
        self._describe()

    @property
    def state(self) -> Hashable:
        return self.version()

    def version(self) -> str:
        """A digest of names, types and all declared values, whatever the order of rows."""
        if self._version is None:
            self._version = self._known() or self._computed()
        return self._version

    def columns(self) -> Mapping[str, Stored]:
        return {name: Stored(stored.storage, stored.type) for name, stored in self._types.items()}

    def run(self, query: exp.Select, *, raw: bool = False) -> Columns:
        """Sums that are more than a result of PostgreSQL may have columns are asked for in parts, whose groups stand in one order."""
        found: Columns = {}
        for part in _parts(query):
            found |= self._fetch(f"{self._with(raw)} {text(part, 'postgres')}")
        return found

    def settled(self) -> bool:
        return True

    def _fetch(self, statement: str) -> Columns:
        return self._backend.fetch(self._connection, statement)

    def _with(self, raw: bool) -> str:
        """`WITH data AS (…)`, which the planner reads as if the table itself were named."""
        if raw not in self._relations:
            select = relation(self._table, self._backend.dataset, self._types, raw)
            self._relations[raw] = f'WITH "{TABLE}" AS ({text(select, "postgres")})'
        return self._relations[raw]

    def _describe(self) -> None:
        """What the table is, and how its columns are stored; raises `CatalogError` where that is not as declared."""
        backend = self._backend
        name = exp.Literal.string(self._table.sql("postgres")).sql("postgres")
        state = self._fetch(_STATE.format(table=name))
        if not len(state["place"]):
            raise CatalogError(
                f"data set {backend.name!r}: there is no table {backend.source.table!r}, or its role does not see it"
            )
        [place], [snapshot], [plain], [stable] = (values.tolist() for values in state.values())
        listed = self._fetch(DESCRIBE.format(table=name))
        rows = zip(*(values.tolist() for values in listed.values()), strict=True)
        types = {stored.name: stored for stored in (Type(*row) for row in rows)}
        self._types = {name: types[name] for name in sorted(backend.dataset.columns) if name in types}
        check_columns(backend.name, backend.dataset, self.columns())
        unit = backend.dataset.unit
        if unit is not None and not types[unit].comparable:
            raise CatalogError(
                f"data set {backend.name!r}, column {unit!r}: units stored as {types[unit].type} cannot be told apart"
            )
        columns = " ".join(f"{name}:{stored.type}:{stored.number}" for name, stored in self._types.items())
        self._place, self._snapshot = f"{place} {columns}", snapshot
        self._stable = stable
        self._plain = plain and stable and not any(stored.virtual for stored in self._types.values())

    # --- version ---

    def _known(self) -> str | None:
        """The digest that was found in this state of the database, or of the table's row versions."""
        self._states: list[str] = []
        if not self._stable:
            return None  # the rows of a view, or of an unlogged table, can change without a transaction of this database
        self._states.append(f"{self._place} at {self._snapshot}")
        found = self._backend.known(self._states[0])
        if found is None and self._plain:
            [rows] = self._fetch(_ROWS.format(table=self._table.sql("postgres")))["rows"]
            self._states.append(f"{self._place} of {rows}")
            found = self._backend.known(self._states[1])
            if found is not None:
                self._backend.keep(found, *self._states)
        return found

    def _computed(self) -> str:
        """From the sums of both halves of each row's digest."""
        digests = exp.select(named(row_digest(self._backend.dataset.schema()), "digest")).from_(table(TABLE))
        sums = (
            f"sum(('x' || substr(digest, {start}, 16))::bit(64)::bigint)::text AS from_{start}"
            for start in (1, 17)
        )
        found = self._fetch(
            f"{self._with(raw=True)}, digests AS ({text(digests, 'postgres')}) "
            f"SELECT count(*)::text AS n, {', '.join(sums)} FROM digests"
        )
        types = [(name, stored.type) for name, stored in self._types.items()]
        content = msgspec.json.encode((types, [values.tolist() for values in found.values()]))
        digest = hashlib.sha256(content).hexdigest()
        self._backend.keep(digest, *self._states)
        return digest


def _parts(query: exp.Select) -> list[exp.Select]:
    group = query.args.get("group")
    names = group.expressions if group else []
    columns = query.expressions[len(names) :]
    if len(columns) <= _COLUMNS or query.expressions[-1].find(exp.AggFunc) is None:
        return [query]
    parts = []
    for start in range(0, len(columns), _COLUMNS):
        part = query.copy()
        part.set("expressions", part.expressions[: len(names)])
        part = part.select(*columns[start : start + _COLUMNS], copy=False)
        parts.append(part.order_by(*(name.copy() for name in names), copy=False) if names else part)
    return parts


def _conninfo(name: str, source: Postgres) -> str:
    """A connection string of libpq."""
    if source.uri_env:
        if not os.environ.get(source.uri_env):
            raise CatalogError(
                f"data set {name!r}: 'uri_env' of its source names {source.uri_env!r}, which is not set"
            )
        return os.environ[source.uri_env]
    given = {
        "service": source.service,
        "host": source.host,
        "port": str(source.port or ""),
        "dbname": source.dbname,
        "user": source.user,
        "connect_timeout": str(_WAIT),
        "application_name": "joint-sandbox",
    }
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in given.items() if value}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items())


def _driver() -> Any:
    try:
        import adbc_driver_postgresql.dbapi as driver
        import pyarrow  # noqa: F401, which the driver's results are
    except ImportError:
        raise ParameterError(
            "data in PostgreSQL need the extra 'postgres': pip install 'joint-sandbox[postgres]'"
        ) from None
    return driver


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        with contextlib.suppress(Exception):
            connection.close()


def _kind(error: Exception) -> str:
    code = getattr(error, "sqlstate", None)
    return f"{type(error).__name__}, SQLSTATE {code}" if code else type(error).__name__

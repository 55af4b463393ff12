"""`sandbox node check`: everything that keeps a node from working, and what to mend. It may be run while the node runs.

It changes nothing but an empty state directory. The state is tested as a start would: a copy of it is opened, which is deleted at the end.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import os
import pathlib
import shutil
import sqlite3
import ssl
import stat
import tempfile
from collections.abc import Callable

import httpx
import msgspec
from sqlglot import exp

from sandbox import roster as rosters
from sandbox.audit import AuditLog
from sandbox.catalog import DataSet, Postgres
from sandbox.catalog import load as load_catalog
from sandbox.checkpoint import origin
from sandbox.engine import Engine
from sandbox.errors import CatalogError, EvidenceError, KeyUnusable, SandboxError
from sandbox.judge import policies
from sandbox.keys import SigningKey, fingerprint
from sandbox.roster import Roster
from sandbox.scoring.declared import Declared
from sandbox.scoring.declared import read as read_models
from sandbox.state import State

from . import authority
from .config import NodeConfig

SKEW = 60.0  # seconds
SOON = datetime.timedelta(days=30)
STORES = ("ledger.db", "cohorts.db", "approvals.db")


class Check(msgspec.Struct, frozen=True):
    """One thing that was tested; `detail` says what was found, or what to mend."""

    name: str
    ok: bool
    detail: str


def run(directory: pathlib.Path) -> tuple[Check, ...]:
    """All checks of the node in a directory."""
    try:
        config = NodeConfig.load(directory / "node.toml")
    except SandboxError as error:
        return (Check("configuration", False, str(error)),)
    checks: list[tuple[str, Callable[[NodeConfig], str]]] = [
        ("roster", _roster),
        ("key", _key),
        ("link key", _link_key),
        ("authority", _authority),
        ("catalogue", _catalog),
        ("policy", _policy),
        ("state", _state),
        ("coordinator", _coordinator),
        ("link", _link),
    ]
    found = [Check("configuration", True, str(directory / "node.toml"))]
    found += [_tried(name, lambda check=check: check(config)) for name, check in checks]  # type: ignore[misc]
    found += _data(config)
    return tuple(found)


def _tried(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except SandboxError as error:
        return Check(name, False, str(error))
    except OSError as error:
        return Check(name, False, f"{error.filename or 'a file'}: {error.strerror or type(error).__name__}")
    except sqlite3.Error as error:
        return Check(name, False, f"a store of the state cannot be read ({type(error).__name__})")


def _roster(config: NodeConfig) -> str:
    roster = rosters.load(config.roster)
    owners = _owners(roster, config.department)
    nodes = len(roster.of("node"))
    if nodes < config.parties:
        raise CatalogError(f"'parties' is {config.parties}, and the roster has {nodes} nodes")
    return f"{nodes} departments, {owners} owners here; fingerprint {roster.fingerprint()}"


def _owners(roster: Roster, department: str) -> int:
    """How many people may approve for a department."""
    organisation = roster.entry(department, "node").organisation
    return sum(entry.organisation == organisation for entry in roster.of("owner"))


def _key(config: NodeConfig) -> str:
    key = SigningKey.load(config.key)
    expected = rosters.load(config.roster).public(config.department, "node")
    if key.public != expected:
        raise KeyUnusable(
            f"{str(config.key)!r} is {fingerprint(key.public)}; the roster has {fingerprint(expected)}"
        )
    return fingerprint(key.public)


def _link_key(config: NodeConfig) -> str:
    from ..worker import link_key

    link_key(config.link_key)
    return f"{config.link_key.name}, for the coordinator's links/{config.department}.pub"


def _authority(config: NodeConfig) -> str:
    left = authority.expires(config.authority) - datetime.datetime.now(datetime.UTC)
    if left < SOON:
        raise CatalogError(f"the federation's authority ends in {left.days} days: ask for its successor")
    return f"valid for {left.days} days"


def _catalog(config: NodeConfig) -> str:
    catalog = load_catalog(config.catalog)
    if catalog.department != config.department:
        raise CatalogError(f"it is of {catalog.department!r}, and 'department' is {config.department!r}")
    models = f", {len(catalog.models)} models" if catalog.models else ""
    return f"{len(catalog.datasets)} data sets{models}"


def _policy(config: NodeConfig) -> str:
    catalog = load_catalog(config.catalog)
    made = policies(catalog)
    with contextlib.suppress(EvidenceError):  # a roster that is not valid is told above
        owners = _owners(rosters.load(config.roster), config.department)
        for name, policy in made.items():
            if policy.approvers > owners:
                raise CatalogError(
                    f"{name}: {policy.approvers} owners must approve each contract, and the roster has {owners} here"
                )
    return ", ".join(
        f"{name}: {catalog.datasets[name].level}, {made[name].approvers} approvers" for name in made
    )


def _state(config: NodeConfig) -> str:
    place = config.state
    if not (place / "audit" / "entries.log").exists():
        left = [name for name in STORES if (place / name).exists()]
        if left:
            raise EvidenceError(f"{str(place)!r} has no audit log, and {', '.join(left)}: put the log back")
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(place.stat().st_mode)
    if mode & 0o077:
        raise KeyUnusable(f"{str(place)!r} has mode {mode:04o}, so others can read it: chmod 700")
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        raise CatalogError(f"{str(place)!r} cannot be written")
    if not (place / "audit" / "entries.log").exists():
        return "new"
    roster = rosters.load(config.roster)
    public = roster.public(config.department, "node")
    with AuditLog(place / "audit", origin(roster.federation, config.department), public=public) as log:
        log.verify()
        length = len(log)
    try:
        catalog, key = load_catalog(config.catalog), SigningKey.load(config.key)
        made = policies(catalog)
    except SandboxError:
        return f"audit log of {length} entries verifies; not compared with the ledger, for what is told above"
    with tempfile.TemporaryDirectory(prefix=".check-", dir=place) as copy:
        _copy(place, pathlib.Path(copy))
        State(copy, catalog, made, roster, key).close()
    return f"audit log of {length} entries verifies; ledger, cohorts and approvals fit it"


def _copy(state: pathlib.Path, to: pathlib.Path) -> None:
    """A copy of a state that may be in use: a node writes stores, log, head in this order, so they are read the other way round."""
    (to / "audit").mkdir()
    for name in ("head", "entries.log"):
        shutil.copy(state / "audit" / name, to / "audit" / name)
    for name in STORES:
        if (state / name).exists():
            with (
                contextlib.closing(sqlite3.connect(f"{(state / name).as_uri()}?mode=ro", uri=True)) as source,
                contextlib.closing(sqlite3.connect(to / name)) as target,
            ):
                source.backup(target)
    if (state / "version.key").exists():
        shutil.copy(state / "version.key", to / "version.key")


def _coordinator(config: NodeConfig) -> str:
    authority.read_certificate(config.authority)
    trust = ssl.create_default_context(cafile=str(config.authority))
    try:
        answer = httpx.get(f"{config.url.rstrip('/')}/health", verify=trust, trust_env=False, timeout=10)
        answer.raise_for_status()
        told = email.utils.parsedate_to_datetime(answer.headers.get("date", ""))
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, TypeError) as error:
        raise EvidenceError(
            f"{config.url} does not answer ({type(error).__name__}): is it started, is the firewall open for outbound calls, "
            "and is the certificate of this federation's authority?"
        ) from None
    skew = abs((datetime.datetime.now(datetime.UTC) - told).total_seconds())
    if skew > SKEW:
        raise EvidenceError(
            f"this clock differs by {skew:.0f} s from the coordinator's; allowed are {SKEW:.0f}: use NTP"
        )
    return f"{config.url} answers, clocks within {skew:.0f} s"


def _link(config: NodeConfig) -> str:
    """Activate and say goodbye; where the node runs, it is active already, and that is refused another way than an unknown key."""
    from ..flower.fleet import Fleet, LinkDown, LinkRefused
    from ..worker import link_key

    authority.read_certificate(config.authority)
    fleet = Fleet(config.url, config.authority.read_bytes(), link_key(config.link_key))
    try:
        fleet.activate()
        fleet.goodbye()
    except LinkDown as error:
        raise EvidenceError(f"not tried: {config.url} does not answer ({error})") from None
    except LinkRefused as error:
        if error.status in (401, 403):
            raise KeyUnusable(
                f"the coordinator does not know the key in {str(config.link_key)!r}: "
                f"compare its links/{config.department}.pub; it reads them when it starts"
            ) from None
        return "the coordinator knows its key; a node runs under it"
    finally:
        fleet.close()
    return "the coordinator knows its key"


def _data(config: NodeConfig) -> list[Check]:
    try:
        catalog = load_catalog(config.catalog)
    except SandboxError:
        return []  # told above
    return [
        _tried(f"data {name}", lambda name=name, dataset=dataset: _dataset(name, dataset, config))  # type: ignore[misc]
        for name, dataset in catalog.datasets.items()
    ] + [
        _tried(f"model {name}", lambda name=name, declared=declared: _model(name, declared, config))  # type: ignore[misc]
        for name, declared in catalog.models.items()
    ]


def _model(name: str, declared: Declared, config: NodeConfig) -> str:
    from ..scoring.server import planned

    plan = planned(name, declared, read_models({name: declared}, config.catalog.parent)[name])
    return (
        f"{len(declared.bounds)} features, scores to {plan.errors.total:.1g}, {declared.rows:,} rows in all"
    )


def _dataset(name: str, dataset: DataSet, config: NodeConfig) -> str:
    from ..joining import spelling

    engine = Engine(name, dataset, directory=config.catalog.parent)
    spelling.check(engine)
    found = "reachable, and within what is declared"
    if isinstance(dataset.source, Postgres) and _may_write(engine, dataset.source):
        found += "; its role may also write there: give it one that may only read"
    return found


def _may_write(engine: Engine, source: Postgres) -> bool:
    """Whether the role with which a node reads a table could change it."""
    schema, table = (exp.to_identifier(part, quoted=True) for part in source.path)
    arguments = [exp.Table(this=table, db=schema).sql("postgres"), "INSERT, UPDATE, DELETE, TRUNCATE"]
    asked = exp.Anonymous(this="has_table_privilege", expressions=[exp.Literal.string(a) for a in arguments])
    with engine.backend.snapshot() as snapshot:
        return bool(snapshot.run(exp.select(exp.alias_(asked, "writes")))["writes"][0])

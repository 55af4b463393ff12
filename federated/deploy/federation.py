"""A new federation in one directory: a roster, a private authority, and a bundle of files for each party.

    authority/            ca.crt, ca.key: keep it off every server
    coordinator/          coordinator.toml and what it names
    nodes/<department>/   node.toml, a catalogue to fill in
    owners/<department>/  the owners' keys
    analysts/<name>/      city.toml
    witnesses/<name>/     the key of who co-signs logs

Each bundle goes to its party, and then leaves this place: whoever makes a federation like this has seen every key. Departments that make
their own keys join by invitation (`invitation`). The directory is written whole or not at all, and never over another.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping

import msgspec

from mpc.secagg import Setting
from sandbox.errors import CatalogError, ParameterError
from sandbox.keys import SigningKey, sync_directory
from sandbox.roster import Member, Roster, check_name, member

from ..broker import NAME
from . import authority
from .config import host_and_port

OWNERS = 2
_PERSON = re.compile(r"[A-Za-z0-9_\u4e00-\u9fff][A-Za-z0-9_.\u4e00-\u9fff-]{0,62}\Z")
_DEPARTMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
SAMPLE = """# What this department offers. The node reads it when it starts; `sandbox node check` says what does not fit.
department = "{department}"

[datasets.survey]
description = "one row per person"
level = "general-3"            # core, important, general-4 … general-1: exact or DP, cell sizes, rounding, approvers
purposes = ["public-health"]   # a request names one of these, or is denied
source = "survey.parquet"      # Parquet or CSV beside this file; or a table that a role of its own may read, and not write:
# source = {{ kind = "postgresql", table = "survey.people", service = "health" }}
unit = "person"                # whose holder is protected; without it, each row is a unit of its own
rows_per_unit = 1              # more rows of one unit are refused
max_rows = 1_000_000           # more rows are refused
budget = {{ epsilon = 4.0, delta = 1e-6 }}   # for all DP releases together, for ever

# All departments declare a joint table's columns, unit and limits alike. Bounds and categories come from here, never from the data.
[datasets.survey.columns]
person = {{ type = "identifier" }}
sex = {{ type = "category", categories = ["female", "male"] }}
age = {{ type = "integer", bounds = [0, 120], description = "years" }}   # values outside are refused,
income = {{ type = "real", bounds = [0, 100_000], clip = true, nullable = true }}   # or, with clip, moved to the nearest bound
insured = {{ type = "boolean" }}

# An owner may be stricter than the level, never laxer:
# [datasets.survey.policy]
# kinds = ["dp"]
# approvers = 2
# releases_per_analyst = 50
"""


class _Wanted(msgspec.Struct, frozen=True):
    """What `init` was asked for, checked."""

    name: str
    departments: tuple[str, ...]
    analysts: tuple[str, ...]
    witnesses: tuple[str, ...]
    organisations: dict[str, str]
    url: str
    address: str
    setting: Setting
    metrics: tuple[int, ...]
    passphrase: str | None


def init(
    directory: pathlib.Path,
    name: str,
    departments: tuple[str, ...],
    analysts: tuple[str, ...],
    url: str,
    *,
    witnesses: tuple[str, ...] = (),
    organisations: Mapping[str, str] | None = None,
    address: str | None = None,
    setting: Setting = "honest-but-curious",
    metrics: tuple[int, ...] = (),
    passphrase: str | None = None,
) -> Roster:
    """Make a federation whose coordinator is reached at `url`; its roster.

    `organisations`: what a department, an analyst or a witness belongs to; by default a department's and a witness's is its own name, an
    analyst's that of the federation. `address`: what the coordinator listens on, by default every interface at the URL's port. `metrics`:
    loopback ports, one for the coordinator and one a department. `passphrase` encrypts analysts', owners' and witnesses' keys; processes'
    keys must open by themselves.
    """
    host, port = host_and_port(url)
    _check_names(name, departments, analysts, witnesses)
    belongs = {party: party for party in (*departments, *witnesses)} | dict.fromkeys(analysts, name)
    _check_organisations(belongs, organisations or {}, departments)
    if metrics and len(metrics) != len(departments) + 1:
        raise ParameterError(
            f"'metrics' has {len(metrics)} ports; needed are {len(departments) + 1}, or none"
        )
    everywhere = f"[::]:{port}" if ":" in host else f"0.0.0.0:{port}"
    wanted = _Wanted(
        name,
        departments,
        analysts,
        witnesses,
        belongs | dict(organisations or {}),
        url,
        address or everywhere,
        setting,
        metrics,
        passphrase,
    )
    with whole(directory) as work:
        return _write(work, wanted)


@contextlib.contextmanager
def whole(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A directory to write in, mode 0700, which becomes `directory` at the end of the block, or leaves nothing. Never over another."""
    if directory.exists():
        raise CatalogError(f"{str(directory)!r} exists; a new directory is needed")
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = directory.with_name(f".{directory.name}.{secrets.token_hex(6)}")
    work.mkdir(mode=0o700)
    try:
        yield work
        work.rename(directory)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    sync_directory(directory.parent)


def _write(work: pathlib.Path, wanted: _Wanted) -> Roster:
    name, url, setting, passphrase = wanted.name, wanted.url, wanted.setting, wanted.passphrase
    belongs = wanted.organisations
    ca, coordinator = _new(work / "authority"), _new(work / "coordinator")
    links = _new(coordinator / "links")
    authority.new_authority(ca, name)
    host, _ = host_and_port(url)
    authority.new_certificate(
        ca, coordinator, (host,) if host not in ("127.0.0.1", "localhost") else ("127.0.0.1", "localhost")
    )
    members = [_key(coordinator / "coordinator.key", NAME, "coordinator", "coordinator")]
    places = [coordinator]
    ports = [f'metrics = "127.0.0.1:{port}"\n' for port in wanted.metrics]
    ports = ports or [""] * (len(wanted.departments) + 1)
    (coordinator / "coordinator.toml").write_text(
        f'federation = "{name}"\naddress = "{wanted.address}"\nurl = "{url}"\nsetting = "{setting}"\n{ports[0]}'
    )
    for department, port in zip(wanted.departments, ports[1:], strict=True):
        node, owners = _new(work / "nodes" / department), _new(work / "owners" / department)
        places += [node, owners]
        members.append(_key(node / "node.key", department, "node", belongs[department]))
        (links / f"{department}.pub").write_bytes(authority.new_link_key(node / "link.key"))
        write_node(node, department, url, setting, min(3, len(wanted.departments)), port)
        for owner in owners_of(department):
            key = owners / f"{owner}.key"
            members.append(_key(key, owner, "owner", belongs[department], passphrase))
    for analyst in wanted.analysts:
        place = _new(work / "analysts" / analyst)
        places.append(place)
        members.append(_key(place / "analyst.key", analyst, "analyst", belongs[analyst], passphrase))
        write_analyst(place, name, analyst, url, setting)
    for witness in wanted.witnesses:
        place = _new(work / "witnesses" / witness)
        places.append(place)
        members.append(_key(place / "witness.key", witness, "witness", belongs[witness], passphrase))
    roster = Roster(name, tuple(members))
    for place in (work, *places):
        (place / "roster.toml").write_text(roster.dumps())
        (place / "ca.crt").write_bytes((ca / "ca.crt").read_bytes())
    return roster


def write_node(
    place: pathlib.Path, department: str, url: str, setting: Setting, parties: int, more: str = ""
) -> None:
    """node.toml, and a catalogue to fill in."""
    (place / "node.toml").write_text(
        f'department = "{department}"\nurl = "{url}"\nparties = {parties}\nsetting = "{setting}"\n{more}'
    )
    (place / "catalog.toml").write_text(SAMPLE.format(department=department))


def write_analyst(place: pathlib.Path, federation: str, analyst: str, url: str, setting: Setting) -> None:
    """city.toml."""
    (place / "city.toml").write_text(
        f'federation = "{federation}"\nurl = "{url}"\nanalyst = "{analyst}"\nsetting = "{setting}"\n'
    )


def check_department(name: str) -> None:
    """Departments' names stand in catalogues, paths and receipts; raises `ParameterError`."""
    if not _DEPARTMENT.match(name):
        raise ParameterError(
            f"department {name!r}: allowed are 1 to 63 letters, digits or _, not beginning with a digit"
        )


def check_person(name: str) -> None:
    """People's names, and the federation's, stand in the names of files; raises `ParameterError`."""
    if not _PERSON.match(name):
        raise ParameterError(
            f"name {name!r}: allowed are 1 to 63 letters, digits, '_', '.' and '-', not beginning with '.' or '-'"
        )


def owners_of(department: str) -> list[str]:
    """The names of a department's first owners."""
    return [f"{department}-owner-{number}" for number in range(1, OWNERS + 1)]


def _check_names(
    name: str, departments: tuple[str, ...], analysts: tuple[str, ...], witnesses: tuple[str, ...]
) -> None:
    check_name("federation", name)
    for department in departments:
        check_department(department)
    for person in (name, *analysts, *witnesses):
        check_person(person)
    if len(departments) < 2:
        raise ParameterError(
            f"{len(departments)} departments; allowed are 2 or more (3 for exact joint values)"
        )
    if not analysts:
        raise ParameterError("'analyst': at least one is needed")
    owners = [owner for department in dict.fromkeys(departments) for owner in owners_of(department)]
    names = [NAME, *departments, *analysts, *witnesses, *owners]
    doubled = sorted({n for n in names if names.count(n) > 1})
    if doubled:
        raise ParameterError(f"{', '.join(doubled)}: each party needs a name of its own")


def _check_organisations(
    parties: Mapping[str, str], given: Mapping[str, str], departments: tuple[str, ...]
) -> None:
    unknown = sorted(given.keys() - parties.keys())
    if unknown:
        raise ParameterError(f"'organisations' names {', '.join(unknown)}; allowed are {', '.join(parties)}")
    theirs = [given.get(department, department) for department in departments]
    doubled = sorted({o for o in theirs if theirs.count(o) > 1})
    if doubled:
        raise ParameterError(
            f"{', '.join(doubled)}: an organisation has one node, since its owners decide there"
        )


def _new(place: pathlib.Path) -> pathlib.Path:
    place.mkdir(mode=0o700, parents=True)
    return place


def _key(
    path: pathlib.Path, name: str, role: str, organisation: str, passphrase: str | None = None
) -> Member:
    key = SigningKey.generate()
    key.save(path, passphrase)
    return member(name, role, organisation, key.public)  # type: ignore[arg-type]

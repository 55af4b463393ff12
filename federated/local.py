"""A whole federation in this process: real nodes behind a `LocalGrid`, for the demo, for mock data, and for tests.

Each party has keys of its own, each node its state directory, as on machines of their own; only the network is a function call.
"""

from __future__ import annotations

import pathlib
import tempfile
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from mpc.secagg import Floors, Setting
from sandbox import query as q
from sandbox.catalog import Catalog
from sandbox.checkpoint import origin
from sandbox.engine import Engine
from sandbox.gate import Gate
from sandbox.judge import policies
from sandbox.keys import SigningKey
from sandbox.owner import Owner
from sandbox.roster import Roster, member
from sandbox.state import State
from sandbox.witness import Witness

from . import mock
from .broker import NAME, Broker
from .desk import Desk
from .network import LocalGrid, Network
from .node import Node
from .session import City

if TYPE_CHECKING:
    import pandas as pd

    from mpc.he.models import Model

OWNERS = 2
WITNESS = "regulator"


class Parties(msgspec.Struct, frozen=True):
    """Everybody in a federation, with their keys: of nodes and owners by department, of analyst, coordinator and witness."""

    roster: Roster
    nodes: dict[str, SigningKey]
    owners: dict[str, dict[str, SigningKey]]
    analyst: SigningKey
    coordinator: SigningKey
    witness: SigningKey


def parties(departments: tuple[str, ...], analyst: str = "analyst", federation: str = "city") -> Parties:
    """Fresh keys for a federation: a node and two owners a department, an analyst, a coordinator, and a regulator as witness."""
    nodes = {name: SigningKey.generate() for name in departments}
    owners = {
        name: {f"{name}-owner-{i}": SigningKey.generate() for i in range(1, OWNERS + 1)}
        for name in departments
    }
    asker, coordinator, witness = (SigningKey.generate() for _ in range(3))
    members = [member(NAME, "coordinator", "data centre", coordinator.public)]
    members += [member(name, "node", name, key.public) for name, key in nodes.items()]
    members += [
        member(owner, "owner", name, key.public) for name, own in owners.items() for owner, key in own.items()
    ]
    members.append(member(analyst, "analyst", "city statistics", asker.public))
    members.append(member(WITNESS, "witness", "regulator", witness.public))
    return Parties(Roster(federation, tuple(members)), nodes, owners, asker, coordinator, witness)


class Federation(msgspec.Struct, frozen=True):
    """What runs here: the broker, each department's gate, and everybody's keys. `directory` holds each department's state."""

    broker: Broker
    gates: dict[str, Gate]
    parties: Parties
    directory: pathlib.Path
    analyst: str

    def city(self) -> City:
        """The analyst's session."""
        return City(Desk(self.broker, here=True), self.parties.analyst, self.analyst, mock=mock_city)

    def owner(self, department: str, name: str) -> Owner:
        """The desk of one of a department's owners, as in `parties.owners`."""
        key = self.parties.owners[department][name]
        return Owner(
            self.directory / department, self.gates[department].catalog, self.parties.roster, name, key
        )

    def witness(self, path: str | pathlib.Path) -> Witness:
        """The regulator, who co-signs the heads of the departments' logs and keeps what was seen at `path`."""
        name = self.parties.roster.federation
        logs = {origin(name, department): key.public for department, key in self.parties.nodes.items()}
        return Witness(path, self.parties.witness, origin(name, WITNESS), logs)


def open_federation(
    catalogs: Mapping[str, Catalog],
    frames: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    setting: Setting = "honest-but-curious",
    analyst: str = "analyst",
    directory: str | pathlib.Path | None = None,
    everybody: Parties | None = None,
    models: Mapping[str, Mapping[str, Model]] | None = None,
) -> Federation:
    """Departments given by their catalogues and, per department, a frame for each data set, and the models that it publishes.

    Fresh identities are made for each party, unless given. `directory` keeps each department's state; without it, the state is forgotten
    with the broker. With two departments, whose owners then accept a roster of two, only DP releases run.
    """
    everybody = everybody or parties(tuple(catalogs), analyst)
    temporary = None
    if directory is None:
        temporary = tempfile.TemporaryDirectory(prefix="joint-sandbox-", ignore_cleanup_errors=True)
    place = pathlib.Path(temporary.name if temporary else str(directory))
    floors = Floors(parties=min(3, max(2, len(catalogs))), setting=setting)
    gates, nodes = {}, []
    for name, catalog in catalogs.items():
        engines = {
            dataset: Engine(dataset, spec, frames[name][dataset])
            for dataset, spec in catalog.datasets.items()
        }
        key = everybody.nodes[name]
        state = State(place / name, catalog, policies(catalog), everybody.roster, key)
        gates[name] = Gate(catalog, engines, state, models=encoded((models or {}).get(name, {})))
        nodes.append(Node(gates[name], key, floors))
    grid = LocalGrid(node.app() for node in nodes)
    network = Network(grid, dict(zip(catalogs, grid.get_node_ids(), strict=True)))
    broker = Broker(network, everybody.roster, everybody.coordinator, setting)
    if temporary is not None:
        weakref.finalize(broker, temporary.cleanup)
    return Federation(broker, gates, everybody, place, analyst)


def encoded(models: Mapping[str, Model]) -> dict[str, bytes]:
    """Models as their files hold them."""
    if not models:
        return {}
    from mpc.he import files

    return {name: files.to_json(model) for name, model in models.items()}


def open_city(
    catalogs: Mapping[str, Catalog],
    frames: Mapping[str, Mapping[str, pd.DataFrame]],
    *,
    setting: Setting = "honest-but-curious",
    analyst: str = "analyst",
) -> City:
    """The analyst's session of such a federation."""
    return open_federation(catalogs, frames, setting=setting, analyst=analyst).city()


def mock_city(city: City, query: q.Query) -> City:
    """A federation of the same shape on made-up rows; those of a joined table are of the same people."""
    catalogs = {
        name: mock.catalog(name, query.table_at(name), entry) for name, entry in city.asked(query).items()
    }
    frames = {
        name: {query.table_at(name): mock.rows(catalog.datasets[query.table_at(name)], seed)}
        for seed, (name, catalog) in enumerate(catalogs.items())
    }
    return open_city(catalogs, frames, setting=city.setting)

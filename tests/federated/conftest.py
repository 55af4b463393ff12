"""The contract that every network must keep, run on each of `OPENERS`.

`open_federation(catalogs, frames, setting)` opens departments behind real nodes, with a `Wire` between broker and network: tests lose, read
and change messages on it, which a network without a seam of its own would not let them do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import over_tls
import pandas as pd
import pytest

from federated import local
from federated.desk import Desk
from federated.network import Failure, Network
from federated.node import Node
from federated.session import City
from mpc.secagg import Floors
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.gate import Gate

OPENERS = {"in-process": local.open_federation, "over-tls": over_tls.open_federation}
PURPOSE = "research"
BUDGET = Budget(20.0, 1e-6)
LOST = Failure("did not answer in time")


class Wire:
    """A `Network` on which the departments' messages can be lost, changed and read. `seen` holds all that passed."""

    def __init__(self, network: Network):
        self.network = network
        self.seen: list[tuple[str, str, bytes, bytes | Failure]] = []
        self._lost: dict[tuple[str, str], bool] = {}
        self._changes: dict[tuple[str, str], Callable[[bytes], bytes]] = {}

    @property
    def nodes(self):
        return self.network.nodes

    @property
    def traffic(self):
        return self.network.traffic

    def measured(self):
        return self.network.measured()

    def lose(self, kind: str, *names: str, answered: bool = False) -> None:
        """From now on these departments vanish in rounds of this kind: before the message, or after they `answered` it."""
        self._lost |= {(kind, name): answered for name in names}

    def change(self, kind: str, name: str, change: Callable[[bytes], bytes]) -> None:
        self._changes[kind, name] = change

    def restore(self) -> None:
        self._lost.clear()
        self._changes.clear()

    def reply(self, kind: str, name: str) -> bytes:
        """The latest reply of a department in rounds of a kind."""
        return next(reply for k, n, _, reply in reversed(self.seen) if (k, n) == (kind, name))

    def body(self, kind: str, name: str) -> bytes:
        """The latest message to a department in rounds of a kind."""
        return next(body for k, n, body, _ in reversed(self.seen) if (k, n) == (kind, name))

    def count(self, kind: str) -> int:
        """How many messages of a kind were sent."""
        return sum(k == kind for k, *_ in self.seen)

    def call(self, kind: str, bodies: Mapping[str, bytes]) -> dict[str, bytes | Failure]:
        sent = {name: body for name, body in bodies.items() if self._lost.get((kind, name)) is not False}
        replies = self.network.call(kind, sent) if sent else {}
        for name in bodies:
            if (kind, name) in self._lost:
                replies[name] = LOST
            elif (change := self._changes.get((kind, name))) and isinstance(replies[name], bytes):
                replies[name] = change(replies[name])
            self.seen.append((kind, name, bodies[name], replies[name]))
        return replies


class Federation:
    """A session, its broker and the wire between broker and network."""

    def __init__(self, opened: local.Federation):
        self.broker = opened.broker
        self.wire = Wire(self.broker.network)
        self.broker.attach(self.wire)
        self.parties, self.gates = opened.parties, opened.gates
        self.city = City(Desk(self.broker, here=True), opened.parties.analyst)

    def restart(self, name: str) -> None:
        """A department's node is started anew: what it held in memory is gone, its gate has what is on the disk."""
        gate = self.gates[name]
        if not isinstance(gate, Gate):
            gate.restart()
            return
        network, floors = self.wire.network, Floors(parties=min(3, max(2, len(self.gates))))
        network._grid._apps[network._ids[name]] = Node(gate, self.parties.nodes[name], floors).app()

    def spent(self) -> dict[str, float]:
        """Epsilon that each department has charged for table `t`."""
        self.city.refresh()
        return {name: self.city.entry(name, "t").epsilon_spent for name in self.city.departments("t")}


def opener(network: str):
    """Opens a federation: (catalogs, frames[, setting]) -> Federation."""

    def open_(catalogs, frames, setting="honest-but-curious", **options) -> Federation:
        return Federation(OPENERS[network](catalogs, frames, setting=setting, **options))

    return open_


@pytest.fixture(scope="session", params=list(OPENERS))
def open_federation(request):
    """An `opener` for each network."""
    return opener(request.param)


@pytest.fixture(scope="session")
def open_in_process():
    """An `opener` for what no network changes."""
    return opener("in-process")


@pytest.fixture(scope="session")
def open_over_tls():
    """An `opener` for what is tried over TLS in fewer cases than in process."""
    return opener("over-tls")


COLUMNS = {
    "region": Column("category", categories=("north", "south", "east")),
    "smokes": Column("boolean"),
    "age": Column("integer", (0, 100)),
    "income": Column("real", (-1024.0, 1024.0), nullable=True),
}


class People:
    """A small table `t` of four departments: `catalogs`, `frames`, and `pooled(names)`."""

    def __init__(self, departments=4, rows=40, level="general-1", budget=BUDGET, columns=COLUMNS):
        names = ["ash", "birch", "cedar", "date"][:departments]
        dataset = DataSet(level, (PURPOSE,), columns, budget=budget, max_rows=10_000)
        self.catalogs = {name: Catalog(name, {"t": dataset}) for name in names}
        self.frames = {name: {"t": _people(i, rows)} for i, name in enumerate(names)}
        self.names = tuple(names)

    def pooled(self, names=None) -> pd.DataFrame:
        return pd.concat([self.frames[name]["t"] for name in names or self.names], ignore_index=True)

    def redeclare(self, name: str, **changes) -> None:
        """One department declares table `t` with other fields."""
        changed = msgspec.structs.replace(self.catalogs[name].datasets["t"], **changes)
        self.catalogs[name] = Catalog(name, {"t": changed})


def _people(seed: int, rows: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    income = np.round(generator.normal(100, 200, rows).clip(-1000, 1000), 2)
    return pd.DataFrame(
        {
            "region": generator.choice(np.array(COLUMNS["region"].categories, dtype=object), rows),
            "smokes": generator.random(rows) < 0.3,
            "age": generator.integers(0, 100, rows, endpoint=True),
            "income": np.where(generator.random(rows) < 0.1, np.nan, income),
        }
    )


@pytest.fixture(scope="session")
def people():
    return People

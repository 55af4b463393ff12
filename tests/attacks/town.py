"""A town to attack: three departments with 200 people each, one of them the victim, whose income two analysts want who pool what they got."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pandas as pd

from federated import local
from federated.desk import Desk
from federated.session import City
from sandbox import col, count, entries
from sandbox.catalog import Catalog, Column, DataSet, Overrides
from sandbox.keys import SigningKey
from sandbox.release import Release
from sandbox.roster import Roster, member

NAMES = ("ash", "birch", "cedar")
PURPOSE = "research"
COLUMNS = {
    "age": Column("integer", (0, 120)),
    "weight": Column("integer", (0, 300)),
    "town": Column("category", categories=("east", "west")),
    "income": Column("integer", (0, 1_000_000)),
}
VICTIM = {"age": 97, "weight": 41, "town": "west", "income": 123_456}
HOME = "birch"


def people(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": random.integers(0, 97, 200),
            "weight": random.integers(42, 120, 200),
            "town": random.choice(np.array(["east", "west"], dtype=object), 200),
            "income": random.integers(0, 1_000_000, 200),
        }
    )


class Town:
    """A federation with two analysts, of whom each has a session of their own."""

    def __init__(self, level="general-2", budget=None, directory=None, levels=None, **settings):
        self.frames = {name: people(i) for i, name in enumerate(NAMES)}
        home = self.frames[HOME]
        self.frames[HOME] = pd.concat([home, pd.DataFrame([VICTIM])], ignore_index=True)
        own = {name: Overrides(**fields) for name, fields in settings.items()}
        self.catalogs = {
            name: Catalog(name, {"t": self._declared((levels or {}).get(name, level), budget, own.get(name))})
            for name in NAMES
        }
        self.second, parties = SigningKey.generate(), local.parties(NAMES, analyst="wu")
        members = (*parties.roster.members, member("li", "analyst", "university", self.second.public))
        self.parties = msgspec.structs.replace(parties, roster=Roster("city", members))
        self.directory = directory

    @staticmethod
    def _declared(level, budget, own) -> DataSet:
        return DataSet(level, (PURPOSE,), COLUMNS, budget=budget, max_rows=10_000, policy=own)

    def open(self) -> Town:
        frames = {name: {"t": frame} for name, frame in self.frames.items()}
        self.federation = local.open_federation(
            self.catalogs, frames, analyst="wu", directory=self.directory, everybody=self.parties
        )
        self.broker, self.gates = self.federation.broker, self.federation.gates
        desk = Desk(self.broker, here=True)
        self.wu = City(desk, self.parties.analyst, "wu")
        self.li = City(desk, self.second, "li")
        return self

    def stop(self) -> None:
        for gate in self.gates.values():
            gate.state.close()

    def logged(self, kind, name="ash") -> list:
        log = self.gates[name].state.log
        log.verify()
        return [entry for entry in log.entries() if isinstance(entry, kind)]

    def charges(self) -> list[int]:
        return [len(self.logged(entries.Charge, name)) for name in NAMES]


def ask(city: City, where=None) -> Release:
    table = city.table("t")
    return (
        (table if where is None else table.filter(where))
        .agg(count(), col("income").sum())
        .release(purpose=PURPOSE)
    )


def total(release: Release) -> int:
    return int(release.frame["income_sum"][0])


def two_analysts(town: Town) -> Iterator[int]:
    """One asks for everyone; the other for everyone but the victim, in words that look like nothing of the kind."""
    everyone = total(ask(town.wu))
    yield 1
    yield everyone - total(ask(town.li, col("weight") > 41))

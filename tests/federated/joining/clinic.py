"""Three departments that know different columns of overlapping people, for tests of joined tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from federated import local
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.joining.declared import Join, Summary

PURPOSE = "research"
TABLES = ("registry.people", "lab.values", "hospital.events")


def frames(people: int = 600, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The registry knows most people, the laboratory has several values of each, the hospital one row an event."""
    random = np.random.default_rng(seed)
    everybody = np.array([f"P{i:05d}" for i in range(people)])
    known = everybody[random.random(people) < 0.9]
    registry = pd.DataFrame(
        {
            "person": random.permutation(known),
            "sex": random.choice(["female", "male"], len(known)),
            "age": random.integers(18, 91, len(known)),
            "weight": np.where(random.random(len(known)) < 0.1, np.nan, random.uniform(40, 120, len(known))),
        }
    )
    tested = np.repeat(everybody[random.random(people) < 0.8], 3)
    lab = pd.DataFrame(
        {
            "person": tested,
            "test": random.choice(["hdl", "glucose"], len(tested)),
            "value": random.integers(20, 101, len(tested)),
        }
    )
    seen = np.repeat(everybody[random.random(people) < 0.85], 2)
    hospital = pd.DataFrame(
        {
            "person": seen,
            "event": random.choice(["diabetes", "stroke", "check"], len(seen), p=[0.3, 0.1, 0.6]),
            "limit": random.integers(40, 80, len(seen)),
        }
    )
    return {"registry": registry, "lab": lab, "hospital": hospital}


def catalogs(level: str = "general-2", **changes: object) -> dict[str, Catalog]:
    """What their owners declare. `changes` are of every data set."""
    person = Column("identifier", normaliser="text")
    given = {
        "level": level,
        "purposes": (PURPOSE,),
        "unit": "person",
        "max_rows": 10_000,
        "budget": Budget(50.0, 1e-6),
    }
    people = DataSet(
        columns={
            "person": person,
            "sex": Column("category", categories=("female", "male")),
            "age": Column("integer", bounds=(18, 90)),
            "weight": Column("real", bounds=(30, 150), nullable=True),
        },
        join=Join(TABLES[1:]),
        **(given | changes),
    )
    values = DataSet(
        columns={
            "person": person,
            "test": Column("category", categories=("hdl", "glucose")),
            "value": Column("integer", bounds=(0, 200)),
        },
        rows_per_unit=3,
        join=Join(
            (TABLES[0], TABLES[2]),
            {
                "hdl": Summary("mean", "value", {"test": "hdl"}),
                "tests": Summary("count"),
                "highest": Summary("max", "value"),
            },
        ),
        **(given | changes),
    )
    events = DataSet(
        columns={
            "person": person,
            "event": Column("category", categories=("diabetes", "stroke", "check")),
            "limit": Column("integer", bounds=(40, 80)),
        },
        rows_per_unit=2,
        join=Join(
            TABLES[:2],
            {"diabetes": Summary("any", where={"event": "diabetes"}), "limit": Summary("max", "limit")},
        ),
        **(given | changes),
    )
    return {
        "registry": Catalog("registry", {"people": people}),
        "lab": Catalog("lab", {"values": values}),
        "hospital": Catalog("hospital", {"events": events}),
    }


def federation(
    level: str = "general-2", *, people: int = 600, directory=None, everybody=None, **changes: object
) -> local.Federation:
    rows = frames(people)
    tables = {"registry": "people", "lab": "values", "hospital": "events"}
    return local.open_federation(
        catalogs(level, **changes),
        {name: {tables[name]: frame} for name, frame in rows.items()},
        directory=directory,
        everybody=everybody,
    )


def merged(rows: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The joined table in one place: what no one has in earnest."""
    lab, hospital = rows["lab"], rows["hospital"]
    values = pd.DataFrame(
        {
            "hdl": lab[lab.test == "hdl"].groupby("person").value.mean(),
            "tests": lab.groupby("person").size(),
            "highest": lab.groupby("person").value.max(),
        }
    )
    events = pd.DataFrame(
        {
            "diabetes": hospital.event.eq("diabetes").groupby(hospital.person).any(),
            "limit": hospital.groupby("person").limit.max(),
        }
    )
    return rows["registry"].set_index("person").join(values, how="inner").join(events, how="inner")

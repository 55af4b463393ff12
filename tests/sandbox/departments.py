"""Three departments whose state, catalogue, roster and keys lie in files, as an owner's commands and desk find them."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from door import Door

from federated import local
from sandbox import col, count
from sandbox.catalog import Catalog, load
from sandbox.errors import Refused
from sandbox.release import Release
from sandbox.table import JointQuery

CATALOG = """
department = "ash"

[datasets.survey]
level = "general-2"
purposes = ["research"]
max_rows = 1000
columns = { age = { type = "integer", bounds = [0, 99] } }

[datasets.incomes]
level = "important"
purposes = ["research"]
max_rows = 1000
budget = { epsilon = 2.0, delta = 1e-6 }
columns = { income = { type = "real", bounds = [0, 100] } }
"""
NAMES = ("ash", "birch", "cedar")
BASIS = "Statistics <Act>, article 12"


class Departments:
    """A federation and its files: `directory`/roster.toml, and per department `catalog.toml` beside the node's state."""

    released: list[Release]
    approved: str
    waiting: str

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        catalogs = {name: self._catalog(name) for name in NAMES}
        self.federation = local.open_federation(catalogs, self._frames(), directory=directory)
        self.city = self.federation.city()
        self.state, self.roster = directory / "ash", directory / "roster.toml"
        self.catalog = self.state / "catalog.toml"
        self.roster.write_text(self.city.roster.dumps())
        for name, key in self.federation.parties.owners["ash"].items():
            key.save(directory / f"{name}.pem")
        self.federation.parties.witness.save(directory / "regulator.pem")

    def _catalog(self, name: str) -> Catalog:
        place = self.directory / name
        place.mkdir()
        (place / "catalog.toml").write_text(CATALOG.replace('"ash"', f'"{name}"'))
        return load(place / "catalog.toml")

    def _frames(self) -> dict[str, dict[str, pd.DataFrame]]:
        generator = np.random.default_rng(7)
        return {
            name: {
                "survey": pd.DataFrame({"age": generator.integers(0, 100, 200)}),
                "incomes": pd.DataFrame({"income": generator.uniform(0, 100, 200)}),
            }
            for name in NAMES
        }

    @property
    def survey(self) -> JointQuery:
        return self.city.table("survey").agg(count())

    @property
    def incomes(self) -> JointQuery:
        return self.city.table("incomes").agg(count(), col("income").mean())

    def owner(self, i: int = 1, department: str = "ash") -> Any:
        return self.federation.owner(department, f"{department}-owner-{i}")

    def propose(self, **terms: Any) -> str:
        """The digest of a new contract on `incomes`, waiting everywhere."""
        terms = {"purpose": "research", "legal_basis": BASIS, "epsilon": 0.5, "runs": 2} | terms
        proposal = self.incomes.propose(**terms)
        assert not proposal.failed
        return proposal.digest

    def approve_elsewhere(self, digest: str) -> None:
        for department in NAMES[1:]:
            for i in (1, 2):
                self.owner(i, department).approve(digest)


@pytest.fixture
def departments(tmp_path: pathlib.Path) -> Departments:
    return Departments(tmp_path)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Departments:
    """The same after some business: an exact release, a DP one under a contract, refusals, a contract that waits."""
    departments = Departments(tmp_path_factory.mktemp("busy"))
    departments.released = [departments.survey.release(purpose="research")]
    digest = departments.approved = departments.propose()
    for i in (1, 2):
        departments.owner(i).approve(digest, "read <it>")
    departments.approve_elsewhere(digest)
    departments.released.append(departments.incomes.release(purpose="research", epsilon=0.5))
    departments.waiting = departments.propose(runs=1, epsilon=0.25)
    for query, terms in (
        (departments.survey, {"purpose": "<script>alert(1)</script>"}),
        (departments.incomes, {"purpose": "research", "epsilon": 0.75}),
        (departments.city.table("survey").filter(col("age") != 50).agg(count()), {"purpose": "research"}),
    ):
        with pytest.raises(Refused):
            query.release(**terms)
    return departments


@pytest.fixture
def open_door(tmp_path):
    """Opens doors of departments that are alike but for (level, budget, frame, the owner's settings)."""
    made: list[Door] = []

    def open_(*arguments: Any, **settings: Any) -> Door:
        made.append(Door(tmp_path / f"node {len(made)}", *arguments, **settings))
        return made[-1]

    yield open_
    for one in made:
        one.crash()


@pytest.fixture
def door(open_door) -> Door:
    return open_door()

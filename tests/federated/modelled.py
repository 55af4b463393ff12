"""Departments whose rows bear models: two classes, counts and a number that follow from the same score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from sandbox.catalog import Budget, Column

PURPOSE = "research"
BUDGET = Budget(20.0, 1e-6)
COLUMNS = {
    "height": Column("real", (-8.0, 8.0)),
    "weight": Column("real", (-8.0, 8.0)),
    "smokes": Column("boolean"),
    "region": Column("category", categories=("east", "north", "south")),
    "visits": Column("integer", (0, 40)),
    "ill": Column("boolean"),
    "cost": Column("real", (-64.0, 64.0)),
}
FEATURES = ["height", "weight", "smokes", "region"]


def rows(seed: int, size: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "height": generator.normal(0, 1.5, size).clip(-7, 7),
            "weight": generator.normal(0.5, 1, size).clip(-7, 7),
            "smokes": generator.random(size) < 0.3,
            "region": generator.choice(["east", "north", "south"], size),
        }
    )
    score = 0.4 * frame["height"] - 0.3 * frame["weight"] + 0.8 * frame["smokes"] - 0.2
    frame["visits"] = generator.poisson(np.exp(0.3 * score.clip(-4, 4))).clip(0, 40)
    frame["ill"] = generator.random(size) < 1 / (1 + np.exp(-score))
    frame["cost"] = (3 * score + generator.normal(0, 2, size)).clip(-60, 60)
    return frame


def matrix(frame: pd.DataFrame) -> np.ndarray:
    """As the library codes it: the first level of a category is the reference."""
    levels = [(frame["region"] == level).to_numpy(float) for level in ("north", "south")]
    return np.column_stack([frame["height"], frame["weight"], frame["smokes"].astype(float), *levels])


def opener(open_federation, people) -> Callable:
    """Opens such departments on a network, a department for each of `sizes`."""

    def open_(level="general-1", sizes=(220, 150, 180, 90), budget=BUDGET, **declared):
        everyone = people(departments=len(sizes), level=level, columns=COLUMNS, budget=budget)
        for i, (name, size) in enumerate(zip(everyone.names, sizes, strict=True)):
            everyone.frames[name] = {"t": rows(i, size)}
            if declared:
                everyone.redeclare(name, **declared)
        return open_federation(everyone.catalogs, everyone.frames), everyone

    return open_

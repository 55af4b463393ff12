"""Made-up rows that keep a schema, and nothing else of the data: to write code against before asking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sandbox.catalog import MAX_INTEGER, Budget, Catalog, Column, DataSet
from sandbox.gate import Entry

if TYPE_CHECKING:
    import pandas as pd

ROWS = 300
PURPOSE = "mock"


def catalog(department: str, table: str, entry: Entry) -> Catalog:
    """The same declarations and disclosure rules, with a budget that is no one's."""
    schema = entry.schema
    budget = entry.budget and Budget(100.0, entry.budget.delta)
    level = entry.level if entry.level not in ("core", "important") else "general-4"
    dataset = DataSet(
        level=level,
        purposes=(PURPOSE,),
        columns=schema.columns,
        unit=schema.unit,
        rows_per_unit=schema.rows_per_unit,
        max_rows=schema.max_rows,
        budget=budget or Budget(100.0, 1e-6),
        join=entry.join,
    )
    return Catalog(department, {table: dataset})


def rows(dataset: DataSet, seed: int) -> pd.DataFrame:
    """Rows drawn evenly from the declared bounds and categories; a tenth of a nullable column is null."""
    import pandas as pd

    generator = np.random.default_rng(seed)
    size = min(ROWS, dataset.max_rows)
    frame = pd.DataFrame(index=range(size))
    for name, column in dataset.columns.items():
        values = pd.Series(_values(column, size, generator))
        if column.nullable:
            values = values.astype(object).mask(generator.random(size) < 0.1, None)
        frame[name] = values
    return frame


def _values(column: Column, size: int, generator: np.random.Generator) -> Any:
    low, high = column.bounds or (-1000.0, 1000.0)
    match column.type:
        case "integer":
            return generator.integers(
                max(int(low), -MAX_INTEGER), min(int(high), MAX_INTEGER), size, endpoint=True
            )
        case "real":
            return low + (high - low) * generator.random(size)
        case "boolean":
            return generator.random(size) < 0.5
        case "category":
            assert column.categories is not None
            return generator.choice(np.array(column.categories, dtype=object), size)
        case "identifier":
            return np.arange(size)

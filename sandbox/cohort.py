"""Which rows take part in a model, as a query that is judged, charged and compared with earlier releases like any other."""

from __future__ import annotations

from . import features, fit
from .assessment import Contribution
from .catalog import Schema
from .design_matrix import Design, design
from .model import Model, rows_of
from .query import Query
from .training import Training


def cohort(model: Model, schema: Schema) -> Query:
    """The query whose one cell counts the rows that take part in a model. Raises `QueryError` or `ParameterError` where it cannot run."""
    if isinstance(model, Contribution):
        model.check()
    of = rows_of(model)
    if isinstance(of, Training):
        features.design(of, schema)
        of = features.fit(of)
    fit.check(of, schema)
    return fit.cohort(of, schema)


def rows(model: Model, schema: Schema) -> Design:
    """How the rows of a model are read."""
    of = rows_of(model)
    return features.design(of, schema) if isinstance(of, Training) else design(of, schema)

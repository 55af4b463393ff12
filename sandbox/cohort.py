"""Which rows take part in a model, as a query that is judged, charged and compared with earlier releases like any other."""

from __future__ import annotations

from . import features, fit
from .catalog import Schema
from .model import Model
from .query import Query
from .training import Training


def cohort(model: Model, schema: Schema) -> Query:
    """The query whose one cell counts the rows that take part in a model. Raises `QueryError` or `ParameterError` where it cannot run."""
    if isinstance(model, Training):
        features.design(model, schema)
        model = features.fit(model)
    fit.check(model, schema)
    return fit.cohort(model, schema)

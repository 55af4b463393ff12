"""The rows of a training: which columns a network's inputs are, from the schema alone, as those of any fit (`sandbox.design_matrix`).

A number or boolean is one input, a category one for each declared level (in a regression for each but the first), and under
`missing="indicator"` a feature with nulls has one more, 1 where it is null. A row whose target is null is left out. What a network is
given of it, `federated.neural.features` says. Which rows take part depends on each row alone, and on its unit's limit.
"""

from __future__ import annotations

from . import architecture, design_matrix
from . import fit as f
from .catalog import Schema
from .design_matrix import Design
from .errors import ParameterError, QueryError
from .training import RecordLevel, Training, validation_multiplier


def fit(training: Training) -> f.Fit:
    """The fit whose rows the training reads, for `design_matrix`, and whose cohort it has, for `fit.cohort`."""
    classes = training.loss != "squared_error"
    estimator = f.GaussianNB() if classes else f.LinearRegression()
    return f.Fit(
        training.table, estimator, training.features, training.target, training.where, training.missing
    )


def design(training: Training, schema: Schema) -> Design:
    """Check a training against a schema: columns, types, bounds, filter, sizes of the network, unit of privacy.

    Raises `QueryError` for what the schema does not offer, `ParameterError` for what does not fit it.
    """
    made = design_matrix.design(fit(training), schema)
    assert made.target is not None
    classes = len(made.target.classes)
    if training.loss == "binary_cross_entropy" and classes != 2:
        raise QueryError(f"'target' has {classes} declared classes; binary_cross_entropy needs 2")
    shape = architecture.output(training.layers, len(made.columns))
    needed = (classes,) if training.loss == "cross_entropy" else (1,)
    if shape != needed:
        raise ParameterError(
            f"'layers' give {shape} numbers a record; {training.loss} of {training.target.name!r} needs {needed}"
        )
    if isinstance(training.privacy, RecordLevel) and schema.rows_per_unit > 1:
        raise ParameterError(
            f"record-level privacy protects one row, and a unit of {training.table!r} may have {schema.rows_per_unit}: "
            "take department-level privacy, or a table with one row a unit"
        )
    if isinstance(training.privacy, RecordLevel) and training.validation is not None:
        validation_multiplier(training)
    return made

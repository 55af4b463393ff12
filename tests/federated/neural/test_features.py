import numpy as np
import pandas as pd
import pytest
import torch
from trainees import named

from federated.neural import features as tensors
from sandbox import architecture as a
from sandbox import design_matrix, features
from sandbox import query as q
from sandbox import training as t
from sandbox.catalog import Column, DataSet
from sandbox.design_matrix import Rows
from sandbox.engine import Engine

DATASET = DataSet(
    "general-2",
    ("p",),
    {
        "id": Column("identifier"),
        "age": Column("integer", (0, 100), clip=True),
        "income": Column("real", (0, 1000), nullable=True),
        "region": Column("category", categories=("n", "e"), nullable=True),
        "ill": Column("boolean", nullable=True),
        "wealth": Column("real", (100, 300)),
    },
    unit="id",
)
FRAME = pd.DataFrame(
    {
        "id": range(5),
        "age": [0, 50, 100, 75, 250],
        "income": [0.0, np.nan, 1000.0, 500.0, 250.0],
        "region": ["n", "e", None, "n", "n"],
        "ill": [True, False, True, None, False],
        "wealth": [100.0, 200.0, 300.0, 150.0, 200.0],
    }
)


def read(frame=FRAME, columns=("age", "income", "region"), target="ill", loss="cross_entropy", **changes):
    """A department's rows, from its database to tensors."""
    inputs = {"drop": {1: 1, 3: 4}, "indicator": {1: 1, 3: 6}}[changes.get("missing", "drop")][len(columns)]
    made = t.Training(
        table="t",
        features=tuple(map(named, columns)),
        target=named(target),
        layers=(a.Linear(inputs, 2 if loss == "cross_entropy" else 1),),
        loss=loss,
        rounds=1,
        sampling_rate=1,
        **changes,
    )
    design = features.design(made, DATASET.schema())
    _, rows = design_matrix.read(Engine("t", DATASET, frame), design, bounded=True)
    return design, tensors.data(rows, design)


def pairs(data):
    return sorted(zip(data.x.tolist(), data.y.tolist(), strict=True))


def test_rows_with_nulls_are_dropped():
    _, data = read()
    assert pairs(data) == [([-1, -1, 1, 0], 1), ([1, -0.5, 1, 0], 0)]
    assert (data.x.dtype, data.y.dtype) == (torch.float32, torch.int64)


def test_nulls_become_zero_with_an_indicator():
    _, data = read(missing="indicator")
    assert pairs(data) == sorted(
        [
            ([-1, -1, 0, 1, 0, 0], 1),
            ([0, 0, 1, 0, 1, 0], 0),
            ([1, 1, 0, 0, 0, 1], 1),
            ([1, -0.5, 0, 1, 0, 0], 0),
        ]
    )


def test_only_rows_that_pass_the_filter():
    where = q.Compare("<", q.Column("wealth"), q.Value(150.0))
    assert pairs(read(where=where)[1]) == [([-1, -1, 1, 0], 1)]


def test_a_number_as_target_is_scaled_and_put_back():
    design, data = read(columns=("age",), target="wealth", loss="squared_error")
    assert pairs(data) == [([-1], -1), ([0], 0), ([0.5], -0.5), ([1], 0), ([1], 1)]
    assert data.y.dtype == torch.float32
    assert tensors.unscaled(np.array([-1.0, 0.0, 1.0]), design).tolist() == [100, 200, 300]


def test_classes_are_their_places_in_order():
    _, data = read(columns=("age",), target="region", loss="binary_cross_entropy")
    assert pairs(data) == [([-1], 1), ([0], 0), ([0.5], 1), ([1], 1)]


def test_no_rows():
    _, data = read(FRAME[FRAME["age"] < 0])
    assert data.x.shape == (0, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_would_poison_a_sum_is_left_out(value):
    design, _ = read()
    matrix, target = np.tile([10.0, 10.0, 1.0, 0.0], (4, 1)), np.ones(4)
    matrix[1, 0], target[2] = value, value
    data = tensors.data(Rows(matrix, target), design)
    assert len(data) == 2
    assert torch.isfinite(data.x).all()


def test_what_is_beyond_its_bounds_is_moved_to_them():
    design, _ = read()
    data = tensors.data(Rows(np.array([[1e300, -1e300, 1.0, 0.0]]), np.array([7.0])), design)
    assert pairs(data) == [([1, -1, 1, 0], 1)]

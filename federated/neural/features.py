"""A department's rows -> the tensors of a network.

A number becomes (x - center) / half width of its declared bounds, in [-1, 1]; a level of a category and the mark of a null stay 0 or 1. A number
as target is scaled alike; `unscaled` puts predictions back. Bounds are declared, so nothing here depends on more than one row. What would
poison a sum though the engine should not have let it through (NaN, infinity) leaves its row out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sandbox.design_matrix import Design, Rows

from .network import Data


def data(rows: Rows, design: Design) -> Data:
    """The rows as they are trained on."""
    assert rows.target is not None
    assert design.target is not None
    x = scaled(rows.matrix, design)
    target = design.target
    if target.classes:
        y = np.clip(np.nan_to_num(rows.target), 0, len(target.classes) - 1).astype(np.int64)
    else:
        y = _scaled(rows.target, *_scale(target.low, target.high)).astype(np.float32)
    kept = torch.from_numpy(np.isfinite(rows.target) & np.isfinite(rows.matrix).all(axis=1))
    return Data(torch.from_numpy(x.astype(np.float32))[kept], torch.from_numpy(y)[kept])


def scaled(matrix: NDArray[np.float64], design: Design) -> NDArray[np.float64]:
    """A network's inputs of rows in the columns of `design`."""
    numbers = np.array([column.level is None and not column.indicator for column in design.columns])
    center = np.where(numbers, design.low / 2 + design.high / 2, 0.0)
    reach = np.where(numbers, design.high / 2 - design.low / 2, 1.0)
    return _scaled(matrix, center, reach)


def unscaled(predictions: NDArray[np.float64], design: Design) -> NDArray[np.float64]:
    """A regression's outputs in the units of the target."""
    assert design.target is not None
    center, reach = _scale(design.target.low, design.target.high)
    return predictions * reach + center


def _scale(low: float, high: float) -> tuple[float, float]:
    return low / 2 + high / 2, high / 2 - low / 2


def _scaled(
    values: NDArray[np.float64], center: NDArray[np.float64] | float, reach: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    scaled = (values - center) / np.where(np.asarray(reach) > 0, reach, 1.0)
    return np.clip(scaled, -1.0, 1.0)

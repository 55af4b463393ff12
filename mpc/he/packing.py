"""Several numbers in one slot: reals on a grid, offset to be non-negative, side by side in fields that sums cannot fill.

    q = round((x - lower) / step),  0 <= q <= levels;   a field holds addends * levels;   slot = sum of q_i 2^(width i)

Exact by construction: width and offset follow from the bounds and the number of addends, so no carry can
cross from one field into the next, and a value outside its bounds is refused before it is packed. The sum of
n values is off by at most n * step / 2 (nothing for integers with step 1).
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange, Overflow

_DOUBLE_BITS = 52


class Packing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How values in [lower, upper], to be added up `addends` times at most, lie in slots of `slot_bits` bits.

    >>> packing = Packing(-1.0, 1.0, addends=8, step=2 / (2**16 - 1), slot_bits=39)
    >>> packing.width, packing.values_per_slot
    (19, 2)
    """

    lower: float
    upper: float
    addends: int
    step: float
    slot_bits: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= self.upper):
            raise OutOfRange("bounds", "must be finite, the lower one first")
        if self.addends < 1:
            raise OutOfRange("addends", "must be >= 1")
        if not (math.isfinite(self.step) and self.step > 0):
            raise OutOfRange("step", "must be > 0")
        if self.upper - self.lower > self.step * 2.0**_DOUBLE_BITS or self.width > self.slot_bits:
            finest = (self.upper - self.lower) * self.addends / (2.0**self.slot_bits - 1)
            raise Overflow("step", f"must be about {finest:.3g} or more for sums of {self.addends} to fit")

    @property
    def levels(self) -> int:
        """The integer that the upper bound becomes."""
        return round((self.upper - self.lower) / self.step)

    @property
    def width(self) -> int:
        """Bits of one field."""
        return max(1, (self.addends * self.levels).bit_length())

    @property
    def values_per_slot(self) -> int:
        return self.slot_bits // self.width

    @property
    def error(self) -> float:
        """How far a sum over all addends can be from the sum of the exact values: rounding to the grid, and of doubles."""
        doubles = 2.0**-50 * self.addends * max(abs(self.lower), abs(self.upper))
        if self.step == 1 and self.lower.is_integer():
            return 0.0 if self.addends * max(abs(self.lower), abs(self.upper)) < 2**53 else doubles
        return self.addends * self.step * (0.5 + 2.0**-20) + doubles

    def pack(self, values: NDArray[Any], slots: int) -> NDArray[np.int64]:
        """Rows of `slots` packed integers; the last row is filled up with zeros."""
        array = np.asarray(values)
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise OutOfRange("values", "must be a vector of numbers")
        if array.size and not (array.min() >= self.lower and array.max() <= self.upper):  # also refuses NaN
            raise Overflow("values", f"each must lie in [{self.lower}, {self.upper}]")
        grid = np.rint((array.astype(np.float64) - self.lower) / self.step).astype(np.int64)
        fields = self.values_per_slot
        rows = -(-array.size // (slots * fields))
        padded = np.zeros(rows * slots * fields, dtype=np.int64)
        padded[: array.size] = grid
        packed = np.zeros((rows, slots), dtype=np.int64)
        for field in range(fields):
            packed |= padded.reshape(rows, fields, slots)[:, field] << (field * self.width)
        return packed

    def unpack(self, packed: NDArray[np.int64], length: int, addends: int) -> NDArray[np.float64]:
        """The first `length` sums of `addends` values each."""
        mask = (1 << self.width) - 1
        fields = [(packed >> (field * self.width)) & mask for field in range(self.values_per_slot)]
        grid = np.stack(fields, axis=1).reshape(-1)[:length]
        return grid * self.step + addends * self.lower

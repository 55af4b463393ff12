"""Values that hold their declared ranges however they were made: decoded from bytes, or by a call.

`msgspec` checks types and ranges (`Meta`) of what it decodes, and nothing of what is constructed; nor does it refuse NaN. A `Ranged` value is
checked both ways, and made equal both ways: whole numbers in real fields become floats, numpy's numbers Python's own, lists and arrays
tuples, so that equal values have equal digests.
"""

from __future__ import annotations

import functools
import math
import typing
from typing import Any

import msgspec

from .errors import ParameterError
from .prepared import prepared


class Ranged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of such values. Raises `ParameterError` naming the field and what is allowed."""

    def __post_init__(self) -> None:
        for field, kind in _kinds(type(self)).items():
            value = getattr(self, field)
            try:
                checked = msgspec.convert(plain(value), prepared(kind))
            except msgspec.ValidationError as error:
                raise ParameterError(f"{field!r} of {type(self).__name__}: {error}") from None
            if not _finite(checked):
                raise ParameterError(f"{field!r} of {type(self).__name__} must be a finite number")
            msgspec.structs.force_setattr(self, field, checked)


@functools.cache
def _kinds(kind: type[Ranged]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field: hints[field] for field in kind.__struct_fields__}


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy as Python's own, which need not be loaded for it."""
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _finite(value: Any) -> bool:
    """msgspec's ranges let NaN pass."""
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)

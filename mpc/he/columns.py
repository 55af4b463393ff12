"""Columns of a table as CKKS ciphertexts: one slot a row, one ciphertext a column and block of rows.

A column is scaled to [-1, 1] by its declared bounds, or, for trees, becomes an indicator [x <= level]. Values outside
what was declared are refused by the name of their column. This layout is what makes scoring fast: a weight
multiplies thousands of rows at once, and nothing is ever rotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc.errors import Malformed, OutOfRange, WrongLength
from mpc.he import seal
from mpc.he.circuit import columns_of
from mpc.he.keys import SecretKey
from mpc.he.models import Feature
from mpc.he.parameters import Parameters


def checked(features: Sequence[Feature], table: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """The features' columns, all of one length, every value as declared."""
    columns: list[NDArray[np.float64]] = []
    for feature in features:
        if feature.name not in table:
            raise OutOfRange("table", f"must have the column {feature.name!r}")
        column = np.asarray(table[feature.name])
        if column.dtype.kind not in "fiub" or column.ndim != 1:
            raise OutOfRange(feature.name, "must be a column of numbers")
        values = column.astype(np.float64)
        if columns and values.size != columns[0].size:
            raise WrongLength(feature.name, "must have as many rows as the other columns")
        if values.size and not (values.min() >= feature.lower and values.max() <= feature.upper):
            raise OutOfRange(feature.name, f"each value must lie in [{feature.lower:g}, {feature.upper:g}]")
        if feature.levels and not np.isin(values, feature.levels).all():
            raise OutOfRange(feature.name, "each value must be one of the declared levels")
        columns.append(values)
    return columns


def scaled(
    features: Sequence[Feature], columns: Sequence[NDArray[np.float64]], trees: bool
) -> list[NDArray[np.float64]]:
    """What is encrypted: values in [-1, 1], or indicators."""
    found = []
    for i, level in columns_of(features, trees):
        feature, values = features[i], columns[i]
        if level is not None:
            found.append((values <= level).astype(np.float64))
            continue
        half = (feature.upper - feature.lower) / 2
        middle = (feature.upper + feature.lower) / 2
        found.append(np.clip((values - middle) / half, -1, 1) if half else np.zeros_like(values))
    return found


def encrypt(key: SecretKey, values: NDArray[np.float64]) -> bytes:
    """One block of one column, to send."""
    return key.encrypt_bytes(encode(key.parameters, values))


def encode(parameters: Parameters, values: NDArray[np.float64]) -> Any:
    encoder, plaintext = (
        seal.bindings().CKKSEncoder(seal.context(parameters)),
        seal.bindings().Plaintext(),
    )
    top = list(seal.chain(parameters)[-1][0])
    encoder.encode(values.tolist(), top, parameters.scale, plaintext)
    return plaintext


def decrypt(key: SecretKey, ciphertext: Any) -> NDArray[np.float64]:
    """All slots."""
    encoder = seal.bindings().CKKSEncoder(seal.context(key.parameters))
    return np.array(encoder.decode_double(key.decrypt(ciphertext)))


def read(parameters: Parameters, data: bytes, level: int, scale: float, field: str) -> Any:
    """A ciphertext that somebody sent; it must be two polynomials at this level and scale."""
    loaded = seal.load(seal.bindings().Ciphertext, parameters, data, field)
    expected = list(seal.chain(parameters)[level][0])
    if loaded.size() != 2 or list(loaded.parms_id()) != expected or not loaded.is_ntt_form():
        raise Malformed(field, "not a ciphertext at the expected level")
    if loaded.scale != scale:
        raise Malformed(field, "not a ciphertext of the expected scale")
    if loaded.is_transparent():
        raise Malformed(field, "not encrypted")
    return loaded

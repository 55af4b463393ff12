"""A model as one JSON file of plain values: what a department keeps beside its catalogue, and never a pickle, which would run code.

`write(from_sklearn(estimator, bounds=…), path)` where the model was trained; its bytes are read with `from_json` where it is served. Reading is strict:
unknown fields, other numbers of weights, and numbers that are not finite are refused before anything is computed with them.
"""

from __future__ import annotations

import os

import msgspec

from mpc.errors import Malformed, ProtocolError
from mpc.he.envelope import UNREADABLE
from mpc.he.models import Model
from mpc.prepared import prepared

MOST_BYTES = 2**26


def to_json(model: Model) -> bytes:
    """The one encoding of a model."""
    return msgspec.json.encode(model, order="deterministic")


def from_json(data: bytes) -> Model:
    """The model; raises `Malformed`, or what is wrong with its values."""
    if len(data) > MOST_BYTES:
        raise Malformed("model", f"must be at most {MOST_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=prepared(Model))
    except ProtocolError:
        raise
    except (*UNREADABLE, ValueError) as error:
        raise Malformed("model", "is no model as written by mpc.he.files") from error


def write(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a new file; raises `FileExistsError` rather than change a model that is served."""
    with open(path, "xb") as file:
        file.write(to_json(model))

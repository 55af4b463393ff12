"""What an owner declares of a model that may be asked for scores: `[models.credit]` in the catalogue.

    [models.credit]
    file = "credit.json"                 # beside the catalogue: the model as plain values (`mpc.he.files`), never code
    purposes = ["inclusive-finance"]
    bounds = { income = [0, 500], age = [18, 70] }
    rows = 100_000                       # scores that are given in all, ever
    rows_per_analyst = 5_000             # ... and to one analyst
    organisations = ["tax office"]

Protects the model against being worked out from its scores, by the number of them. Say how many is too many: a linear model
of d features is known exactly after d + 1 scores, and no quota of useful size prevents that; a network or trees take as many
scores as training them took rows.
"""

from __future__ import annotations

import datetime
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec

from ..errors import CatalogError

Names = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1)], ...], msgspec.Meta(min_length=1)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
MOST_FEATURES = 4096


class Declared(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model. `bounds`: of each feature, in the model's order, equal to those in its file.

    `rows` and `rows_per_analyst` are charged when a request begins, and never refunded. Days are in UTC, both included. `flooding`:
    bits by which answers hide how they were computed, beyond the scores themselves; `tolerance`: the largest error of a score, as a
    share of the largest score.
    """

    purposes: Names
    bounds: dict[str, tuple[float, float]]
    rows: Rows
    rows_per_analyst: Rows
    file: str = ""
    rows_per_request: Rows | None = None
    analysts: Names | None = None
    organisations: Names | None = None
    valid_from: datetime.date | None = None
    valid_until: datetime.date | None = None
    flooding: Annotated[int, msgspec.Meta(ge=8, le=40)] = 20
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-3
    description: str = ""

    def __post_init__(self) -> None:
        bounds = {name: (float(low), float(high)) for name, (low, high) in self.bounds.items()}
        msgspec.structs.force_setattr(self, "bounds", bounds)  # equal models have equal digests


def read(models: Mapping[str, Declared], directory: pathlib.Path) -> dict[str, bytes]:
    """The files of all models, beside the catalogue; raises `CatalogError`."""
    found = {}
    for name, declared in models.items():
        try:
            found[name] = (directory / declared.file).read_bytes()
        except OSError as error:
            raise CatalogError(f"model {name!r}: file {declared.file!r}: {error.strerror}") from None
    return found


def problems(declared: Declared) -> Iterator[str]:
    """What a declaration may not say, each naming the field and the allowed range."""
    if not 1 <= len(declared.bounds) <= MOST_FEATURES:
        yield f"'bounds' names {len(declared.bounds)} features; allowed are 1 to {MOST_FEATURES}"
    for name, (low, high) in declared.bounds.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            yield f"'bounds' of {name!r} must be two finite numbers, the lower first"
    if declared.rows_per_analyst > declared.rows:
        yield f"'rows_per_analyst' is {declared.rows_per_analyst}; allowed are 1 to 'rows', {declared.rows}"
    if declared.rows_per_request is not None and declared.rows_per_request > declared.rows_per_analyst:
        most = declared.rows_per_analyst
        yield f"'rows_per_request' is {declared.rows_per_request}; allowed are 1 to 'rows_per_analyst', {most}"
    first, last = declared.valid_from, declared.valid_until
    if first is not None and last is not None and last < first:
        yield f"'valid_until' is {last}, before 'valid_from'"

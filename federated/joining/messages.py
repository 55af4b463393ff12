"""What the coordinator asks of a department in a join: one step after the other, each with the signed request that it is of."""

from __future__ import annotations

from typing import Literal

import msgspec


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`parts`: what `mpc.join` says at this step. `earlier`: canonical JSON of the releases to compare with, or nothing for the join itself."""

    step: Literal["hello", "table", "probe", "turn"]
    request: bytes
    parts: tuple[bytes, ...]
    earlier: bytes = b""
    clearance: bytes = b""

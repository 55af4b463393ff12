"""What the coordinator asks of a department in a join: one step after the other, each with the signed request that it is of.

A network has a largest message (`federated.gateway`), and the shares of a million rows are larger: what is longer than `PIECE` goes in pieces,
"put" before the step that takes it, "get" after the one that gave it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PIECE = 64 * 2**20
Name = Literal["hello", "table", "probe", "turn", "put", "get"]


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`parts`: what `mpc.join` says at this step, or a piece of it, from `offset` on.

    `earlier`: canonical JSON of the releases to compare with, or nothing for the join itself.
    """

    step: Name
    request: bytes
    parts: tuple[bytes, ...]
    earlier: bytes = b""
    clearance: bytes = b""
    offset: int = 0


class Piece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first piece of an answer, or that from the offset on, and the length of the whole."""

    total: int
    data: bytes

"""A request that every department allows, before anything is spent: what the broker has to go on with."""

from __future__ import annotations

import msgspec

from sandbox import disclosure, keys
from sandbox.errors import TooFewDepartments
from sandbox.gate import Allow, Deny, NeedsApproval
from sandbox.plan import Plan
from sandbox.request import Request

from .summing import named


class Poll(msgspec.Struct, frozen=True):
    """Every department's decision; `missing` did not answer."""

    allowed: dict[str, Allow]
    waiting: dict[str, NeedsApproval]
    denied: dict[str, Deny]
    missing: dict[str, str]


class Admitted(msgspec.Struct):
    """A request that every department allows, before anything is spent. `missing` grows as departments vanish."""

    signed: keys.Signed
    request: Request
    plan: Plan
    departments: tuple[str, ...]
    poll: Poll
    needed: int
    missing: dict[str, str]
    rules: disclosure.Rules | None
    clearance: bytes
    compared: frozenset[str] | None

    @property
    def present(self) -> tuple[str, ...]:
        return tuple(name for name in self.departments if name not in self.missing)

    @property
    def epsilon_left(self) -> dict[str, float]:
        allowed = self.poll.allowed.items()
        return {name: a.epsilon_left for name, a in allowed if a.epsilon_left is not None}

    def unchanged(self) -> None:
        """Raise where what was compared with earlier releases is not what is in the sum."""
        if self.compared is not None and set(self.missing) != self.compared:
            raise TooFewDepartments([f"{named(self.missing)} vanished after the comparison: ask again"])

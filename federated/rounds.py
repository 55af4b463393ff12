"""A model's rounds at the coordinator: one secure sum after the other, until the model is there.

A department that vanishes from a fit stays out of it. From a training it stays out for a while: a node that was started anew goes on with one
(`Gate.resume`), and is asked again after 1, 2, 4, ... rounds, since one that hangs costs a round its time-out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mpc.errors import ProtocolError
from sandbox import disclosure
from sandbox.errors import Denied, DepartmentFailed
from sandbox.query import canonical

from . import fitting, messages
from .admission import Admitted
from .fitting import Asked
from .summing import Progress, Sum, Summation

LONGEST = 64  # rounds for which a department is not asked


class Modelled(msgspec.Struct, frozen=True):
    """What the coordinator holds at the end of a model's rounds. `result`: see `fitting.Asked`."""

    result: Any
    rules: disclosure.Rules | None
    present: tuple[str, ...]
    missing: dict[str, str]
    epsilon_left: dict[str, float]
    rho: float | None
    sizes: dict[str, int] = {}  # of a join: each table's padded rows


class Away:
    """Who is away from a training, and why."""

    def __init__(self, missing: Mapping[str, str]):
        self._why = dict(missing)
        self._wait = dict.fromkeys(missing, 1)
        self._left = dict.fromkeys(missing, 1)
        self._seen: set[str] = set()

    def still(self) -> dict[str, str]:
        """Who is not asked in the round that begins."""
        self._left = {name: left - 1 for name, left in self._left.items()}
        return {name: why for name, why in self._why.items() if self._left[name] > 0}

    def was(self, missing: Mapping[str, str], present: tuple[str, ...]) -> None:
        """What the round has shown."""
        self._seen.update(present)
        for name in missing:
            if self._left.get(name, 0) <= 0:
                self._wait[name] = self._left[name] = min(2 * self._wait.get(name, 0) or 1, LONGEST)
        self._why = dict(missing)
        self._wait = {name: self._wait[name] for name in missing}
        self._left = {name: self._left[name] for name in missing}

    def never(self) -> dict[str, str]:
        """Who was in no round: the others' rows are in the model."""
        return {name: why for name, why in self._why.items() if name not in self._seen}


def run(
    sums: Summation, case: Admitted, asked: Asked, progress: Progress, save: Callable[[bytes], None]
) -> Modelled:
    """The model of an admitted request. `save` is given each round's checkpoint before the round."""
    away = Away(case.missing)
    while not asked.done:
        state = asked.shown()
        save(asked.checkpoint())
        if asked.kind == "train":
            case.missing = away.still()
        wanted = Sum(
            asked.kind,
            fitting.digest(case.request, state),
            asked.words(),
            functools.partial(_step, case, state),
            case.needed,
            asked.stage(),
        )
        vector = sums.run(wanted, case.departments, case.missing, progress)
        case.unchanged()
        away.was(case.missing, case.present)
        try:
            asked.take(vector, len(case.present), case.rules)
        except ProtocolError as error:
            raise DepartmentFailed(f"the joint sums are none: {error}") from None
        reasons = asked.refusals(case.rules) if case.rules else ()
        if reasons:
            raise Denied(reasons)
    if asked.kind == "train":
        case.missing = away.never()
    rhos = {allow.rho for allow in case.poll.allowed.values()} - {0.0}
    return Modelled(
        asked.result(), case.rules, case.present, case.missing, case.epsilon_left, max(rhos, default=None)
    )


def _step(case: Admitted, state: bytes, session: bytes, slot: int) -> bytes:
    return messages.encode(messages.Step(session, slot, canonical(case.signed), state, case.clearance))

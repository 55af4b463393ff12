"""Models through the door: the rounds of a fit or a training as secure sums, the same on both ends.

`Asked` makes what one request asks for: how many words a round has, a department's words, and what the joint words lead to. The coordinator
holds the state and shows it to the departments each round; a department checks that it may answer once more, and never sees a joint sum
but through the states.

A round is one secure sum. A department that is not in every round of an exact fit ends it; private fits and trainings go on without it.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.assessment import Contribution, Evaluation
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import Denied, QueryError, ScheduleError
from sandbox.prepared import prepared
from sandbox.request import Request
from sandbox.training import Training

if TYPE_CHECKING:
    from .learn.learner import Learner
    from .learn.private.learner import PrivateLearner
    from .neural.participant import Answered

Words = NDArray[np.uint64]
RandomBytes = Callable[[int], bytes]


class Round(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the coordinator shows of a model each round: how many were before, and the state, as bytes."""

    number: int
    state: bytes


class Asked(Protocol):
    """The coordinator's end of one model."""

    kind: str

    @property
    def done(self) -> bool: ...
    def shown(self) -> bytes:
        """The state that departments answer to."""
        ...

    def words(self) -> int: ...
    def take(self, joint: Words, present: int, rules: Rules | None) -> None: ...
    def result(self) -> Any: ...
    def checkpoint(self) -> bytes:
        """What the next round begins with, kept so that another process can go on; empty where none can."""
        ...

    def refusals(self, rules: Rules) -> tuple[str, ...]: ...
    def leakage(self) -> tuple[str, ...]: ...
    def stage(self) -> str: ...


class Answering(Protocol):
    """A department's end of one model."""

    def words(self, state: bytes) -> Words: ...


def asked(
    request: Request,
    schema: Schema,
    departments: tuple[str, ...],
    honest: int,
    released: Callable[[str], bytes],
    checkpoint: bytes = b"",
) -> Asked:
    """The coordinator's end. `released` gives what an earlier request of the same analyst has released, as its receipt is about.

    With a `checkpoint` a training goes on after the round of it, which departments may have answered: that round is used up.

    Raises `QueryError` or `ParameterError` where it cannot run.
    """
    if isinstance(request.model, Training):
        from .training import AskedTraining

        return AskedTraining(request.model, schema, len(departments), honest, checkpoint)
    if isinstance(request.model, Evaluation):
        from .assessing import AskedEvaluation

        shown = released(request.model.statement().request)
        return AskedEvaluation(request, schema, tuple(sorted(departments)), honest, shown)
    if isinstance(request.model, Contribution):
        from .assessing import AskedContribution

        return AskedContribution(request, schema, tuple(sorted(departments)))
    return AskedFit(request, schema, len(departments), honest)


def answering(
    request: Request,
    schema: Schema,
    departments: tuple[str, ...],
    name: str,
    honest: int,
    rows: Rows,
    rules: Rules | None,
    answered: Callable[[], Answered],
) -> Answering:
    """The end of the department `name`, once it is charged."""
    names, parties = tuple(sorted(departments)), len(departments)
    if isinstance(request.model, Evaluation):
        from .assessing import AnsweringEvaluation

        return AnsweringEvaluation(request, schema, parties, honest, rows, names.index(name))
    if isinstance(request.model, Contribution):
        from .assessing import AnsweringContribution

        limit = _limit(request.model.fit) + 1
        return AnsweringContribution(request, schema, names, names.index(name), rows, rules, limit)
    if isinstance(request.model, Training):
        from .training import AnsweringTraining

        return AnsweringTraining(request, schema, parties, honest, rows, rules, answered())
    return AnsweringFit(request, schema, parties, honest, rows, rules)


def number(state: bytes) -> int:
    """Which round a state is of, from 0."""
    try:
        return msgspec.msgpack.decode(state, type=prepared(Round)).number
    except (msgspec.MsgspecError, RecursionError):
        raise QueryError("malformed state of a model") from None


def digest(request: Request, state: bytes) -> bytes:
    """What names the secure sum of one round."""
    return hashlib.sha256(b"round" + request.digest() + hashlib.sha256(state).digest()).digest()


class _Exact:
    """An exact learner's rounds."""

    def __init__(self, learner: Learner):
        self.learner, self.limit = learner, _limit(learner.fit)

    def shown(self, state: Any) -> Any:
        return self.learner.shown(state)

    def words(self, state: Any) -> int:
        return self.learner.layout(state).words(self.learner.parties)

    def encode(self, state: Any, rows: Rows) -> Words:
        return self.learner.layout(state).encode(self.learner.local(state, rows), self.learner.parties)

    def decode(self, state: Any, joint: Words, _present: int) -> Any:
        return self.learner.layout(state).decode(joint, self.learner.parties)


class _Private:
    """A private learner's rounds; `limit` of them were paid for."""

    def __init__(self, learner: PrivateLearner):
        self.learner, self.limit = learner, learner.rounds

    def shown(self, state: Any) -> Any:
        return state

    def words(self, state: Any) -> int:
        return self.learner.words(state)

    def encode(self, state: Any, rows: Rows) -> Words:
        return self.learner.encode(state, rows, secrets.token_bytes)

    def decode(self, state: Any, joint: Words, present: int) -> Any:
        return self.learner.decode(state, joint, present)


def _learner(request: Request, schema: Schema, parties: int, honest: int) -> _Exact | _Private:
    from .learn import estimators

    assert isinstance(request.model, f.Fit)
    if request.privacy is None:
        return _Exact(estimators.exact(request.model, schema, parties))
    epsilon, delta = request.privacy.epsilon, request.privacy.delta
    learner = estimators.private(request.model, schema, parties, epsilon=epsilon, delta=delta, honest=honest)
    learner.check(learner.start(), delta)
    return _Private(learner)


def _limit(fit: f.Fit) -> int:
    """How often a department answers an exact fit at most: every state that it can come to, with room for shortened steps."""
    estimator = fit.estimator
    iterations = getattr(estimator, "max_iter", 1)
    depth = getattr(estimator, "max_depth", 1)
    return 8 + iterations * (depth + 1 if isinstance(estimator, f.BOOSTING) else 4)


class AskedFit:
    """A fit at the coordinator."""

    kind = "fit"

    def __init__(self, request: Request, schema: Schema, parties: int, honest: int):
        self._rounds = _learner(request, schema, parties, honest)
        self._state: Any = self._rounds.learner.start()
        self._number = 0

    @property
    def done(self) -> bool:
        from .learn.learner import State

        return not isinstance(self._state, State)

    def shown(self) -> bytes:
        shown = self._rounds.shown(self._state)
        return msgspec.msgpack.encode(Round(self._number, msgspec.msgpack.encode(shown, enc_hook=_number)))

    def words(self) -> int:
        return self._rounds.words(self._state)

    def take(self, joint: Words, present: int, rules: Rules | None) -> None:
        learner, state = self._rounds.learner, self._state
        sums = self._rounds.decode(state, joint, present)
        if isinstance(self._rounds, _Exact):
            self._state = self._rounds.learner.update(state, sums, rules)
        else:
            self._state = learner.update(state, sums)
        self._number += 1

    def result(self) -> Any:
        return self._state

    def checkpoint(self) -> bytes:
        return b""

    def refusals(self, rules: Rules) -> tuple[str, ...]:
        """Why disclosure control ends the fit here, if it does."""
        return self._rounds.learner.refusals(self._state, rules) if isinstance(self._rounds, _Exact) else ()

    def leakage(self) -> tuple[str, ...]:
        learner = self._rounds.learner
        return (learner.leakage,) if isinstance(self._rounds, _Exact) else (learner.guarantee,)  # type: ignore[union-attr]

    def stage(self) -> str:
        return f"round {self._number + 1} of the fit" if self._number else "computing and masking"


class AnsweringFit:
    """A fit at a department: each round in turn, none twice, and no more than it may have."""

    def __init__(
        self,
        request: Request,
        schema: Schema,
        parties: int,
        honest: int,
        rows: Rows,
        rules: Rules | None,
    ):
        self._rounds = _learner(request, schema, parties, honest)
        self._rows, self._rules, self._next = rows, rules, 0

    def words(self, state: bytes) -> Words:
        from .learn.estimators import States
        from .learn.learner import Start

        try:
            shown = msgspec.msgpack.decode(state, type=prepared(Round))
            found = msgspec.msgpack.decode(shown.state, type=prepared(States))
        except (msgspec.MsgspecError, RecursionError):
            raise QueryError("malformed state of a fit") from None
        if shown.number != self._next or isinstance(found, Start) != (self._next == 0):
            raise ScheduleError("this round of the fit was answered, or is not its next")
        if self._next >= self._rounds.limit:
            raise ScheduleError(f"the fit has had its {self._rounds.limit} rounds")
        if not finite(found):
            raise QueryError("malformed state of a fit")
        if isinstance(self._rounds, _Exact) and self._rules is not None:
            reasons = self._rounds.learner.refusals(found, self._rules)
            if reasons:
                raise Denied(reasons)
        self._next += 1
        try:
            return self._rounds.encode(found, self._rows)
        except (TypeError, AttributeError, IndexError, KeyError, ValueError):
            raise QueryError("a state of another fit") from None


def _number(value: Any) -> Any:
    """A number of numpy's as Python's own."""
    return value.item()


def finite(value: Any) -> bool:
    """Whether every number in a decoded state is finite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(finite, value))
    if isinstance(value, msgspec.Struct):
        return all(finite(getattr(value, name)) for name in value.__struct_fields__)
    return True

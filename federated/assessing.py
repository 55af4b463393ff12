"""Evaluations and contributions through the door, as the rounds of `federated.fitting`: both ends of them.

The model of an evaluation is what its analyst signed: the digest in the receipt of the model's release names it, the coordinator shows it as
the state of the one round, and a department answers to nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import assessment, dp
from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import NONE, Rules
from sandbox.errors import Denied, QueryError, ScheduleError
from sandbox.features import fit as training_fit
from sandbox.prepared import prepared
from sandbox.request import Request
from sandbox.training import Training

from .fitting import Round, finite
from .learn.contribution import Coalitions, Contribution, Contributions
from .learn.estimators import Models, States
from .learn.evaluation import Evaluation
from .learn.figures import Figures
from .learn.learner import Start, State
from .learn.private.evaluation import PrivateEvaluation
from .results import Fitted, Trained

Words = NDArray[np.uint64]
MALFORMED = "malformed state of an assessment"


class Assessed(msgspec.Struct, frozen=True):
    """Joint figures, and where asked for each department's by name, or why they are not shown."""

    joint: Figures
    each: dict[str, Figures | str]


def signed(shown: bytes, wanted: assessment.Evaluation) -> bool:
    """Whether this is the release that the request's receipt is about."""
    return hmac.compare_digest(hashlib.sha256(shown).hexdigest(), wanted.statement().release)


def scored(shown: bytes, wanted: assessment.Evaluation, schema: Schema) -> Any:
    """The model that a release holds, for the rows of `wanted`. Raises `QueryError` unless it is the one that was signed."""
    if not signed(shown, wanted):
        raise QueryError("the model is not the one that the request names")
    try:
        released = msgspec.json.decode(shown, type=prepared(Union[Fitted, Trained]))
    except (msgspec.MsgspecError, RecursionError):
        raise QueryError("the release holds no model") from None
    asked = released.fit if isinstance(released, Fitted) else released.training
    if assessment.on(asked, wanted.of.table, wanted.of.where) != wanted.of:
        raise QueryError("the request is of another model than its receipt")
    if released.schema.columns != schema.columns:
        raise QueryError("the model was made where columns were declared otherwise")
    if isinstance(released, Fitted):
        if not finite(released.model):
            raise QueryError("the model's numbers must be finite")
        return released.model
    from sandbox import features

    from .neural.scorer import Scorer

    return Scorer(released.training, released.weights, features.design(released.training, schema))


def _fit(of: f.Fit | Training) -> f.Fit:
    return training_fit(of) if isinstance(of, Training) else of


class _Exact:
    """Exact figures: of the joint rows, and of each department's where the request asks for them."""

    def __init__(self, learner: Evaluation):
        self.learner, self.leakage = learner, learner.leakage

    def words(self) -> int:
        return self.learner.layout(self.learner.start()).words(self.learner.parties)

    def encode(self, rows: Rows, place: int) -> Words:
        start = self.learner.start()
        sums = self.learner.local(start, rows, place)
        return self.learner.layout(start).encode(sums, self.learner.parties)

    def result(self, joint: Words, _present: int, rules: Rules, departments: Sequence[str]) -> Assessed:
        sums = self.learner.layout(self.learner.start()).decode(joint, self.learner.parties)
        each: dict[str, Figures | str] = {}
        if self.learner.places > 1:
            each = dict(zip(departments, self.learner.each(sums, rules), strict=True))
        return Assessed(self.learner.result(sums, rules), each)


class _Private:
    """Figures from one noisy table."""

    def __init__(self, learner: PrivateEvaluation, delta: float):
        learner.check(learner.start(), delta)
        self.learner, self.leakage = learner, learner.guarantee

    def words(self) -> int:
        return self.learner.words(self.learner.start())

    def encode(self, rows: Rows, _place: int) -> Words:
        return self.learner.encode(self.learner.start(), rows, secrets.token_bytes)

    def result(self, joint: Words, present: int, _rules: Rules, _departments: Sequence[str]) -> Assessed:
        start = Start()
        return Assessed(self.learner.update(start, self.learner.decode(start, joint, present)), {})


def _evaluating(
    request: Request, schema: Schema, parties: int, honest: int, shown: bytes
) -> _Exact | _Private:
    wanted = request.model
    assert isinstance(wanted, assessment.Evaluation)
    model, fit, privacy = scored(shown, wanted, schema), _fit(wanted.of), request.privacy
    if privacy is None:
        return _Exact(Evaluation(fit, schema, parties, model, wanted.by_department))
    if wanted.by_department:
        raise QueryError("'by_department': differentially private figures are of all departments together")
    rho = dp.rho_of(privacy.epsilon, privacy.delta)
    return _Private(PrivateEvaluation(fit, schema, parties, rho, honest, model), privacy.delta)


class AskedEvaluation:
    """An evaluation at the coordinator; `released` is the model's release, as its receipt is about."""

    kind = "fit"

    def __init__(
        self, request: Request, schema: Schema, departments: tuple[str, ...], honest: int, released: bytes
    ):
        self._rounds = _evaluating(request, schema, len(departments), honest, released)
        self._departments, self._released = departments, released
        self._result: Assessed | None = None

    @property
    def done(self) -> bool:
        return self._result is not None

    def shown(self) -> bytes:
        return msgspec.msgpack.encode(Round(0, self._released))

    def words(self) -> int:
        return self._rounds.words()

    def take(self, joint: Words, present: int, rules: Rules | None) -> None:
        self._result = self._rounds.result(joint, present, rules or NONE, self._departments)

    def result(self) -> Any:
        return self._result

    def checkpoint(self) -> bytes:
        return b""

    def refusals(self, rules: Rules) -> tuple[str, ...]:
        return ()  # what is not shown was left out

    def leakage(self) -> tuple[str, ...]:
        return (self._rounds.leakage,)

    def stage(self) -> str:
        return "computing and masking"


class AnsweringEvaluation:
    """An evaluation at the department with number `place`."""

    def __init__(self, request: Request, schema: Schema, parties: int, honest: int, rows: Rows, place: int):
        self._made = request, schema, parties, honest
        self._rows, self._place, self._answered = rows, place, False

    def words(self, state: bytes) -> Words:
        rounds = _evaluating(*self._made, _round(state).state)
        if self._answered:
            raise ScheduleError("this evaluation was answered")
        self._answered = True
        try:
            return rounds.encode(self._rows, self._place)
        except (TypeError, AttributeError, IndexError, KeyError, ValueError):
            raise QueryError("the model cannot score these rows") from None


def _contributing(request: Request, schema: Schema, departments: tuple[str, ...]) -> Contribution:
    assert isinstance(request.model, assessment.Contribution)
    return Contribution(request.model.fit, schema, departments, request.model.method)


class AskedContribution:
    """Contributions at the coordinator."""

    kind = "fit"

    def __init__(self, request: Request, schema: Schema, departments: tuple[str, ...]):
        self._learner = _contributing(request, schema, departments)
        self._state: Coalitions | Contributions = self._learner.start()
        self._number = 0

    @property
    def done(self) -> bool:
        return isinstance(self._state, Contributions)

    def shown(self) -> bytes:
        state = msgspec.msgpack.encode(self._state, enc_hook=lambda number: number.item())
        return msgspec.msgpack.encode(Round(self._number, state))

    def words(self) -> int:
        assert isinstance(self._state, Coalitions)
        return self._learner.layout(self._state).words(self._learner.parties)

    def take(self, joint: Words, present: int, rules: Rules | None) -> None:
        assert isinstance(self._state, Coalitions)
        if present != self._learner.parties:
            raise Denied(["a department vanished: contributions are among all of them"])
        sums = self._learner.layout(self._state).decode(joint, self._learner.parties)
        self._state = self._learner.update(self._state, sums, rules)
        self._number += 1

    def result(self) -> Any:
        return self._state

    def checkpoint(self) -> bytes:
        return b""

    def refusals(self, rules: Rules) -> tuple[str, ...]:
        return self._learner.refusals(self._state, rules)

    def leakage(self) -> tuple[str, ...]:
        return (self._learner.leakage,)

    def stage(self) -> str:
        return f"round {self._number + 1} of the contributions" if self._number else "computing and masking"


class AnsweringContribution:
    """Contributions at one of `departments`: each round in turn, none twice, and no more than the fit may have."""

    def __init__(
        self,
        request: Request,
        schema: Schema,
        departments: tuple[str, ...],
        place: int,
        rows: Rows,
        rules: Rules | None,
        limit: int,
    ):
        self._learner = _contributing(request, schema, departments)
        self._place, self._rows, self._rules, self._next, self._limit = place, rows, rules, 0, limit

    def words(self, state: bytes) -> Words:
        shown = _round(state)
        found = _coalitions(shown.state, len(self._learner.coalitions))
        first = found == self._learner.start()
        if shown.number != self._next or first != (self._next == 0) or self._next >= self._limit:
            raise ScheduleError("this round of the contributions was answered, or is not its next")
        reasons = self._learner.refusals(found, self._rules) if self._rules is not None else ()
        if reasons:
            raise Denied(reasons)
        self._next += 1
        try:
            sums = self._learner.local(found, self._rows, self._place)
            return self._learner.layout(found).encode(sums, self._learner.parties)
        except (TypeError, AttributeError, IndexError, KeyError, ValueError, AssertionError):
            raise QueryError("a state of other contributions") from None


def _round(state: bytes) -> Round:
    try:
        return msgspec.msgpack.decode(state, type=prepared(Round))
    except (msgspec.MsgspecError, RecursionError):
        raise QueryError(MALFORMED) from None


def _coalitions(data: bytes, size: int) -> Coalitions:
    """Strictly: each member is a learner's state, a model, or None."""

    def member(value: Any) -> Any:
        if value is None:
            return None
        return msgspec.convert(value, prepared(States if "state" in value else Models))

    try:
        found = msgspec.msgpack.decode(data, type=prepared(Coalitions))
        found = msgspec.structs.replace(found, members=tuple(map(member, found.members)))
    except (msgspec.MsgspecError, RecursionError, TypeError):
        raise QueryError(MALFORMED) from None
    bare = found.scoring and any(isinstance(member, State) for member in found.members)
    if len(found.members) != size or bare or not finite(found):
        raise QueryError(MALFORMED)
    return found

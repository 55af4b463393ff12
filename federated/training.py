"""A neural training through the door: `federated.neural` as the rounds of `federated.fitting`. Loads torch.

An exact training is under the disclosure control of fits: before any weights are shown one round counts rows, departments, levels of features
and target, and both sides of conditions. Every later one counts them again, of the rows that its update was learnt of, since departments may
be away. Coordinator and departments alike go no further than these counts allow.

    exact      0: [ counts ],  r + 1: [ counts | round r of `federated.neural` ]
    private    r: [ round r ]
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.fixedpoint import Encoding
from sandbox import features
from sandbox.architecture import parameters
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import Denied, ParameterError, QueryError
from sandbox.prepared import prepared
from sandbox.request import Request
from sandbox.training import Training, leakage

from .fitting import Round
from .learn import moments
from .learn.moments import Moments

try:
    from .neural import encoding
    from .neural import features as inputs
    from .neural import training as rounds
    from .neural.encoding import Sizes
    from .neural.participant import Answered, Participant
except ImportError as error:
    raise ParameterError(
        f"neural training needs packages that are not installed ({error.name}): pip install 'joint-sandbox[neural]'"
    ) from None

Words = NDArray[np.uint64]
T = TypeVar("T")


class Counted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What departments are shown of an exact training: the joint counts of the round before, and the weights."""

    counts: Moments
    weights: bytes


class Kept(msgspec.Struct, frozen=True):
    """The checkpoint of an exact training."""

    counts: Moments
    state: bytes


class AskedTraining:
    """A training at the coordinator."""

    kind = "train"

    def __init__(
        self, training: Training, schema: Schema, parties: int, honest: int, checkpoint: bytes = b""
    ):
        if training.weights is not None:
            raise ParameterError("'weights': a training through the door begins from its 'seed'")
        self._training, self._sizes = training, Sizes(parties, honest, schema.max_rows)
        self._design = features.design(training, schema)
        self._exact = training.privacy is None
        self._counts: Moments | None = None
        self._state = rounds.start(training)
        if checkpoint:
            if self._exact:
                found = _decoded(checkpoint, Kept)
                self._counts, checkpoint = found.counts, found.state
            kept = rounds.decode(checkpoint)
            self._state = rounds.resume(training, kept, [kept.round])

    @property
    def done(self) -> bool:
        return self._state.done

    def shown(self) -> bytes:
        if not self._exact:
            return msgspec.msgpack.encode(Round(self._state.round, self._state.weights))
        if self._counts is None:
            return msgspec.msgpack.encode(Round(0, b""))
        state = msgspec.msgpack.encode(Counted(self._counts, self._state.weights))
        return msgspec.msgpack.encode(Round(1 + self._state.round, state))

    def words(self) -> int:
        counts = moments.size(self._design) if self._exact else 0
        if self._exact and self._counts is None:
            return counts
        return counts + encoding.words(self._training, self._state.round)

    def take(self, joint: Words, present: int, rules: Rules | None) -> None:
        if self._exact:
            size, first = moments.size(self._design), self._counts is None
            values = Encoding(encoding.BOUND, self._sizes.parties).decode(joint[:size])
            self._counts, joint = moments.counted(self._design, values), joint[size:]
            if rules is not None and (reasons := self.refusals(rules)):
                raise Denied(reasons)  # before what they have learnt is put together
            if first:
                return
        self._state = rounds.update(self._training, self._sizes, self._state, joint, present)

    def result(self) -> Any:
        return self._state

    def checkpoint(self) -> bytes:
        if not self._exact:
            return rounds.encode(self._state)
        if self._counts is None:
            return b""
        return msgspec.msgpack.encode(Kept(self._counts, rounds.encode(self._state)))

    def refusals(self, rules: Rules) -> tuple[str, ...]:
        """Why disclosure control ends an exact training, if it does."""
        if self._counts is None:
            return ()
        return moments.refusals(self._design, self._counts, parameters(self._training.layers), rules)

    def leakage(self) -> tuple[str, ...]:
        return leakage(self._training)

    def stage(self) -> str:
        if self._exact and self._counts is None:
            return "counting rows"
        return (
            f"round {self._state.round + 1} of {self._training.rounds}"
            if self._state.round
            else "computing and masking"
        )


class AnsweringTraining:
    """A training at a department."""

    def __init__(
        self,
        request: Request,
        schema: Schema,
        parties: int,
        honest: int,
        rows: Rows,
        rules: Rules | None,
        answered: Answered,
    ):
        assert isinstance(request.model, Training)
        self._training, self._rules = request.model, rules
        self._design = features.design(request.model, schema)
        data = inputs.data(rows, self._design)
        sizes = Sizes(parties, honest, schema.max_rows)
        self._participant = Participant(request.model, request.digest(), data, sizes, answered)
        self._counts = Encoding(encoding.BOUND, parties).encode(moments.counts(self._design, rows))

    def words(self, state: bytes) -> Words:
        shown = _decoded(state, Round)
        if self._training.privacy is not None:
            return self._participant.answer(shown.number, shown.state)
        if shown.number == 0:
            return self._counts
        found = _decoded(shown.state, Counted)
        if self._rules is not None:
            self._check(found.counts, self._rules)
        return np.concatenate([self._counts, self._participant.answer(shown.number - 1, found.weights)])

    def _check(self, counts: Moments, rules: Rules) -> None:
        try:
            reasons = moments.refusals(self._design, counts, parameters(self._training.layers), rules)
        except ValueError:
            raise QueryError("a state of another training") from None
        if reasons:
            raise Denied(reasons)


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(data, type=prepared(kind))
    except (msgspec.MsgspecError, RecursionError):
        raise QueryError("malformed state of a training") from None

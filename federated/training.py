"""A neural training through the door: `federated.neural` as the rounds of `federated.fitting`. Loads torch."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import features
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import ParameterError, QueryError
from sandbox.fit import refusals
from sandbox.prepared import prepared
from sandbox.request import Request
from sandbox.training import Training, leakage

from .fitting import Round

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


class AskedTraining:
    """A training at the coordinator."""

    kind = "train"

    def __init__(
        self, training: Training, schema: Schema, parties: int, honest: int, checkpoint: bytes = b""
    ):
        if training.weights is not None:
            raise ParameterError("'weights': a training through the door begins from its 'seed'")
        self._training, self._sizes = training, Sizes(parties, honest, schema.max_rows)
        self._state = rounds.start(training)
        if checkpoint:
            kept = rounds.decode(checkpoint)
            self._state = rounds.resume(training, kept, [kept.round])
        self._rows: int | None = None

    @property
    def done(self) -> bool:
        return self._state.done

    def shown(self) -> bytes:
        return msgspec.msgpack.encode(Round(self._state.round, self._state.weights))

    def words(self) -> int:
        return encoding.words(self._training, self._state.round)

    def take(self, joint: Words, present: int, _rules: Rules | None) -> None:
        told = encoding.decode(self._training, self._sizes, self._state.round, joint, present)
        if told.rows is not None:
            self._rows = told.rows if self._rows is None else min(self._rows, told.rows)
        self._state = rounds.update(self._training, self._sizes, self._state, joint, present)

    def result(self) -> Any:
        return self._state

    def checkpoint(self) -> bytes:
        return rounds.encode(self._state)

    def refusals(self, rules: Rules) -> tuple[str, ...]:
        """Why disclosure control ends an exact training, if it does: too few rows for what is fitted."""
        if self._rows is None or self._training.privacy is not None:
            return ()
        from sandbox.architecture import parameters

        return refusals(rules, self._rows, rules.min_departments, parameters(self._training.layers), {})

    def leakage(self) -> tuple[str, ...]:
        return leakage(self._training)

    def stage(self) -> str:
        return (
            f"round {self._state.round + 1} of {self._training.rounds}"
            if self._state.round
            else "computing and masking"
        )


class AnsweringTraining:
    """A training at a department."""

    def __init__(
        self, request: Request, schema: Schema, parties: int, honest: int, rows: Rows, answered: Answered
    ):
        assert isinstance(request.model, Training)
        data = inputs.data(rows, features.design(request.model, schema))
        sizes = Sizes(parties, honest, schema.max_rows)
        self._participant = Participant(request.model, request.digest(), data, sizes, answered)

    def words(self, state: bytes) -> Words:
        try:
            shown = msgspec.msgpack.decode(state, type=prepared(Round))
        except msgspec.MsgspecError:
            raise QueryError("malformed state of a training") from None
        return self._participant.answer(shown.number, shown.state)

"""The coordinator's side of a training: a state, what turns it into the next, and the loop around them.

    start -> State -> ask the departments for State.round on State.weights -> one joint vector -> update -> State -> ...

A state is a frozen value with bytes of its own: written after every round, it is the checkpoint. Going on from one is not charged again, since
the ledgers were charged for all rounds, and is not free, since a department answers each round once: a round whose sum was lost is used up,
and `resume` goes on after the last that any department answered.

The coordinator sees what the guarantee of the training allows it (`sandbox.training`): each round's joint update and metric. In an exact
training those are exact, and with few departments or rows they tell much: that is for each department's policy to permit.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
from torch import nn

from sandbox import query as q
from sandbox.errors import Malformed, ParameterError
from sandbox.prepared import prepared
from sandbox.training import Training

from . import encoding, spec, strategies
from .encoding import Sizes, Words
from .history import History, Point
from .network import Metric
from .strategies import Memory


class State(msgspec.Struct, frozen=True):
    """Where a training stands: `round` is the next, `weights` (safetensors) what it begins with, `best` those with the least
    validation loss."""

    training: bytes
    round: int
    weights: bytes
    memory: Memory = Memory()
    history: History = History()
    best: bytes = b""
    least: float | None = None
    worse: int = 0

    @property
    def done(self) -> bool:
        return bool(self.history.stopped)

    @property
    def result(self) -> bytes:
        """The best weights by validation, else the last."""
        return self.best or self.weights


Ask = Callable[[int, bytes], tuple[Words, int]]  # round, weights -> joint vector, departments in it


def declare(module: nn.Module, **fields: Any) -> tuple[Training, bytes]:
    """The training of a torch module from the weights that it has, and these in safetensors. Columns may be given by name.

    Raises `QueryError` for a layer that is not allowed, `ParameterError` for what is out of range.
    """
    weights = spec.dump(module)
    fields["features"] = tuple(map(_named, fields["features"]))
    fields["target"] = _named(fields["target"])
    digest = hashlib.sha256(weights).hexdigest()
    return Training(layers=spec.describe(module), weights=digest, **fields), weights


def start(training: Training, weights: bytes | None = None) -> State:
    """Before the first round; `weights` in safetensors, else from the seed."""
    if weights is None:
        weights = spec.initial(training.layers, training.seed)
    spec.unpack(training.layers, weights)
    if training.weights not in (None, hashlib.sha256(weights).hexdigest()):
        raise ParameterError("the weights are not those that the training names")
    return State(training.digest(), 0, weights)


def update(
    training: Training, sizes: Sizes, state: State, joint: Words, present: int, seconds: float = 0.0
) -> State:
    """The state after one joint vector of `present` departments. A round in which nobody had rows changes no weight."""
    if state.done or state.training != training.digest():
        raise ParameterError("the state is of another training, or of one that has ended")
    told = encoding.decode(training, sizes, state.round, joint, present)
    point = Point(state.round, present, seconds=seconds)
    if told.metric is not None:
        point = _measured(training, point, told.metric)
        state = _judged(training, state, point)
    weights, memory = state.weights, state.memory
    if told.change is not None and not state.done:
        point = msgspec.structs.replace(point, size=float(np.linalg.norm(told.change)))
        before = spec.unpack(training.layers, weights)
        after, memory = strategies.advance(training, before, told.change, memory)
        if not np.isfinite(after).all():
            raise ParameterError("the training has diverged: lower the learning rates")
        weights = spec.pack(training.layers, after)
    following = state.round + 1
    history = msgspec.structs.replace(state.history, points=(*state.history.points, point))
    last = training.rounds + bool(training.validation)
    if not history.stopped and following >= last:
        history = msgspec.structs.replace(history, stopped="all rounds are done")
    return msgspec.structs.replace(state, round=following, weights=weights, memory=memory, history=history)


def resume(training: Training, state: State, answered: Iterable[int]) -> State:
    """Go on from a checkpoint; `answered`: the last round that each department answered, -1 for none."""
    if state.training != training.digest():
        raise ParameterError("the checkpoint is of another training")
    following = max([state.round, *(last + 1 for last in answered)])
    ended = following >= training.rounds + bool(training.validation) and not state.done
    history = (
        msgspec.structs.replace(state.history, stopped="all rounds are used up") if ended else state.history
    )
    return msgspec.structs.replace(state, round=following, history=history)


def run(
    training: Training,
    sizes: Sizes,
    state: State,
    ask: Ask,
    *,
    save: Callable[[State], None] = lambda _state: None,
    progress: Callable[[State], None] = lambda _state: None,
) -> State:
    """Rounds until all are done or the metric no longer gets better. `save` is called before the next round is asked for."""
    while not state.done:
        began = time.perf_counter()
        joint, present = ask(state.round, state.weights)
        state = update(training, sizes, state, joint, present, time.perf_counter() - began)
        save(state)
        progress(state)
    return state


def write(state: State, path: str | os.PathLike[str]) -> None:
    """A checkpoint, whole or not at all."""
    path = pathlib.Path(path)
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(encode(state))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read(path: str | os.PathLike[str]) -> State:
    """Raises `Malformed`."""
    return decode(pathlib.Path(path).read_bytes())


def encode(state: State) -> bytes:
    """A checkpoint's bytes."""
    return msgspec.msgpack.encode(state)


def decode(data: bytes) -> State:
    """Raises `Malformed`."""
    try:
        return msgspec.msgpack.decode(data, type=prepared(State))
    except msgspec.MsgspecError:
        raise Malformed("the checkpoint cannot be read") from None


def _named(column: str | q.Derived) -> q.Derived:
    return q.Derived(column, q.Column(column)) if isinstance(column, str) else column


def _measured(training: Training, point: Point, metric: Metric) -> Point:
    accuracy = None if training.loss == "squared_error" else metric.right / metric.records
    return msgspec.structs.replace(point, loss=metric.loss / metric.records, accuracy=accuracy)


def _judged(training: Training, state: State, point: Point) -> State:
    """Keep the best weights, and stop when they have been the best for long."""
    assert training.validation is not None
    assert point.loss is not None
    if state.least is None or point.loss < state.least - training.validation.least_gain:
        history = msgspec.structs.replace(state.history, best=point.round)
        return msgspec.structs.replace(state, best=state.weights, least=point.loss, worse=0, history=history)
    worse, patience = state.worse + 1, training.validation.patience
    history = state.history
    if patience is not None and worse >= patience:
        history = msgspec.structs.replace(history, stopped=f"no better in {worse} metrics")
    return msgspec.structs.replace(state, worse=worse, history=history)

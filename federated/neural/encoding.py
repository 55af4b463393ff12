"""A department's update and metric -> one vector of words, and the joint vector -> the mean update and the joint metric.

    exact, local   [ w x change | rows ],  w = rows / max_rows (1 in local: no weight may tell how many rows there are)
    joint, department   [ integers on the grid ]
    metric, in the rounds that take one   [ loss / cap | right classes | records ]

Reals travel in fixed point with the largest exponent for which the joint sum of all that is allowed fits 2^61; what is beyond is refused
before it is sent. Under record-level privacy the metric has noise of its own (`sandbox.training.validation_multiplier`).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.fixedpoint import Encoding, scale_for, to_grid
from mpc.noise import TAIL
from sandbox import architecture
from sandbox.errors import InternalError, ParameterError
from sandbox.training import DepartmentLevel, RecordLevel, Training, validation_multiplier

from . import dpsgd
from .dpsgd import Grid, RandomBytes
from .local import LARGEST_UPDATE, Exact, Noisy, Update, joint_grid
from .network import Metric

BOUND = 2**62
_BITS = 61
Words = NDArray[np.uint64]


class Sizes(msgspec.Struct, frozen=True):
    """What both ends know of a secure sum: its parties, how many of them are sure to add noise, and the most rows that one may have."""

    parties: int
    honest: int
    max_rows: int

    def __post_init__(self) -> None:
        if not 1 <= self.honest <= self.parties:
            raise ParameterError(f"'honest' is {self.honest}; allowed are 1 to 'parties', {self.parties}")


class Joint(msgspec.Struct, frozen=True):
    """What a secure sum says. `change` is the mean update, None where nobody had rows; `rows` its rows, where they are no secret."""

    change: NDArray[np.float64] | None
    rows: int | None
    metric: Metric | None


def check(training: Training, sizes: Sizes) -> None:
    """That no sum of honest parts can overflow: known before anything is charged, since an error later would tell of the data."""
    if not _on_grid(training):
        return
    on = joint_grid(training, architecture.parameters(training.layers), sizes.honest)
    if sizes.max_rows * on.sensitivity + TAIL * on.sigma > BOUND // sizes.parties:
        raise ParameterError(
            f"sums of {sizes.max_rows} rows a department ('max_rows') over {sizes.parties} departments are beyond 2^62 units of the grid"
        )


def words(training: Training, round: int) -> int:
    """Length of the vector in round `round`."""
    size = architecture.parameters(training.layers) + (not _on_grid(training))
    return size * (round < training.rounds) + 3 * training.evaluates(round)


def encode(
    training: Training, sizes: Sizes, update: Update | None, metric: Metric | None, random_bytes: RandomBytes
) -> Words:
    """One department's vector."""
    parts = []
    if isinstance(update, Noisy):
        parts.append(update.integers)
    elif isinstance(update, Exact):
        weight = 1.0 if training.privacy else update.rows / sizes.max_rows
        parts += [_fixed(weight * update.change, LARGEST_UPDATE, sizes), np.array([update.rows])]
    if metric is not None:
        parts.append(_metric(training, sizes, metric, random_bytes))
    vector = np.concatenate(parts)
    if vector.size and int(np.abs(vector).max()) > BOUND // sizes.parties:
        raise ParameterError(f"an update is beyond what sums over {sizes.parties} departments can carry")
    return Encoding(BOUND, sizes.parties).encode(vector)


def decode(training: Training, sizes: Sizes, round: int, joint: Words, present: int) -> Joint:
    """The sum over `present` departments."""
    vector = Encoding(BOUND, sizes.parties).decode(joint)
    if vector.size != words(training, round):
        raise InternalError("the joint vector has another length than its round")
    if training.privacy and present < sizes.honest:
        raise InternalError(f"{present} departments are in the sum; its noise needs {sizes.honest}")
    metric = None
    if training.evaluates(round):
        metric, vector = _joint_metric(training, sizes, vector[-3:], present), vector[:-3]
    if round >= training.rounds:
        return Joint(None, None, metric)
    if _on_grid(training):
        values = joint_grid(training, vector.size, sizes.honest).values(vector)
        if training.joint_steps:
            assert isinstance(training.privacy, RecordLevel)
            return Joint(-training.optimiser.learning_rate * values / training.privacy.lot, None, metric)
        return Joint(values / present, None, metric)
    total, rows = _reals(vector[:-1], LARGEST_UPDATE, sizes), int(vector[-1])
    if training.privacy:
        return Joint(total / present, None, metric)
    return Joint(total / (rows / sizes.max_rows) if rows > 0 else None, rows, metric)


def metric_grid(training: Training, sizes: Sizes) -> Grid:
    """A record moves (loss / cap, right, 1) by at most sqrt 3. With noise of its own at each step a department trusts no other's."""
    local = isinstance(training.privacy, RecordLevel) and training.privacy.noise == "local"
    return dpsgd.grid(3, math.sqrt(3), validation_multiplier(training), 1 if local else sizes.honest)


def _metric(training: Training, sizes: Sizes, metric: Metric, random_bytes: RandomBytes) -> NDArray[np.int64]:
    assert training.validation is not None
    values = np.array([metric.loss / training.validation.cap, metric.right, metric.records])
    if training.privacy is None:
        return _fixed(values, sizes.max_rows, sizes)
    on = metric_grid(training, sizes)
    return on.integers(values) + on.noise(values.size, random_bytes)


def _joint_metric(training: Training, sizes: Sizes, vector: NDArray[np.int64], present: int) -> Metric | None:
    """None where no record, or nothing but noise, was counted."""
    assert training.validation is not None
    deviation = 0.0
    if training.privacy is None:
        values = _reals(vector, sizes.max_rows, sizes)
    else:
        on = metric_grid(training, sizes)
        values, deviation = on.values(vector), on.sigma * on.unit * math.sqrt(present)
    loss, right, records = values.tolist()
    if not records > 3 * deviation:
        return None
    return Metric(loss * training.validation.cap, right, records)


def _on_grid(training: Training) -> bool:
    """Whether updates are integers with noise in them."""
    return training.joint_steps or isinstance(training.privacy, DepartmentLevel)


def _fixed(values: NDArray[np.float64], bound: float, sizes: Sizes) -> NDArray[np.int64]:
    return to_grid(values, scale_for(bound * sizes.parties, _BITS))


def _reals(integers: NDArray[np.int64], bound: float, sizes: Sizes) -> NDArray[np.float64]:
    return np.ldexp(integers.astype(np.float64), -scale_for(bound * sizes.parties, _BITS))

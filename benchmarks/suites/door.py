"""The door: to decide, and to compare a new release's cohorts with a thousand released ones.

One node, on disk. Differencing is this node's own work: its vector, and judging the sum; cells of all rows, or one cell of half of them.
"""

from __future__ import annotations

import datetime
import pathlib

import numpy as np

from benchmarks.harness import Measure, Sizes, sweep
from sandbox import cohorts, policy
from sandbox.catalog import Budget, Column, DataSet, Overrides
from sandbox.cohorts import Cohorts
from sandbox.members import Members

DECISIONS = 1_000


def bench_decide(measure: Measure) -> None:
    own = Overrides(
        analysts=tuple(f"analyst {i}" for i in range(20)), releases=100, epsilon_per_release=1.0, approvers=2
    )
    dataset = DataSet(
        "important", ("care",), {"age": Column("integer", (0, 120))}, budget=Budget(5, 1e-6), policy=own
    )
    rules = policy.of("t", dataset)
    now = datetime.datetime.now(datetime.UTC)
    facts = policy.Facts("care", "analyst 7", "hospital", "table", "v", now, 0.5, 1e-6)
    history = policy.History(releases=3, epsilon=1.0, approvals=frozenset({"li", "wang"}))
    assert isinstance(policy.decide(rules, facts, history), policy.Allow)
    measure.task("decide")
    measure(lambda: [policy.decide(rules, facts, history) for _ in range(DECISIONS)])
    measure.note(work=DECISIONS, unit="decisions")


@sweep(
    rows=Sizes(quick=(50_000,), default=(1_000_000,) * 2),
    released=Sizes(quick=(100,), default=(1_000,) * 2),
    shown=Sizes(quick=(20,), default=(20, 1)),
)
def bench_differencing(
    measure: Measure, tmp_path: pathlib.Path, rows: int, released: int, shown: int
) -> None:
    """A release of 20 cells beside the released ones, which came `shown` at a time."""
    random = np.random.default_rng(0)
    store = Cohorts(tmp_path / "cohorts.db")
    store.identify("t", "v", random.integers(0, 2**63, rows, dtype=np.uint64))
    for i in range(released // shown):
        store.add("t", f"request {i}", _cells(random, rows, shown), {f"request {j}" for j in range(i)})
    before, new = store.released("t"), _cells(random, rows, 20)
    measure.task("differencing", rows=rows, released=released, cells_of_each=shown)

    def compare() -> None:
        joint = store.vector("t", new, before)
        cohorts.refusals(joint, new.shape, before, 10)

    measure(compare, rounds=3)
    store.close()


def _cells(random: np.random.Generator, rows: int, cells: int) -> Members:
    """Random cells of all rows, or one cell of half of them."""
    labels = random.integers(0, cells, rows) if cells > 1 else random.integers(-1, 1, rows)
    return Members("v", (cells,), ((),), labels.astype(np.int32)[None])

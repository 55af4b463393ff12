"""The door: to decide, to charge after a thousand other charges, and to compare a new release's cohorts with a thousand released ones.

One node, on disk, every charge synchronised. Differencing is this node's own work: its vector, and judging the sum.
"""

from __future__ import annotations

import datetime
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sandbox import cohorts, policy
from sandbox.accounting import Event, SampledGaussian, Zcdp
from sandbox.catalog import Budget, Column, DataSet, Overrides
from sandbox.cohorts import Cohorts
from sandbox.ledger import Caps, Charge, Ledger
from sandbox.members import Members

EVENTS = 1_000
ROWS = 1_000_000
RELEASED = 1_000
RUNS = 7
CAPS = Caps(epsilon=100.0, delta=1e-6, analyst_epsilon=100.0, releases=10**6)
CHARGE_TARGET = 0.050


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory)
        return [_decide(), *_charge(path), *_differencing(path)]


def _decide() -> dict[str, Any]:
    own = Overrides(
        analysts=tuple(f"analyst {i}" for i in range(20)), releases=100, epsilon_per_release=1.0, approvers=2
    )
    dataset = DataSet(
        "important", ("care",), {"age": Column("integer", (0, 120))}, budget=Budget(5, 1e-6), policy=own
    )
    rules = policy.of("t", dataset)
    facts = policy.Facts(
        "care", "analyst 7", "hospital", "table", "v", datetime.datetime.now(datetime.UTC), 0.5, 1e-6
    )
    history = policy.History(releases=3, epsilon=1.0, approvals=frozenset({"li", "wang"}))
    assert isinstance(policy.decide(rules, facts, history), policy.Allow)
    samples = [
        _seconds(lambda: [policy.decide(rules, facts, history) for _ in range(1000)]) / 1000
        for _ in range(RUNS)
    ]
    return _record("decide", samples, {}, unit="us", scale=1e6)


def _charge(path: pathlib.Path) -> list[dict[str, Any]]:
    """Each kind of event, after `EVENTS` charges of both kinds."""
    book = Ledger(path / "ledger.db")
    training = SampledGaussian(0.01, 1.5, 100)
    first = [_seconds(lambda i=i: book.charge(_asked(("first", i), Zcdp(1e-5)), CAPS)) for i in range(RUNS)]
    for i in range(EVENTS):
        book.charge(_asked(i, training if i % 100 == 99 else Zcdp(1e-5)), CAPS)
    records = [_record("charge, empty ledger", first, {}, target=CHARGE_TARGET)]
    events: dict[str, Event | None] = {"statistic": Zcdp(1e-5), "training": training, "exact": None}
    for name, event in events.items():
        samples = [
            _seconds(lambda n=(name, i), e=event: book.charge(_asked(n, e), CAPS)) for i in range(RUNS)
        ]
        records.append(_record(f"charge, {name}", samples, {"events": EVENTS}, target=CHARGE_TARGET))
    fresh = [
        _seconds(lambda i=i: book.charge(_asked(("fresh", i), SampledGaussian(0.01, 2.0 + i, 100)), CAPS))
        for i in range(RUNS)
    ]
    records.append(
        _record("charge, training with new parameters", fresh, {"events": EVENTS}, target=CHARGE_TARGET)
    )
    records.append(_record("verify the ledger", [_seconds(book.verify)], {"events": EVENTS}))
    book.close()
    return records


def _asked(label: object, event: Event | None) -> Charge:
    return Charge(repr(label).encode(), "t", "ana", "care", 0.0, event)


def _differencing(path: pathlib.Path) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    records = []
    for shown in (20, 1):
        store = Cohorts(path / f"cohorts {shown}.db")
        store.identify("t", "v", random.integers(0, 2**63, ROWS, dtype=np.uint64))
        for i in range(RELEASED // shown):
            store.add("t", f"request {i}", _cells(random, shown), {f"request {j}" for j in range(i)})
        released = store.released("t")
        for cells in (1, 20):
            new = _cells(random, cells)
            vectors = [_seconds(lambda s=store, n=new, r=released: s.vector("t", n, r)) for _ in range(3)]
            parameters = {"rows": ROWS, "released": RELEASED, "cells of each": shown, "new cells": cells}
            records.append(_record("differencing, vector", vectors, parameters))
            joint = store.vector("t", new, released)
            judged = [
                _seconds(lambda j=joint, n=new, r=released: cohorts.refusals(j, n.shape, r, 10))
                for _ in range(3)
            ]
            records.append(_record("differencing, judge", judged, parameters))
        store.close()
    return records


def _cells(random: np.random.Generator, cells: int) -> Members:
    """Random cells of all rows, or one cell of half of them."""
    labels = random.integers(0, cells, ROWS) if cells > 1 else random.integers(-1, 1, ROWS)
    return Members("v", (cells,), ((),), labels.astype(np.int32)[None])


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _record(
    name: str,
    samples: list[float],
    parameters: dict[str, Any],
    unit: str = "s",
    scale: float = 1.0,
    target: float | None = None,
) -> dict[str, Any]:
    scaled = [sample * scale for sample in samples]
    record = {"suite": "door", "name": name, "parameters": parameters, "unit": unit}
    record |= {"value": statistics.median(scaled), "samples": scaled}
    return record | ({"target": target} if target is not None else {})

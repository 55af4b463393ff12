"""Differential privacy: the noise, what the budget's ledger costs, and how far off a private answer is at an epsilon.

Noise is a discrete Gaussian, drawn from an AES keystream: a word a sample is what it cannot do without. The ledger is on disk, each charge
synchronised, after a thousand charges of both kinds. The private means are of incomes by region, three departments, distributed noise.
"""

from __future__ import annotations

import itertools
import pathlib
import secrets

import numpy as np
import pandas as pd
import pytest

from benchmarks import workloads
from benchmarks.harness import Measure, Sizes, sweep
from benchmarks.workloads import DELTA, INCOME, REGIONS
from federated.local import open_city
from mpc.noise import discrete_gaussian
from sandbox import col
from sandbox.accounting import Event, SampledGaussian, Zcdp
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.ledger import Caps, Charge, Ledger

CAPS = Caps(epsilon=100.0, delta=1e-6, analyst_epsilon=100.0, releases=10**6)
CHARGES = Sizes(quick=(100,), default=(1_000,))
DEPARTMENTS = ("a", "b", "c")


@sweep(samples=Sizes(quick=(10_000, 1_000_000), full=(10_000, 100_000, 1_000_000, 10_000_000)))
def bench_noise(measure: Measure, samples: int) -> None:
    said = "keyed AES stream; within 2^-100 of the exact law"
    measure.task("discrete Gaussian noise", conditions=said, samples=samples, sigma=workloads.SIGMA)
    noise = measure(lambda: discrete_gaussian(workloads.SIGMA, samples, secrets.token_bytes(32)))
    measure.note(
        work=samples, unit="samples", demands={"AES-256-CTR": 8.0 * samples, "memory add": 24.0 * samples}
    )
    measure.note(error=abs(float(np.std(noise)) / workloads.SIGMA - 1), error_is="relative, of the deviation")


EVENTS: dict[str, Event | None] = {
    "statistic": Zcdp(1e-5),
    "training": SampledGaussian(0.01, 1.5, 100),
    "exact": None,
}


@pytest.mark.parametrize("kind", EVENTS)
@sweep(events=CHARGES)
def bench_charge(measure: Measure, tmp_path: pathlib.Path, kind: str, events: int) -> None:
    measure.task(f"charge, {kind}", events=events)
    book, number = Ledger(tmp_path / "ledger.db"), itertools.count()

    def charge(event: Event | None) -> None:
        book.charge(Charge(repr(next(number)).encode(), "t", "ana", "care", 0.0, event), CAPS)

    for i in range(events):
        charge(EVENTS["training" if i % 100 == 99 else "statistic"])
    measure(lambda: charge(EVENTS[kind]), rounds=9)
    measure.note(demands={"fdatasync": 1.0})
    book.close()


@sweep(people=workloads.PEOPLE)
def bench_means(measure: Measure, people: int) -> None:
    said = "no curator: noise of three departments, private though one drops out or tells"
    epsilon = workloads.EPSILON
    measure.task("mean by region", conditions=said, people=people, regions=REGIONS, epsilon=epsilon)
    regions = tuple(f"r{i:02}" for i in range(REGIONS))
    columns = {
        "region": Column("category", categories=regions),
        "income": Column("real", (0, INCOME)),
    }
    data = workloads.people(people)
    pooled = pd.DataFrame(
        {"region": np.array(regions, dtype=object)[data["region"]], "income": data["income"]}
    )
    dataset = DataSet("general-2", ("benchmark",), columns, max_rows=people, budget=Budget(100, 1e-5))
    frames = {name: {"people": pooled[i :: len(DEPARTMENTS)]} for i, name in enumerate(DEPARTMENTS)}
    city = open_city({name: Catalog(name, {"people": dataset}) for name in frames}, frames)
    query = city.table("people").group_by("region").agg(col("income").mean())
    release = measure(lambda: query.release(purpose="benchmark", epsilon=epsilon))
    found = release.frame.sort_values("region")["income_mean"].to_numpy(float)
    exact = pooled.groupby("region")["income"].mean().sort_index().to_numpy()
    measure.note(
        error=float(np.sqrt(np.mean((found / exact - 1) ** 2))), error_is="root mean square, relative"
    )
    measure.note(sent={k: float(v) for k, v in release.cost.sent.items()}, rounds=release.cost.rounds)
    measure.note(work=people, unit="people", figures={"delta": DELTA})

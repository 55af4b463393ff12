"""OpenDP on the same noise and the same private means: a curator holds all rows; the same mechanism, one discrete Gaussian over the stacked
counts and sums, its scale found by OpenDP's own accounting."""

from __future__ import annotations

import numpy as np
import opendp.prelude as dp

from benchmarks import workloads
from benchmarks.harness import Measure, sweep
from benchmarks.workloads import DELTA, EPSILON, INCOME, REGIONS, SIGMA

dp.enable_features("contrib")
GRID = 1 << 10


def _gaussian(scale: float) -> dp.Measurement:
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    return dp.m.make_gaussian(*space, scale=scale)


@sweep(samples=workloads.SAMPLES)
def bench_noise(measure: Measure, samples: int) -> None:
    said = "exact law; OpenSSL's generator"
    measure.task("discrete Gaussian noise", conditions=said, samples=samples, sigma=SIGMA)
    mechanism, zeros = _gaussian(SIGMA), [0] * samples
    noise = measure(lambda: mechanism(zeros), rounds=2)
    measure.note(work=samples, unit="samples")
    measure.note(error=abs(float(np.std(noise)) / SIGMA - 1), error_is="relative, of the deviation")


@sweep(people=workloads.PEOPLE)
def bench_means(measure: Measure, people: int) -> None:
    said = "a trusted curator holds all rows"
    measure.task("mean by region", conditions=said, people=people, regions=REGIONS, epsilon=EPSILON)
    data = workloads.people(people)
    regions, income = data["region"], data["income"]
    sensitivity = np.sqrt(2.0) * (GRID + 1)

    def epsilon_of(scale: float) -> float:
        private = dp.c.make_fix_delta(dp.c.make_zCDP_to_approxDP(_gaussian(scale)), DELTA)
        return float(private.map(sensitivity)[0])

    low, high = 1.0, 1e7
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon_of(middle) <= EPSILON else (middle, high)
    mechanism = _gaussian(high)

    def means() -> np.ndarray:
        counts = np.bincount(regions, minlength=REGIONS) * GRID
        sums = np.rint(np.bincount(regions, income, minlength=REGIONS) / INCOME * GRID).astype(int)
        noisy = np.array(mechanism([*counts.tolist(), *sums.tolist()]))
        return noisy[REGIONS:] / noisy[:REGIONS] * INCOME

    found = measure(means)
    exact = np.bincount(regions, income) / np.bincount(regions)
    measure.note(
        error=float(np.sqrt(np.mean((found / exact - 1) ** 2))), error_is="root mean square, relative"
    )
    measure.note(work=people, unit="people")

"""Empirical audit of the guarantee: an attacker who sees one release of a real mechanism guesses which of two neighbouring tables it came from.

A distinguishing test: from `TRIALS` releases of each table, the share of those above a threshold is bounded by Clopper and Pearson (Biometrika 1934), and
(epsilon, delta)-DP says P(above | with) <= e^epsilon P(above | without) + delta; so the data prove a lower bound on epsilon (Jagielski, Ullman and
Oprea, "Auditing Differentially Private Machine Learning", NeurIPS 2020). It must not exceed the claim at the same delta, and must exceed it once the
noise is halved. A right implementation fails with probability at most 2 `ALARM`.
"""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from pooling import request
from scipy import stats

from federated import encoding
from federated.learn import estimators
from federated.learn.private.newton import Descent
from sandbox import col, dp
from sandbox import fit as f
from sandbox import query as q
from sandbox.catalog import Column, Schema
from sandbox.design_matrix import Rows
from sandbox.engine import LocalSums
from sandbox.plan import compile as compile_plan

CHOOSING, TRIALS = 800, 4000
ALARM = 1e-6
DELTA = 0.1  # so large that a few thousand releases tell of epsilon
RHO = 0.7
DEPARTMENTS = 2


def keys(seed: str):
    counter = itertools.count()
    return lambda size: hashlib.sha256(f"{seed} {next(counter)}".encode()).digest()[:size]


def proven(without: np.ndarray, with_: np.ndarray) -> float:
    """The largest epsilon that the releases prove, at `DELTA`, with confidence 1 - `ALARM`; the first `CHOOSING` only choose the threshold."""
    candidates = np.quantile(
        np.concatenate([without[:CHOOSING], with_[:CHOOSING]]), np.linspace(0.02, 0.98, 97)
    )

    def bound(a, b, threshold, confidence):
        above_a, above_b = int((a > threshold).sum()), int((b > threshold).sum())
        most = stats.beta.ppf(1 - confidence / 2, above_a + 1, len(a) - above_a) if above_a < len(a) else 1.0
        least = stats.beta.ppf(confidence / 2, above_b, len(b) - above_b + 1) if above_b else 0.0
        return math.log((least - DELTA) / most) if least > DELTA else 0.0

    best = max(candidates, key=lambda t: bound(without[:CHOOSING], with_[:CHOOSING], t, 0.1))
    return bound(without[CHOOSING:], with_[CHOOSING:], best, ALARM)


def attack(release, direction: np.ndarray, seed: str) -> float:
    """Project releases of both tables on the direction in which they differ."""
    scores = [
        np.array([release(table, key) @ direction for _ in range(CHOOSING + TRIALS)])
        for table, key in ((False, keys(seed + " without")), (True, keys(seed + " with")))
    ]
    return proven(*scores)


SCHEMA = Schema(
    {"x": Column("real", (-1.0, 1.0)), "z": Column("real", (-1.0, 1.0)), "y": Column("boolean")},
    max_rows=1000,
)
BEFORE = Rows(np.asfortranarray([[0.5, -0.5], [-0.25, 0.75]]), np.array([1.0, 0.0]))
# One more row at the corner of its bounds, of the class that the model at `AT` finds all but impossible.
AFTER = Rows(np.asfortranarray([[0.5, -0.5], [-0.25, 0.75], [1.0, 1.0]]), np.array([1.0, 0.0, 0.0]))
NOBODY = Rows(np.zeros((0, 2), order="F"), np.zeros(0))
AT = Descent((6.0, 4.0, 4.0), 0.25)


def logistic(halved: bool):
    """One round of the private logistic regression at two departments, of which both add noise."""
    rho = RHO * (4 if halved else 1)
    fit = request(f.LogisticRegression(), ("x", "z"), "y", rounds=1)
    epsilon = dp.epsilon_of(rho, 1e-6)
    learner = estimators.private(fit, SCHEMA, DEPARTMENTS, epsilon=epsilon, delta=1e-6, honest=DEPARTMENTS)
    assert learner.rho == pytest.approx(rho, rel=1e-6)

    def release(with_: bool, key):
        parts = [learner.encode(AT, AFTER if with_ else BEFORE, key), learner.encode(AT, NOBODY, key)]
        joint = learner.decode(AT, np.sum(parts, axis=0, dtype=np.uint64), DEPARTMENTS)
        return np.concatenate([part.values / part.deviation for part in joint])

    moved = [
        (after - before) * block.unit
        for after, before, block in zip(
            learner.local(AT, AFTER), learner.local(AT, BEFORE), learner.blocks(AT), strict=True
        )
    ]
    noise = learner.decode(AT, np.zeros(learner.words(AT), np.uint64), DEPARTMENTS)
    return release, np.concatenate([m / n.deviation for m, n in zip(moved, noise, strict=True)])


def query(halved: bool):
    """A count and a sum as any statistic is released."""
    plan = compile_plan(
        q.Query("t", (q.Named("n", q.Count()), q.Named("s", col("x").sum().aggregate))), SCHEMA, exact=False
    )
    noise = encoding.check_noise(plan, 1, RHO * (4 if halved else 1), DEPARTMENTS, 1e-6)
    layout = {"max_rows": 1000, "parties": DEPARTMENTS}

    def sums(rows: int) -> LocalSums:  # rows at the upper bound, each adds one row bound to every component
        return LocalSums([np.array([rows * component.bound]) for component in plan.components], [])

    def release(with_: bool, key):
        parts = [
            encoding.encode(plan, sums(rows), noise, random_bytes=key, **layout) for rows in (2 + with_, 0)
        ]
        joint = encoding.decode(
            plan, np.sum(parts, axis=0, dtype=np.uint64), noise, present=DEPARTMENTS, **layout
        )
        return np.array([float(c[0]) / d for c, d in zip(joint.components, joint.deviations, strict=True)])

    return release, np.ones(len(plan.components))


@pytest.mark.parametrize("mechanism", [logistic, query], ids=["logistic regression", "count and sum"])
def test_releases_prove_no_more_than_is_claimed_and_more_once_the_noise_is_halved(mechanism):
    claimed = dp.epsilon_of(RHO, DELTA)
    honest = attack(*mechanism(halved=False), "honest")
    assert honest <= claimed
    assert honest > claimed / 5  # the attack is a real one
    assert attack(*mechanism(halved=True), "halved") > claimed

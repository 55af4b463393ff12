"""An empirical privacy audit: whoever sees every joint update guesses whether a chosen record is in the data.

If a mechanism is (epsilon, delta)-DP, any test's true positives TPR and false positives FPR keep TPR <= e^epsilon FPR + delta (Kairouz, Oh and
Viswanath, ICML 2015), so bounds of both by Clopper and Pearson give a lower bound of epsilon (Jagielski, Ullman and Oprea, "Auditing
Differentially Private Machine Learning", NeurIPS 2020). False-alarm rate of each bound: 1e-6; secrets are seeded.

The record is the worst there is: its gradient is always cut, and always points the same way. The attacker knows everything else, and tests by
the likelihood ratio of the sampled Gaussian. Two departments take part and just as many are needed for the noise.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from trainees import Seeded, training

from federated.neural import clipping, dpsgd, encoding, local
from federated.neural.encoding import Sizes
from federated.neural.network import Data
from sandbox import accounting
from sandbox import architecture as a
from sandbox import training as t

ALARM = 1e-6
RUNS = 2000
RATE, MULTIPLIER, ROUNDS, DELTA, CLIP = 0.9, 1.5, 2, 0.05, 1e-3
THRESHOLD = 0.6  # of the likelihood ratio's logarithm: about where the bound is largest for half the noise
MADE = training(
    layers=(a.Linear(1, 1, bias=False),),
    loss="binary_cross_entropy",
    rounds=ROUNDS,
    sampling_rate=RATE,
    optimiser=t.Sgd(1.0),
    privacy=t.RecordLevel("joint", CLIP, MULTIPLIER, lot=1.0),
)
NOBODY = Data(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))
CANARY = Data(torch.ones(1, 1), torch.ones(1, dtype=torch.int64))
SIZES = Sizes(parties=2, honest=2, max_rows=10)


def guess(data, run, threshold) -> bool:
    """Whether the attacker says that the record is there, from all joint updates of one training."""
    weights, evidence = np.zeros(1, np.float32), 0.0
    secrets = [Seeded(run, len(data), department) for department in range(2)]
    for round in range(ROUNDS):
        updates = [
            local.update(MADE, weights, part, SIZES.honest, secret)
            for part, secret in zip((data, NOBODY), secrets, strict=True)
        ]
        words = sum(encoding.encode(MADE, SIZES, update, None, Seeded(0)) for update in updates)
        change = encoding.decode(MADE, SIZES, round, words, 2).change
        seen = float(change[0]) / CLIP
        evidence += math.log1p(RATE * math.expm1((seen - 0.5) / MULTIPLIER**2))
        weights = (weights + change).astype(np.float32)
    return evidence > threshold


def least_epsilon(runs=RUNS, threshold=THRESHOLD) -> float:
    """A lower bound of the epsilon of what runs here."""
    found = sum(guess(CANARY, run, threshold) for run in range(runs))
    false = sum(guess(NOBODY, run, threshold) for run in range(runs))
    power = stats.beta.ppf(ALARM, found, runs - found + 1) if found else 0.0
    alarms = stats.beta.ppf(1 - ALARM, false + 1, runs - false) if false < runs else 1.0
    return math.log(max(power - DELTA, 1e-9) / alarms)


@pytest.fixture(scope="module")
def claimed():
    """The epsilon that the ledger computes for the declared training."""
    return accounting.epsilon(accounting.cost(t.event(MADE)), DELTA)


def test_the_claim_holds(claimed):
    assert 0 < least_epsilon() <= claimed


def test_half_the_noise_would_be_found_out(claimed, monkeypatch):
    whole = dpsgd.grid

    def half(*arguments):
        made = whole(*arguments)
        return dpsgd.Grid(made.unit, made.sensitivity, made.sigma / 2)

    monkeypatch.setattr(dpsgd, "grid", half)
    assert least_epsilon() > claimed


def test_gradients_that_are_not_cut_would_be_found_out(claimed, monkeypatch):
    cut = clipping.clipped_sum
    monkeypatch.setattr(dpsgd, "clipped_sum", lambda network, data, _clip: cut(network, data, 1e9))
    assert least_epsilon(500, threshold=50.0) > claimed

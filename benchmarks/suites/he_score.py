"""Encrypted scores: complete answers, read from bytes, evaluated, rerandomised, flooded, written to bytes; one thread.

One ciphertext a feature and block of rows. What an evaluation cannot do without: to read every byte that comes and write every byte that goes;
what an encryption: to write its ciphertexts. Transforms are not counted, since limits measure those of another degree.
"""

from __future__ import annotations

import numpy as np

from benchmarks import workloads
from benchmarks.harness import Measure, Sizes, sweep
from mpc.he.models import Activation, Affine, Model, Network, features_of, linear
from mpc.he.scoring import ScoreClient, ScoreServer

SAID = "complete answers: rerandomised, flooded, to and from bytes; 128 bits of security"


class Scoring:
    """One protocol run over random admissible rows, in steps to be measured."""

    def __init__(self, model: Model, rows: int, tolerance: float) -> None:
        self.server = ScoreServer(model, tolerance=tolerance)
        self.client = ScoreClient(self.server.offer())
        self.server.accept_keys(self.client.keys())
        self.rows = rows
        generator = np.random.default_rng(1)
        self.table = {f.name: generator.uniform(f.lower, f.upper, rows) for f in model.features}
        self.exact = model.predict(np.stack(list(self.table.values()), axis=1))

    def encrypt(self) -> list[bytes]:
        return list(self.client.ask(self.table))

    def score(self, blocks: list[bytes]) -> list[bytes]:
        return [self.server.score(block) for block in blocks]

    def error(self, answers: list[bytes]) -> float:
        found = np.concatenate([self.client.scores(answer) for answer in answers])
        error = float(np.abs(found - self.exact).max())
        if not error <= self.client.error:
            raise AssertionError("a score is further off than its bound")
        return error


def _features(count: int = workloads.FEATURES) -> object:
    limit = workloads.RANGE
    return features_of({f"x{i}": (-limit, limit) for i in range(count)})


def _logistic() -> Model:
    return linear(_features(), workloads.weights().tolist(), 0.1, "logistic")


def _network() -> Model:
    first, last = workloads.network()
    layers = (
        Affine(tuple(map(tuple, first.tolist())), (0.1,) * workloads.HIDDEN),
        Activation("square", 2),
        Affine(tuple(map(tuple, last.tolist())), (0.2,)),
    )
    return Model(_features(), Network(layers))


def _evaluation(measure: Measure, task: str, model: Model, rows: int, tolerance: float, **shape: int) -> None:
    run = Scoring(model, rows, tolerance)
    parameters = run.server.plan.parameters
    measure.task(task, conditions=SAID, rows=rows, **shape)
    blocks: list[bytes] = []

    def ask() -> None:
        blocks[:] = run.encrypt()  # a server answers a block once

    answers = measure(lambda: run.score(blocks), setup=ask, rounds=3)
    sent = {"rows' owner": sum(map(len, blocks)), "model's owner": sum(map(len, answers))}
    measure.note(work=rows, unit="rows", sent=sent, rounds=1)
    measure.note(error=run.error(answers), error_is="largest, of a score")
    measure.note(demands={"memory read": sent["rows' owner"], "memory copy": 2 * sent["model's owner"]})
    measure.note(
        figures={
            "degree": parameters.degree,
            "levels": parameters.levels,
            "derived bound of the error": run.client.error,
            "bytes a row, from its owner": sent["rows' owner"] / rows,
        }
    )


def _encryption(measure: Measure, task: str, model: Model, rows: int, tolerance: float) -> None:
    run = Scoring(model, rows, tolerance)
    measure.task(task, conditions=SAID, rows=rows)
    blocks = measure(run.encrypt, rounds=3)
    sent = float(sum(map(len, blocks)))
    measure.note(work=rows, unit="rows", sent={"rows' owner": sent}, demands={"memory copy": 2 * sent})
    measure.note(error=run.error(run.score(blocks)), error_is="largest, of a score")


@sweep(rows=workloads.SCORED)
def bench_logistic(measure: Measure, rows: int) -> None:
    _evaluation(measure, "logistic score: evaluation", _logistic(), rows, 1e-3)


@sweep(rows=workloads.SCORED)
def bench_logistic_encryption(measure: Measure, rows: int) -> None:
    _encryption(measure, "logistic score: encryption", _logistic(), rows, 1e-3)


@sweep(rows=workloads.SCORED, degree=Sizes(quick=(7,)))
def bench_encrypted_link(measure: Measure, rows: int, degree: int) -> None:
    model = _logistic().with_encrypted_link(degree)
    _evaluation(measure, f"logistic score, link of degree {degree}: evaluation", model, rows, 0.1)


@sweep(rows=workloads.SCORED)
def bench_network(measure: Measure, rows: int) -> None:
    _evaluation(measure, "MLP 30-32-1: evaluation", _network(), rows, 1e-2)


@sweep(rows=workloads.SCORED)
def bench_network_encryption(measure: Measure, rows: int) -> None:
    _encryption(measure, "MLP 30-32-1: encryption", _network(), rows, 1e-2)


@sweep(rows=Sizes(quick=(1, 1_000), default=(1, 1_000, 4_096, 16_384, 65_536)))
def bench_rows(measure: Measure, rows: int) -> None:
    _evaluation(measure, "logistic score by rows: evaluation", _logistic(), rows, 1e-3)


@sweep(features=Sizes(quick=(1, 4), default=(1, 10, 100)))
def bench_features(measure: Measure, features: int) -> None:
    model = linear(_features(features), [0.1] * features, 0.0, "logistic")
    _evaluation(measure, "score by features: evaluation", model, 4_096, 1e-3, features=features)


@sweep(link=Sizes(quick=(2, 7), default=(2, 3, 7, 15, 31, 63)))
def bench_depth(measure: Measure, link: int) -> None:
    """A single feature; the polynomial of the link deepens."""
    model = linear(features_of({"x": (-8, 8)}), [1.0], 0.0, "logistic").with_encrypted_link(link)
    _evaluation(measure, "score by degree of the link: evaluation", model, 4_096, 1.0, link=link)

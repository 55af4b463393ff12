"""Homomorphic encryption: each job with the parameters and layout chosen for it, beside TenSEAL as it is commonly called.

All in one process, ours and TenSEAL's runs in turns; `threads` is the `n_threads` of TenSEAL's contexts. Our code starts no
threads, since TenSEAL's bindings hold Python's global lock: `two Python threads` shows that. Scores of ours are complete
answers: read from bytes, evaluated, rerandomised, flooded, written to bytes; TenSEAL's are the bare calls.

With OPENFHE_PYTHON set to an interpreter that has OpenFHE (benchmarks/peers/openfhe.txt), the sum and the linear score are
compared with OpenFHE's package, too, in the same run, on one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mpc.he.keys import SecretKey
from mpc.he.models import Activation, Affine, Model, Network, features_of, linear
from mpc.he.packed import PackedSum
from mpc.he.parameters import SUM
from mpc.he.scoring import ScoreClient, ScoreServer

CELLS, ADDENDS = 1_000_000, 8
ROWS, FEATURES, HIDDEN = 10_000, 30, 32
RUNS, PEER_ROWS = 5, 20
SUM_TARGET, LOGISTIC_TARGET, MLP_TARGET = 7.0, 200.0, 50.0
PEER = pathlib.Path(__file__).parent / "peers" / "openfhe_sum.py"


def run() -> list[dict[str, Any]]:
    return [*_sums(), *_python_threads(), *_logistic(), *_mlp(), *_costs(), *_openfhe()]


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _turns(*functions: Callable[[], Any], runs: int = RUNS) -> list[list[float]]:
    """Samples of each, taken in turns, so that other load falls on all of them."""
    samples = [[_seconds(function) for function in functions] for _ in range(runs)]
    return [list(column) for column in zip(*samples, strict=True)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TenSEAL's C++ writes warnings to standard output."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _sums() -> list[dict[str, Any]]:
    """A million 16-bit integers: to bytes, and from bytes to a sum of two."""
    import tenseal

    values = np.random.default_rng(0).integers(0, 2**16, CELLS)
    as_list = values.astype(float).tolist()
    sums, key = PackedSum.integers(0, 2**16 - 1, addends=ADDENDS), SecretKey.generate(SUM)
    public = key.public_key()
    contexts = {}
    for threads in (1, 2):
        contexts[threads] = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=threads
        )
        contexts[threads].global_scale = 2**40
    with _quiet():
        ours, with_public, one, two = _turns(
            lambda: sums.encrypt(values, key).to_bytes(),
            lambda: sums.encrypt(values, public).to_bytes(),
            lambda: tenseal.ckks_vector(contexts[1], as_list).serialize(),
            lambda: tenseal.ckks_vector(contexts[2], as_list).serialize(),
        )
        theirs = tenseal.ckks_vector(contexts[1], as_list)
        their_total = np.array((theirs + theirs).decrypt())
    message, their_bytes = sums.encrypt(values, key).to_bytes(), len(theirs.serialize())
    vector = sums.read(message, key.fingerprint)
    total = sums.decrypt(vector + vector, key)
    if total.tolist() != (2 * values).tolist():
        raise AssertionError("the sum is wrong")
    parameters = {"values": CELLS}
    speed = statistics.median(one) / statistics.median(ours)
    two_speed = statistics.median(two) / statistics.median(ours)
    reading, adding, decrypting = _turns(
        lambda: sums.read(message, key.fingerprint),
        lambda: vector + vector,
        lambda: sums.decrypt(vector, key),
    )
    return [
        _record("sum: encryption to bytes, secret key", parameters, ours, "s"),
        _record("sum: encryption to bytes, public key", parameters, with_public, "s"),
        _record("sum: TenSEAL ckks_vector to bytes", {**parameters, "threads": 1}, one, "s"),
        _record("sum: TenSEAL ckks_vector to bytes", {**parameters, "threads": 2}, two, "s"),
        _record("sum: encryption, times faster", {"threads": 1}, [speed], "x", target=SUM_TARGET),
        _record("sum: encryption, times faster", {"threads": 2}, [two_speed], "x", target=SUM_TARGET),
        _record("sum: ciphertext, times smaller", {}, [their_bytes / len(message)], "x", target=SUM_TARGET),
        _record("sum: ciphertext of float32's bytes", {}, [len(message) / (4 * CELLS)], "x", target=2.0),
        _record("sum: largest error", {}, [float(np.abs(total - 2 * values).max())], ""),
        _record("sum: largest error of TenSEAL's", {}, [float(np.abs(their_total - 2 * values).max())], ""),
        _record("sum: reading", parameters, reading, "s"),
        _record("sum: adding", parameters, adding, "s"),
        _record("sum: decrypting", parameters, decrypting, "s"),
    ]


def _python_threads() -> list[dict[str, Any]]:
    """The same work in one thread and split over two: the global lock is held, so nothing is gained."""
    sums, key = PackedSum.integers(0, 2**16 - 1, addends=ADDENDS), SecretKey.generate(SUM)
    values = np.random.default_rng(0).integers(0, 2**16, CELLS)

    def both() -> None:
        threads = [threading.Thread(target=sums.encrypt, args=(half, key)) for half in np.split(values, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    one, two = _turns(lambda: sums.encrypt(values, key), both)
    gained = statistics.median(one) / statistics.median(two)
    return [_record("sum: two Python threads, times faster", {"values": CELLS}, [gained], "x")]


class _Run:
    """One protocol run over random admissible rows, in steps to be measured."""

    def __init__(self, model: Model, rows: int, tolerance: float) -> None:
        generator = np.random.default_rng(1)
        self.server = ScoreServer(model, tolerance=tolerance)
        self.client = ScoreClient(self.server.offer())
        keys = self.client.keys()
        self.server.accept_keys(keys)
        self.key_bytes = len(keys)
        self.rows = rows
        self.table = {f.name: generator.uniform(f.lower, f.upper, rows) for f in model.features}
        self.exact = model.predict(np.stack(list(self.table.values()), axis=1))
        self.blocks: list[bytes] = []
        self.answers: list[bytes] = []

    def encrypt(self) -> None:
        self.blocks = list(self.client.ask(self.table))

    def score(self) -> None:
        self.answers = [self.server.score(block) for block in self.blocks]

    def decrypt(self) -> None:
        found = np.concatenate([self.client.scores(answer) for answer in self.answers])
        if not np.abs(found - self.exact).max() <= self.client.error:
            raise AssertionError("a score is further off than its bound")


def _features() -> Any:
    return features_of({f"x{i}": (-3, 3) for i in range(FEATURES)})


def _logistic_model() -> Model:
    weights = np.random.default_rng(2).normal(size=FEATURES) / 10
    return linear(_features(), weights.tolist(), 0.1, "logistic")


def _mlp_model() -> Model:
    generator = np.random.default_rng(3)
    first, last = generator.normal(size=(HIDDEN, FEATURES)) / 10, generator.normal(size=HIDDEN) / 10
    layers = (
        Affine(tuple(map(tuple, first.tolist())), tuple([0.1] * HIDDEN)),
        Activation("square", 2),
        Affine((tuple(last.tolist()),), (0.2,)),
    )
    return Model(_features(), Network(layers))


def _compared(
    name: str,
    runs: dict[str, _Run],
    peers: dict[int, tuple[Callable[[], Any], Callable[[], Any]]],
    target: float,
) -> list[dict[str, Any]]:
    """Milliseconds a row: the evaluation, and everything from the plain row to the plain score."""
    functions: list[Callable[[], Any]] = []
    for one in runs.values():
        functions += [one.encrypt, one.score, one.decrypt]
    for encrypt, evaluate in peers.values():
        functions += [encrypt, evaluate]
    samples = [[s * 1e3 for s in column] for column in _turns(*functions, runs=3)]
    records, evaluations, wholes = [], {}, {}
    for i, (label, one) in enumerate(runs.items()):
        steps = [[s / one.rows for s in samples[3 * i + k]] for k in range(3)]
        evaluations[label] = statistics.median(steps[1])
        wholes[label] = sum(statistics.median(step) for step in steps)
        shape = {"rows": one.rows, "features": FEATURES, "degree": one.server.plan.parameters.degree}
        records += [
            _record(f"{name}, {label}: encryption", shape, steps[0], "ms/row"),
            _record(f"{name}, {label}: evaluation", shape, steps[1], "ms/row"),
            _record(f"{name}, {label}: decryption", shape, steps[2], "ms/row"),
            _record(f"{name}, {label}: sent", shape, [sum(map(len, one.blocks)) / one.rows], "B/row"),
            _record(f"{name}, {label}: derived error", shape, [one.client.error], ""),
            _record(
                f"{name}, {label}: largest error",
                shape,
                [_largest_error(one)],
                "",
            ),
        ]
    offset = 3 * len(runs)
    for j, threads in enumerate(peers):
        encryption, evaluation = ([s / PEER_ROWS for s in samples[offset + 2 * j + k]] for k in range(2))
        records += [
            _record(
                f"{name}, TenSEAL a row at a time: encryption", {"threads": threads}, encryption, "ms/row"
            ),
            _record(
                f"{name}, TenSEAL a row at a time: evaluation", {"threads": threads}, evaluation, "ms/row"
            ),
        ]
        theirs = statistics.median(evaluation)
        whole = theirs + statistics.median(encryption)
        for label in runs:
            records += [
                _record(
                    f"{name}, {label}: evaluation, times faster",
                    {"threads": threads},
                    [theirs / evaluations[label]],
                    "x",
                    target=target,
                ),
                _record(
                    f"{name}, {label}: row to score, times faster",
                    {"threads": threads},
                    [whole / wholes[label]],
                    "x",
                ),
            ]
    return records


def _largest_error(one: _Run) -> float:
    one.encrypt()
    one.score()
    found = np.concatenate([one.client.scores(answer) for answer in one.answers])
    return float(np.abs(found - one.exact).max())


def _logistic() -> list[dict[str, Any]]:
    """TenSEAL's `dot` is the linear part alone; ours includes the link, by the owner of the data or as a polynomial."""
    import tenseal

    model = _logistic_model()
    runs = {
        "link after decryption": _Run(model, ROWS, 1e-3),
        "link of degree 7": _Run(model.with_encrypted_link(7), ROWS, 0.1),
        "link of degree 15": _Run(model.with_encrypted_link(15), ROWS, 0.1),
    }
    [layer] = model.body.layers  # type: ignore[union-attr]
    weights = list(layer.weights[0])  # type: ignore[union-attr]
    rows = np.random.default_rng(1).uniform(-3, 3, (PEER_ROWS, FEATURES)).tolist()
    peers = {}
    for threads in (1, 2):
        context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60], n_threads=threads
        )
        context.global_scale = 2**40
        context.generate_galois_keys()
        vectors = [tenseal.ckks_vector(context, row) for row in rows]
        peers[threads] = (
            lambda context=context: [tenseal.ckks_vector(context, row) for row in rows],
            lambda vectors=vectors: [vector.dot(weights).add([0.1]) for vector in vectors],
        )
    return _compared("logistic", runs, peers, LOGISTIC_TARGET)


def _mlp() -> list[dict[str, Any]]:
    """TenSEAL as in its tutorials: scale 2^26, `mm`, `square_`, `mm`."""
    import tenseal

    model = _mlp_model()
    first, _, last = model.body.layers  # type: ignore[union-attr]
    w1 = np.array(first.weights).T.tolist()  # type: ignore[union-attr]
    w2 = np.array(last.weights).T.tolist()  # type: ignore[union-attr]
    b1, b2 = list(first.bias), list(last.bias)  # type: ignore[union-attr]
    rows = np.random.default_rng(1).uniform(-3, 3, (PEER_ROWS, FEATURES)).tolist()
    peers = {}
    for threads in (1, 2):
        context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[31, 26, 26, 26, 31], n_threads=threads
        )
        context.global_scale = 2**26
        context.generate_galois_keys()
        vectors = [tenseal.ckks_vector(context, row) for row in rows]

        def evaluate(vectors: Any = vectors) -> None:
            for vector in vectors:
                hidden = vector.mm(w1) + b1
                hidden.square_()
                hidden.mm(w2) + b2

        peers[threads] = (
            lambda context=context: [tenseal.ckks_vector(context, row) for row in rows],
            evaluate,
        )
    return _compared("MLP 30-32-1", {"square": _Run(model, ROWS, 1e-2)}, peers, MLP_TARGET)


def _costs() -> list[dict[str, Any]]:
    """Evaluation against rows, features and depth."""
    records = []
    for rows in (1, 1_000, 4_096, 16_384, 65_536):
        records.append(_cost("cost by rows", {"rows": rows}, _logistic_model(), rows, 1e-3))
    for features in (1, 10, 100):
        names = features_of({f"x{i}": (-3, 3) for i in range(features)})
        model = linear(names, [0.1] * features, 0.0, "logistic")
        records.append(_cost("cost by features", {"features": features}, model, 8_192, 1e-3))
    small = linear(features_of({"x": (-8, 8)}), [1.0], 0.0, "logistic")
    for degree in (2, 4, 8, 16, 32, 64):
        model = small.with_encrypted_link(degree - 1) if degree > 2 else small.with_encrypted_link(2)
        records.append(_cost("cost by depth", {}, model, 8_192, 1.0))
    return records


def _cost(name: str, parameters: dict[str, int], model: Model, rows: int, tolerance: float) -> dict[str, Any]:
    one = _Run(model, rows, tolerance)
    samples = []
    for _ in range(3):
        one.encrypt()
        samples.append(_seconds(one.score) * 1e3)
    plan = one.server.plan
    shown = {**parameters, "levels": plan.parameters.levels, "degree": plan.parameters.degree}
    return _record(f"{name}: evaluation", shown, samples, "ms")


def _openfhe() -> list[dict[str, Any]]:
    """The peer in its own environment, ours beside it."""
    interpreter = os.environ.get("OPENFHE_PYTHON")
    if not interpreter:
        return []
    done = subprocess.run(
        [interpreter, str(PEER)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    peers = {record["name"]: record for record in map(json.loads, done.stdout.splitlines())}
    sums, key = PackedSum.reals(-1, 1, addends=ADDENDS), SecretKey.generate(SUM)
    values = np.random.default_rng(0).uniform(-1, 1, CELLS)
    score = _Run(linear(_features(), [0.1] * FEATURES), ROWS, 1e-3)
    [encryption, rows, evaluation] = _turns(lambda: sums.encrypt(values, key), score.encrypt, score.score)
    sizes = {
        "sum": len(sums.encrypt(values, key).to_bytes()),
        "linear score": sum(map(len, score.blocks)),
    }
    ours = {"sum": encryption, "linear score: encryption": rows, "linear score: evaluation": evaluation}
    records = []
    for name, peer in peers.items():
        job = name.split(",")[0] if name.startswith("sum") else name
        mine = ours.get(job) if "addition" not in name else None
        ratio = ("ours", statistics.median(mine)) if mine else None
        records.append(_record(f"OpenFHE, {name}", {"threads": 1}, peer["seconds"], "s", ratio_to=ratio))
        if peer["bytes"]:
            size = sizes[job.split(":")[0]]
            records.append(
                _record(f"OpenFHE, {name}", {}, [peer["bytes"] / 1e6], "MB", ratio_to=("ours", size / 1e6))
            )
    return records


def _record(
    name: str,
    parameters: dict[str, int],
    samples: list[float],
    unit: str,
    *,
    target: float | None = None,
    ratio_to: tuple[str, float] | None = None,
) -> dict[str, Any]:
    value = statistics.median(samples)
    record = {"suite": "he", "name": name, "parameters": parameters, "samples": samples, "value": value}
    compared = {} if ratio_to is None else {"ratio": value / ratio_to[1], "ratio_to": ratio_to[0]}
    return {**record, "unit": unit, "target": target, **compared}

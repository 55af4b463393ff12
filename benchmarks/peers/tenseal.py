"""TenSEAL as its tutorials call it: one `ckks_vector` for a million values; one a row of features, and `dot` or `mm`.

Scores are the bare calls, without rerandomising, flooding or bytes; `dot` is the linear part alone. Fewer rows than ours, since each takes
tens of milliseconds: compare the time a row.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tenseal

from benchmarks import workloads
from benchmarks.harness import Measure, Sizes, sweep

ROWS = Sizes(quick=(3,), default=(20, 20))
THREADS = Sizes(quick=(1,), default=(1, 2))
BARE = "bare calls: nothing rerandomised or flooded, no bytes; 128 bits of security"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its C++ writes warnings to standard output."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _context(bits: list[int], scale: int, threads: int, rotations: bool = True) -> Any:
    made = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=bits, n_threads=threads)
    made.global_scale = 2**scale
    if rotations:
        made.generate_galois_keys()
    return made


@sweep(values=Sizes(*(sizes * 2 for sizes in workloads.VALUES)), threads=Sizes(quick=(1, 2)))
def bench_sum(measure: Measure, values: int, threads: int) -> None:
    said = "public key; approximate; 128 bits of security"
    measure.task("sum: encryption to bytes", conditions=said, values=values, threads=threads)
    context = _context([60, 40, 60], 40, threads, rotations=False)
    words = workloads.words(values)
    numbers = words.astype(float).tolist()
    with _quiet():
        data = measure(lambda: tenseal.ckks_vector(context, numbers).serialize(), rounds=3)
        read = tenseal.ckks_vector_from(context, data)
        total = np.array((read + read).decrypt())
    measure.note(work=values, unit="values", sent={"a party": len(data)})
    measure.note(figures={"bytes a value": len(data) / values})
    measure.note(error=float(np.abs(total - 2 * words).max()), error_is="largest, of a sum of two")


@sweep(rows=ROWS, threads=THREADS)
def bench_logistic(measure: Measure, rows: int, threads: int) -> None:
    measure.task(
        "logistic score: evaluation", conditions=BARE + "; the linear part alone", rows=rows, threads=threads
    )
    context, weights, table = _context([60, 40, 60], 40, threads), workloads.weights(), workloads.rows(rows)
    vectors = [tenseal.ckks_vector(context, row) for row in table.tolist()]
    found = measure(lambda: [vector.dot(weights.tolist()).add([0.1]) for vector in vectors], rounds=3)
    _scored(measure, found, table @ weights + 0.1)


@sweep(rows=ROWS, threads=THREADS)
def bench_network(measure: Measure, rows: int, threads: int) -> None:
    measure.task("MLP 30-32-1: evaluation", conditions=BARE + "; scale 2^26", rows=rows, threads=threads)
    context = _context([31, 26, 26, 26, 31], 26, threads)
    (first, last), table = workloads.network(), workloads.rows(rows)
    vectors = [tenseal.ckks_vector(context, row) for row in table.tolist()]
    w1, w2 = first.T.tolist(), last.T.tolist()
    b1, b2 = [0.1] * workloads.HIDDEN, [0.2]

    def evaluate() -> list[Any]:
        results = []
        for vector in vectors:
            hidden = vector.mm(w1) + b1
            hidden.square_()
            results.append(hidden.mm(w2) + b2)
        return results

    found = measure(evaluate, rounds=2, warm=False)
    _scored(measure, found, ((table @ first.T + 0.1) ** 2 @ last.T + 0.2)[:, 0])


@sweep(
    bits=Sizes(quick=([60, 40, 60], [31, 26, 26, 26, 31])),
    scale=Sizes(quick=(40, 26)),
    task=Sizes(quick=("logistic score", "MLP 30-32-1")),
)
def bench_encryption(measure: Measure, bits: list[int], scale: int, task: str) -> None:
    count = 20
    measure.task(f"{task}: encryption", conditions=BARE, rows=count, threads=1)
    context, rows = _context(bits, scale, 1), workloads.rows(count).tolist()
    measure(lambda: [tenseal.ckks_vector(context, row) for row in rows], rounds=3)
    measure.note(work=count, unit="rows")


def _scored(measure: Measure, found: list[Any], exact: Any) -> None:
    error = max(abs(one.decrypt()[0] - value) for one, value in zip(found, exact, strict=True))
    measure.note(work=len(found), unit="rows", error=float(error), error_is="largest, of a score")

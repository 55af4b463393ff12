"""The two-server engine: both computing parties and the dealer in one process, one thread, messages counted as they would be sent.

What it cannot do without: a word from the dealer's keystream for each word of correlated randomness, at both ends; here those of a product.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.harness import Measure, sweep
from mpc.engine import Laboratory, SecretArray

SAID = "two computing parties and a dealer, no two of them pooling; semi-honest; integers of 64 bits"


def _pair(lab: Laboratory, elements: int) -> tuple[SecretArray, SecretArray]:
    x, y = workloads.secrets(elements)
    return lab.secret(x, "B"), lab.secret(y, "C")


def _multiply(lab: Laboratory, elements: int) -> SecretArray:
    a, b = _pair(lab, elements)
    return a * b


def _less(lab: Laboratory, elements: int) -> SecretArray:
    a, b = _pair(lab, elements)
    return a < b


def _equal(lab: Laboratory, elements: int) -> SecretArray:
    a, b = _pair(lab, elements)
    return a == b


def _truncate(lab: Laboratory, elements: int) -> SecretArray:
    return _pair(lab, elements)[0] >> 16


def _gram(lab: Laboratory, elements: int) -> SecretArray:
    rows = lab.secret(workloads.matrix(2 * elements))
    return rows.inner(rows)


PLAIN = {
    "multiply": lambda n: np.multiply(*workloads.secrets(n)),
    "less than": lambda n: np.less(*workloads.secrets(n)),
    "equal": lambda n: np.equal(*workloads.secrets(n)),
    "truncate by 16": lambda n: workloads.secrets(n)[0] >> 16,
    "Gram matrix of 20 columns": lambda n: workloads.matrix(2 * n) @ workloads.matrix(2 * n).T,
}
SECRET: dict[str, Callable[[Laboratory, int], SecretArray]] = {
    "multiply": _multiply,
    "less than": _less,
    "equal": _equal,
    "truncate by 16": _truncate,
    "Gram matrix of 20 columns": _gram,
}


@pytest.mark.parametrize("name", SECRET)
@sweep(elements=workloads.ELEMENTS)
def bench_operation(measure: Measure, name: str, elements: int) -> None:
    measure.task(f"engine: {name}", conditions=SAID, elements=elements)
    made: list[Laboratory] = []

    def prepare() -> tuple[Laboratory, SecretArray]:
        made[:] = [Laboratory()]
        return made[0], SECRET[name](made[0], elements)

    found = measure(lambda lab, wanted: lab.reveal(wanted), setup=prepare)
    if not np.array_equal(found, PLAIN[name](elements)):
        raise AssertionError(f"{name} is wrong")
    traffic = made[0].traffic
    sent = {"to B": traffic["to B"], "to C": traffic["to C"], "dealt": traffic["dealt"]}
    measure.note(work=elements, unit="elements", sent={k: float(v) for k, v in sent.items()})
    measure.note(rounds=traffic["levels"], error=0.0, error_is="exact")
    if name == "multiply":
        measure.note(demands={"AES-256-CTR": 2 * 5 * 8.0 * elements})

"""Encrypted sums: a million 16-bit values from numbers to bytes, and from bytes to a sum; one thread, as in our code everywhere.

What encryption cannot do without: of each ciphertext, the transforms of the noise and of the seeded half under each modulus.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.harness import Measure, sweep
from mpc.he.keys import SecretKey
from mpc.he.packed import PackedSum
from mpc.he.parameters import SUM

SAID = "exact; 128 bits of security"
SUMS = PackedSum.integers(0, 2**workloads.BITS - 1, addends=workloads.ADDENDS)


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return SecretKey.generate(SUM)


@sweep(values=workloads.VALUES)
def bench_encryption(measure: Measure, key: SecretKey, values: int) -> None:
    _encryption(measure, "sum: encryption to bytes", key, values)


@sweep(values=workloads.VALUES)
def bench_public(measure: Measure, key: SecretKey, values: int) -> None:
    _encryption(measure, "sum: encryption to bytes, public key", key.public_key(), values)


def _encryption(measure: Measure, task: str, key: object, values: int) -> None:
    measure.task(task, conditions=SAID, values=values, threads=1)
    words = workloads.words(values)
    data = measure(lambda: SUMS.encrypt(words, key).to_bytes())  # type: ignore[arg-type]
    ciphertexts = len(data) / (len(SUMS.encrypt(words[:1], key).to_bytes()))  # type: ignore[arg-type]
    measure.note(work=values, unit="values", sent={"a party": len(data)}, error=0.0, error_is="exact")
    measure.note(figures={"bytes a value": len(data) / values, "of float32's bytes": len(data) / values / 4})
    measure.note(demands={f"NTT, degree {SUM.degree}": 2 * ciphertexts})


@sweep(values=workloads.VALUES)
def bench_addition(measure: Measure, key: SecretKey, values: int) -> None:
    measure.task("sum: reading, adding, decrypting", conditions=SAID, values=values, threads=1)
    words = workloads.words(values)
    messages = [SUMS.encrypt(words, key).to_bytes() for _ in range(2)]

    def add() -> object:
        one, other = (SUMS.read(message, key.fingerprint) for message in messages)
        return SUMS.decrypt(one + other, key)

    if not np.array_equal(measure(add), 2 * words):
        raise AssertionError("the sum is wrong")
    measure.note(work=values, unit="values", error=0.0, error_is="exact")


@sweep(values=workloads.VALUES)
def bench_two_threads(measure: Measure, key: SecretKey, values: int) -> None:
    """The bindings hold Python's global lock: two threads should gain nothing."""
    measure.task("sum: encryption, two Python threads", conditions=SAID, values=values, threads=2)
    halves = np.split(workloads.words(values), 2)

    def both() -> None:
        threads = [threading.Thread(target=SUMS.encrypt, args=(half, key)) for half in halves]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    measure(both)
    measure.note(work=values, unit="values")

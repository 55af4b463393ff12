"""Encrypted sums: a million 16-bit values from numbers to bytes, and from bytes to a sum; one thread, as in our code everywhere.

What encryption cannot do without: for each ciphertext and modulus a transform, of the noise; under a public key two.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
    _encryption(measure, "sum: encryption to bytes", key, key, values, halves=1)


@sweep(values=workloads.VALUES)
def bench_public(measure: Measure, key: SecretKey, values: int) -> None:
    _encryption(measure, "sum: encryption to bytes, public key", key.public_key(), key, values, halves=2)


def _encryption(measure: Measure, task: str, key: Any, secret: SecretKey, values: int, halves: int) -> None:
    measure.task(task, conditions=SAID, values=values, threads=1)
    words = workloads.words(values)
    data = measure(lambda: SUMS.encrypt(words, key).to_bytes())
    _check(data, secret, words)
    ciphertexts = len(data) / (len(SUMS.encrypt(words[:1], key).to_bytes()))
    measure.note(work=values, unit="values", sent={"a party": len(data)}, error=0.0, error_is="exact")
    measure.note(figures={"bytes a value": len(data) / values, "of float32's bytes": len(data) / values / 4})
    moduli = len(SUM.coefficient_bits) - 1  # the last one switches keys
    measure.note(demands={f"NTT, degree {SUM.degree}": halves * moduli * ciphertexts})


def _check(data: bytes, key: SecretKey, words: Any) -> None:
    if not np.array_equal(SUMS.decrypt(SUMS.read(data, key.fingerprint), key), words):
        raise AssertionError("what was encrypted is not what is decrypted")


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
    measure.note(demands={"memory read": float(sum(map(len, messages)))})


@sweep(values=workloads.VALUES)
def bench_two_threads(measure: Measure, key: SecretKey, values: int) -> None:
    """The bindings hold Python's global lock: two threads should gain nothing."""
    measure.task("sum: encryption, two Python threads", conditions=SAID, values=values, threads=2)
    halves = np.split(workloads.words(values), 2)

    def both() -> list[bytes]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda half: SUMS.encrypt(half, key).to_bytes(), halves))

    for data, half in zip(measure(both), halves, strict=True):
        _check(data, key, half)
    measure.note(work=values, unit="values", error=0.0, error_is="exact")

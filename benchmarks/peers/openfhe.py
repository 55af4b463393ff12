"""OpenFHE's Python package on the sum and on a linear score; nothing flooded or rerandomised, no bytes but where they are counted.

Two ways of summing: CKKS as its examples do it, and BFV with the plaintext modulus and the packing that our PackedSum uses. The score uses
our layout, one ciphertext a column. Public keys.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import openfhe as fhe

from benchmarks import workloads
from benchmarks.harness import Measure, sweep

PLAIN_MODULUS, WIDTH = 1099511480321, 19
SAID = "public key; nothing flooded, no bytes; 128 bits of security"


def _context(parameters: Any) -> tuple[Any, Any]:
    parameters.SetSecurityLevel(fhe.SecurityLevel.HEStd_128_classic)
    made = fhe.GenCryptoContext(parameters)
    features = fhe.PKESchemeFeature
    for feature in (features.PKE, features.KEYSWITCH, features.LEVELEDSHE):
        made.Enable(feature)
    return made, made.KeyGen()


def _ckks() -> tuple[Any, Any, int]:
    parameters = fhe.CCParamsCKKSRNS()
    parameters.SetMultiplicativeDepth(1)
    parameters.SetScalingModSize(50)
    made, keys = _context(parameters)
    return made, keys, made.GetRingDimension() // 2


def _bytes(ciphertexts: list[Any]) -> int:
    """Of all, from the first."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ciphertext")
        fhe.SerializeToFile(path, ciphertexts[0], fhe.BINARY)
        return os.path.getsize(path) * len(ciphertexts)


@sweep(values=workloads.VALUES)
def bench_ckks(measure: Measure, values: int) -> None:
    measure.task(
        "sum: encryption to bytes", conditions=SAID + "; CKKS, approximate", values=values, threads=1
    )
    made, keys, slots = _ckks()
    words = workloads.words(values).astype(float)
    chunks = [words[i : i + slots].tolist() for i in range(0, values, slots)]

    def encrypt() -> list[Any]:
        return [made.Encrypt(keys.publicKey, made.MakeCKKSPackedPlaintext(chunk)) for chunk in chunks]

    encrypted = measure(encrypt, rounds=3)
    total = made.Decrypt(keys.secretKey, made.EvalAdd(encrypted[0], encrypted[0]))
    total.SetLength(len(chunks[0]))
    found = np.array(total.GetRealPackedValue())[: len(chunks[0])]
    _sent(measure, values, _bytes(encrypted))
    measure.note(
        error=float(np.abs(found - 2 * words[: len(found)]).max()), error_is="largest, of a sum of two"
    )


@sweep(values=workloads.VALUES)
def bench_bfv(measure: Measure, values: int) -> None:
    said = SAID + "; BFV with our packing, exact"
    measure.task("sum: encryption to bytes", "OpenFHE, our packing", said, values=values, threads=1)
    parameters = fhe.CCParamsBFVRNS()
    parameters.SetPlaintextModulus(PLAIN_MODULUS)
    parameters.SetMultiplicativeDepth(0)
    made, keys = _context(parameters)
    slots, words = made.GetRingDimension(), workloads.words(values)

    def encrypt() -> list[Any]:
        packed = words[0::2] | words[1::2] << WIDTH
        chunks = (packed[i : i + slots].tolist() for i in range(0, len(packed), slots))
        return [made.Encrypt(keys.publicKey, made.MakePackedPlaintext(chunk)) for chunk in chunks]

    encrypted = measure(encrypt, rounds=3)
    _sent(measure, values, _bytes(encrypted))
    measure.note(error=0.0, error_is="exact")


def _sent(measure: Measure, values: int, size: int) -> None:
    measure.note(work=values, unit="values", sent={"a party": size}, figures={"bytes a value": size / values})


@sweep(rows=workloads.SCORED)
def bench_score(measure: Measure, rows: int) -> None:
    said = SAID + "; the linear part alone, in our layout"
    measure.task("logistic score: evaluation", conditions=said, rows=rows, threads=1)
    made, keys, slots = _ckks()
    table, weights = workloads.rows(rows), workloads.weights()
    blocks = [
        [
            made.Encrypt(keys.publicKey, made.MakeCKKSPackedPlaintext(column.tolist()))
            for column in table[i : i + slots].T
        ]
        for i in range(0, rows, slots)
    ]

    def score() -> list[Any]:
        results = []
        for block in blocks:
            total = made.EvalMult(block[0], float(weights[0]))
            for column, weight in zip(block[1:], weights[1:].tolist(), strict=True):
                made.EvalAddInPlace(total, made.EvalMult(column, weight))
            results.append(made.EvalAdd(total, 0.1))
        return results

    found = made.Decrypt(keys.secretKey, measure(score, rounds=3)[0])
    found.SetLength(min(slots, rows))
    exact = table[:slots] @ weights + 0.1
    error = np.abs(np.array(found.GetRealPackedValue())[: len(exact)] - exact).max()
    measure.note(work=rows, unit="rows", error=float(error), error_is="largest, of a score")

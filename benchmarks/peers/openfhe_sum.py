"""OpenFHE's Python package on the sum of a million values and on a linear score, in an environment of its own.

Run by `benchmarks.he` with the interpreter that OPENFHE_PYTHON names (see openfhe.txt). Takes nothing of ours; prints
one JSON object a line: name, seconds (each sample), bytes. Two ways of summing: CKKS as its examples do it, and BFV
with the plaintext modulus and the packing that our PackedSum uses. The score uses our layout, one ciphertext a
column. 128 bits of security in all of them; no flooding, no rerandomisation.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openfhe as fhe

CELLS, ROWS, FEATURES, RUNS = 1_000_000, 10_000, 30, 3
PLAIN_MODULUS = 1099511480321
WIDTH = 19


def report(name: str, seconds: list[float], size: int | None = None) -> None:
    print(json.dumps({"name": name, "seconds": seconds, "bytes": size}), flush=True)


def context(parameters: Any) -> tuple[Any, Any]:
    made = fhe.GenCryptoContext(parameters)
    for feature in (
        fhe.PKESchemeFeature.PKE,
        fhe.PKESchemeFeature.KEYSWITCH,
        fhe.PKESchemeFeature.LEVELEDSHE,
    ):
        made.Enable(feature)
    return made, made.KeyGen()


def serialised(ciphertexts: list[Any]) -> int:
    """Bytes of all, from the first."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ciphertext")
        fhe.SerializeToFile(path, ciphertexts[0], fhe.BINARY)
        return os.path.getsize(path) * len(ciphertexts)


def timed(function: Callable[[], Any]) -> tuple[list[float], Any]:
    samples, result = [], None
    for _ in range(RUNS):
        started = time.perf_counter()
        result = function()
        samples.append(time.perf_counter() - started)
    return samples, result


def ckks(depth: int) -> tuple[Any, Any, int]:
    parameters = fhe.CCParamsCKKSRNS()
    parameters.SetMultiplicativeDepth(depth)
    parameters.SetScalingModSize(50)
    parameters.SetSecurityLevel(fhe.SecurityLevel.HEStd_128_classic)
    made, keys = context(parameters)
    return made, keys, made.GetRingDimension() // 2


def sum_with_ckks(values: Any) -> None:
    made, keys, slots = ckks(1)
    chunks = [values[i : i + slots].tolist() for i in range(0, len(values), slots)]
    seconds, encrypted = timed(
        lambda: [made.Encrypt(keys.publicKey, made.MakeCKKSPackedPlaintext(chunk)) for chunk in chunks]
    )
    report("sum, CKKS: encryption", seconds, serialised(encrypted))
    seconds, added = timed(lambda: [made.EvalAdd(a, a) for a in encrypted])
    report("sum, CKKS: addition", seconds)
    total = made.Decrypt(keys.secretKey, added[0])
    total.SetLength(slots)
    if np.abs(np.array(total.GetRealPackedValue()) - 2 * values[:slots]).max() > 1e-6:
        raise AssertionError("the sum is wrong")


def sum_with_bfv(values: Any) -> None:
    """Two 16-bit values a slot, as PackedSum packs them."""
    parameters = fhe.CCParamsBFVRNS()
    parameters.SetPlaintextModulus(PLAIN_MODULUS)
    parameters.SetMultiplicativeDepth(0)
    parameters.SetSecurityLevel(fhe.SecurityLevel.HEStd_128_classic)
    made, keys = context(parameters)
    slots = made.GetRingDimension()

    def encrypt() -> list[Any]:
        grid = np.rint((values + 1) / 2 * (2**16 - 1)).astype(np.int64)
        packed = grid[0::2] | grid[1::2] << WIDTH
        return [
            made.Encrypt(keys.publicKey, made.MakePackedPlaintext(packed[i : i + slots].tolist()))
            for i in range(0, len(packed), slots)
        ]

    seconds, encrypted = timed(encrypt)
    report("sum, BFV and our packing: encryption", seconds, serialised(encrypted))
    seconds, _ = timed(lambda: [made.EvalAdd(a, a) for a in encrypted])
    report("sum, BFV and our packing: addition", seconds)


def linear_score(table: Any, weights: list[float]) -> None:
    made, keys, slots = ckks(1)
    blocks = [table[i : i + slots] for i in range(0, len(table), slots)]

    def encrypt() -> list[list[Any]]:
        return [
            [
                made.Encrypt(keys.publicKey, made.MakeCKKSPackedPlaintext(column.tolist()))
                for column in block.T
            ]
            for block in blocks
        ]

    def score() -> list[Any]:
        results = []
        for block in encrypted:
            total = made.EvalMult(block[0], weights[0])
            for column, weight in zip(block[1:], weights[1:], strict=True):
                made.EvalAddInPlace(total, made.EvalMult(column, weight))
            results.append(total)
        return results

    seconds, encrypted = timed(encrypt)
    report("linear score: encryption", seconds, serialised([c for block in encrypted for c in block]))
    seconds, results = timed(score)
    report("linear score: evaluation", seconds)
    first = made.Decrypt(keys.secretKey, results[0])
    first.SetLength(len(blocks[0]))
    if np.abs(np.array(first.GetRealPackedValue()) - blocks[0] @ np.array(weights)).max() > 1e-6:
        raise AssertionError("the scores are wrong")


def main() -> None:
    generator = np.random.default_rng(0)
    values = generator.uniform(-1, 1, CELLS)
    sum_with_ckks(values)
    sum_with_bfv(values)
    linear_score(generator.uniform(-1, 1, (ROWS, FEATURES)), generator.normal(size=FEATURES).tolist())


if __name__ == "__main__":
    main()

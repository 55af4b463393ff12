"""What one core of this machine can do at most: the figures that the other suites are compared with.

AES-256-CTR and X25519, Ed25519 are OpenSSL's, through `cryptography`; memory is numpy over arrays far larger than the last-level
cache, so that every byte counted crosses the memory bus (an addition reads two words and writes one; a copy reads one, writes one).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

RUNS = 9
BLOCK = 128 << 10  # bytes; in and out stay in the second-level cache
WORDS = 16_000_000  # 128 MB an array
OPERATIONS = 500
MESSAGE = bytes(1000)


def run() -> list[dict[str, Any]]:
    return [*bandwidths(), *operations()]


def bandwidths() -> list[dict[str, Any]]:
    """AES, addition and copying, in GB/s."""
    encryptor = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    plaintext, ciphertext = bytes(BLOCK), bytearray(BLOCK)
    blocks = 512

    def encrypt() -> None:
        for _ in range(blocks):
            encryptor.update_into(plaintext, ciphertext)

    left, right = np.ones(WORDS, dtype=np.uint64), np.ones(WORDS, dtype=np.uint64)
    cached = [np.ones(BLOCK // 8, dtype=np.uint64) for _ in range(2)]

    def add_cached() -> None:
        for _ in range(blocks):
            np.add(cached[0], cached[1], out=cached[0])

    return [
        _bandwidth("AES-256-CTR", blocks * BLOCK, encrypt, {"block_kib": BLOCK >> 10}),
        _bandwidth("uint64 a += b, in cache", blocks * 3 * BLOCK, add_cached, {"block_kib": BLOCK >> 10}),
        _bandwidth("uint64 a += b", 3 * left.nbytes, lambda: np.add(left, right, out=left), {"words": WORDS}),
        _bandwidth("uint64 a = b", 2 * left.nbytes, lambda: np.copyto(left, right), {"words": WORDS}),
    ]


def operations() -> list[dict[str, Any]]:
    """Public-key operations a second."""
    private, public = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    identity = Ed25519PrivateKey.generate()
    verifier, signature = identity.public_key(), identity.sign(MESSAGE)
    calls: dict[str, Callable[[], object]] = {
        "X25519 key pair": lambda: X25519PrivateKey.generate().public_key(),
        "X25519 agreement": lambda: private.exchange(public),
        "Ed25519 signature": lambda: identity.sign(MESSAGE),
        "Ed25519 verification": lambda: verifier.verify(signature, MESSAGE),
    }
    return [_operations(name, call) for name, call in calls.items()]


def _bandwidth(
    name: str, moved: int, call: Callable[[], object], parameters: dict[str, int]
) -> dict[str, Any]:
    return _record(name, parameters, [moved / seconds / 1e9 for seconds in _seconds(call)], "GB/s")


def _operations(name: str, call: Callable[[], object]) -> dict[str, Any]:
    def repeat() -> None:
        for _ in range(OPERATIONS):
            call()

    return _record(name, {}, [OPERATIONS / seconds for seconds in _seconds(repeat)], "op/s")


def _seconds(call: Callable[[], object]) -> list[float]:
    call()
    samples = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    return samples


def _record(name: str, parameters: dict[str, int], samples: list[float], unit: str) -> dict[str, Any]:
    return {
        "suite": "limits",
        "name": name,
        "parameters": parameters,
        "samples": samples,
        "value": statistics.median(samples),
        "unit": unit,
    }

"""What this machine can do at most, on one core: the rates that every other figure is a share of.

AES-256-CTR, X25519 and Ed25519 are OpenSSL's, through `cryptography`, as SHA-256 is through `hashlib`. Memory is numpy over arrays far
larger than the last-level cache, so that every byte counted crosses the memory bus (a read reads; an addition reads two words and writes one; a copy
reads one, writes one; a gather reads an index and a random word and writes one). The number-theoretic transform is SEAL's, as the HE
library calls it, of one ciphertext: two polynomials for each modulus. The matrix product is the BLAS of numpy. Loopback is TCP on 127.0.0.1 between two threads.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from threadpoolctl import threadpool_limits

from benchmarks.harness import Measure
from mpc.he import seal
from mpc.he.parameters import SUM

BLOCK, BLOCKS = 128 << 10, 512  # bytes; in and out stay in the second-level cache
WORDS = 16_000_000  # 128 MB an array
OPERATIONS = 200
MESSAGE = bytes(1000)
SIDE = 1024
ROUND_TRIPS, STREAM = 1000, 128 << 20


def bench_aes(measure: Measure) -> None:
    encryptor = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    plaintext, ciphertext = bytes(BLOCK), bytearray(BLOCK)

    def encrypt() -> None:
        for _ in range(BLOCKS):
            encryptor.update_into(plaintext, ciphertext)

    _limit(measure, "AES-256-CTR", encrypt, BLOCKS * BLOCK, "B")


@pytest.fixture(scope="module")
def large() -> list[np.ndarray]:
    return [np.ones(WORDS, dtype=np.uint64) for _ in range(2)]


def bench_add(measure: Measure, large: list[np.ndarray]) -> None:
    left, right = large
    _limit(measure, "memory add", lambda: np.add(left, right, out=left), 3 * left.nbytes, "B")


def bench_read(measure: Measure, large: list[np.ndarray]) -> None:
    _limit(measure, "memory read", lambda: np.bitwise_or.reduce(large[0]), large[0].nbytes, "B")


def bench_copy(measure: Measure, large: list[np.ndarray]) -> None:
    left, right = large
    _limit(measure, "memory copy", lambda: np.copyto(left, right), 2 * left.nbytes, "B")


def bench_gather(measure: Measure, large: list[np.ndarray]) -> None:
    size = WORDS // 16
    places = np.random.default_rng(0).integers(0, WORDS, size)
    out = np.empty(size, np.uint64)
    _limit(measure, "memory gather", lambda: np.take(large[0], places, out=out, mode="clip"), size, "words")


def bench_sort(measure: Measure) -> None:
    words = np.random.default_rng(0).integers(0, 2**63, 1 << 20, dtype=np.uint64)
    _limit(measure, "sort", lambda: np.sort(words), len(words), "words")


def bench_sha256(measure: Measure) -> None:
    block = bytes(BLOCK)
    _limit(measure, "SHA-256", lambda: [hashlib.sha256(block) for _ in range(64)], 64 * BLOCK, "B")


def bench_x25519(measure: Measure) -> None:
    private, public = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    _limit(measure, "X25519", _repeated(lambda: private.exchange(public)), OPERATIONS, "operations")


def bench_signature(measure: Measure) -> None:
    key = Ed25519PrivateKey.generate()
    _limit(measure, "Ed25519 signature", _repeated(lambda: key.sign(MESSAGE)), OPERATIONS, "operations")


def bench_verification(measure: Measure) -> None:
    key = Ed25519PrivateKey.generate()
    public, signature = key.public_key(), key.sign(MESSAGE)
    call = _repeated(lambda: public.verify(signature, MESSAGE))
    _limit(measure, "Ed25519 verification", call, OPERATIONS, "operations")


def bench_ntt(measure: Measure) -> None:
    """Forwards and back, of a ciphertext; counted in transforms of a polynomial under one modulus."""
    api, context = seal.bindings(), seal.context(SUM)
    keys = api.KeyGenerator(context)
    public = api.PublicKey()
    keys.create_public_key(public)
    plain, cipher = api.Plaintext("1"), api.Ciphertext()
    api.Encryptor(context, public).encrypt(plain, cipher)
    evaluator = api.Evaluator(context)
    moduli = len(context.first_context_data().parms().coeff_modulus())

    def transform() -> None:
        for _ in range(OPERATIONS):
            evaluator.transform_to_ntt_inplace(cipher)
            evaluator.transform_from_ntt_inplace(cipher)

    count = OPERATIONS * 2 * cipher.size() * moduli
    _limit(measure, f"NTT, degree {SUM.degree}", transform, count, "transforms")


def bench_matmul(measure: Measure) -> None:
    left = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    with threadpool_limits(1):
        _limit(measure, "matrix product", lambda: left @ left, 2 * SIDE**3, "flop")


def bench_sync(measure: Measure) -> None:
    measure.task("fdatasync")
    if not hasattr(os, "fdatasync"):
        pytest.skip("this system has no fdatasync")
    with tempfile.NamedTemporaryFile() as file:

        def sync() -> None:
            for _ in range(20):
                os.write(file.fileno(), MESSAGE)
                os.fdatasync(file.fileno())

        _limit(measure, "fdatasync", sync, 20, "operations")


@pytest.fixture
def loopback() -> Iterator[socket.socket]:
    """A connection whose other end answers a byte with a byte, and swallows a megabyte at a time without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()

    def answer() -> None:
        buffer = bytearray(1 << 20)
        waiting = 0
        with there:
            while taken := there.recv_into(buffer):
                if waiting + taken == 1:
                    there.send(b".")
                waiting = (waiting + taken) % STREAM if taken > 1 or waiting else 0
                if taken > 1 and not waiting:
                    there.send(b".")

    thread = threading.Thread(target=answer)
    thread.start()
    for end in (here, there):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with here:
        yield here
        here.shutdown(socket.SHUT_WR)
        thread.join()


def bench_round_trip(measure: Measure, loopback: socket.socket) -> None:
    def calls() -> None:
        for _ in range(ROUND_TRIPS):
            loopback.send(b".")
            loopback.recv(1)

    _limit(measure, "loopback round trip", calls, ROUND_TRIPS, "round trips")


def bench_stream(measure: Measure, loopback: socket.socket) -> None:
    data = bytes(STREAM)

    def send() -> None:
        loopback.sendall(data)
        loopback.recv(1)

    _limit(measure, "loopback bandwidth", send, STREAM, "B")


def _repeated(call: Callable[[], object]) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(OPERATIONS):
            call()

    return repeat


def _limit(measure: Measure, name: str, call: Callable[[], object], work: int, unit: str) -> None:
    measure.task(name)
    measure(call, rounds=3 if measure.quick else 9)
    measure.note(work=work, unit=unit)

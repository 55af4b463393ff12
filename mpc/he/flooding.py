"""Noise that hides noise: for whoever receives a ciphertext, and for whoever sees what was decrypted from it.

Two dangers, one remedy.

1. The owner of the key decrypts a score with the noise that evaluation left in it, which depends on the model; and
   the ciphertext's other half is a plain linear function of the model's weights. `flood_ciphertext`, used by the
   evaluator, adds a fresh encryption of zero (the other half is then pseudorandom under RLWE) and Gaussian noise
   of 2^(bits - 1) times the length of the evaluation noise, so that two models with equal scores lead to
   distributions within 2^-bits of each other. BITS is 20: far more is told about a model by the scores themselves,
   which quotas limit; CKKS has no room for more at useful precision (Klucznik and Santato, eprint 2023/301, show
   that noise exponential in the bits is needed).

2. Decrypted CKKS results, shown to whoever holds the ciphertexts, give away the noise and by it the secret key (Li
   and Micciancio, Eurocrypt 2021). Results stay with the owner of the key; what is to be published goes through
   `publishable`, which adds discrete Gaussian noise as in Li, Micciancio, Schultz and Sorrell, Crypto 2022
   (Theorem 2 and Corollary 2): standard deviation 8 sqrt(q) 2^(bits / 2) times the error for q published
   vectors leaves bits - 8 bits of security against that attack.

Rounding alone is not enough: values next to a rounding boundary still tell. Both remedies assume that the other
side followed the protocol: the noise of a ciphertext that was made up has no bound.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange
from mpc.he import bounds, seal
from mpc.he.keys import PublicKey
from mpc.he.parameters import Parameters
from mpc.prg import Keystream

BITS = 20
PUBLISH_BITS = 40


def deviation(noise: float, bits: int) -> float:
    """Standard deviation of one coefficient of the flood, in the unit of `noise`, a root mean square over slots."""
    if not 8 <= bits <= 40:
        raise OutOfRange("flooding bits", "must be 8 ... 40")
    return noise * 2.0 ** (bits - 1)


def sup(parameters: Parameters, noise: float, bits: int) -> float:
    """What the flood may add to any slot: its real part has half of the variance of N coefficients."""
    return bounds.TAIL * math.sqrt(parameters.degree / 2) * deviation(noise, bits)


def flood_ciphertext(ciphertext: Any, scale: float, noise: float, bits: int, key: PublicKey) -> Any:
    """A new ciphertext of the same values, at the last level: rerandomised, and flooded."""
    context = seal.context(key.parameters)
    evaluator, encoder = seal.bindings().Evaluator(context), seal.bindings().CKKSEncoder(context)
    zero, plaintext, result = (
        seal.bindings().Ciphertext(),
        seal.bindings().Plaintext(),
        seal.bindings().Ciphertext(),
    )
    last = list(seal.chain(key.parameters)[0][0])
    seal.bindings().Encryptor(context, key.handle).encrypt_zero(last, zero)
    zero.scale = scale
    # independent coefficients are, up to a rotation, independent slots: the embedding is sqrt(N) times unitary
    spread = deviation(noise, bits) * math.sqrt(key.parameters.degree / 2)
    real, imaginary = gaussian(2 * key.parameters.slots).reshape(2, -1) * spread
    encoder.encode((real + 1j * imaginary).tolist(), last, scale, plaintext)
    evaluator.add(ciphertext, zero, result)
    evaluator.add_plain_inplace(result, plaintext)
    return result


def publishable(
    values: NDArray[Any], error: float, *, queries: int = 1, bits: int = PUBLISH_BITS
) -> tuple[NDArray[np.float64], float]:
    """Values that may be shown to whoever has the ciphertexts, and the standard deviation of the noise in them.

    `error` bounds the noise of each value (not counting noise that the evaluator itself added); `queries` is how many
    vectors of results will ever be published under this key.
    """
    if not (error > 0 and queries >= 1 and 16 <= bits <= 128):
        raise OutOfRange("error, queries, bits", "must be > 0, >= 1 and 16 ... 128")
    array = np.asarray(values, dtype=np.float64)
    spread = 8 * math.sqrt(queries * max(1, array.size)) * 2.0 ** (bits / 2) * error
    return array + gaussian(array.size).reshape(array.shape) * spread, spread


def gaussian(size: int, key: bytes | None = None) -> NDArray[np.float64]:
    """Standard normal numbers by Box and Muller from AES-CTR; beyond 8.6 there are none, as doubles have 53 bits."""
    pairs = -(-size // 2)
    stream = Keystream(secrets.token_bytes(32) if key is None else key)
    words = stream.read(2 * pairs) >> np.uint64(11)
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[:pairs]))
    angle = 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]

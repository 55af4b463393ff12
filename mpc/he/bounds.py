"""How large the noise of CKKS is: bounds for every operation, in the units of SEAL's integers before scaling.

Two sizes of one noise polynomial e are kept. `sup` bounds |e(zeta)| over all slots: what a decoded value is off
by. `rms` bounds its Euclidean length over coefficients, which equals the root mean square over slots: what
flooding has to hide. For a polynomial with independent coefficients of variance v, a slot is a sum of N terms:

    sup = K sqrt(v N),   rms = 5/4 sqrt(v N)

with K = 9: a Gaussian slot exceeds it with probability e^-40, all 2^14 slots of a ciphertext below 2^-40. The
noise of a product of two polynomials is bounded slot by slot by the product of their bounds. 5/4 is nine
standard deviations of the mean of N/2 >= 4,096 squared slots above its expectation.

Rounded quantities (rescaling, switching keys) are treated as uniform, as in Costache, Curtis, Hales, Murphy,
Ogilvie and Player (Communications in Cryptology 2024/1; eprint 2020/469) and Cheon, Kim, Kim and Song (Asiacrypt 2017, Lemmas 1-4).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mpc.he.parameters import Parameters

TAIL = 9.0
MEAN = 1.25
ERROR_VARIANCE = 10.5  # SEAL's centred binomial of 21 pairs of bits
_SECRET_VARIANCE = 2 / 3
_DOUBLE = 2.0**-44  # relative error of an encoding or decoding, whose FFT computes in doubles


class Noise(NamedTuple):
    sup: float
    rms: float

    def __mul__(self, factor: float) -> Noise:  # type: ignore[override]
        return Noise(self.sup * factor, self.rms * factor)

    def plus(self, *others: Noise) -> Noise:
        return Noise(sum(n.sup for n in (self, *others)), sum(n.rms for n in (self, *others)))


NOTHING = Noise(0.0, 0.0)


def fresh(parameters: Parameters) -> Noise:
    """Of a symmetric ciphertext: one error polynomial, and the rounding of the encoding."""
    return _independent(parameters, ERROR_VARIANCE).plus(_independent(parameters, 1 / 12))


def rounding(parameters: Parameters) -> Noise:
    """Of a division of both halves by a modulus: r0 + r1 s, each r uniform in [-1/2, 1/2]."""
    n = parameters.degree
    secret = TAIL * math.sqrt(_SECRET_VARIANCE * n)
    r1s = Noise(TAIL * math.sqrt(n / 12) * secret, MEAN * math.sqrt(n / 12 * _SECRET_VARIANCE * n))
    return _independent(parameters, 1 / 12).plus(r1s)


def key_switch(parameters: Parameters, primes: int) -> Noise:
    """Of relinearisation or a rotation over `primes` moduli: sum d_i e_i / P, d_i uniform below q_i, and rounding."""
    n, last = parameters.degree, 2.0 ** parameters.coefficient_bits[-1]
    total = rounding(parameters)
    for bits in parameters.coefficient_bits[:primes]:
        digit = 2.0**bits * math.sqrt(n / 12)
        error = math.sqrt(ERROR_VARIANCE * n)
        total = total.plus(Noise(TAIL * digit * TAIL * error / last, MEAN * digit * error / last))
    return total


def public_zero(parameters: Parameters) -> Noise:
    """Of an encryption of zero under the public key: SEAL makes it over one more modulus and divides by that."""
    n = parameters.degree
    pair = math.sqrt(ERROR_VARIANCE * n) * math.sqrt(_SECRET_VARIANCE * n)
    larger = Noise(2 * TAIL * TAIL * pair, 2 * MEAN * pair).plus(_independent(parameters, ERROR_VARIANCE))
    return rounding(parameters).plus(larger * 2.0**-SMALLEST_DIVISOR_BITS)


def encoded(parameters: Parameters, value: float) -> float:
    """What rounding an encoded plaintext to integers does to a slot: up to 1/2 to each coefficient."""
    return _independent(parameters, 1 / 12).sup if value else 0.0


def doubles(magnitude: float) -> float:
    """What encoding or decoding loses of a value of this size, computing in doubles."""
    return _DOUBLE * magnitude


SMALLEST_DIVISOR_BITS = 45


def _independent(parameters: Parameters, variance: float) -> Noise:
    deviation = math.sqrt(variance * parameters.degree)
    return Noise(TAIL * deviation, MEAN * deviation)

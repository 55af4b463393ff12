"""Which lattice a job needs: ring degree, moduli and scheme, checked against the 128-bit table.

Protects: no parameters outside the table of the HomomorphicEncryption.org security standard (Albrecht et al.,
2018, Table 1: 128 bits, classical, ternary secrets) can be constructed, so nobody chooses weak ones by
accident. Does not protect: the table counts the best attacks known to its authors; it is an estimate.

    job          scheme  degree         moduli (the last one only switches keys)
    sum          BFV     4,096          54 | 55, plaintexts modulo a 40-bit prime
    score, L     CKKS    8,192 ...      60, L primes of 50 ... 58 bits | 60
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from mpc.errors import OutOfRange

# HomomorphicEncryption.org standard, Table 1, (-1, 0, 1): degree -> the most bits of all moduli together
STANDARD_128 = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
ENDS_BITS = 60  # the modulus that results keep, and the one that switches keys
SCALE_BITS = 58  # of one level, where the degree has room for it
LEAST_SCALE_BITS = 45
MOST_LEVELS = 13
FINGERPRINT_BYTES = 16


class Parameters(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What two parties must agree on before any ciphertext of theirs means anything.

    >>> SUM.slots, score_parameters(2).levels
    (4096, 2)
    """

    scheme: Literal["bfv", "ckks"]
    degree: int
    coefficient_bits: tuple[int, ...]
    plain_bits: int = 0

    def __post_init__(self) -> None:
        if self.degree not in STANDARD_128:
            raise OutOfRange("degree", f"must be one of {', '.join(map(str, STANDARD_128))}")
        if len(self.coefficient_bits) < 2 or not all(20 <= bits <= 60 for bits in self.coefficient_bits):
            raise OutOfRange("coefficient_bits", "must be two moduli or more, of 20 ... 60 bits")
        if sum(self.coefficient_bits) > STANDARD_128[self.degree]:
            limit = STANDARD_128[self.degree]
            raise OutOfRange(
                "coefficient_bits", f"must add up to {limit} at most: 128 bits of security at {self.degree}"
            )
        if self.scheme == "ckks" and (self.plain_bits or len(set(self.coefficient_bits[1:-1])) > 1):
            raise OutOfRange("coefficient_bits", "levels must be of equal size, without a plaintext modulus")
        if self.scheme == "bfv" and not 14 <= self.plain_bits < self.coefficient_bits[0] - 8:
            raise OutOfRange("plain_bits", f"must be 14 ... {self.coefficient_bits[0] - 9}")

    @property
    def slots(self) -> int:
        """Values that one ciphertext holds."""
        return self.degree if self.scheme == "bfv" else self.degree // 2

    @property
    def levels(self) -> int:
        """Multiplications in a row that a fresh ciphertext can stand."""
        return len(self.coefficient_bits) - 2

    @property
    def scale(self) -> float:
        """What a fresh real number is multiplied by before it is rounded."""
        return 2.0 ** self.coefficient_bits[1]

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(b"mpc.he parameters 1" + msgspec.msgpack.encode(self)).digest()

    @property
    def most_ciphertext_bytes(self) -> int:
        """The longest serialised ciphertext of two polynomials, uncompressed."""
        return 2 * self.degree * (len(self.coefficient_bits) - 1) * 8 + 1024

    def __str__(self) -> str:
        text = f"{self.scheme.upper()}, degree {self.degree}, {sum(self.coefficient_bits)} bits"
        return f"{text} of {STANDARD_128[self.degree]} at 128-bit security"


SUM = Parameters("bfv", 4096, (54, 55), 40)


def score_parameters(levels: int, degree: int | None = None) -> Parameters:
    """CKKS for `levels` multiplications in a row, at the least degree that has room (or at `degree`)."""
    if not 1 <= levels <= MOST_LEVELS:
        raise OutOfRange("levels", f"must be 1 ... {MOST_LEVELS}")
    for candidate in [degree] if degree else (8192, 16384, 32768):
        room = (STANDARD_128.get(candidate, 0) - 2 * ENDS_BITS) // levels
        if room >= LEAST_SCALE_BITS:
            bits = min(room, SCALE_BITS)
            return Parameters("ckks", candidate, (ENDS_BITS, *[bits] * levels, ENDS_BITS))
    raise OutOfRange("degree", f"{degree} has no room for {levels} levels at 128-bit security")

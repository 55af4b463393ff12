"""Points of Curve25519 by their u-coordinate, over `cryptography`'s X25519: keys whose logarithm nobody knows.

    u is on the curve  if and only if  u^3 + 486662 u^2 + u  is a square modulo 2^255 - 19      (RFC 7748, section 4.1)

Protects: half of all 32-byte strings lie on the curve's twist, where X25519 also works and where a point stays
under every multiplication; a string is taken only if it lies on the curve. A clamped scalar is a multiple of 8,
so that multiplying moves every point into the subgroup of prime order, where honest public keys lie, and where
they are uniform to within 2^-120. Does not protect: against observers of timing (the test is on public values).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from mpc.secagg.keys import agree

FIELD = 2**255 - 19
_A = 486662
POINT_BYTES = 32


def on_curve(point: bytes) -> bool:
    """Whether 32 bytes are a reduced u-coordinate on the curve, other than of the points of order 1 and 2."""
    u = int.from_bytes(point, "little")
    if not 1 < u < FIELD - 1:
        return False
    return pow(u * (u * (u + _A) + 1), (FIELD - 1) // 2, FIELD) == 1


def multiply(scalar: bytes, point: bytes, *, peer: str) -> bytes:
    """X25519."""
    return agree(scalar, point, peer=peer)


def unknown_key(random_bytes: Callable[[int], bytes]) -> bytes:
    """A uniform public key whose private key is known to nobody, not even to the caller."""
    while True:
        point = _masked(random_bytes(POINT_BYTES))
        if on_curve(point):
            return agree(random_bytes(POINT_BYTES), point, peer="self")


def hash_to_point(message: bytes) -> bytes:
    """A point of the curve from a message, by trying SHA-256 of it with a counter (a random oracle)."""
    counter = 0
    while True:
        point = _masked(hashlib.sha256(counter.to_bytes(4, "little") + message).digest())
        if on_curve(point):
            return point
        counter += 1


def _masked(octets: bytes) -> bytes:
    """255 bits."""
    return octets[:-1] + bytes([octets[-1] & 0x7F])

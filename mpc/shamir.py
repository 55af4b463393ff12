"""t-of-n sharing of 32-byte secrets (Shamir, "How to share a secret", CACM 22(11), 1979).

Protects: any t - 1 shares are uniform and independent of the secret, against unbounded computation (up to a
bias of 2^-127 in the coefficients). Does not protect: against a party that returns a wrong share or deals
inconsistent ones; callers compare the recovered secret with a commitment. Secret integers are handled by
Python's arithmetic, not in constant time.

Field: the integers modulo 2^256 + 297, the smallest prime above 2^256, so that every 32-byte string is one
element. A share is the 33-byte little-endian value of the polynomial at a constant point 1 ... n; who holds
which point is the caller's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from mpc.errors import OutOfRange

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
_COEFFICIENT_BYTES = 48  # reduced modulo the prime: a bias of 2^-127


def split(secret: bytes, threshold: int, n: int, random_bytes: Callable[[int], bytes]) -> list[bytes]:
    """Shares for the points 1 ... n (the share of point x at index x - 1), any `threshold` of which recover
    the secret.

    >>> import secrets
    >>> shares = split(bytes(range(32)), 2, 3, secrets.token_bytes)
    >>> combine({1: shares[0], 3: shares[2]}, 2) == bytes(range(32))
    True
    """
    if len(secret) != SECRET_BYTES:
        raise OutOfRange("secret", f"must be {SECRET_BYTES} bytes")
    if not 1 <= threshold <= n:
        raise OutOfRange("threshold", f"must be 1 ... {n}")
    noise = random_bytes(_COEFFICIENT_BYTES * (threshold - 1))
    coefficients = [int.from_bytes(secret, "little")] + [
        int.from_bytes(noise[i : i + _COEFFICIENT_BYTES], "little") % PRIME
        for i in range(0, len(noise), _COEFFICIENT_BYTES)
    ]
    values = evaluate(coefficients, range(1, n + 1), PRIME)
    return [value.to_bytes(SHARE_BYTES, "little") for value in values]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from exactly `threshold` shares, keyed by their points.

    Raises OutOfRange when the shares are too few, too many, no field elements, or meet in no 32-byte secret.
    """
    if len(shares) != threshold:
        raise OutOfRange("shares", f"must be exactly {threshold}")
    points = tuple(sorted(shares))
    # f(0) = sum over points x of f(x) * prod over other points y of y / (y - x)
    total = 0
    for weight, point in zip(lagrange_at_zero(points, PRIME), points, strict=True):
        total += weight * element(shares[point])
    secret = total % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise OutOfRange("shares", f"must meet in a secret of {SECRET_BYTES} bytes")
    return secret.to_bytes(SECRET_BYTES, "little")


def element(share: bytes) -> int:
    """The field element of one share."""
    value = int.from_bytes(share, "little")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise OutOfRange("share", f"must be {SHARE_BYTES} bytes below the prime")
    return value


def evaluate(coefficients: Sequence[int], points: Sequence[int], prime: int) -> list[int]:
    """The polynomial at each point. Points are small, so one reduction at the end is cheaper than one a step."""
    values = []
    # f(x) = c0 + x (c1 + x (c2 + ...))
    for x in points:
        value = 0
        for coefficient in reversed(coefficients):
            value = value * x + coefficient
        values.append(value % prime)
    return values


@lru_cache(maxsize=256)
def lagrange_at_zero(points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """The weight of each point's value in f(0); the same for every secret that the same parties return."""
    weights = []
    for x in points:
        numerator = denominator = 1
        for y in points:
            if y != x:
                numerator = numerator * y % prime
                denominator = denominator * (y - x) % prime
        weights.append(numerator * pow(denominator, -1, prime) % prime)
    return tuple(weights)

"""Base oblivious transfers: the receiver gets one of two 32-byte seeds for each choice bit.

    receiver   two public keys for each bit c: at place c one with a private key, at the other one without
    sender     one ephemeral key a;   seed[i][b] = HKDF(X25519(a, key[i][b]), context, i, b)
    receiver   seed[i][c] = HKDF(X25519(private[i], A), context, i, c)

Even, Goldreich, Lempel (CACM 1985) with keys that can be sampled without a private one, as Bellare and Micali
(CRYPTO 1989) do by one constraint; semi-honest receivers sample as told.

Protects: semi-honest. The sender sees two keys of one distribution (`mpc.psi.curve`), so no choice; the receiver
cannot compute the other seed without solving Diffie-Hellman for a key that nobody knows (random oracle). Does not
protect: against a receiver that keeps both private keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpc.errors import WrongLength
from mpc.psi.curve import POINT_BYTES, multiply, unknown_key
from mpc.secagg.keys import derive, public_key

Random = Callable[[int], bytes]


class Receiver:
    """Holds the choices; asks first."""

    def __init__(self, choices: Sequence[bool], random_bytes: Random) -> None:
        self._choices = list(choices)
        self._private = [random_bytes(POINT_BYTES) for _ in self._choices]
        keys = []
        for choice, private in zip(self._choices, self._private, strict=True):
            pair = [public_key(private), unknown_key(random_bytes)]
            keys += pair[::-1] if choice else pair
        self.keys = b"".join(keys)

    def seeds(self, answer: bytes, context: bytes, *, peer: str) -> list[bytes]:
        """The seed of each choice, from the sender's key."""
        if len(answer) != POINT_BYTES:
            raise WrongLength("base OT key", f"must be {POINT_BYTES} bytes", peer=peer)
        return [
            _seed(multiply(private, answer, peer=peer), context, index, choice)
            for index, (choice, private) in enumerate(zip(self._choices, self._private, strict=True))
        ]


def send(
    keys: bytes, count: int, context: bytes, random_bytes: Random, *, peer: str
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The sender's key, and both seeds of each transfer."""
    if len(keys) != 2 * count * POINT_BYTES:
        raise WrongLength("base OT keys", f"must be {2 * count} keys", peer=peer)
    private = random_bytes(POINT_BYTES)
    points = [keys[i : i + POINT_BYTES] for i in range(0, len(keys), POINT_BYTES)]
    seeds = [
        _seed(multiply(private, point, peer=peer), context, place // 2, bool(place % 2))
        for place, point in enumerate(points)
    ]
    return public_key(private), list(zip(seeds[::2], seeds[1::2], strict=True))


def _seed(shared: bytes, context: bytes, index: int, choice: bool) -> bytes:
    return derive(shared, b"base OT", context, index, int(choice))

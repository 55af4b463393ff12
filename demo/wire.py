"""What the departments really sent: the masked words of two equal requests, beside what each computed and what became of them.

The one part of the demo that is no analyst: it opens a federation of its own and listens on its network, as the coordinator could.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from federated import demo, messages
from federated.network import Failure, Network
from mpc.secagg.messages import HEADER

Words = NDArray[np.uint64]


class Seen(msgspec.Struct, frozen=True):
    """Per department: its own count of people (never sent), and the first word that it sent for the same question asked twice."""

    own: dict[str, int]
    words: tuple[dict[str, int], dict[str, int]]
    released: tuple[int, int]
    ones: float
    bits: int

    def total(self, time: int) -> int:
        """What the sent words add up to, modulo 2^64, before the masks are taken off."""
        return sum(self.words[time].values()) % 2**64


class _Tap:
    """A network that keeps what departments send when asked for masked words."""

    def __init__(self, network: Network):
        self._network = network
        self.nodes, self.measured = network.nodes, network.measured
        self.sent: list[dict[str, Words]] = []

    def call(self, kind: str, bodies: Mapping[str, bytes]) -> dict[str, bytes | Failure]:
        replies = self._network.call(kind, bodies)
        if kind == "masked":
            self.sent.append({name: _words(reply) for name, reply in replies.items()})
        return replies


def listen() -> Seen:
    """Ask for the number of people twice, and look."""
    federation = demo.federation()
    tap = _Tap(federation.broker.network)
    federation.broker.attach(tap)
    city = federation.city()
    query = city.sql(f"SELECT COUNT(*), QUANTILE_CONT(age, 0.5) FROM {demo.TABLE}")
    counts = [query.release(purpose="public-health").series[0].values[0] for _ in range(2)]
    bits = np.unpackbits(np.concatenate([w.view(np.uint8) for sent in tap.sent for w in sent.values()]))
    first, second = ({name: int(words[0]) for name, words in sent.items()} for sent in tap.sent)
    own = {name: len(rows) for name, rows in demo.departments().items()}
    return Seen(
        own, (first, second), (int(counts[0] or 0), int(counts[1] or 0)), float(bits.mean()), bits.size
    )


def _words(reply: bytes | Failure) -> Words:
    """The words of a masked input: a header that says how many, then the words."""
    body = b"" if isinstance(reply, Failure) else getattr(messages.decode_reply(reply), "body", b"")
    _magic, _slot, _point, words, *_ = HEADER.unpack_from(body)
    return np.frombuffer(body, "<u8", count=words, offset=HEADER.size)

"""Secure aggregation: all work of all parties and of the coordinator, in one process, on one thread.

Every message is made, counted and taken as bytes; the network between is left out. Set-up is paid once for a batch of requests and
measured for a batch of one. What such a sum cannot do without: every keystream generated once, every vector crossing the memory bus as
often as it changes hands.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from benchmarks import workloads
from benchmarks.harness import Measure, Sizes, sweep
from mpc.secagg import Aggregator, Client, Setting, least_threshold

COORDINATOR = "coordinator"
PHASES = ("set-up", "masked input", "aggregation", "unmasking")
MODES = "honest-but-curious coordinator; any minority may pool; survives dropouts; 64-bit values, exact"
T = TypeVar("T")


class Meter:
    """Seconds by phase and by who spends them; bytes of every message by sender."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.bytes: dict[str, float] = defaultdict(float)

    def call(self, phase: str, who: str, function: Callable[..., T], *arguments: Any) -> T:
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds[phase, who] += time.perf_counter() - started
        return result

    def send(self, who: str, message: bytes) -> bytes:
        self.bytes[who] += len(message)
        return message

    def by_phase(self) -> dict[str, float]:
        return {phase: sum(s for (p, _), s in self.seconds.items() if p == phase) for phase in PHASES}

    def by_party(self, *phases: str) -> list[float]:
        """Seconds of each party but the coordinator."""
        parties = {who for _, who in self.seconds} - {COORDINATOR}
        return [sum(s for (p, w), s in self.seconds.items() if w == who and p in phases) for who in parties]


class Sum:
    """One batch with one request, from the first message to the sum; the last `missing` parties vanish before masking."""

    def __init__(
        self, parties: int, cells: int, setting: Setting = "honest-but-curious", missing: int = 0
    ) -> None:
        names = [f"department-{i:03}" for i in range(parties)]
        identities = {name: hashlib.sha256(name.encode()).digest() for name in names}
        roster = {
            name: Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
            for name, identity in identities.items()
        }
        self.cells, self.meter = cells, Meter()
        self.values = {name: workloads.vector(cells, i) for i, name in enumerate(names)}
        self.present = names[: parties - missing]
        self.clients = {name: Client(name, identities[name], roster) for name in names}
        threshold = least_threshold(setting, parties)
        self.aggregator = Aggregator(roster, threshold=threshold, setting=setting, slots=1)

    def set_up(self) -> None:
        meter, aggregator, phase = self.meter, self.aggregator, "set-up"
        announcement = aggregator.announce()
        for name, client in self.clients.items():
            message = meter.call(phase, name, client.advertise, meter.send(COORDINATOR, announcement))
            meter.call(phase, COORDINATOR, aggregator.accept_advertisement, name, meter.send(name, message))
        advertisements = meter.call(phase, COORDINATOR, aggregator.advertisements)
        for name, client in self.clients.items():
            message = meter.call(phase, name, client.share, meter.send(COORDINATOR, advertisements))
            meter.call(phase, COORDINATOR, aggregator.accept_shares, name, meter.send(name, message))
        for name, delivery in meter.call(phase, COORDINATOR, aggregator.deliveries).items():
            meter.call(phase, name, self.clients[name].receive, meter.send(COORDINATOR, delivery))

    def add(self) -> NDArray[np.uint64]:
        meter, aggregator, request = self.meter, self.aggregator, bytes(32)
        aggregator.open(0, request, self.cells)
        masked = {
            name: meter.send(
                name,
                meter.call("masked input", name, self.clients[name].mask, 0, request, self.values[name]),
            )
            for name in self.present
        }
        for name in self.present:
            meter.call("aggregation", COORDINATOR, aggregator.accept_masked, name, masked.pop(name))
        return self._unmask()

    def _unmask(self) -> NDArray[np.uint64]:
        meter, aggregator, phase = self.meter, self.aggregator, "unmasking"
        survivors, confirmations = meter.call(phase, COORDINATOR, aggregator.survivors, 0), b""
        clients = {name: self.clients[name] for name in self.present}
        if aggregator.parameters.setting == "active":
            for name, client in clients.items():
                message = meter.call(phase, name, client.confirm, 0, meter.send(COORDINATOR, survivors))
                message = meter.send(name, message)
                meter.call(phase, COORDINATOR, aggregator.accept_confirmation, name, message)
            confirmations = meter.call(phase, COORDINATOR, aggregator.confirmations, 0)
        for name, client in clients.items():
            arguments = 0, meter.send(COORDINATOR, survivors), meter.send(COORDINATOR, confirmations)
            answer = meter.send(name, meter.call(phase, name, client.unmask, *arguments))
            meter.call(phase, COORDINATOR, aggregator.accept_answer, name, answer)
        return meter.call(phase, COORDINATOR, aggregator.result, 0)


def _measured(measure: Measure, make: Callable[[], Sum], *, set_up: bool, rounds: int) -> Sum:
    """Sums, each with parties of its own, and what they sent; the last one."""

    def prepare() -> tuple[Sum]:
        made = make()
        if not set_up:
            made.set_up()
        return (made,)

    def work(made: Sum) -> tuple[Sum, NDArray[np.uint64]]:
        if set_up:
            made.set_up()
        return made, made.add()

    done, total = measure(work, setup=prepare, rounds=rounds)
    pooled = sum(done.values[name] for name in done.present)
    off = int(np.count_nonzero(total != pooled))
    if off:
        raise AssertionError(f"{off} values of the sum are wrong")
    online = dict(done.meter.bytes)
    exchanges = (2 if set_up else 0) + (3 if done.aggregator.parameters.setting == "active" else 2)
    measure.note(parts=done.meter.by_phase(), sent=online, rounds=exchanges, error=0.0, error_is="exact")
    present = len(done.present)
    measure.note(work=done.cells, unit="values", demands=_demands(len(done.clients), present, done.cells))
    measure.note(figures={"bytes a value and party": sum(online.values()) / present / done.cells})
    return done


def _demands(parties: int, present: int, cells: int) -> dict[str, float]:
    """A keystream for each pair, at every party that sends; one for each such party's own mask, there and at the coordinator; and at the
    coordinator those of the pairs of which one has vanished. An input is read and a masked one written; at the coordinator that is read and
    added (the sum read and written); at the end the sum is read and written."""
    vector = 8.0 * cells
    streams = present * (parties - 1) + 2 * present + present * (parties - present)
    return {
        "AES-256-CTR": streams * vector,
        "memory copy": (present + 1) * 2 * vector,
        "memory add": present * 3 * vector,
    }


@sweep(cells=workloads.CELLS)
def bench_sum(measure: Measure, cells: int) -> None:
    measure.task("sum", cells=cells, parties=workloads.PARTIES, conditions=MODES)
    rounds = 9 if cells <= 1_000_000 else 3
    _measured(measure, lambda: Sum(workloads.PARTIES, cells), set_up=True, rounds=rounds)


@sweep(cells=Sizes(quick=(1, 100_000), default=(1, 10_000, 100_000, 1_000_000)))
def bench_online(measure: Measure, cells: int) -> None:
    measure.task("sum, set-up paid before", cells=cells, parties=workloads.PARTIES, conditions=MODES)
    _measured(measure, lambda: Sum(workloads.PARTIES, cells), set_up=False, rounds=9)


@sweep(cells=Sizes(quick=(100_000,), default=(1_000_000,)))
def bench_active(measure: Measure, cells: int) -> None:
    said = "coordinator and a third of the parties may deviate; 64-bit values, exact"
    measure.task("sum, active coordinator", cells=cells, parties=workloads.PARTIES, conditions=said)
    _measured(measure, lambda: Sum(workloads.PARTIES, cells, "active"), set_up=True, rounds=5)


@sweep(cells=Sizes(quick=(100_000,), default=(1_000_000,)))
def bench_missing(measure: Measure, cells: int) -> None:
    measure.task("sum, one party vanished", cells=cells, parties=workloads.PARTIES, conditions=MODES)
    _measured(measure, lambda: Sum(workloads.PARTIES, cells, missing=1), set_up=True, rounds=5)


@sweep(parties=Sizes(quick=(3, 10, 30), default=(3, 10, 30, 100)))
def bench_parties(measure: Measure, parties: int) -> None:
    """Cost of one party, which should grow with the number of its peers and no faster."""
    cells = 10_000 if measure.quick else 100_000
    measure.task("sum by parties", cells=cells, parties=parties, conditions=MODES)
    done = _measured(measure, lambda: Sum(parties, cells), set_up=True, rounds=3)
    for name, phases in (("set-up", PHASES[:1]), ("masking and answering", PHASES[1:])):
        each = sorted(done.meter.by_party(*phases))
        measure.entry["figures"][f"{name}: seconds of a party for each party"] = (
            each[len(each) // 2] / parties
        )

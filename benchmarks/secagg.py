"""Secure aggregation: all work of all parties and of the coordinator, in one process, on one thread.

Every message is made, counted and taken as bytes; the network between is left out. Set-up is paid once for a batch of requests and
measured for a batch of one. The floor is what no masked sum of this kind can do without, at the rates that `limits` finds in the
same run: every keystream generated once, every vector crossing the memory bus as often as it changes hands.

Beside it, what Flower's SecAgg+ computes for the same sum with its own functions and default parameters: quantisation, masks,
serialised vectors. Its values carry 22 bits over a modulus of 2^32, its masks come from a Mersenne Twister with a 32-bit seed; key
agreement, shares and its messages are left out, so it is a lower bound of what it takes.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from benchmarks import limits
from mpc.secagg import Aggregator, Client, Setting, least_threshold

CELLS = 1_000_000
PARTIES = 5
RUNS = 9
TARGET_SECONDS = 0.12
TARGET_BYTES = 1.05 * 8
PHASES = ("set-up", "masked input", "aggregation", "unmasking")
COORDINATOR = "coordinator"
T = TypeVar("T")


def run() -> list[dict[str, Any]]:
    return [*_the_sum(), *_variants(), *_by_cells(), *_by_parties()]


class Meter:
    """Seconds by phase and by who spends them; bytes of every message, once for each recipient."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.bytes = 0

    def call(self, phase: str, who: str, function: Callable[..., T], *arguments: Any) -> T:
        started = time.perf_counter()
        result = function(*arguments)
        self.seconds[phase, who] += time.perf_counter() - started
        return result

    def send(self, message: bytes) -> bytes:
        self.bytes += len(message)
        return message

    def total(self, *phases: str, who: str | None = None) -> float:
        return sum(s for (p, w), s in self.seconds.items() if p in phases and who in (None, w))


def one_sum(parties: int, cells: int, setting: Setting = "honest-but-curious", missing: int = 0) -> Meter:
    """One batch with one request, from the first message to the sum, which is checked; the last `missing` vanish before masking."""
    names = [f"department-{i:03}" for i in range(parties)]
    identities = {name: hashlib.sha256(name.encode()).digest() for name in names}
    roster = {
        name: Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
        for name, identity in identities.items()
    }
    values = {name: np.full(cells, i + 1, dtype=np.uint64) for i, name in enumerate(names)}
    clients = {name: Client(name, identities[name], roster) for name in names}
    meter, present = Meter(), names[: parties - missing]
    aggregator = meter.call("set-up", COORDINATOR, lambda: _aggregator(roster, setting))
    _set_up(meter, aggregator, clients)

    request = bytes(32)
    aggregator.open(0, request, cells)
    masked = {
        name: meter.send(meter.call("masked input", name, clients[name].mask, 0, request, values[name]))
        for name in present
    }
    for name in present:
        meter.call("aggregation", COORDINATOR, aggregator.accept_masked, name, masked[name])
    total = _unmask(meter, aggregator, {name: clients[name] for name in present})
    if total.tolist() != [sum(range(1, len(present) + 1))] * cells:
        raise AssertionError("the sum is wrong")
    return meter


def _aggregator(roster: dict[str, bytes], setting: Setting) -> Aggregator:
    return Aggregator(roster, threshold=least_threshold(setting, len(roster)), setting=setting, slots=1)


def _set_up(meter: Meter, aggregator: Aggregator, clients: dict[str, Client]) -> None:
    announcement = aggregator.announce()
    for name, client in clients.items():
        message = meter.call("set-up", name, client.advertise, meter.send(announcement))
        meter.call("set-up", COORDINATOR, aggregator.accept_advertisement, name, meter.send(message))
    advertisements = meter.call("set-up", COORDINATOR, aggregator.advertisements)
    for name, client in clients.items():
        message = meter.call("set-up", name, client.share, meter.send(advertisements))
        meter.call("set-up", COORDINATOR, aggregator.accept_shares, name, meter.send(message))
    for name, delivery in meter.call("set-up", COORDINATOR, aggregator.deliveries).items():
        meter.call("set-up", name, clients[name].receive, meter.send(delivery))


def _unmask(meter: Meter, aggregator: Aggregator, clients: dict[str, Client]) -> NDArray[np.uint64]:
    survivors, confirmations = meter.call("unmasking", COORDINATOR, aggregator.survivors, 0), b""
    if aggregator.parameters.setting == "active":
        for name, client in clients.items():
            message = meter.call("unmasking", name, client.confirm, 0, meter.send(survivors))
            meter.call("unmasking", COORDINATOR, aggregator.accept_confirmation, name, meter.send(message))
        confirmations = meter.call("unmasking", COORDINATOR, aggregator.confirmations, 0)
    for name, client in clients.items():
        arguments = 0, meter.send(survivors), meter.send(confirmations)
        answer = meter.call("unmasking", name, client.unmask, *arguments)
        meter.call("unmasking", COORDINATOR, aggregator.accept_answer, name, meter.send(answer))
    return meter.call("unmasking", COORDINATOR, aggregator.result, 0)


def _the_sum() -> list[dict[str, Any]]:
    """The figure with a target, its parts, its floor and its peer."""
    one_sum(PARTIES, CELLS)
    meters = [one_sum(PARTIES, CELLS) for _ in range(RUNS)]
    parameters = {"parties": PARTIES, "cells": CELLS}
    sums = {phase: [m.total(phase) for m in meters] for phase in PHASES}
    online = [m.total(*PHASES[1:]) for m in meters]
    whole = [m.total(*PHASES) for m in meters]
    floor, arithmetic = _floor()
    flower = _flower_seconds()
    return [
        *(_record(phase, parameters, samples, "s") for phase, samples in sums.items()),
        _record("one sum, set-up paid before", parameters, online, "s", ratio_to=("floor", floor)),
        _record(
            "one sum and set-up", parameters, whole, "s", target=TARGET_SECONDS, ratio_to=("floor", floor)
        ),
        _record(f"floor = {arithmetic}", {}, [floor], "s"),
        _record(
            "Flower SecAgg+, vectors alone",
            parameters,
            flower,
            "s",
            ratio_to=("ours", statistics.median(whole)),
        ),
        _record(
            "all messages", parameters, [meters[0].bytes / (PARTIES * CELLS)], "B/value", target=TARGET_BYTES
        ),
    ]


def _floor() -> tuple[float, str]:
    """Each party runs a stream a peer and one of its own, the coordinator one a party. At a party an input is read and a masked one
    written; at the coordinator that is read and added (the sum read and written); at the end the sum is read and written."""
    rates = {record["name"]: record["value"] for record in limits.bandwidths()}
    aes, copy = rates["AES-256-CTR"], rates["uint64 a = b"]
    streams, words = PARTIES * PARTIES + PARTIES, PARTIES * (2 + 3) + 2
    megabytes = 8 * CELLS // 10**6
    text = f"{streams} streams x {megabytes} MB / {aes:.1f} GB/s AES + {words} x {megabytes} MB / {copy:.1f} GB/s memory"
    return 8 * CELLS * (streams / aes + words / copy) / 1e9, text


def _flower_seconds() -> list[float]:
    """The vector work of `secaggplus_mod` and `SecAggPlusWorkflow` in flwr 1.41, with their default parameters."""
    from flwr.common import bytes_to_ndarray, ndarray_to_bytes
    from flwr.common.secure_aggregation import ndarrays_arithmetic as vectors
    from flwr.common.secure_aggregation.quantization import dequantize, quantize
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    clipping, levels, modulus = 8.0, 2**22, 2**32
    seeds = [hashlib.sha256(bytes([i])).digest() for i in range(PARTIES)]

    def mask(seed: bytes) -> list[NDArray[Any]]:
        return pseudo_rand_gen(seed, modulus, [(CELLS,)])

    def masked(i: int, values: NDArray[np.float64]) -> bytes:
        vector = vectors.parameters_addition(quantize([values], clipping, levels), mask(seeds[i]))
        for j in set(range(PARTIES)) - {i}:
            combine = vectors.parameters_addition if i > j else vectors.parameters_subtraction
            vector = combine(vector, mask(hashlib.sha256(bytes(sorted((i, j)))).digest()))
        return ndarray_to_bytes(vectors.parameters_mod(vector, modulus)[0])

    inputs = [np.full(CELLS, i + 1.0) for i in range(PARTIES)]
    samples = []
    for _ in range(3):
        started = time.perf_counter()
        received = [masked(i, values) for i, values in enumerate(inputs)]
        total = [np.zeros(CELLS, dtype=np.int64)]
        for message in received:
            total = vectors.parameters_addition(total, [bytes_to_ndarray(message)])
            total = vectors.parameters_mod(total, modulus)
        for seed in seeds:
            total = vectors.parameters_subtraction(total, mask(seed))
        decoded = dequantize(vectors.parameters_mod(total, modulus), clipping, levels)[0]
        decoded -= (PARTIES - 1) * clipping
        samples.append(time.perf_counter() - started)
        if abs(decoded - sum(range(1, PARTIES + 1))).max() > PARTIES * 2 * clipping / levels:
            raise AssertionError("Flower's sum is wrong")
    return samples


def _variants() -> list[dict[str, Any]]:
    """What the stronger setting and a vanished party cost, set-up included."""
    active = [one_sum(PARTIES, CELLS, "active").total(*PHASES) for _ in range(RUNS)]
    missing = [one_sum(PARTIES, CELLS, missing=1).total(*PHASES) for _ in range(RUNS)]
    parameters = {"parties": PARTIES, "cells": CELLS}
    return [
        _record("one sum and set-up, active coordinator", parameters, active, "s"),
        _record("one sum and set-up, one party vanished", parameters, missing, "s"),
    ]


def _by_cells() -> list[dict[str, Any]]:
    """Linear in cells: what one request costs at one cell, and nanoseconds for each further cell, all parties together.

    Messages of megabytes are mapped afresh from the system page by page, which smaller ones are not: hence the step at the largest.
    """
    samples = {
        cells: [one_sum(PARTIES, cells).total(*PHASES[1:]) for _ in range(RUNS)]
        for cells in (1, CELLS // 100, CELLS // 10, CELLS)
    }
    fixed = samples.pop(1)
    base = statistics.median(fixed)
    slopes = {cells: [(s - base) / cells * 1e9 for s in seconds] for cells, seconds in samples.items()}
    compared = f"{CELLS:,} cells", statistics.median(slopes[CELLS])
    return [
        _record("one sum, set-up paid before", {"parties": PARTIES, "cells": 1}, fixed, "s"),
        *(
            _record(
                "each further cell", {"parties": PARTIES, "cells": cells}, values, "ns", ratio_to=compared
            )
            for cells, values in slopes.items()
        ),
    ]


def _by_parties(cells: int = CELLS // 10) -> list[dict[str, Any]]:
    """Linear in parties per party: microseconds of one party for each party, beside the fewest; samples are the parties'."""
    samples: dict[tuple[str, int], list[float]] = defaultdict(list)
    rosters = {3: 10, 10: 5, 30: 2, 100: 1}
    for parties, runs in rosters.items():
        for _ in range(runs):
            meter = one_sum(parties, cells)
            for who in {who for _, who in meter.seconds} - {COORDINATOR}:
                samples["set-up", parties].append(meter.total("set-up", who=who) / parties * 1e6)
                online = meter.total(*PHASES[1:], who=who)
                samples["masked input and answer", parties].append(online / parties * 1e6)
    fewest = min(rosters)
    base = {phase: statistics.median(samples[phase, fewest]) for phase, _ in samples}
    return [
        _record(
            f"a party's {phase}, a peer",
            {"parties": parties, "cells": cells},
            values,
            "us",
            ratio_to=(f"{fewest} parties", base[phase]),
        )
        for (phase, parties), values in sorted(samples.items())
    ]


def _record(
    name: str,
    parameters: dict[str, int],
    samples: list[float],
    unit: str,
    *,
    target: float | None = None,
    ratio_to: tuple[str, float] | None = None,
) -> dict[str, Any]:
    value = statistics.median(samples)
    record = {"suite": "secagg", "name": name, "parameters": parameters, "samples": samples, "value": value}
    compared = {} if ratio_to is None else {"ratio": value / ratio_to[1], "ratio_to": ratio_to[0]}
    return {**record, "unit": unit, "target": target, **compared}

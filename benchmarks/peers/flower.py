"""What Flower's SecAgg+ computes for a sum, with its own functions and default parameters: quantisation, masks, serialised vectors.

A lower bound of what it takes: key agreement, secret shares and its messages' envelopes are left out. Its values carry 22 bits over a
modulus of 2^32, its masks come from a Mersenne Twister with a 32-bit seed.
"""

from __future__ import annotations

import numpy as np
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation import ndarrays_arithmetic as vectors
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from benchmarks import workloads
from benchmarks.harness import Measure, sweep

CLIPPING, LEVELS, MODULUS = 8.0, 1 << 22, 1 << 32
SAID = (
    "lower bound: no key agreement, shares or messages; 22-bit values; masks from a Mersenne Twister with a 32-bit seed; "
    "honest-but-curious coordinator"
)
PARTIES = workloads.PARTIES


@sweep(cells=workloads.CELLS)
def bench_sum(measure: Measure, cells: int) -> None:
    measure.task("sum", conditions=SAID, cells=cells, parties=PARTIES)
    scale = CLIPPING / 2.0**61
    inputs = [workloads.vector(cells, party) * scale for party in range(PARTIES)]
    seeds = [[1000 * min(i, j) + max(i, j) for j in range(PARTIES)] for i in range(PARTIES)]
    own = [bytes([party]) * 32 for party in range(PARTIES)]
    sent: dict[str, float] = {}

    def mask(seed: int | bytes) -> list[np.ndarray]:
        number = seed if isinstance(seed, int) else int.from_bytes(seed[:4], "little")
        return pseudo_rand_gen(number.to_bytes(4, "little"), MODULUS, [(cells,)])

    def masked(party: int) -> bytes:
        vector = quantize([inputs[party]], CLIPPING, LEVELS)
        vector = vectors.parameters_addition(vector, mask(own[party]))
        for peer in range(PARTIES):
            if peer != party:
                combine = vectors.parameters_addition if party > peer else vectors.parameters_subtraction
                vector = combine(vector, mask(seeds[party][peer]))
        return ndarray_to_bytes(vectors.parameters_mod(vector, MODULUS)[0])

    def add() -> np.ndarray:
        received = [masked(party) for party in range(PARTIES)]
        sent.update({f"party {party}": len(message) for party, message in enumerate(received)})
        total = [np.zeros(cells, dtype=np.int64)]
        for message in received:
            total = vectors.parameters_addition(total, [bytes_to_ndarray(message)])
            total = vectors.parameters_mod(total, MODULUS)
        for seed in own:
            total = vectors.parameters_subtraction(total, mask(seed))
        decoded = dequantize(vectors.parameters_mod(total, MODULUS), CLIPPING, LEVELS)[0]
        return decoded - (PARTIES - 1) * CLIPPING

    found = measure(add, rounds=5 if cells <= 1_000_000 else 2)
    error = float(abs(found - sum(inputs)).max())
    if error > PARTIES * 2 * CLIPPING / LEVELS:
        raise AssertionError("Flower's sum is wrong")
    measure.note(work=cells, unit="values", sent=sent, rounds=4)
    measure.note(error=error / CLIPPING, error_is="largest, of the clipping range")
    measure.note(figures={"bytes a value and party": sum(sent.values()) / PARTIES / cells})

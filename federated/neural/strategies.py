"""The joint mean update -> the next weights: what the coordinator computes from a secure sum. Pure functions.

    FedAvg    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017; with server momentum
              Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution", 2019
    FedProx   Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020: the term is in the departments' loss (`local`),
              the coordinator averages
    FedAdam   Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2

SCAFFOLD (Karimireddy et al., ICML 2020) is left out: each department keeps a control variate that must follow exactly those of its updates that came
into the sum, and a department does not learn which did.

Flower's strategy classes average replies that they can read one by one. Here nobody can: there is one joint mean. The formulas are
Flower's to the digit (FedAdam's bias correction included, whose exponent starts at 2), which tests hold against its classes.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.errors import InternalError
from sandbox.training import FedAdam, FedAvg, FedProx, Training

Vector = NDArray[np.float64]


class Memory(msgspec.Struct, frozen=True):
    """What a strategy keeps between rounds: how many updates it made, and running means of them and of their squares."""

    updates: int = 0
    mean: bytes = b""
    square: bytes = b""


def advance(
    training: Training, weights: NDArray[np.float32], change: Vector, memory: Memory
) -> tuple[NDArray[np.float32], Memory]:
    """The weights after one more mean update."""
    done = memory.updates + 1
    match training.strategy:
        case FedAvg(rate, momentum):
            mean = change + momentum * _read(memory.mean, change.size) if momentum else change
            kept = mean.astype("<f8").tobytes() if momentum else b""
            return (weights + rate * mean).astype(np.float32), Memory(done, kept)
        case FedProx():
            return (weights + change).astype(np.float32), Memory(done)
        case FedAdam(rate, beta_1, beta_2, tau):
            mean = beta_1 * _read(memory.mean, change.size) + (1 - beta_1) * change
            square = beta_2 * _read(memory.square, change.size) + (1 - beta_2) * change**2
            rate *= np.sqrt(1 - beta_2 ** (done + 1)) / (1 - beta_1 ** (done + 1))
            moved = weights + rate * mean / (np.sqrt(square) + tau)
            return moved.astype(np.float32), Memory(
                done, mean.astype("<f8").tobytes(), square.astype("<f8").tobytes()
            )
    raise InternalError(f"{type(training.strategy).__name__} is not a strategy")


def _read(kept: bytes, size: int) -> Vector:
    return np.frombuffer(kept, "<f8") if kept else np.zeros(size)

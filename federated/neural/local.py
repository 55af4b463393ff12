"""One department's training in one round: from the joint weights to its update, not yet fit to leave.

Rows are one tensor; batches are index vectors, not rows gathered one by one by a loader, which is most of what training on small rows costs.

    exact        `local_steps` steps on shuffled batches of about sampling_rate x rows; the update is w' - w
    department   the same, the update cut to the declared norm, on the grid, with this department's share of the noise
    local        `local_steps` steps of DP-SGD with all of the noise at each; the update is w' - w
    joint        one step: the clipped gradients on the grid, with this department's share of the noise

With no rows an exact update is zero with weight zero, and the others consist of noise: whether there are rows does not show.
"""

from __future__ import annotations

import math
from typing import Union

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from sandbox.errors import ParameterError
from sandbox.training import Adam, DepartmentLevel, FedProx, RecordLevel, Sgd, Training

from . import dpsgd
from .dpsgd import Grid, RandomBytes
from .network import Data, Network

LARGEST_UPDATE = 1024.0  # of any weight in one round; beyond it the training has diverged


class Exact(msgspec.Struct, frozen=True):
    """A change of the weights, and of how many rows it was learnt."""

    change: NDArray[np.float64]
    rows: int


class Noisy(msgspec.Struct, frozen=True):
    """Integers on a grid that both ends know, noise included."""

    integers: NDArray[np.int64]


Update = Union[Exact, Noisy]


def update(
    training: Training, weights: NDArray[np.float32], data: Data, honest: int, random_bytes: RandomBytes
) -> Update:
    """This department's update of `weights`."""
    match training.privacy:
        case RecordLevel(noise="joint") as privacy:
            network, on = Network(training, weights), joint_grid(training, weights.size, honest)
            gradient = dpsgd.noisy_gradient(
                network, data, training.sampling_rate, privacy.clip, on, random_bytes
            )
            return Noisy(gradient)
        case RecordLevel() as privacy:
            return Exact(_bounded(_private_steps(training, privacy, weights, data, random_bytes)), 1)
        case DepartmentLevel(clip=clip):
            change = _cut(_steps(training, weights, data, random_bytes), clip)
            on = joint_grid(training, weights.size, honest)
            return Noisy(on.integers(change) + on.noise(change.size, random_bytes))
    return Exact(_bounded(_steps(training, weights, data, random_bytes)), len(data))


def joint_grid(training: Training, size: int, honest: int) -> Grid:
    """The grid on which noisy updates are summed. Replacing a department moves a sum by two norms, so its noise is twice a record's."""
    match training.privacy:
        case RecordLevel(clip=clip, noise_multiplier=multiplier):
            return dpsgd.grid(size, clip, multiplier, honest)
        case DepartmentLevel(clip=clip, noise_multiplier=multiplier):
            return dpsgd.grid(size, clip, 2 * multiplier, honest)
    raise ParameterError("an exact training has no noise")


def _private_steps(
    training: Training,
    privacy: RecordLevel,
    weights: NDArray[np.float32],
    data: Data,
    random_bytes: RandomBytes,
) -> NDArray[np.float64]:
    """DP-SGD on this department's rows alone."""
    network = Network(training, weights)
    on = dpsgd.grid(weights.size, privacy.clip, privacy.noise_multiplier, honest=1)
    step = _Optimiser(training, network, weights)
    for _ in range(training.local_steps):
        noisy = dpsgd.noisy_gradient(network, data, training.sampling_rate, privacy.clip, on, random_bytes)
        network.gradient.copy_(torch.from_numpy(on.values(noisy) / privacy.lot))
        step()
    return _change(network, weights)


def _steps(
    training: Training, weights: NDArray[np.float32], data: Data, random_bytes: RandomBytes
) -> NDArray[np.float64]:
    """Without noise. A pass over the shuffled rows ends with a smaller batch."""
    if not len(data):
        return np.zeros(weights.size)
    network = Network(training, weights)
    network.learn()
    step = _Optimiser(training, network, weights)
    size = max(1, round(training.sampling_rate * len(data)))
    shuffle = torch.Generator().manual_seed(int.from_bytes(random_bytes(8), "little") >> 1)
    begin, order = len(data), torch.empty(0, dtype=torch.int64)
    for _ in range(training.local_steps):
        if begin >= len(data):
            begin, order = 0, torch.randperm(len(data), generator=shuffle)
        batch = data.take(order[begin : begin + size])
        begin += size
        network.gradient.zero_()
        network.losses(network.outputs(batch.x), batch.y).mean().backward()
        step()
    return _change(network, weights)


class _Optimiser:
    """The declared optimiser over the one vector of all weights."""

    def __init__(self, training: Training, network: Network, weights: NDArray[np.float32]):
        self._network, self._mu = network, 0.0
        if isinstance(training.strategy, FedProx):
            self._mu, self._start = training.strategy.proximal_mu, torch.from_numpy(weights)
        flat = torch.nn.Parameter(network.flat)
        flat.grad = network.gradient
        match training.optimiser:
            case Sgd(rate, momentum):
                self._optimiser: torch.optim.Optimizer = torch.optim.SGD([flat], lr=rate, momentum=momentum)
            case Adam(rate, beta_1, beta_2):
                self._optimiser = torch.optim.Adam([flat], lr=rate, betas=(beta_1, beta_2))

    def __call__(self) -> None:
        if self._mu:
            self._network.gradient.add_(self._network.flat - self._start, alpha=self._mu)
        self._optimiser.step()


def _change(network: Network, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    return network.flat.detach().numpy().astype(np.float64) - weights


def _cut(change: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """To norm `clip`. What is not finite becomes nothing: an error here would tell of the data without noise."""
    norm = float(np.linalg.norm(change))
    if not math.isfinite(norm):
        return np.zeros_like(change)
    return change * min(1.0, clip / max(norm, 1e-30))


def _bounded(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """An exact update, or one made of noisy gradients, which may be refused in words."""
    largest = float(np.abs(change).max())
    if not (math.isfinite(largest) and largest <= LARGEST_UPDATE):
        raise ParameterError(
            f"a weight moved by more than {LARGEST_UPDATE:g} in one round: the training has diverged, lower 'learning_rate'"
        )
    return change

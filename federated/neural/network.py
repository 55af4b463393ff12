"""A network whose parameters lie in one vector, the loss of each record, and the metric.

An update is then one subtraction, an optimiser works on one tensor, and a department sends one vector. Parameters, and their gradients
where there are any, are views into the vectors `flat` and `gradient`.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sandbox.training import Training

from . import spec

_ROWS = 1 << 15  # evaluated at a time


class Data(msgspec.Struct, frozen=True):
    """Records as they enter a network: `x` float32 [rows, inputs]; `y` int64 classes, or float32 numbers, [rows]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]

    def take(self, rows: Tensor) -> Data:
        """The rows with these numbers, or those that are marked."""
        return Data(self.x[rows], self.y[rows])

    def __repr__(self) -> str:
        return f"<Data of {len(self)} rows>"


class Metric(msgspec.Struct, frozen=True):
    """Sums over validation records: of losses, each up to the cap; of right classes (0 in a regression); of records."""

    loss: float
    right: float
    records: float


class Network:
    """The layers of `training` with `weights`, a vector, which is copied."""

    def __init__(self, training: Training, weights: NDArray[np.float32]):
        self.layers = list(spec.build(training.layers))
        self.loss = training.loss
        self.flat = torch.from_numpy(weights.copy())
        self.gradient = torch.zeros_like(self.flat)
        start = 0
        for parameter in self.parameters():
            end = start + parameter.numel()
            parameter.data = self.flat[start:end].view(parameter.shape)
            parameter.requires_grad_(False)
            start = end

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def learn(self) -> None:
        """Let `backward` add into `gradient`."""
        start = 0
        for parameter in self.parameters():
            end = start + parameter.numel()
            parameter.requires_grad_(True)
            parameter.grad = self.gradient[start:end].view(parameter.shape)
            start = end

    def outputs(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of each record."""
        match self.loss:
            case "cross_entropy":
                return F.cross_entropy(outputs, y, reduction="none")
            case "binary_cross_entropy":
                targets = y.to(outputs.dtype)
                return F.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")
        return (outputs[:, 0] - y) ** 2

    @torch.no_grad()
    def metric(self, data: Data, cap: float) -> Metric:
        """A loss that is not a number counts as `cap`."""
        for layer in self.layers:
            layer.eval()
        loss = right = 0.0
        for begin in range(0, len(data), _ROWS):
            x, y = data.x[begin : begin + _ROWS], data.y[begin : begin + _ROWS]
            outputs = self.outputs(x)
            losses = self.losses(outputs, y).nan_to_num(nan=cap).clamp(0, cap)
            loss += float(losses.sum(dtype=torch.float64))
            if self.loss == "cross_entropy":
                right += int((outputs.argmax(1) == y).sum())
            elif self.loss == "binary_cross_entropy":
                right += int(((outputs[:, 0] > 0) == (y > 0)).sum())
        for layer in self.layers:
            layer.train()
        return Metric(loss, right, len(data))

"""A trained network as a model that `federated.learn.evaluation` scores with: rows in, probabilities of the second class or predictions out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sandbox.design_matrix import Design
from sandbox.training import Training

from . import features, spec

Floats = NDArray[np.float64]


class Scorer:
    """The network of `training` with `weights` (safetensors), over the columns of `design`."""

    def __init__(self, training: Training, weights: bytes, design: Design):
        self._module, self._design, self._loss = spec.module(training.layers, weights), design, training.loss
        self.names = design.names

    def raw(self, matrix: Floats) -> Floats:
        """Log-odds of the second class, or predictions in the units of the target."""
        outputs = self._outputs(matrix)
        if self._loss == "cross_entropy":
            return np.asarray(outputs[:, 1] - outputs[:, 0])
        if self._loss == "binary_cross_entropy":
            return np.asarray(outputs[:, 0])
        return features.unscaled(outputs[:, 0], self._design)

    def alone(self, matrix: Floats) -> Floats:
        """`raw`, row by row: no row's score then depends, by the roundings of a product of matrices, on the rows beside it."""
        if not len(matrix):
            return np.zeros(0)
        return np.concatenate([self.raw(matrix[i : i + 1]) for i in range(len(matrix))])

    def predict(self, matrix: Floats) -> Floats:
        """Probabilities of the second class, or of more than two classes of each [rows, classes]; or predictions in the units of the target."""
        assert self._design.target is not None
        if len(self._design.target.classes) > 2:
            outputs = self._outputs(matrix)
            odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            return np.asarray(odds / odds.sum(axis=1, keepdims=True))
        raw = self.raw(matrix)
        return raw if self._loss == "squared_error" else 1 / (1 + np.exp(-np.clip(raw, -700, 700)))

    def _outputs(self, matrix: Floats) -> Floats:
        x = torch.from_numpy(features.scaled(matrix, self._design).astype(np.float32))
        with torch.no_grad():
            return np.asarray(self._module(x), np.float64)

"""What may be fitted: an exact or private fit by secure sums, or the training of a neural network. Values that a gate can judge."""

from __future__ import annotations

from .fit import Fit
from .training import Training

Model = Fit | Training

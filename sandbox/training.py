"""A request to train a neural network together: one frozen value that every department's gate can judge, and what it costs.

Unit of privacy and guarantee, by `privacy`:

| privacy | what is bounded and hidden | where noise is added | one event for the whole training |
|---|---|---|---|
| `RecordLevel("joint")` | one record, added or removed | each department adds its share to every secure sum; one step a round | `SampledGaussian(q, z, rounds)` |
| `RecordLevel("local")` | the same, also if secure aggregation or every other department fails | each department adds all of it, at each of its steps | `SampledGaussian(q, z, rounds x local_steps)` |
| `DepartmentLevel` | all rows of a department, replaced by any others | each department adds its share to every secure sum | `Zcdp(rounds / (2 z^2))` |
| None | nothing: exact joint sums, under secure aggregation and the disclosure rules of fits | | none |

Each record belongs to one department, every department samples its own with the same probability q and in secret, so the union is a
Poisson sample of all records and one accountant holds for each of them. Steps are counted up front, whether or not the training stops
early. Gradients are divided by the declared `lot`, never by how many records were drawn or are there.

The validation metric is computed on other records, set aside each by a coin of its own. A record pays for training or for validation,
so the cost of both together is the greater of the two Rényi curves; `validation_multiplier` makes the metric's noise so large that its
curve nowhere passes that of training. Sampled steps are accounted for as by Mironov, Talwar and Zhang, "Rényi Differential Privacy of
the Sampled Gaussian Mechanism" (2019), in `accounting`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Annotated, Literal, Union

import msgspec

from . import architecture
from .errors import ParameterError
from .query import Derived, Expression, Name, digest
from .ranges import Ranged

if TYPE_CHECKING:
    from .accounting import Event, SampledGaussian

# What a training costs is worked out with numpy, which whoever only reads one, in a contract or a receipt, need not load.
LARGEST_MULTIPLIER = 1e4
LARGEST_METRIC = 1e6
Loss = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=1e3)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Small = Annotated[float, msgspec.Meta(gt=0, le=1)]
Multiplier = Annotated[float, msgspec.Meta(ge=0.1, le=LARGEST_MULTIPLIER)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Steps = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Part(Ranged, frozen=True, tag_field="node"):
    """Base of every part of a training, checked as it is made."""


class Sgd(Part, frozen=True, tag="sgd"):
    """Local gradient descent."""

    learning_rate: Rate = 0.1
    momentum: Decay = 0.0


class Adam(Part, frozen=True, tag="adam"):
    """Local Adam (Kingma and Ba, ICLR 2015); its moments begin anew each round."""

    learning_rate: Rate = 1e-3
    beta_1: Decay = 0.9
    beta_2: Decay = 0.999


class FedAvg(Part, frozen=True, tag="fedavg"):
    """The mean of the departments' updates, times `server_learning_rate`, with `server_momentum`."""

    server_learning_rate: Rate = 1.0
    server_momentum: Decay = 0.0


class FedProx(Part, frozen=True, tag="fedprox"):
    """FedAvg whose local loss has proximal_mu / 2 * |w - w_round|^2 added."""

    proximal_mu: Positive


class FedAdam(Part, frozen=True, tag="fedadam"):
    """Adam at the coordinator, the mean update as its gradient; `tau` is the adaptivity."""

    learning_rate: Rate = 0.1
    beta_1: Decay = 0.9
    beta_2: Decay = 0.99
    tau: Small = 1e-3


class RecordLevel(Part, frozen=True, tag="record"):
    """DP-SGD. Each record's gradient is cut to norm `clip`; noise has deviation `noise_multiplier` times that. `lot`: what sums of
    gradients are divided by, about as many records as are expected in one: of all departments (joint), of one on average (local)."""

    noise: Literal["joint", "local"]
    clip: Positive
    noise_multiplier: Multiplier
    lot: Annotated[float, msgspec.Meta(ge=1, le=1e9)]


class DepartmentLevel(Part, frozen=True, tag="department"):
    """Each department's update is cut to norm `clip`; replacing a department moves the sum by 2 `clip`, and noise has deviation
    `noise_multiplier` times that."""

    clip: Positive
    noise_multiplier: Multiplier


class Validation(Part, frozen=True, tag="validation"):
    """`share` of the records is set aside for a joint metric, taken every `every` rounds and at the end. Each record's loss counts up
    to `cap`. Training stops after `patience` metrics in a row that are not better than the best by `least_gain`."""

    share: Annotated[float, msgspec.Meta(gt=0, le=0.5)]
    every: Count = 1
    patience: Count | None = None
    least_gain: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0
    cap: Annotated[float, msgspec.Meta(gt=0, le=100)] = 8.0


class Training(Part, frozen=True, tag="training"):
    """Train `layers` to predict `target` from `features`, both named expressions, of a table's rows for which `where` holds.

    A round is one secure sum. In it every department takes `local_steps` steps, each on a sample of its rows with `sampling_rate`. The
    initial weights are those whose SHA-256 is `weights`, or come from `seed`. `missing`: a row with nulls is dropped, or its null
    features become 0 with an indicator beside them.
    """

    table: Name
    features: Annotated[tuple[Derived, ...], msgspec.Meta(min_length=1, max_length=10_000)]
    target: Derived
    layers: architecture.Architecture
    loss: Loss
    rounds: Count
    sampling_rate: Annotated[float, msgspec.Meta(ge=1e-6, le=1)]
    local_steps: Steps = 1
    optimiser: Union[Sgd, Adam] = Sgd()
    strategy: Union[FedAvg, FedProx, FedAdam] = FedAvg()
    privacy: Union[RecordLevel, DepartmentLevel, None] = None
    validation: Validation | None = None
    where: Expression | None = None
    missing: Literal["drop", "indicator"] = "drop"
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    weights: Hex | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.joint_steps:
            if self.local_steps != 1:
                raise ParameterError(
                    f"'local_steps' is {self.local_steps}; with noise added to the joint sum of every step it is 1: "
                    "raise 'rounds', or take noise=\"local\""
                )
            if not isinstance(self.optimiser, Sgd) or self.optimiser.momentum:
                raise ParameterError(
                    "'optimiser' must be Sgd without momentum where each step is a joint sum: momentum and Adam are the 'strategy's"
                )
            if isinstance(self.strategy, FedProx):
                raise ParameterError("'strategy' FedProx does nothing where a round is one step: use FedAvg")
        if isinstance(self.privacy, DepartmentLevel) and self.validation is not None:
            raise ParameterError(
                "'validation' is not offered with department-level privacy: the noise that hides a department drowns the metric"
            )

    @property
    def joint_steps(self) -> bool:
        """Whether every gradient step is a secure sum."""
        return isinstance(self.privacy, RecordLevel) and self.privacy.noise == "joint"

    @property
    def evaluations(self) -> int:
        """Rounds in which the metric is taken, the one after the last step included."""
        return 0 if self.validation is None else -(-self.rounds // self.validation.every) + 1

    def evaluates(self, round: int) -> bool:
        """Whether the metric is taken of the weights that round `round` (from 0) begins with; round `rounds` does nothing else."""
        if self.validation is None:
            return False
        return round == self.rounds or round % self.validation.every == 0

    def digest(self) -> bytes:
        return digest(self)


def event(training: Training) -> Event | None:
    """What the whole training costs, charged before its first round: the least that covers all of its rounds. None: exact."""
    from .accounting import SampledGaussian, Zcdp

    match training.privacy:
        case RecordLevel(noise_multiplier=multiplier):
            steps = training.rounds * training.local_steps
            return SampledGaussian(training.sampling_rate, multiplier, steps)
        case DepartmentLevel(noise_multiplier=multiplier):
            return Zcdp(training.rounds / (2 * multiplier**2))
    return None


def epsilon(training: Training, delta: float) -> float | None:
    """The epsilon of the whole training, were nothing else ever asked; None where it is exact."""
    from . import accounting, dp

    dp.check_delta(delta)
    charged = event(training)
    return None if charged is None else accounting.epsilon(accounting.cost(charged), delta)


def with_epsilon(training: Training, epsilon_: float, delta: float) -> Training:
    """The same training with the least noise for which the whole of it is (epsilon, delta)-DP; to a relative 1e-3, never above."""
    from . import dp

    dp.check_epsilon(epsilon_)
    if training.privacy is None:
        raise ParameterError("'epsilon' needs 'privacy': RecordLevel or DepartmentLevel")

    def noisier(multiplier: float) -> Training:
        assert training.privacy is not None
        privacy = msgspec.structs.replace(training.privacy, noise_multiplier=multiplier)
        return msgspec.structs.replace(training, privacy=privacy)

    def enough(multiplier: float) -> bool:
        reached = epsilon(noisier(multiplier), delta)
        return reached is not None and reached <= epsilon_

    low, high = 0.1, 1.0
    while not enough(high):
        low, high = high, 2 * high
        if high > LARGEST_MULTIPLIER:
            raise ParameterError(
                f"'epsilon' {epsilon_:g} asks for more noise than {LARGEST_MULTIPLIER:g} times 'clip'"
            )
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return noisier(high)


def validation_multiplier(training: Training) -> float:
    """The noise of each metric, as a multiple of what one record moves it by: its cost nowhere passes that of training.

    evaluations * order / (2 z^2) <= curve(order) at every order of the ledger; orders at which the curve is infinite bound nothing.
    """
    from .accounting import SampledGaussian

    charged = event(training)
    if not isinstance(charged, SampledGaussian) or not training.evaluations:
        raise ParameterError("'validation' has noise only in record-level training")
    return _dominated(charged, training.evaluations)


@functools.lru_cache(maxsize=64)
def _dominated(charged: SampledGaussian, evaluations: int) -> float:
    import numpy as np

    from . import accounting
    from .accounting import ORDERS

    curve, orders = accounting.cost(charged).curve, np.array(ORDERS)
    bounded = np.isfinite(curve)
    with np.errstate(divide="ignore"):
        multiplier = float(math.sqrt(np.max(evaluations * orders[bounded] / (2 * curve[bounded]))))
    if not multiplier <= LARGEST_METRIC:
        raise ParameterError(
            f"'validation' would need noise of {multiplier:.3g} records; allowed are {LARGEST_METRIC:g}: take fewer metrics ('every'), "
            "or a training that costs more"
        )
    return multiplier


def leakage(training: Training) -> tuple[str, ...]:
    """What the coordinator, and the analyst who asked, learn of the rows beside the trained weights."""
    count = architecture.parameters(training.layers)
    lines = [
        f"The coordinator sees, in each of {training.rounds} rounds, the departments' joint update of {count} weights, and no department's own."
    ]
    if training.evaluations:
        lines.append(
            f"In {training.evaluations} of them it sees the joint sums of losses, of right answers and of records set aside."
        )
    match training.privacy:
        case RecordLevel(noise="joint"):
            lines.append(
                "All of it is differentially private for each row: towards whoever sees the joint sums, as long as enough departments add "
                "their noise and keep it to themselves."
            )
        case RecordLevel():
            lines.append(
                "All of it is differentially private for each row, also towards whoever sees a department's own updates: each adds all of the noise itself."
            )
        case DepartmentLevel():
            lines.append(
                "All of it is differentially private for each department as a whole, and so for each of its rows, as long as enough departments "
                "add their noise and keep it to themselves."
            )
        case None:
            lines.append(
                "These are exact, with the joint numbers of rows, of those of each level and each side of a condition. Nothing bounds what they say of one row: with few rows, or when nearly all "
                "departments pool what they know, rows can be read out of updates."
            )
    return tuple(lines)

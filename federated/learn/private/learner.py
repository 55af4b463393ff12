"""What a private learner is: the state machine of `federated.learn.learner`, whose sums are integers that carry discrete Gaussian noise.

Neighbouring tables differ by one unit, added or removed at one department; a unit has at most `rows_per_unit` rows. Everything a row adds is moved to
integers *before* it is summed, and bounded there, so sums are exact and no floating-point sum can exceed its sensitivity (Casacuberta et al.,
CCS 2022). A round's vector is made of blocks; block b has L2 sensitivity s_b in its own integers and noise of deviation sigma_b, and costs

    rho_b = (rows_per_unit * s_b)^2 / (2 sigma_b^2)          in zCDP (Bun and Steinke, TCC 2016, Proposition 6)

which add up over blocks and rounds to the rho that is charged before the first round, whether or not all are run (Lemma 7: rounds may depend on each
other). The noise is spread over departments as in `sandbox.dp`: each adds sigma_b^2 / honest. What is done with noisy sums costs nothing more.

What the coordinator sees of a private fit is exactly these noisy sums, so the guarantee holds against it as against the reader of the model. Within
noise everything below is an estimate: `rows` of a model too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc import noise as gaussian
from mpc.fixedpoint import Encoding
from sandbox import accounting, dp
from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Design, Rows, design
from sandbox.errors import ParameterError

from ..learner import Start, State
from ..moments import middle

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
BITS = 12  # of one factor: products of two have 24, and the sums of 2^28 rows still are exact doubles
ONE = 1 << BITS
BLOCK = 1 << 13
BOUND = 2**62


class Block(msgspec.Struct, frozen=True):
    """Consecutive integer sums. One row moves them by at most `sensitivity` (L2); an integer stands for `unit`. `share` of the round's rho is
    theirs."""

    name: str
    size: int
    unit: float
    sensitivity: float
    share: float = 1.0


class Noisy(msgspec.Struct, frozen=True, eq=False):
    """One block's joint sums in their units, and the standard deviation of each entry's noise."""

    values: Floats
    deviation: float


class PrivateLearner:
    """Base of private learners. `rho` is for all rounds; at least `honest` of `parties` departments add their noise.

    Raises `ParameterError` where no supported noise serves.
    """

    default_rounds = 1
    guarantee = (
        "The coordinator sees joint sums with the noise already in them, and the model that follows; both are rho-zCDP per unit of privacy, all rounds "
        "added up, and nothing else of the rows is shown."
    )

    def __init__(self, fit: f.Fit, schema: Schema, parties: int, rho: float, honest: int):
        self.fit, self.schema, self.parties, self.rho, self.honest = fit, schema, parties, rho, honest
        self.design: Design = design(fit, schema)
        if not 1 <= honest <= parties:
            raise ParameterError(f"'honest' is {honest}; allowed are 1 to {parties} departments")
        if fit.missing == "keep" and not isinstance(fit.estimator, f.BOOSTING):
            raise ParameterError("'missing' is 'keep'; allowed are 'drop' and 'indicator'")
        self.rounds = fit.rounds or self.default_rounds
        if self.default_rounds == 1 and self.rounds != 1:
            raise ParameterError(f"'rounds' is {fit.rounds}; this fit takes 1 sum")
        self.features = len(fit.features)
        self.width = len(self.design.columns)

    @property
    def cost(self) -> accounting.Zcdp:
        """What the whole fit costs: to be charged before the first round, and never refunded."""
        return accounting.Zcdp(self.rho)

    def start(self) -> State:
        return Start()

    def initial(self) -> State:
        """What `Start` stands for: from the request and the schema alone, so that a department takes it from no one."""
        return Start()

    def at(self, state: State) -> Any:
        """A state, with `Start` as what it stands for."""
        return self.initial() if isinstance(state, Start) else state

    def blocks(self, state: Any) -> tuple[Block, ...]:
        """The blocks of the round that `state` begins; their shares add up to 1."""
        raise NotImplementedError

    def local(self, state: Any, rows: Rows) -> Sequence[Integers]:
        """A department's own integer sums, without noise: not fit to leave."""
        raise NotImplementedError

    def update(self, state: Any, joint: Sequence[Noisy]) -> Any:
        """The next state, or the model."""
        raise NotImplementedError

    # --- words ---

    def words(self, state: Any) -> int:
        return sum(block.size for block in self.blocks(state))

    def encode(self, state: Any, rows: Rows, random_bytes: Callable[[int], bytes]) -> NDArray[np.uint64]:
        """A department's sums with its share of the noise, as words."""
        vectors = []
        for block, sums in zip(self.blocks(state), self.local(state, rows), strict=True):
            assert sums.shape == (block.size,)
            noise = gaussian.discrete_gaussian(self._department_sigma(block), block.size, random_bytes(32))
            vectors.append(sums + noise)
        return Encoding(BOUND, self.parties).encode(np.concatenate(vectors))

    def decode(self, state: Any, words: NDArray[np.uint64], present: int) -> list[Noisy]:
        """The joint sums of `present` departments."""
        values = Encoding(BOUND, self.parties).decode(words)
        found, start = [], 0
        for block in self.blocks(state):
            end = start + block.size
            deviation = math.sqrt(present) * self._department_sigma(block) * block.unit
            found.append(Noisy(values[start:end].astype(np.float64) * block.unit, deviation))
            start = end
        return found

    def check(self, state: Any, delta: float) -> None:
        """Raise `ParameterError` unless the noise of this round can be drawn with enough precision for `delta`."""
        blocks = self.blocks(state)
        distance = sum(gaussian.statistical_distance(self._department_sigma(b)) * b.size for b in blocks)
        if distance * self.rounds > delta / 100:
            raise ParameterError(
                f"'delta' is {delta:g}; the sampler's precision needs {100 * distance * self.rounds:.3g}"
            )

    def _department_sigma(self, block: Block) -> float:
        rho = self.rho / self.rounds * block.share
        sigma = self.schema.rows_per_unit * block.sensitivity / math.sqrt(2 * rho)
        department = sigma / math.sqrt(self.honest)
        if not dp.MIN_DEPARTMENT_SIGMA <= department <= 2.0**38:
            raise ParameterError(
                f"'epsilon' asks for noise beyond what is supported in {block.name!r}: change epsilon"
            )
        return department

    # --- what rows are in integers ---

    def needs_intercept(self) -> None:
        """Columns are centred on their bounds, which a model without intercept would not bear."""
        if not getattr(self.fit.estimator, "fit_intercept", True):
            raise ParameterError("'fit_intercept' is False; a private fit takes True")

    def scaled(self) -> tuple[Floats, Floats]:
        """Centre and half width by which a column becomes u in [-1, 1]; indicators of levels and nulls stay 0 and 1.

        So each feature adds at most 1 to a row's squared length, whatever its columns.
        """
        center, half = middle(self.design.low, self.design.high)
        for j, column in enumerate(self.design.columns):
            if column.level is not None or column.indicator:
                center[j], half[j] = 0.0, 1.0
        return center, half

    def integers(self, matrix: Floats) -> Floats:
        """Rows of u as integers in [-ONE, ONE], held by doubles."""
        center, half = self.scaled()
        return np.rint(np.clip((matrix - center) / half, -1, 1) * ONE)

    def target_scale(self) -> tuple[float, float]:
        """Centre and half width of the target."""
        assert self.design.target is not None
        center, half = middle(np.array([self.design.target.low]), np.array([self.design.target.high]))
        return float(center[0]), float(half[0])


def triangle_sensitivity(squared_length: float, largest: float = ONE) -> float:
    """L2 norm of the upper triangle of v v', where v has at most `squared_length` entries that are not 0, none beyond `largest`:
    sum over i <= j of v_i^2 v_j^2 = (|v|^4 + sum of v_i^4) / 2."""
    return largest**2 * math.sqrt((squared_length**2 + squared_length) / 2)


def chunks(rows: Rows) -> list[slice]:
    """So few rows at a time that sums of products are exact doubles."""
    return [slice(begin, begin + BLOCK) for begin in range(0, len(rows), BLOCK)]


def run(
    learner: PrivateLearner, secure_sum: Callable[[Any, int], tuple[NDArray[np.uint64], int]], delta: float
) -> Any:
    """The model. `secure_sum(state, words)` returns the departments' sum and how many they were; the cost was charged before."""
    learner.check(learner.start(), delta)
    state: Any = learner.start()
    while isinstance(state, State):
        words, present = secure_sum(state, learner.words(state))
        state = learner.update(state, learner.decode(state, words, present))
    return state

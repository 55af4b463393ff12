"""How much each department's rows helped a model: leave-one-out and Shapley values, exactly, for estimators made of sums.

The same fit is run for many coalitions of departments at once: a round's vector holds one part per coalition, to which only its members add. So
each coalition gets exactly the model of its own pooled rows. Every model is then scored on the rows of *all* departments, by the share of the
deviance that it explains (R^2 of a regression, McFadden's of a classifier, deviance of counts); no model scores 0, and so does a
coalition whose rows bear none.

    leave-one-out    v(all) - v(all without i)
    Shapley          sum over S without i of |S|! (d - |S| - 1)! / d! * (v(S with i) - v(S))      (Shapley 1953; of data: Ghorbani and Zou, ICML 2019)

Shapley values add up to v(all). Protects nothing that it computes: sums of coalitions, single departments among them, are what it is made of, and the
coordinator sees them. So it is for departments that agree to settle value with each other, and goes through the gate under a name of its own.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import assessment
from sandbox import fit as f
from sandbox.assessment import Method
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import Denied, ParameterError, QueryError

from .estimators import exact
from .layout import Layout, Part, Sums, real
from .learner import State
from .moments import blocks

MOST = 10
ELSEWHERE = "a coalition of departments: "
SMALLEST = 1e-15  # of a predicted probability or mean


class Coalitions(State, frozen=True, tag="coalitions"):
    """Per coalition its learner's state, its model, or None where its rows bear none. `mean`: of the target over all rows, once it is known;
    `scoring`: models are scored now."""

    members: tuple[Any, ...]
    mean: float | None = None
    scoring: bool = False


class Contributions(msgspec.Struct, frozen=True):
    """Each department's value, and what the model of all rows and that of each coalition scored."""

    method: Method
    departments: tuple[str, ...]
    values: tuple[float, ...]
    total: float
    scores: dict[str, float]


class Contribution:
    """The contributions of `departments` (names, in the order of their numbers) to `fit`."""

    leakage = (
        "The coordinator sees all that it would see of the fit for each coalition of departments, single ones among them: every department's own "
        "number of rows, means, cross-products and gradients, and the score of its own model."
    )

    def __init__(self, fit: f.Fit, schema: Schema, departments: tuple[str, ...], method: Method):
        assessment.Contribution(fit, method).check()
        if not 2 <= len(departments) <= MOST:
            raise ParameterError(f"contributions are among 2 to {MOST} departments, not {len(departments)}")
        self.departments, self.parties, self.method = departments, len(departments), method
        self.inner = exact(fit, schema, self.parties)
        every = 2**self.parties - 1
        self.coalitions = (
            tuple(range(1, every + 1))
            if method == "shapley"
            else (every, *(every & ~(1 << i) for i in range(self.parties)))
        )

    def start(self) -> Coalitions:
        return Coalitions((self.inner.start(),) * len(self.coalitions))

    def layout(self, state: Coalitions) -> Layout:
        if state.scoring:
            models = sum(member is not None for member in state.members)
            rows = self.inner.schema.max_rows * self.parties
            return Layout((real("deviances", np.full(1 + models, self._worst())),), rows)
        parts: list[Part] = []
        rows = 0
        for member in state.members:
            if isinstance(member, State):
                layout = self.inner.layout(member)
                parts += layout.parts
                rows = max(rows, layout.rows)
        return Layout(tuple(parts), rows)

    def local(self, state: Coalitions, rows: Rows, department: int) -> Sums:
        """The sums of the department with this number."""
        if state.scoring:
            return self._scores(state, rows)
        found: list[NDArray[Any]] = []
        known: dict[Any, Sums] = {}
        for coalition, member in zip(self.coalitions, state.members, strict=True):
            if not isinstance(member, State):
                continue
            if coalition >> department & 1:
                if member not in known:
                    known[member] = self.inner.local(member, rows)
                found += known[member]
            else:
                layout = self.inner.layout(member)
                found += [
                    np.zeros(part.size, np.int64 if part.whole else np.float64) for part in layout.parts
                ]
        return found

    def update(
        self, state: Coalitions, joint: Sums, rules: Rules | None = None
    ) -> Coalitions | Contributions:
        """What follows; raises `Denied` where `rules` refuse the first round of a coalition: also one that is empty, or has one class."""
        if state.scoring:
            return self._values(state, joint)
        members: list[Any] = []
        place = 0
        for coalition, member in zip(self.coalitions, state.members, strict=True):
            if not isinstance(member, State):
                members.append(member)
                continue
            size = len(self.inner.layout(member).parts)
            try:
                members.append(self._next(coalition, member, joint[place : place + size], rules))
            except QueryError:
                if coalition == self._all:
                    raise
                members.append(None)  # no rows, one class, columns that do not vary
            place += size
        mean = state.mean
        if mean is None:
            mean = members[self.coalitions.index(self._all)].moments.mean[-1]
        return Coalitions(tuple(members), mean, not any(isinstance(member, State) for member in members))

    def _next(self, coalition: int, member: State, joint: Sums, rules: Rules | None) -> Any:
        if rules is None or coalition == self._all:
            return self.inner.update(member, joint, rules)
        try:
            return self.inner.update(member, joint, _alone(rules))
        except Denied as error:
            raise Denied([ELSEWHERE + reason for reason in error.reasons]) from None

    # --- scores ---

    def refusals(self, state: Any, rules: Rules) -> tuple[str, ...]:
        """Why disclosure control ends it here, if it does: for the fit on all rows, and, but for the number of departments, on each coalition's."""
        if not isinstance(state, Coalitions):
            return ()
        found: dict[str, None] = {}
        for coalition, member in zip(self.coalitions, state.members, strict=True):
            if isinstance(member, State):
                own = rules if coalition == self._all else _alone(rules)
                where = "" if coalition == self._all else ELSEWHERE
                found |= dict.fromkeys(where + reason for reason in self.inner.refusals(member, own))
        return tuple(found)

    @property
    def _all(self) -> int:
        return 2**self.parties - 1

    def _scores(self, state: Coalitions, rows: Rows) -> Sums:
        """The deviance of the mean, then of each model."""
        assert rows.target is not None
        assert state.mean is not None
        models = [member for member in state.members if member is not None]
        sums = np.zeros(1 + len(models))
        for part in blocks(rows):
            target, matrix = rows.target[part], rows.matrix[part]
            sums[0] += self._deviance(np.full(len(target), state.mean), target)
            for i, model in enumerate(models):
                sums[1 + i] += self._deviance(model.predict(matrix), target)
        return [sums]

    def _values(self, state: Coalitions, joint: Sums) -> Contributions:
        null, *deviances = joint[0].tolist()
        if null <= 0:
            raise QueryError("the target has the same value in every row: nothing is to be explained")
        scores, explained = {0: 0.0}, iter(deviances)
        for coalition, member in zip(self.coalitions, state.members, strict=True):
            scores[coalition] = 0.0 if member is None else 1 - next(explained) / null
        total, d = scores[self._all], self.parties
        if self.method == "leave_one_out":
            values = [total - scores[self._all & ~(1 << i)] for i in range(d)]
        else:
            values = [0.0] * d
            for coalition in range(self._all):
                size = coalition.bit_count()
                weight = math.factorial(size) * math.factorial(d - size - 1) / math.factorial(d)
                for i in range(d):
                    if not coalition >> i & 1:
                        values[i] += weight * (scores[coalition | 1 << i] - scores[coalition])
        named = {self._name(coalition): scores[coalition] for coalition in self.coalitions}
        return Contributions(self.method, self.departments, tuple(values), total, named)

    def _name(self, coalition: int) -> str:
        return " + ".join(name for i, name in enumerate(self.departments) if coalition >> i & 1)

    def _deviance(self, predicted: NDArray[np.float64], target: NDArray[np.float64]) -> float:
        """Squares; or minus twice the log-likelihood, of counts less that of a perfect fit."""
        if isinstance(self._estimator, f.LinearRegression):
            reach = 10 * (self.inner.high[-1] - self.inner.low[-1])
            return float(np.square(np.clip(predicted - target, -reach, reach)).sum())
        if isinstance(self._estimator, f.LogisticRegression):
            chance = np.clip(predicted, SMALLEST, 1 - SMALLEST)
            return -2 * float((target * np.log(chance) + (1 - target) * np.log1p(-chance)).sum())
        mean = np.clip(predicted, SMALLEST, 1 / SMALLEST)
        logs = np.log(np.where(target > 0, target, 1.0) / mean)
        return 2 * float((target * logs - (target - mean)).sum())

    def _worst(self) -> float:
        """The largest deviance of one row."""
        if isinstance(self._estimator, f.LinearRegression):
            return float(10 * (self.inner.high[-1] - self.inner.low[-1])) ** 2
        if isinstance(self._estimator, f.LogisticRegression):
            return -2 * math.log(SMALLEST)
        return 2 / SMALLEST + 200 * float(self.inner.high[-1])

    @property
    def _estimator(self) -> f.Estimator:
        return self.inner.fit.estimator


def _alone(rules: Rules) -> Rules:
    """For a coalition, of one department too."""
    return Rules(rules.min_cell, rules.rounding, rules.dominance, min_departments=1)

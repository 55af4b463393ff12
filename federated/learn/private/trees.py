"""Private boosting: trees whose splits are drawn at random within declared bounds, and whose leaves are noisy sums of gradients and weights.

The totally random trees of Maddock, Cormode, Wang, Maple and Jha, "Federated Boosted Decision Trees with Differential Privacy" (CCS 2022, sections 3.2 and 4):
splits that depend on no row cost nothing, so the whole budget goes to the leaves, where a row adds to one leaf of each tree, whatever the number of
features. A tree takes one secure sum. Splits are shown to everyone and follow from `random_state`.

`rounds` is the number of trees (default 20), `max_depth` their depth. Margins of a regression are cut to the declared bounds of the target, so
that gradients are bounded by their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.design_matrix import Rows

from .. import bins as b
from ..bins import Bins
from ..booster import Booster, Objective, Tree, base_margin, short, walk
from ..histograms import gradients
from ..learner import State
from ..moments import vector
from .learner import ONE, Block, Noisy, PrivateLearner

MOST_BINS = 64
GRID = ONE**2


class RandomTrees(State, frozen=True, tag="private_trees"):
    """Asks for the sums of the leaves of `tree`, on the margins of `trees`."""

    trees: tuple[Tree, ...]
    tree: Tree


class PrivateBoosting(PrivateLearner):
    """`HistGradientBoostingClassifier`, `HistGradientBoostingRegressor`."""

    default_rounds = 20

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        wanted = self.fit.estimator
        assert isinstance(wanted, f.BOOSTING)
        assert self.design.target is not None
        self.wanted, self.target = wanted, self.design.target
        self.objective: Objective = "binary:logistic" if self.target.classes else "reg:squarederror"
        self.bins: Bins = b.by_bounds(self.design, min(wanted.max_bins, MOST_BINS))
        self.base = 0.5 if self.target.classes else self.target.low / 2 + self.target.high / 2
        # The largest gradient and weight of a row.
        self.prior = 1.0 if self.target.classes else (self.target.high - self.target.low) / 8
        self.most = (1.0, 0.25) if self.target.classes else (self.target.high - self.target.low, 1.0)

    def initial(self) -> State:
        return RandomTrees((), self._tree(0))

    def blocks(self, state: Any) -> tuple[Block, ...]:
        leaves = 2**self.wanted.max_depth
        # Gradients take three quarters: leaves are ratios, and their weights are known better.
        return (
            Block("gradients", leaves, self.most[0] / GRID, float(GRID), 0.75),
            Block("weights", leaves, self.most[1] / GRID, float(GRID), 0.25),
        )

    def local(self, state: Any, rows: Rows) -> Sequence[NDArray[np.int64]]:
        state = self.at(state)
        codes = [self.bins.codes(j, rows.matrix[:, j]) for j in range(self.width)]
        margin = np.full(len(rows), base_margin(self.objective, self.base), np.float32)
        for tree in state.trees:
            for leaf, own in walk(tree, codes, self.bins).items():
                margin[own] += np.float32(tree.value[leaf])
        assert rows.target is not None
        target = np.clip(rows.target, self.target.low, self.target.high).astype(np.float32)
        if not self.target.classes:
            margin = np.clip(margin, np.float32(self.target.low), np.float32(self.target.high))
        gradient, hessian = gradients(self.objective, margin, target)
        if hessian is None:
            hessian = np.ones_like(gradient)
        found = walk(state.tree, codes, self.bins)
        sums = []
        for values, most in zip((gradient, hessian), self.most, strict=True):
            integers = np.rint(np.clip(values.astype(np.float64) / most, -1, 1) * GRID).astype(np.int64)
            sums.append(np.array([integers[found[leaf]].sum() for leaf in state.tree.leaves()], np.int64))
        return sums

    def update(self, state: Any, joint: Sequence[Noisy]) -> Any:
        state = self.at(state)
        gradient, weight = joint
        # G = -W s + noise, s from a normal prior: E[s | G] = -G W / (W^2 + (deviation / prior)^2); and the ridge of exact trees.
        own = np.maximum(weight.values, 0.0)
        shrinking = own**2 + self.wanted.l2_regularization * own + (gradient.deviation / self.prior) ** 2
        scores = -gradient.values * own / shrinking * self.wanted.learning_rate
        value = list(state.tree.value)
        for leaf, score in zip(state.tree.leaves(), scores.tolist(), strict=True):
            value[leaf] = short(score)
        fields = {name: getattr(state.tree, name) for name in state.tree.__struct_fields__}
        trees = (*state.trees, Tree(**{**fields, "value": tuple(value)}))
        if len(trees) < self.rounds:
            return RandomTrees(trees, self._tree(len(trees)))
        return Booster(
            names=self.design.names,
            objective=self.objective,
            classes=self.target.classes,
            bins=self.bins,
            low=vector(self.design.low),
            high=vector(self.design.high),
            base=self.base,
            trees=trees,
            rows=0,
            departments=self.parties,
        )

    def _tree(self, number: int) -> Tree:
        """A complete tree; its splits depend on the seed and its number alone."""
        generator = np.random.default_rng([self.wanted.random_state, number])
        depth = self.wanted.max_depth
        inner = 2**depth - 1
        total = 2 * inner + 1
        features = generator.integers(0, self.width, inner)
        last = [
            int(generator.integers(0, len(self.bins.edges[j]))) if self.bins.edges[j] else 0 for j in features
        ]
        nulls_left = generator.random(inner) < 0.5
        leaves = total - inner
        return Tree(
            feature=(*features.tolist(), *(-1,) * leaves),
            bin=(*last, *(0,) * leaves),
            left=(*(2 * node + 1 for node in range(inner)), *(-1,) * leaves),
            nulls_left=(*nulls_left.tolist(), *(False,) * leaves),
            value=(0.0,) * total,
            gain=(0.0,) * total,
            hessian=(0.0,) * total,
        )

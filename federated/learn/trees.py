"""Boosted trees, exactly those that XGBoost's `hist` grows on the pooled rows with the same bins: one secure sum of histograms a level of a tree.

Departments send the histograms of one child of each split, the one with less weight; the other's is what is left of the parent's, at the
coordinator. A tree of depth d takes d sums. Equal split for split: gradients in single precision, sums exact, gains as in `splits`; leaves may differ
by a unit in the last place where the exponential of the logistic loss does. (XGBoost: Chen and Guistrin, KDD 2016. By secure sums: Cheng et al.,
"SecureBoost", 2021, section 2, calls this the horizontal case.)
"""

from __future__ import annotations

import functools
import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Rows
from sandbox.disclosure import Rules
from sandbox.errors import QueryError

from . import bins as b
from .bins import Bins
from .booster import Booster, Objective, Tree, base_margin, short
from .histograms import Boosted
from .layout import Part, Sums, whole
from .learner import Learner, Start, State
from .moments import Moments, vector
from .splits import Finder, Limits, weights
from .splits import Sums as Totals

MANTISSA = 52  # joint sums of gradients stay below 2^52, where doubles are exact integers


class Quantiles(State, frozen=True, tag="boosting_quantiles"):
    """Asks for joint counts over the fine grid of columns."""

    moments: Moments


class Growing(State, frozen=True, tag="boosting_growing"):
    """Asks for the histograms of nodes `asked` of `tree`, on the margins of `trees`.

    `active` are the nodes to be split next. `histograms` are those of their parents and `totals` the sums of all nodes: the coordinator keeps
    both to itself (`Boosting.shown`).
    """

    moments: Moments
    bins: Bins
    trees: tuple[Tree, ...]
    tree: Tree
    asked: tuple[int, ...]
    active: tuple[int, ...]
    histograms: Any = None
    totals: Any = None


class Boosting(Learner):
    """`HistGradientBoostingClassifier` and `HistGradientBoostingRegressor`."""

    leakage = (
        "The coordinator sees the joint number of rows and means and variances of columns, joint counts of rows per bin of each column, and for each "
        "node of each tree the joint sums of gradients and weights per bin: for the first tree, the joint distribution of each column by class."
    )

    def __init__(self, fit: f.Fit, schema: Schema, parties: int):
        super().__init__(fit, schema, parties)
        wanted = fit.estimator
        assert isinstance(wanted, f.BOOSTING)
        assert self.design.target is not None
        self.wanted = wanted
        self.objective: Objective = "binary:logistic" if self.design.target.classes else "reg:squarederror"
        # Rows are counted where a leaf must have several, or where their number is the weight.
        self.count = wanted.min_samples_leaf > 1 or self.objective == "reg:squarederror"
        self.values = 1 + (self.objective == "binary:logistic") + self.count
        self.limits = Limits(wanted.l2_regularization, wanted.min_child_weight, wanted.min_samples_leaf)

    def parts(self, state: Any) -> tuple[Part, ...]:
        if isinstance(state, Quantiles):
            return (whole("counts", len(b.gridded(self.design, self.wanted.max_bins)) * b.FINE),)
        size = len(state.asked) * int(state.bins.starts[-1]) * self.values
        # All values share one part; each stays below 2^52 in sum.
        return (whole("histograms", size, bound=-(-(2**MANTISSA) // state.moments.rows)),)

    def local(self, state: Any, rows: Rows) -> Sums:
        return super().local(state, _complete(self, rows) if isinstance(state, Start) else rows)

    def sums(self, state: Any, rows: Rows) -> Sums:
        if isinstance(state, Quantiles):
            cells = [
                b.cells(rows.matrix[:, j], self.low[j], self.high[j])
                for j in b.gridded(self.design, self.wanted.max_bins)
            ]
            return [
                np.concatenate([np.bincount(places, minlength=b.FINE) for places in cells]).astype(np.int64)
            ]
        base = self._base(state.moments)
        kept = rows.kept.get("boosted")
        if (
            kept is None
            or kept[0] != (state.bins, self.objective, base)
            or not kept[1].continues(state.trees)
        ):
            kept = rows.kept["boosted"] = (
                (state.bins, self.objective, base),
                Boosted(rows, state.bins, self.objective, base),
            )
        exponents = self._exponents(state)
        return [kept[1].histograms(state.trees, state.tree, state.asked, exponents, self.count).ravel()]

    def advance(self, state: Any, joint: Sums) -> Any:
        if isinstance(state, Quantiles):
            counts = np.asarray(joint[0]).reshape(-1, b.FINE)
            bins = b.by_quantiles(self.design, self.wanted.max_bins, counts)
            return self._next_tree(state.moments, bins, ())
        return self._grow(state, np.asarray(joint[0]))

    def shown(self, state: Any) -> Any:
        """All but the histograms and totals, and what trees hold for the record."""
        if not isinstance(state, Growing):
            return state
        trees = tuple(map(_bare, state.trees))
        return msgspec.structs.replace(
            state, trees=trees, tree=_bare(state.tree), histograms=None, totals=None
        )

    @property
    def parameters(self) -> int:
        """Leaves of one tree: what bounds them is `min_samples_leaf`."""
        return 2**self.wanted.max_depth

    def refusals(self, state: Any, rules: Rules) -> tuple[str, ...]:
        found = super().refusals(state, rules)
        if rules.min_cell > self.wanted.min_samples_leaf:
            found += (
                f"'min_samples_leaf' is {self.wanted.min_samples_leaf}; a leaf needs {rules.min_cell} rows",
            )
        return found

    # --- growing, at the coordinator ---

    def begin(self, found: Moments) -> Any:
        if self.objective == "binary:logistic" and round(found.mean[-1] * found.rows) in (
            0,
            found.rows,
        ):
            raise QueryError("all rows have the same class of the target: two are needed")
        if self.wanted.bins == "quantiles" and b.gridded(self.design, self.wanted.max_bins):
            return Quantiles(found)
        return self._next_tree(found, b.by_bounds(self.design, self.wanted.max_bins), ())

    def _next_tree(self, moments: Moments, bins: Bins, trees: tuple[Tree, ...]) -> Any:
        if len(trees) == self.wanted.max_iter:
            return self._model(moments, bins, trees)
        root = Tree((-1,), (0,), (-1,), (False,), (0.0,), (0.0,), (0.0,))
        return Growing(moments, bins, trees, root, (0,), (0,))

    def _grow(self, state: Growing, received: NDArray[np.int64]) -> Any:
        asked = self._totals(received.reshape(len(state.asked), -1, self.values), self._exponents(state))
        histograms, totals, tree = self._all(state, asked)
        if len(state.tree.feature) == 1:
            tree = _replaced(tree, 0, value=short(self._leaf(totals)[0]), hessian=totals.hessian[0])
        split = _finder(state.bins, self.limits).best(histograms, totals)
        leaf_left, leaf_right = self._leaf(split.left), self._leaf(split.right)
        nodes = _Growth(tree)
        children, parents, smaller = [], [], []
        for i, node in enumerate(state.active):
            if split.gain[i] > 0:
                left = nodes.split(
                    node,
                    int(split.feature[i]),
                    int(split.bin[i]),
                    bool(split.nulls_left[i]),
                    float(split.gain[i]),
                )
                nodes.child(short(leaf_left[i]), float(split.left.hessian[i]))
                nodes.child(short(leaf_right[i]), float(split.right.hessian[i]))
                children += [left, left + 1]
                parents.append(i)
                smaller.append(left + int(split.right.hessian[i] < split.left.hessian[i]))
        tree = nodes.tree()
        depth = _depth(tree)
        if not children or depth >= self.wanted.max_depth:
            return self._next_tree(state.moments, state.bins, (*state.trees, tree))
        kept = histograms[np.array(parents)]
        both = _interleaved(split.left[np.array(parents)], split.right[np.array(parents)])
        return Growing(
            state.moments, state.bins, state.trees, tree, tuple(smaller), tuple(children), kept, both
        )

    def _all(self, state: Growing, asked: Totals) -> tuple[Totals, Totals, Tree]:
        """Histograms and totals of all active nodes: those asked for, and what these leave of their parents."""
        if state.histograms is None:
            first = slice(*state.bins.starts[:2])
            return asked, asked.each(lambda a: a[:, first].sum(axis=1)), state.tree
        other = state.histograms - asked
        left_asked = np.array([node in state.asked for node in state.active[::2]])[:, None]

        def pair(mine: Any, theirs: Any) -> Any:
            found = np.empty((2 * len(mine), mine.shape[1]))
            found[::2], found[1::2] = np.where(left_asked, mine, theirs), np.where(left_asked, theirs, mine)
            return found

        rows = None if asked.rows is None else pair(asked.rows, other.rows)
        both = Totals(pair(asked.gradient, other.gradient), pair(asked.hessian, other.hessian), rows)
        return both, state.totals, state.tree

    def _totals(self, integers: NDArray[np.int64], exponents: tuple[int, ...]) -> Totals:
        gradient = np.ldexp(integers[:, :, 0].astype(np.float64), -exponents[0])
        rows = integers[:, :, -1].astype(np.float64) if self.count else None
        if self.objective == "reg:squarederror":
            assert rows is not None
            return Totals(gradient, rows, rows)
        return Totals(gradient, np.ldexp(integers[:, :, 1].astype(np.float64), -exponents[1]), rows)

    def _leaf(self, sums: Totals) -> NDArray[np.float32]:
        return weights(sums, self.limits) * np.float32(self.wanted.learning_rate)

    def _model(self, moments: Moments, bins: Bins, trees: tuple[Tree, ...]) -> Booster:
        assert self.design.target is not None
        return Booster(
            names=self.design.names,
            objective=self.objective,
            classes=self.design.target.classes,
            bins=bins,
            low=vector(self.design.low),
            high=vector(self.design.high),
            base=self._base(moments),
            trees=trees,
            rows=moments.rows,
            departments=moments.departments,
        )

    # --- what both sides derive alike ---

    def _base(self, moments: Moments) -> float:
        return float(np.float32(moments.mean[-1]))

    def _exponents(self, state: Growing) -> tuple[int, ...]:
        """Grids of gradients and Hessians so fine as joint sums below 2^52 allow."""
        if self.objective == "binary:logistic":
            most = (1.0, 0.25)
        else:
            base = float(base_margin(self.objective, self._base(state.moments)))
            low = base + sum(min(tree.value) for tree in state.trees)
            high = base + sum(max(tree.value) for tree in state.trees)
            most = (max(high - self.low[-1], self.high[-1] - low, 1e-30), 1.0)
        return tuple(MANTISSA - 1 - math.frexp(m * state.moments.rows)[1] for m in most)


class _Growth:
    """A tree that nodes are added to."""

    def __init__(self, tree: Tree):
        self._fields = {name: list(getattr(tree, name)) for name in tree.__struct_fields__}

    def split(self, node: int, feature: int, last: int, nulls_left: bool, gain: float) -> int:
        left = len(self._fields["feature"])
        for name, value in (
            ("feature", feature),
            ("bin", last),
            ("left", left),
            ("nulls_left", nulls_left),
            ("gain", gain),
        ):
            self._fields[name][node] = value
        return left

    def child(self, value: float, hessian: float) -> None:
        for name, default in zip(self._fields, (-1, 0, -1, False, value, 0.0, hessian), strict=True):
            self._fields[name].append(default)

    def tree(self) -> Tree:
        return Tree(**{name: tuple(values) for name, values in self._fields.items()})


@functools.lru_cache(maxsize=8)
def _finder(bins: Bins, limits: Limits) -> Finder:
    return Finder(bins, limits)


def _replaced(tree: Tree, node: int, **values: float) -> Tree:
    changed = {name: list(getattr(tree, name)) for name in values}
    for name, value in values.items():
        changed[name][node] = float(value)
    return msgspec.structs.replace(tree, **{name: tuple(found) for name, found in changed.items()})


def _bare(tree: Tree) -> Tree:
    """What decides where rows go and what they score."""
    return Tree(tree.feature, tree.bin, tree.left, tree.nulls_left, tree.value)


def _interleaved(left: Totals, right: Totals) -> Totals:
    rows = None if left.rows is None or right.rows is None else np.stack([left.rows, right.rows], 1).ravel()
    return Totals(
        np.stack([left.gradient, right.gradient], 1).ravel(),
        np.stack([left.hessian, right.hessian], 1).ravel(),
        rows,
    )


def _depth(tree: Tree) -> int:
    depth = [0] * len(tree.feature)
    for node, left in enumerate(tree.left):
        if left >= 0:
            depth[left] = depth[left + 1] = depth[node] + 1
    return max(depth)


def _complete(learner: Boosting, rows: Rows) -> Rows:
    """Nulls as the middle of the bounds: for the moments of the first round, of which boosting needs the target's only."""
    if learner.fit.missing != "keep":
        return rows
    middle = learner.design.low / 2 + learner.design.high / 2
    return Rows(np.where(np.isnan(rows.matrix), middle, rows.matrix), rows.target, rows.watched)

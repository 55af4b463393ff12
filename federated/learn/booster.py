"""Boosted trees as plain values: they score rows, and write themselves as the JSON model that XGBoost loads.

All arithmetic is in single precision, as XGBoost's is: a row's score is the base margin plus one leaf of each tree, added in order.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.query import Scalar

from .bins import Bins
from .models import Model

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Objective = Literal["binary:logistic", "reg:squarederror"]


class Tree(msgspec.Struct, frozen=True):
    """Nodes in the order in which they were made; node 0 is the root. A leaf has `feature` -1.

    Inner: rows whose bin of `feature` is at most `bin` go to node `left`, others to `left` + 1, nulls where `nulls_left` says. `value` is a
    node's score if it is a leaf; `gain` and `hessian` (its sum of weights) are for the record, and departments are not sent them.
    """

    feature: tuple[int, ...]
    bin: tuple[int, ...]
    left: tuple[int, ...]
    nulls_left: tuple[bool, ...]
    value: tuple[float, ...]
    gain: tuple[float, ...] = ()
    hessian: tuple[float, ...] = ()

    def leaves(self) -> list[int]:
        return [node for node, feature in enumerate(self.feature) if feature < 0]

    def divide(
        self, node: int, rows: NDArray[np.intp], codes: NDArray[np.uint8], nulls: int
    ) -> tuple[Any, Any]:
        """The rows of an inner node's children. `codes` is its feature's column, `nulls` the bin for nulls."""
        own = codes.take(rows)
        goes_left = own <= self.bin[node] if self.bin[node] >= 0 else np.zeros(len(rows), bool)
        if self.nulls_left[node]:
            goes_left |= own == nulls
        return rows.compress(goes_left), rows.compress(
            ~goes_left
        )  # ten times faster than an index of booleans


class Booster(Model, frozen=True, tag="booster"):
    """Boosted trees. `low` and `high` are the columns' declared bounds, `base` the prediction without trees."""

    names: tuple[str, ...]
    objective: Objective
    classes: tuple[Scalar, ...]
    bins: Bins
    low: tuple[float, ...]
    high: tuple[float, ...]
    base: float
    trees: tuple[Tree, ...]
    rows: int
    departments: int

    def raw(self, matrix: Floats) -> Floats:
        """Margins of rows: log-odds of the second class, or the target."""
        codes = [self.bins.codes(j, matrix[:, j]) for j in range(matrix.shape[1])]
        margin = np.full(len(matrix), base_margin(self.objective, self.base), np.float32)
        for tree in self.trees:
            for leaf, rows in walk(tree, codes, self.bins).items():
                margin[rows] += np.float32(tree.value[leaf])
        return margin.astype(np.float64)

    def predict(self, matrix: Floats) -> Floats:
        margin = self.raw(matrix)
        return 1 / (1 + np.exp(-margin)) if self.objective == "binary:logistic" else margin

    def to_json(self) -> bytes:
        """The model as XGBoost writes it (schema of version 3)."""
        learner = {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(self.trees))},
                    "iteration_indptr": list(range(len(self.trees) + 1)),
                    "tree_info": [0] * len(self.trees),
                    "trees": [self._tree(i, tree) for i, tree in enumerate(self.trees)],
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": f"[{np.float32(self.base)!s}]",
                "boost_from_average": "0",
                "num_class": "0",
                "num_feature": str(len(self.names)),
                "num_target": "1",
            },
            "objective": {"name": self.objective, "reg_loss_param": {"scale_pos_weight": "1"}},
        }
        return msgspec.json.encode({"learner": learner, "version": [3, 0, 0]})

    def to_xgboost(self) -> Any:
        """An `xgboost.Booster`."""
        import xgboost

        booster = xgboost.Booster()
        booster.load_model(bytearray(self.to_json()))
        return booster

    def to_sklearn(self) -> Any:
        """A fitted `xgboost.XGBClassifier` or `XGBRegressor`, which are scikit-learn estimators. Classes are 0 and 1."""
        import xgboost

        kind = xgboost.XGBClassifier if self.objective == "binary:logistic" else xgboost.XGBRegressor
        estimator = kind()
        estimator.load_model(bytearray(self.to_json()))
        return estimator

    def _tree(self, number: int, tree: Tree) -> dict[str, Any]:
        size = len(tree.feature)
        parents, right = [2**31 - 1] * size, [-1] * size
        for node, left in enumerate(tree.left):
            if left >= 0:
                parents[left] = parents[left + 1] = node
                right[node] = left + 1
        conditions = [
            tree.value[node]
            if tree.feature[node] < 0
            else self._threshold(tree.feature[node], tree.bin[node])
            for node in range(size)
        ]
        return {
            "base_weights": list(tree.value),
            "categories": [],
            "categories_nodes": [],
            "categories_segments": [],
            "categories_sizes": [],
            "default_left": [int(flag) for flag in tree.nulls_left],
            "id": number,
            "left_children": list(tree.left),
            "loss_changes": list(tree.gain),
            "parents": parents,
            "right_children": right,
            "split_conditions": conditions,
            "split_indices": [max(feature, 0) for feature in tree.feature],
            "split_type": [0] * size,
            "sum_hessian": list(tree.hessian),
            "tree_param": {
                "num_deleted": "0",
                "num_feature": str(len(self.names)),
                "num_nodes": str(size),
                "size_leaf_vector": "1",
            },
        }

    def _threshold(self, feature: int, last: int) -> float:
        """XGBoost sends x < threshold to the left."""
        edges = self.bins.edges[feature]
        if last < 0:
            return float(np.float32(self.low[feature]) - np.float32(abs(self.low[feature]) + 1e-5))
        if last >= len(edges):
            return float(np.float32(self.high[feature]) + np.float32(abs(self.high[feature]) + 1e-5))
        return float(np.float32(edges[last]))


def short(single: float) -> float:
    """The shortest decimal that is this single: half as long to send as the double that equals it."""
    return float(str(np.float32(single)))


def base_margin(objective: Objective, base: float) -> np.float32:
    """The margin of a prediction, as XGBoost computes it."""
    single = np.float32(base)
    return -np.log(np.float32(1) / single - np.float32(1)) if objective == "binary:logistic" else single


def walk(tree: Tree, codes: list[NDArray[np.uint8]], bins: Bins) -> dict[int, NDArray[np.intp]]:
    """The rows of every leaf."""
    found = {0: np.arange(len(codes[0]))}
    for node, feature in enumerate(tree.feature):
        if feature >= 0:
            left = tree.left[node]
            rows = found.pop(node)
            found[left], found[left + 1] = tree.divide(
                node, rows, codes[feature], len(bins.edges[feature]) + 1
            )
    return found

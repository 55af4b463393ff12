"""Models that can be scored under encryption, as plain values; read from scikit-learn, XGBoost or torch objects.

    Model = features (names, bounds) -> Network of affine layers and activations, or Forest -> link

Nothing here imports those libraries: objects are read by the attributes that they publish.

Affine layers are exact. Activations become Chebyshev polynomials over ranges that follow from the features'
bounds, so that no admissible input can leave them. The `link` of a generalised linear model (logistic, exp) is
applied by the owner of the data after decryption, which is exact and reveals the same, since links are
injective; `with_encrypted_link` moves it under encryption as a polynomial.

Trees compare, and a comparison is no polynomial: near a threshold, every polynomial approximation of it is wrong
by as much as the leaves differ. So comparisons are not approximated. A feature that a tree splits on must have a
finite, declared set of `levels`; the owner of the data encrypts one indicator [x <= level] for each, and the
tree is exactly a polynomial of indicators, whatever its thresholds. Trees over continuous features are refused:
bin such features before training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange
from mpc.he.poly import MOST_DEGREE, Function, function_of

Link = Literal["identity", "logistic", "exp"]
MOST_FEATURES = 4096
MOST_LEVELS = 64
MOST_TREE_DEPTH = 8


class Feature(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A column: its declared bounds or, for trees, all values that it may take."""

    name: str
    lower: float
    upper: float
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= self.upper):
            raise OutOfRange(self.name, "bounds must be finite, the lower one first")
        if self.levels:
            if len(self.levels) > MOST_LEVELS or list(self.levels) != sorted(set(self.levels)):
                raise OutOfRange(self.name, f"levels must be sorted, distinct, at most {MOST_LEVELS}")
            if (self.levels[0], self.levels[-1]) != (self.lower, self.upper):
                raise OutOfRange(self.name, "bounds must be the first and the last level")


class Affine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="affine"):
    """y = W x + b; one row of `weights` for each output."""

    weights: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]


class Activation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="activation"):
    """A function on each value, approximated by a polynomial of this degree."""

    function: Function
    degree: int


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="leaf"):
    value: float


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="split"):
    """Left where x < threshold (or <= with `inclusive`)."""

    feature: int
    threshold: float
    inclusive: bool
    left: Split | Leaf
    right: Split | Leaf


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="network"):
    layers: tuple[Affine | Activation, ...]


class Forest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="forest"):
    """base + the sum of one leaf of each tree."""

    trees: tuple[Split | Leaf, ...]
    base: float


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    features: tuple[Feature, ...]
    body: Network | Forest
    link: Link = "identity"

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if not 1 <= len(names) <= MOST_FEATURES or len(set(names)) != len(names):
            raise OutOfRange("features", f"must be 1 ... {MOST_FEATURES}, of distinct names")
        if isinstance(self.body, Network):
            _check_network(self.body, len(names))
        else:
            for tree in self.body.trees:
                _check_tree(tree, self.features, 0)

    @property
    def outputs(self) -> int:
        if isinstance(self.body, Forest):
            return 1
        last = [layer for layer in self.body.layers if isinstance(layer, Affine)][-1]
        return len(last.bias)

    def with_encrypted_link(self, degree: int) -> Model:
        """The link as a polynomial under encryption: for whoever must see probabilities only as far as it is exact."""
        if self.link == "identity" or isinstance(self.body, Forest):
            raise OutOfRange("link", "only a network's logistic or exp link can move under encryption")
        layers = (*self.body.layers, Activation(self.link, degree))
        return Model(self.features, Network(layers), "identity")

    def predict(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the model says in plaintext, with its own functions; rows by outputs."""
        values = np.asarray(columns, dtype=np.float64)
        if isinstance(self.body, Forest):
            total = np.full(len(values), self.body.base)
            for tree in self.body.trees:
                total += _descend(tree, values)
            values = total[:, None]
        else:
            for layer in self.body.layers:
                if isinstance(layer, Affine):
                    values = values @ np.array(layer.weights).T + np.array(layer.bias)
                else:
                    values = function_of(layer.function)(values)
        return values if self.link == "identity" else function_of(self.link)(values)


def linear(
    features: Sequence[Feature],
    coefficients: Sequence[float],
    intercept: float = 0.0,
    link: Link = "identity",
) -> Model:
    """A (generalised) linear model."""
    weights = tuple(float(c) for c in coefficients)
    return Model(tuple(features), Network((Affine((weights,), (float(intercept),)),)), link)


def _check_network(network: Network, width: int) -> None:
    if not any(isinstance(layer, Affine) for layer in network.layers):
        raise OutOfRange("layers", "must contain an affine layer")
    if isinstance(network.layers[0], Activation):
        raise OutOfRange("layers", "must begin with an affine layer")
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Activation):
            if not 1 <= layer.degree <= MOST_DEGREE or isinstance(network.layers[i - 1], Activation):
                raise OutOfRange(
                    f"layer {i}", f"must have a degree of 1 ... {MOST_DEGREE} and follow an affine one"
                )
            continue
        rows = {len(row) for row in layer.weights}
        if not layer.bias or rows != {width} or len(layer.weights) != len(layer.bias):
            raise OutOfRange(f"layer {i}", f"must take {width} values and have one bias an output")
        if not np.isfinite(layer.weights).all() or not np.isfinite(layer.bias).all():
            raise OutOfRange(f"layer {i}", "must be finite")
        width = len(layer.bias)


def _check_tree(node: Split | Leaf, features: tuple[Feature, ...], depth: int) -> None:
    if isinstance(node, Leaf):
        if not math.isfinite(node.value):
            raise OutOfRange("leaf", "must be finite")
        return
    if depth >= MOST_TREE_DEPTH:
        raise OutOfRange("tree", f"must be at most {MOST_TREE_DEPTH} deep")
    if not 0 <= node.feature < len(features):
        raise OutOfRange("split", "names a feature that is not there")
    if not features[node.feature].levels:
        name = features[node.feature].name
        raise OutOfRange(
            name, "must declare levels: a comparison of continuous values has no sound approximation"
        )
    _check_tree(node.left, features, depth + 1)
    _check_tree(node.right, features, depth + 1)


def goes_left(split: Split, values: Any) -> NDArray[np.bool_]:
    """Which values go left. Both scikit-learn and XGBoost round features to single precision before they compare."""
    single = np.asarray(values, dtype=np.float32).astype(np.float64)
    return single <= split.threshold if split.inclusive else single < split.threshold


def _descend(node: Split | Leaf, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if isinstance(node, Leaf):
        return np.full(len(values), node.value)
    return np.where(
        goes_left(node, values[:, node.feature]), _descend(node.left, values), _descend(node.right, values)
    )


def features_of(bounds: Any, levels: Any = None) -> tuple[Feature, ...]:
    """Features from {name: (lower, upper)} and, for trees, {name: values}."""
    found = [Feature(str(name), float(low), float(high)) for name, (low, high) in dict(bounds or {}).items()]
    for name, values in dict(levels or {}).items():
        ordered = tuple(sorted({float(v) for v in values}))
        found.append(Feature(str(name), ordered[0], ordered[-1], ordered))
    return tuple(found)

"""Trained models of other libraries as `mpc.he.models.Model`, read by what their objects publish; none is imported.

    from_sklearn   linear and logistic regression, generalised linear models, MLPs, decision trees, gradient boosting,
                   random forests of regression trees; behind a StandardScaler in a Pipeline, too
    from_xgboost   boosted trees (binary or regression), from the model's JSON
    from_torch     Sequential of Linear layers and activations (and any module named Square)

Features come with bounds, or, for trees, with all their values: `bounds={"age": (18, 75)}`, `levels={"children": range(9)}`,
in the order in which the model was trained. What cannot be read exactly is refused: several classes in one
tree ensemble, missing values, categorical splits, pooling or normalising layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mpc.errors import OutOfRange
from mpc.he.models import (
    Activation,
    Affine,
    Feature,
    Forest,
    Leaf,
    Link,
    Model,
    Network,
    Split,
    features_of,
)
from mpc.he.poly import Function

Bounds = Mapping[str, tuple[float, float]]
Levels = Mapping[str, Iterable[float]]
DEGREE = 7

_SKLEARN_LINKS: dict[str, Link] = {
    "LogisticRegression": "logistic",
    "PoissonRegressor": "exp",
    "GammaRegressor": "exp",
}
_SKLEARN_ACTIVATIONS: dict[str, Function] = {"logistic": "logistic", "tanh": "tanh", "relu": "relu"}
_SKLEARN_OUTPUTS: dict[str, Link] = {"identity": "identity", "logistic": "logistic"}
_TORCH_ACTIVATIONS: dict[str, Function] = {
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "logistic",
    "Softplus": "softplus",
    "Square": "square",
    "Tanh": "tanh",
}
_XGBOOST_LINKS: dict[str, Link] = {
    "binary:logistic": "logistic",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:logistic": "logistic",
    "reg:squarederror": "identity",
}


def from_sklearn(
    estimator: Any, *, bounds: Bounds | None = None, levels: Levels | None = None, degree: int = DEGREE
) -> Model:
    """A fitted estimator. `degree` is of an MLP's activation polynomials."""
    features = features_of(bounds, levels)
    _check_names(features, getattr(estimator, "feature_names_in_", None))
    scale, shift, core = _scaler(estimator, len(features))
    kind = type(core).__name__
    if hasattr(core, "coef_"):
        weights = np.atleast_2d(core.coef_).astype(float)
        intercept = np.broadcast_to(np.ravel(core.intercept_).astype(float), len(weights))
        if kind == "LogisticRegression" and len(weights) != 1:
            raise OutOfRange("estimator", "must have two classes")
        return _network(
            features, [_affine(weights, intercept)], scale, shift, _SKLEARN_LINKS.get(kind, "identity")
        )
    if hasattr(core, "coefs_"):
        output = _SKLEARN_OUTPUTS.get(core.out_activation_)
        if output is None or core.activation not in _SKLEARN_ACTIVATIONS:
            raise OutOfRange(
                "estimator", "must have logistic, tanh or relu activations and one class or target"
            )
        layers: list[Affine | Activation] = []
        for matrix, bias in zip(core.coefs_, core.intercepts_, strict=True):
            layers += [_affine(matrix.T, bias), Activation(_SKLEARN_ACTIVATIONS[core.activation], degree)]
        return _network(features, layers[:-1], scale, shift, output)
    if not np.array_equal(scale, np.ones(len(features))) or shift.any():
        raise OutOfRange("estimator", "trees must be trained on the levels themselves, without a scaler")
    return Model(
        features, _sklearn_forest(core), "logistic" if kind == "GradientBoostingClassifier" else "identity"
    )


def from_xgboost(model: Any, *, levels: Levels) -> Model:
    """A trained `Booster`, or an estimator that holds one."""
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    ensemble = learner["gradient_booster"]
    if objective not in _XGBOOST_LINKS or ensemble["name"] != "gbtree":
        raise OutOfRange("objective", f"must be one of {', '.join(_XGBOOST_LINKS)}, boosted trees")
    [base] = np.atleast_1d(json.loads(learner["learner_model_param"]["base_score"]))
    link = _XGBOOST_LINKS[objective]
    margin = {"identity": base, "logistic": np.log(base / (1 - base)), "exp": np.log(base)}[link]
    trees = tuple(_xgboost_node(tree, 0) for tree in ensemble["model"]["trees"])
    features = features_of(None, levels)
    _check_names(features, booster.feature_names)
    return Model(features, Forest(trees, float(margin)), link)


def from_torch(module: Any, *, bounds: Bounds, degree: int = DEGREE) -> Model:
    """A `torch.nn.Sequential`; a last Sigmoid becomes the link, which the owner of the data applies."""
    layers: list[Affine | Activation] = []
    link: Link = "identity"
    steps = [step for step in module if type(step).__name__ not in ("Dropout", "Flatten", "Identity")]
    for i, step in enumerate(steps):
        kind = type(step).__name__
        if kind == "Linear":
            weights = step.weight.detach().cpu().double().numpy()
            bias = np.zeros(len(weights)) if step.bias is None else step.bias.detach().cpu().double().numpy()
            layers.append(_affine(weights, bias))
        elif kind == "Sigmoid" and i == len(steps) - 1:
            link = "logistic"
        elif kind in _TORCH_ACTIVATIONS:
            if kind == "GELU" and getattr(step, "approximate", "none") != "none":
                raise OutOfRange(f"layer {i}", "GELU must be exact, not approximated")
            function = _TORCH_ACTIVATIONS[kind]
            layers.append(Activation(function, 2 if function == "square" else degree))
        else:
            known = ", ".join(["Linear", *_TORCH_ACTIVATIONS])
            raise OutOfRange(f"layer {i}", f"{kind} cannot be scored; these can: {known}")
    return Model(features_of(bounds), Network(tuple(layers)), link)


def _check_names(features: tuple[Feature, ...], trained: Any) -> None:
    names = [feature.name for feature in features]
    if trained is not None and names != [str(name) for name in trained]:
        raise OutOfRange(
            "bounds, levels", f"must name the model's features in their order: {', '.join(trained)}"
        )


def _scaler(estimator: Any, width: int) -> tuple[Any, Any, Any]:
    """x -> x * scale + shift of the StandardScalers before the last step, and that step."""
    scale, shift = np.ones(width), np.zeros(width)
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    for step in steps[:-1]:
        if type(step).__name__ != "StandardScaler":
            raise OutOfRange("pipeline", "must hold StandardScalers before its last step")
        mean = np.zeros(width) if step.mean_ is None else step.mean_
        deviation = np.ones(width) if step.scale_ is None else step.scale_
        scale, shift = scale / deviation, (shift - mean) / deviation
    return scale, shift, steps[-1]


def _affine(weights: Any, bias: Any) -> Affine:
    rows = tuple(tuple(float(w) for w in row) for row in weights)
    return Affine(rows, tuple(float(b) for b in bias))


def _network(
    features: tuple[Feature, ...], layers: Sequence[Affine | Activation], scale: Any, shift: Any, link: Link
) -> Model:
    """A network whose first layer takes unscaled features."""
    first = layers[0]
    if not isinstance(first, Affine) or len(first.weights[0]) != len(features):
        raise OutOfRange("bounds", "must name the features that the model was trained on, in their order")
    weights = np.array(first.weights)
    folded = _affine(weights * scale, np.array(first.bias) + weights @ shift)
    return Model(features, Network((folded, *layers[1:])), link)


def _sklearn_forest(core: Any) -> Forest:
    kind = type(core).__name__
    if kind == "DecisionTreeRegressor":
        return Forest((_sklearn_node(core.tree_, 0, 1.0, None),), 0.0)
    if kind == "DecisionTreeClassifier" and len(core.classes_) == 2:
        return Forest((_sklearn_node(core.tree_, 0, 1.0, 1),), 0.0)
    if kind == "RandomForestRegressor":
        share = 1 / len(core.estimators_)
        return Forest(tuple(_sklearn_node(e.tree_, 0, share, None) for e in core.estimators_), 0.0)
    if kind in ("GradientBoostingRegressor", "GradientBoostingClassifier"):
        if core.estimators_.shape[1] != 1:
            raise OutOfRange("estimator", "must have two classes or one target")
        if core.init_ == "zero":
            base = 0.0
        elif hasattr(core.init_, "class_prior_"):
            base = float(np.log(core.init_.class_prior_[1] / core.init_.class_prior_[0]))
        else:
            base = float(np.ravel(core.init_.constant_)[0])
        trees = (_sklearn_node(e.tree_, 0, core.learning_rate, None) for e in core.estimators_[:, 0])
        return Forest(tuple(trees), base)
    raise OutOfRange("estimator", f"{kind} cannot be scored under encryption")


def _sklearn_node(tree: Any, node: int, factor: float, share_of: int | None) -> Split | Leaf:
    """scikit-learn goes left where x <= threshold, x being rounded to single precision."""
    left, right = int(tree.children_left[node]), int(tree.children_right[node])
    if left == right:
        values = np.ravel(tree.value[node])
        leaf = values[0] if share_of is None else values[share_of] / values.sum()
        return Leaf(float(leaf) * factor)
    return Split(
        int(tree.feature[node]),
        float(tree.threshold[node]),
        True,
        _sklearn_node(tree, left, factor, share_of),
        _sklearn_node(tree, right, factor, share_of),
    )


def _xgboost_node(tree: Mapping[str, Any], node: int) -> Split | Leaf:
    """XGBoost goes left where x < threshold, both in single precision; leaves hold their value as their condition."""
    left, right = tree["left_children"][node], tree["right_children"][node]
    condition = float(np.float32(tree["split_conditions"][node]))
    if left == -1:
        return Leaf(condition)
    if tree["split_type"][node] != 0:
        raise OutOfRange("split", "must be numerical: categorical splits cannot be read")
    return Split(
        int(tree["split_indices"][node]),
        condition,
        False,
        _xgboost_node(tree, left),
        _xgboost_node(tree, right),
    )

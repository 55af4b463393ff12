"""How a model becomes additions and multiplications: one function that both plans and computes.

Inputs are columns scaled to [-1, 1] by the features' declared bounds, or indicators [x <= level] for trees. Every
neuron's range follows from the bounds by interval arithmetic, and its activation is approximated over exactly
that range. The polynomial's terms T_k are folded into the next affine layer, so an activation of degree d costs
ceil(log2 d) levels and an affine layer one; outputs come divided by `scale`, in [-1, 1].

`deviation` is what the polynomials may differ from the model's own functions: |p(y') - f(y)| <= error + L |y' - y|,
carried through the layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from mpc.errors import OutOfRange
from mpc.he.arithmetic import Arithmetic, Number
from mpc.he.models import Activation, Affine, Feature, Forest, Leaf, Model, Split, goes_left
from mpc.he.poly import Approximation, Function, approximate


class Term(msgspec.Struct, frozen=True):
    """A value as a weighted sum of numbers of one basis: constant + sum of weight * basis[index]."""

    weights: dict[int, float]
    constant: float


class Circuit(msgspec.Struct, frozen=True):
    """A model with all its ranges known. `scale` is a power of two that bounds its outputs, `deviation` their error."""

    model: Model
    stages: tuple[tuple[tuple[Term, ...], tuple[Approximation, ...]], ...]
    outputs: tuple[Term, ...]
    scale: float
    deviation: float


def columns_of(features: Sequence[Feature], trees: bool) -> list[tuple[int, float | None]]:
    """The encrypted columns: (feature, None) for a scaled value, (feature, level) for an indicator."""
    if not trees:
        return [(i, None) for i in range(len(features))]
    return [(i, x) for i, feature in enumerate(features) for x in feature.levels[:-1] or feature.levels]


def compile_model(model: Model) -> Circuit:
    if isinstance(model.body, Forest):
        low, high = (
            model.body.base + sum(pick(_leaves(tree)) for tree in model.body.trees) for pick in (min, max)
        )
        return Circuit(model, (), (), _power(max(abs(low), abs(high))), 0.0)
    # what flows: terms over the current basis, each with its interval and its deviation
    terms = []
    for i, feature in enumerate(model.features):
        half = (feature.upper - feature.lower) / 2
        terms.append(Term({i: half} if half else {}, (feature.lower + feature.upper) / 2))
    intervals = [(f.lower, f.upper) for f in model.features]
    deviations = [0.0] * len(terms)
    stages = []
    for layer in model.body.layers:
        if isinstance(layer, Affine):
            terms, intervals, deviations = _affine(layer, terms, intervals, deviations)
            continue
        stage, terms, intervals, deviations = _activation(layer, terms, intervals, deviations)
        stages.append(stage)
    scale = _power(max(max(abs(low), abs(high)) for low, high in intervals))
    outputs = tuple(Term({i: w / scale for i, w in t.weights.items()}, t.constant / scale) for t in terms)
    return Circuit(model, tuple(stages), outputs, scale, max(deviations))


def run(
    circuit: Circuit, arithmetic: Arithmetic, inputs: Sequence[Number], rows: int | None = None
) -> list[Number]:
    """The model's outputs, divided by `scale`; slots from `rows` on hold zero, not the score of an empty row."""
    if isinstance(circuit.model.body, Forest):
        return [_forest(circuit, circuit.model.body, arithmetic, inputs, rows)]
    basis = list(inputs)
    for terms, approximations in circuit.stages:
        following: list[Number] = []
        for term, approximation in zip(terms, approximations, strict=True):
            x = _combine(arithmetic, basis, term)
            following += _chebyshev(arithmetic, x, _needed(approximation))
        basis = following
    return [_combine(arithmetic, basis, term, rows) for term in circuit.outputs]


def _combine(arithmetic: Arithmetic, basis: Sequence[Number], term: Term, rows: int | None = None) -> Number:
    """A term that its interval keeps within [-1, 1]."""
    used = [i for i, weight in sorted(term.weights.items()) if weight] or [0]
    return arithmetic.combine(
        [basis[i] for i in used],
        [term.weights.get(i, 0.0) for i in used],
        term.constant,
        magnitude=1.0,
        rows=rows,
    )


def _needed(approximation: Approximation) -> list[int]:
    """The polynomials T_k that take part: an odd function needs no even ones."""
    return [k for k, c in enumerate(approximation.coefficients) if k and c] or [1]


def _chebyshev(arithmetic: Arithmetic, x: Number, needed: Sequence[int]) -> list[Number]:
    """T_k by T_2k = 2 T_k^2 - 1 and T_(a+b) = 2 T_a T_b - T_(a-b): ceil(log2 k) levels."""
    terms = {1: x}

    def polynomial(k: int) -> Number:
        if k not in terms:
            a = 1 << ((k - 1).bit_length() - 1)  # the largest power of two below k
            b = k - a
            minus = polynomial(a - b) if a > b else None
            terms[k] = arithmetic.product(
                polynomial(a), polynomial(b), twice=True, minus=minus, magnitude=1.0
            )
        return terms[k]

    return [polynomial(k) for k in needed]


def _affine(
    layer: Affine, terms: list[Term], intervals: list[tuple[float, float]], deviations: list[float]
) -> tuple[list[Term], list[tuple[float, float]], list[float]]:
    weights = np.array(layer.weights)
    low, high = (np.array([interval[side] for interval in intervals]) for side in (0, 1))
    positive, negative = np.maximum(weights, 0), np.minimum(weights, 0)
    lows = positive @ low + negative @ high + layer.bias
    highs = positive @ high + negative @ low + layer.bias
    following = []
    for row, bias in zip(layer.weights, layer.bias, strict=True):
        total: dict[int, float] = {}
        constant = bias
        for weight, term in zip(row, terms, strict=True):
            constant += weight * term.constant
            for i, inner in term.weights.items():
                total[i] = total.get(i, 0.0) + weight * inner
        following.append(Term(total, constant))
    spread = np.abs(weights) @ np.array(deviations)
    return following, list(zip(lows.tolist(), highs.tolist(), strict=True)), spread.tolist()


def _activation(
    layer: Activation, terms: list[Term], intervals: list[tuple[float, float]], deviations: list[float]
) -> tuple[
    tuple[tuple[Term, ...], tuple[Approximation, ...]], list[Term], list[tuple[float, float]], list[float]
]:
    scaled, approximations, following, ranges, spread, position = [], [], [], [], [], 0
    for term, (low, high), deviation in zip(terms, intervals, deviations, strict=True):
        low, high = _widened(layer.function, low - deviation, high + deviation)
        fit = approximate(layer.function, low, high, layer.degree)
        scaled.append(
            Term({i: w / fit.half for i, w in term.weights.items()}, (term.constant - fit.mid) / fit.half)
        )
        approximations.append(fit)
        needed = _needed(fit)
        following.append(
            Term({position + i: fit.coefficients[k] for i, k in enumerate(needed)}, fit.coefficients[0])
        )
        position += len(needed)
        centre, reach = fit.coefficients[0], sum(abs(c) for c in fit.coefficients[1:])
        ranges.append(_range(fit, centre - reach, centre + reach))
        spread.append(fit.error + fit.slope * deviation)
    return (tuple(scaled), tuple(approximations)), following, ranges, spread


def _widened(function: Function, low: float, high: float) -> tuple[float, float]:
    """Nearly symmetric ranges of odd functions become symmetric: the even half of the polynomial then vanishes."""
    reach = max(-low, high)
    if function in ("logistic", "tanh") and 2 * reach <= 1.2 * (high - low):
        return -reach, reach
    return low, high


def _range(fit: Approximation, least: float, most: float) -> tuple[float, float]:
    """What the polynomial may be over its range: seen on a grid, and what may lie between."""
    theta = np.linspace(0, math.pi, 4097)
    values = fit(fit.mid + fit.half * np.cos(theta))
    k = np.arange(len(fit.coefficients))
    between = (math.pi / 4096) ** 2 / 8 * float(k**2 @ np.abs(fit.coefficients)) + 1e-12 * fit.magnitude
    return max(least, float(values.min()) - between), min(most, float(values.max()) + between)


def _forest(
    circuit: Circuit, forest: Forest, arithmetic: Arithmetic, inputs: Sequence[Number], rows: int | None
) -> Number:
    """base + sum over leaves of value * product of the indicators on the way there."""
    columns = {key: i for i, key in enumerate(columns_of(circuit.model.features, trees=True))}
    products: dict[tuple[tuple[int, bool], ...], Number] = {}

    def indicator(path: tuple[tuple[int, bool], ...]) -> Number:
        if path not in products:
            if len(path) == 1:
                column, yes = path[0]
                products[path] = inputs[column] if yes else arithmetic.complement(inputs[column])
            else:
                a, b = indicator(path[: len(path) // 2]), indicator(path[len(path) // 2 :])
                products[path] = arithmetic.product(a, b, magnitude=1.0)
        return products[path]

    weights: dict[tuple[tuple[int, bool], ...], float] = {}
    constant = forest.base
    for tree in forest.trees:
        for path, value in _paths(tree, circuit.model.features, columns, ()):
            if path:
                weights[path] = weights.get(path, 0.0) + value
            else:
                constant += value
    paths = list(weights) or [((0, True),)]
    return arithmetic.combine(
        [indicator(path) for path in paths],
        [weights.get(path, 0.0) / circuit.scale for path in paths],
        constant / circuit.scale,
        magnitude=1.0,
        rows=rows,
    )


def _paths(
    node: Split | Leaf,
    features: tuple[Feature, ...],
    columns: dict[tuple[int, float | None], int],
    path: tuple[tuple[int, bool], ...],
) -> list[tuple[tuple[tuple[int, bool], ...], float]]:
    """Every reachable leaf, with the indicators that lead to it."""
    if isinstance(node, Leaf):
        return [(tuple(sorted(path)), node.value)]
    levels = features[node.feature].levels
    below = [x for x, left in zip(levels, goes_left(node, levels), strict=True) if left]
    if len(below) in (0, len(levels)):  # all admissible values go one way
        return _paths(node.left if below else node.right, features, columns, path)
    column = columns[node.feature, below[-1]]
    found = []
    for yes, child in ((True, node.left), (False, node.right)):
        if (column, not yes) in path:
            continue
        longer = path if (column, yes) in path else (*path, (column, yes))
        found += _paths(child, features, columns, longer)
    return found


def _leaves(node: Split | Leaf) -> list[float]:
    return [node.value] if isinstance(node, Leaf) else _leaves(node.left) + _leaves(node.right)


def _power(bound: float) -> float:
    """The least power of two that is no smaller: tells less about a model than its exact bound."""
    if not math.isfinite(bound):
        raise OutOfRange("model", "its outputs must be finite for all admissible inputs")
    return 2.0 ** math.ceil(math.log2(bound)) if bound > 2.0**-40 else 2.0**-40

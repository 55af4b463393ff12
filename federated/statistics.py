"""Joint sums -> the statistics of a query, each with the 95 % interval that noise or rounding leaves.

Exact mode derives from exact integers: second moments as n * sum(xy) - sum(x) * sum(y) in Python's integers, so that no digit is lost
to cancellation. DP mode derives the same formulas from noisy sums; the interval of counts and sums is the normal one, that of
non-linear statistics comes from redrawing the known noise around the noisy sums (parametric bootstrap). Intervals cover the
privacy noise, not the sampling of people.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox import bounds, disclosure, dp
from sandbox import query as q
from sandbox.plan import Component, Measure, Plan

from . import quantiles
from .encoding import JointSums

Floats = NDArray[np.float64]
DRAWS = 2000
FLOATS = 2.0**-50  # relative error of a few additions of doubles
Z95 = 1.959963984540054


class Estimate(msgspec.Struct, frozen=True):
    """One statistic over all cells: values with the bounds of its interval, and per cell why it is suppressed ("" if not)."""

    values: Floats
    low: Floats
    high: Floats
    reasons: NDArray[Any]


class Sums(msgspec.Struct, frozen=True):
    """Sums in the units of the data, of shape [..., cells]: what the formulas below take."""

    plan: Plan
    components: dict[int, Floats]

    def centered(self, rows: int, a: int, b: int, ab: int) -> Floats:
        """Sum of (x - mean(x)) (y - mean(y))."""
        n = self.components[rows]
        return self.components[ab] - self.components[a] * self.components[b] / n


class ExactSums(Sums, frozen=True):
    """The same with the integers kept, for second moments without cancellation.

    A sum of squares that the grid cannot tell from 0 is 0: a constant column has variance 0, and no correlation.
    """

    integers: dict[int, NDArray[Any]]

    def centered(self, rows: int, a: int, b: int, ab: int) -> Floats:
        specs = self.plan.components
        left, right = specs[ab].exponent, specs[a].exponent + specs[b].exponent
        common = max(left, right)
        n, x, y, xy = (self.integers[i].astype(object) for i in (rows, a, b, ab))
        numerator = n * xy * 2 ** (common - left) - x * y * 2 ** (common - right)
        if a == b:
            error = n * 2 ** (common - left) * _row_error(specs[ab])
            error = n * (error + 2 * abs(x) * 2 ** (common - right) * _row_error(specs[a]))
            numerator = np.where(abs(numerator) <= error, 0, numerator)
        shift = 2**-common if common < 0 else 1
        denominator = n * 2 ** max(common, 0)
        return np.array([u * shift / d if d else np.nan for u, d in zip(numerator, denominator, strict=True)])


def exact_sums(joint: JointSums, rounding: int = 0) -> ExactSums:
    """Exact sums with disclosure rounding applied: rows to multiples of the base, others to multiples of base row bounds."""
    integers, floats = {}, {}
    for i, (spec, values) in enumerate(zip(joint.plan.components, joint.components, strict=True)):
        integers[i] = disclosure.rounded(values, rounding * spec.bound)
        floats[i] = np.array([_ldexp(int(v), -spec.exponent) for v in integers[i]])
    return ExactSums(joint.plan, floats, integers)


def estimate(
    measure: Measure, joint: JointSums, rules: disclosure.Rules | None, rows_per_unit: int
) -> Estimate:
    """One measure of a release. `rules` in exact mode, none in DP mode."""
    if rules is None:
        values, low, high = _noisy(measure, joint)
        return Estimate(values, low, high, np.full(len(values), "", dtype=object))
    values, low, high = _exact(measure, joint, rules)
    reasons = _reasons(measure, joint, rules, rows_per_unit)
    reasons[(reasons == "") & np.isnan(values)] = "not defined"
    for array in (values, low, high):
        array[reasons != ""] = np.nan
    return Estimate(values, low, high, reasons)


def typical(plan: Plan, noise: dp.Noise, departments: int, rows: int) -> JointSums:
    """One cell of `rows` rows spread evenly over the bounds, with the noise of a release: what `explain` derives errors from."""
    deviation = noise.variance(departments) ** 0.5
    components = [
        np.array([rows * _unit(spec) / 3.0 if _is_square(spec) else (0.0 if spec.factors else float(rows))])
        for spec in plan.components
    ]
    leaves = [[np.full((1, bins), rows / bins) for bins in spec.levels] for spec in plan.leaves]
    deviations = [deviation * _unit(spec) for spec in plan.components]
    return JointSums(plan, departments, components, leaves, deviations, deviation)


def _is_square(spec: Component) -> bool:
    return len(spec.factors) == 2 and spec.factors[0] == spec.factors[1]


def formula(measure: Measure, sums: Sums) -> Floats:
    """The value of a measure other than a quantile; NaN where it is not defined."""
    plan, aggregate = sums.plan, measure.aggregate
    assert measure.rows is not None
    n = sums.components[measure.rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        match aggregate:
            case q.Count():
                return n
            case q.Sum():
                return sums.components[measure.first[0]] + _center(plan, measure) * n
            case q.Mean():
                return np.where(n > 0, _center(plan, measure) + sums.components[measure.first[0]] / n, np.nan)
            case q.Variance() | q.StandardDeviation():
                (x,), (xx,) = measure.first, measure.second
                variance = np.where(n > 1, sums.centered(measure.rows, x, x, xx) / (n - 1), np.nan)
                variance = np.where(variance >= 0, variance, np.nan)
                return variance if isinstance(aggregate, q.Variance) else np.sqrt(variance)
            case q.Covariance():
                (x, y), (xy,) = measure.first, measure.second
                return np.where(n > 1, sums.centered(measure.rows, x, y, xy) / (n - 1), np.nan)
            case q.Correlation():
                (x, y), (xx, xy, yy) = measure.first, measure.second
                sxx, syy = (sums.centered(measure.rows, i, i, ii) for i, ii in ((x, xx), (y, yy)))
                scale = np.where((sxx > 0) & (syy > 0), np.sqrt(sxx) * np.sqrt(syy), np.nan)
                return np.clip(sums.centered(measure.rows, x, y, xy) / scale, -1, 1)
    raise AssertionError(f"no formula for {type(aggregate).__name__}")


def _center(plan: Plan, measure: Measure) -> float:
    return plan.components[measure.first[0]].factors[0].center


def _needed(measure: Measure) -> tuple[int, ...]:
    assert measure.rows is not None
    return (measure.rows, *measure.first, *measure.second)


def _exact(measure: Measure, joint: JointSums, rules: disclosure.Rules) -> tuple[Floats, Floats, Floats]:
    if measure.leaves is not None:
        assert isinstance(measure.aggregate, q.Quantile)
        counts = disclosure.rounded(joint.leaves[measure.leaves][0], rules.rounding)
        return quantiles.exact(joint.plan.leaves[measure.leaves], counts, measure.aggregate.q)
    rounded = exact_sums(joint, rules.rounding)
    values = formula(measure, rounded)
    assert measure.rows is not None
    rows, steps = rounded.components[measure.rows], {}
    for i in _needed(measure):
        spec = joint.plan.components[i]
        steps[i] = rules.rounding * _unit(spec) / 2 + rows * _ldexp(_row_error(spec), -spec.exponent)
    if not any(step.any() for step in steps.values()):
        return values, values.copy(), values.copy()
    return values, *_corners(measure, rounded, steps)


def _row_error(spec: Component) -> int:
    return 0 if spec.whole else spec.error


def _corners(measure: Measure, sums: Sums, steps: dict[int, Floats]) -> tuple[Floats, Floats]:
    """Least and largest value over the corners of the box in which rounding, and the grid of reals, left the sums."""
    names = list(dict.fromkeys(steps))
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(names))).reshape(len(names), -1)
    box = {i: sums.components[i] + signs[k][:, None] * steps[i] for k, i in enumerate(names)}
    corners = formula(measure, Sums(sums.plan, box))
    centre = formula(measure, sums)
    stacked = np.concatenate([corners, centre[None]])
    with np.errstate(invalid="ignore"):
        return np.nanmin(np.where(np.isnan(stacked), np.inf, stacked), axis=0), np.nanmax(
            np.where(np.isnan(stacked), -np.inf, stacked), axis=0
        )


def _noisy(measure: Measure, joint: JointSums) -> tuple[Floats, Floats, Floats]:
    plan = joint.plan
    if measure.leaves is not None:
        assert isinstance(measure.aggregate, q.Quantile)
        leaves = plan.leaves[measure.leaves]
        return quantiles.noisy(
            leaves, joint.leaves[measure.leaves], joint.leaf_deviation, measure.aggregate.q
        )
    needed = _needed(measure)
    sums = Sums(plan, {i: joint.components[i] for i in needed})
    values = formula(measure, sums)
    if isinstance(measure.aggregate, q.Count | q.Sum):
        variance = joint.deviations[measure.rows or 0] ** 2
        if isinstance(measure.aggregate, q.Sum):
            variance = joint.deviations[measure.first[0]] ** 2 + _center(plan, measure) ** 2 * variance
        half = Z95 * variance**0.5
        return values, values - half, values + half
    low, high = np.empty_like(values), np.empty_like(values)
    generator = np.random.default_rng(0)  # post-processing: the noise of the release itself is not drawn here
    step = max(1, 2_000_000 // DRAWS)
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        redrawn = {
            i: joint.components[i][block]
            + generator.normal(0, joint.deviations[i], (DRAWS, len(values[block])))
            for i in dict.fromkeys(needed)
        }
        drawn = formula(measure, Sums(plan, redrawn))
        low[block], high[block] = _percentiles(drawn)
    return values, low, high


def _percentiles(drawn: Floats) -> tuple[Floats, Floats]:
    """The 2.5th and 97.5th percentile of each column; infinite where draws are undefined too often to tell."""
    undefined = np.isnan(drawn).mean(axis=0) > 0.025
    ordered = np.sort(np.where(np.isnan(drawn), np.inf, drawn), axis=0)
    last = (~np.isnan(drawn)).sum(axis=0) - 1
    column = np.arange(drawn.shape[1])
    low = ordered[np.maximum((0.025 * last).astype(int), 0), column]
    high = ordered[np.maximum(np.ceil(0.975 * last).astype(int), 0), column]
    return np.where(undefined, -np.inf, low), np.where(undefined, np.inf, high)


def _reasons(measure: Measure, joint: JointSums, rules: disclosure.Rules, rows_per_unit: int) -> NDArray[Any]:
    plan, sums = joint.plan, joint.components
    rows = plan.components.index(Component())
    departments, distinct = plan.find("departments"), plan.find("units")
    assert departments is not None
    units = sums[rows if distinct is None else distinct]
    reasons = disclosure.cell_reasons(rules, units, sums[departments])
    if rules.min_cell:
        spoken_of = bounds.columns(plan.where) if plan.where is not None else frozenset()
        axes = [i for i, key in enumerate(plan.keys) if not bounds.columns(key.term) & spoken_of]
        full = disclosure.full(units, tuple(len(key.domain) for key in plan.keys), axes)
        reasons[(reasons == "") & full] = "every unit of its group is in this cell"
    if measure.rows not in (None, rows):
        requires = plan.components[measure.rows].requires
        contributing, distinct = plan.find("departments", requires), plan.find("units", requires)
        assert contributing is not None
        values = sums[measure.rows if distinct is None else distinct]
        of_values = disclosure.cell_reasons(rules, values, sums[contributing])
        of_values[values < rules.min_cell] = f"fewer than {rules.min_cell} units have a value"
        reasons = np.where(reasons == "", of_values, reasons)
    if counts := _sides(measure, joint):
        few = disclosure.one_sided(rules, counts, rows_per_unit)
        reasons[(reasons == "") & few] = f"fewer than {rules.min_cell} units have one of its values"
    if isinstance(measure.aggregate, q.Sum | q.Mean):
        absolute, squares = _magnitudes(measure, joint)
        dominated = disclosure.dominated(rules, absolute, squares, rows_per_unit)
        reasons[(reasons == "") & dominated] = "few units make up most of it"
    return reasons


def _sides(measure: Measure, joint: JointSums) -> list[NDArray[Any]]:
    """How many rows have each value of a column with two, and each pair of values of two such columns.

    On the grid they are -1 and 1: with n rows that sum to s, (n + s) / 2 are above and (n - s) / 2 below.
    """
    plan, sums = joint.plan, joint.components
    two = [i for i in measure.first if _two_valued(plan.components[i])]
    if not two:
        return []
    assert measure.rows is not None
    n, counts = sums[measure.rows], []
    for i in two:
        counts += [(n + sums[i]) // 2, (n - sums[i]) // 2]
    pairs = [i for i in measure.second if len(set(plan.components[i].factors)) == 2]
    if len(two) == 2 and pairs:
        x, y, xy = sums[two[0]], sums[two[1]], sums[pairs[0]]
        counts += [(n + a * x + b * y + a * b * xy) // 4 for a in (1, -1) for b in (1, -1)]
    return counts


def _two_valued(component: Component) -> bool:
    [factor] = component.factors
    return factor.whole and factor.half_width == 0.5


def _magnitudes(measure: Measure, joint: JointSums) -> tuple[Floats, Floats]:
    """Sum of |x|, at least, and of x^2, at most, from the centred sums: where the grid is coarse, a cell passes for dominated."""
    plan = joint.plan
    assert measure.rows is not None

    def real(i: int) -> tuple[Floats, Floats]:
        """A sum, and by how much the grid of reals may have moved it."""
        spec = plan.components[i]
        values = np.array([_ldexp(int(v), -spec.exponent) for v in joint.components[i]])
        return values, n * _ldexp(_row_error(spec), -spec.exponent)

    n = joint.components[measure.rows].astype(float)
    (first, e), (second, ee) = real(measure.first[0]), real(measure.second[0])
    c = _center(plan, measure)
    squares = second + 2 * c * first + c * c * n + (ee + 2 * abs(c) * e + FLOATS * c * c * n)
    if measure.magnitude is None:
        absolute, error = np.abs(first + c * n), e
    else:
        magnitude, error = real(measure.magnitude)
        c = plan.components[measure.magnitude].factors[0].center
        absolute = magnitude + c * n
    return np.maximum(absolute - error - FLOATS * abs(c) * n, 0), squares


def _unit(component: Component) -> float:
    """The row bound in the units of the data."""
    return _ldexp(component.bound, -component.exponent)


def _ldexp(integer: int, exponent: int) -> float:
    """integer * 2^exponent, correctly rounded."""
    return integer / 2**-exponent if exponent < 0 else float(integer * 2**exponent)

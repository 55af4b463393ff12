"""How good a model is, from joint counts of its scores by class, or from joint sums of its residuals; and what of it disclosure control lets be shown.

Without a smallest cell (level general-1) everything is exact, AUC and KS to the width of a bin. With one, figures of a classifier follow from a
coarser table alone: neighbouring bins are put together until each holds at least `min_cell` rows of each class, and its rows count as if they had the
median score of the bin. So no figure tells of fewer rows, whatever the model is; `auc_bounds` say what AUC loses. There is a cut at probability 1/2 if
either side has rows enough, else accuracy and confusion matrix are None. Counts are rounded as those of a table. A regression's sums keep the
dominance rule (`sandbox.disclosure`), and are rounded to multiples of the target's width.

Intervals are at 95 %: AUC by DeLong, DeLong and Clarke-Pearson (Biometrics 1988), KS by the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's
constant on both samples, accuracy by Wilson, means by their standard error, R^2 by Olkin and Finn (Psychological Bulletin 1995).
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from sandbox.disclosure import NONE, Rules, dominated, rounded
from sandbox.errors import Denied, QueryError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Interval = tuple[float, float]
BINS = 16384
REACH = 12.0
CALIBRATION = 10
Z95 = 1.959963984540054


class Calibration(msgspec.Struct, frozen=True):
    """One range of the probability: rows, mean prediction, share of the second class. None where there are too few rows."""

    low: float
    high: float
    rows: int | None
    predicted: float | None
    observed: float | None


class Classified(msgspec.Struct, frozen=True, tag="classified"):
    """A classifier of two classes. `confusion` is [[true first, said second], [said first of second, true second]] at probability 1/2."""

    rows: int
    departments: int
    auc: float
    auc_interval: Interval
    auc_bounds: Interval
    ks: float
    ks_interval: Interval
    log_loss: float
    log_loss_interval: Interval
    brier: float
    accuracy: float | None
    accuracy_interval: Interval | None
    confusion: tuple[tuple[int, int], tuple[int, int]] | None
    calibration: tuple[Calibration, ...]


class Regressed(msgspec.Struct, frozen=True, tag="regressed"):
    """A regression."""

    rows: int
    departments: int
    r_squared: float
    r_squared_interval: Interval
    rmse: float
    rmse_interval: Interval
    bias: float


Figures = Classified | Regressed


class Scored(msgspec.Struct, frozen=True, eq=False):
    """Joint sums of a classifier's scores: rows by class and bin [2, BINS]; log-losses, their squares, squared errors; by class and tenth."""

    scores: Counts
    losses: Floats
    confusion: Counts
    tenths: Counts
    predicted: Floats


class Missed(msgspec.Struct, frozen=True, eq=False):
    """Joint sums over rows: |r|, r, r^2 and r^4 of residuals; t, |t|, t^2 and t^4 of the target off the middle of its bounds, `width` apart;
    |y| and y^2 of the target as it is."""

    residuals: Floats
    targets: Floats
    raw: Floats
    width: float


def classified(rows: int, departments: int, sums: Scored, rules: Rules = NONE) -> Classified:
    """Raises `Denied` where disclosure control shows nothing, `QueryError` where there is nothing to show."""
    _enough(rows, departments, rules)
    if rules.min_cell:
        return _coarse(departments, sums.scores, rules)
    first, second = (int(part.sum()) for part in sums.scores)
    if not first or not second:
        raise QueryError("all rows have the same class of the target: two are needed")
    loss, squares, brier = (float(value) / rows for value in sums.losses)
    tenths = tuple(
        _calibrated(i / CALIBRATION, (i + 1) / CALIBRATION, sums.tenths[:, i], float(sums.predicted[i]))
        for i in range(CALIBRATION)
    )
    return _figures(departments, sums.scores, (loss, squares, brier), sums.confusion, tenths)


def regressed(rows: int, departments: int, parameters: int, sums: Missed, rules: Rules = NONE) -> Regressed:
    """The same of a regression."""
    _enough(rows, departments, rules)
    if rules.min_cell:
        magnitude = [sums.residuals[0], sums.residuals[2], sums.targets[1], sums.targets[2], sums.raw[0]]
        squares = [sums.residuals[2], sums.residuals[3], sums.targets[2], sums.targets[3], sums.raw[1]]
        if dominated(rules, np.array(magnitude), np.array(squares), 1).any():
            raise Denied(["two rows could make up too much of the residuals, or of the target"])
    scale = rules.rounding * np.array([1.0, 1.0, sums.width, sums.width**3]) * sums.width
    _, residual, square, fourth = (_nearest(sums.residuals, scale) / rows).tolist()
    total, _, total_square, _ = (_nearest(sums.targets, scale) / rows).tolist()
    variance = total_square - total**2
    if variance <= 0:
        raise QueryError("the target has the same value in every row: it has no R^2")
    r_squared = 1 - square / variance
    positive = max(r_squared, 0.0)
    spread = 4 * positive * (1 - positive) ** 2 * max(rows - parameters - 1, 1) ** 2
    spread /= (rows**2 - 1) * (rows + 3)
    half = Z95 * math.sqrt(max(fourth - square**2, 0.0) / rows)
    wide = Z95 * math.sqrt(spread)
    return Regressed(
        rows=int(rounded(np.array(rows), rules.rounding)),
        departments=departments,
        r_squared=r_squared,
        r_squared_interval=(r_squared - wide, min(r_squared + wide, 1.0)),
        rmse=math.sqrt(max(square, 0.0)),
        rmse_interval=(math.sqrt(max(square - half, 0.0)), math.sqrt(max(square, 0.0) + half)),
        bias=-residual,
    )


def odds(probability: Floats) -> Floats:
    return np.asarray(np.log(probability) - np.log1p(-probability))


def places(probability: Floats) -> Counts:
    """The bin of each score."""
    found = (odds(probability) + REACH) * (BINS / (2 * REACH))
    return np.clip(np.floor(found), 0, BINS - 1).astype(np.int64)


def edges(scores: Counts, least: int) -> tuple[list[int], bool]:
    """The bins at which to cut, so that `least` rows of each class and more lie between two; and whether one cut is the middle.

    Raises `Denied` where not even all rows are as many.
    """
    middle = scores.shape[1] // 2
    sides = scores[:, :middle].sum(axis=1), scores[:, middle:].sum(axis=1)
    if (sides[0] + sides[1]).min() < least:
        raise Denied([f"fewer than {least} rows of a class"])
    halved = bool(min(sides[0].min(), sides[1].min()) >= least)
    cuts = [0]
    for begin, end in ((0, middle), (middle, 2 * middle)) if halved else ((0, 2 * middle),):
        counts, before = np.cumsum(scores[:, begin:end], axis=1), np.zeros(2, np.int64)
        while (before + least <= counts[:, -1]).all():
            last = max(int(np.searchsorted(own, n)) for own, n in zip(counts, before + least, strict=True))
            before = counts[:, last]
            cuts.append(begin + last + 1)
        cuts[-1] = end  # what is left over joins the last
    return cuts, halved


def _coarse(departments: int, scores: Counts, rules: Rules) -> Classified:
    cuts, halved = edges(scores, rules.min_cell)
    table = np.add.reduceat(scores, cuts[:-1], axis=1)
    both = np.cumsum(scores.sum(axis=0))
    ends = both[np.array(cuts[1:]) - 1]
    medians = np.searchsorted(both, (np.append(0, ends[:-1]) + ends + 1) // 2)
    chance = _chance((medians + 0.5) * (2 * REACH / scores.shape[1]) - REACH)
    table = rounded(table, rules.rounding)
    rows = float(table.sum())
    losses = np.array([-np.log1p(-chance), -np.log(chance)])
    loss, squares = float((table * losses).sum()) / rows, float((table * losses**2).sum()) / rows
    brier = float((table * np.array([chance**2, (1 - chance) ** 2])).sum()) / rows
    said = np.array(cuts[:-1]) >= scores.shape[1] // 2
    confusion = np.array([[part[~said].sum(), part[said].sum()] for part in table]) if halved else None
    at = [0.0, *_chance(np.array(cuts[1:-1]) * (2 * REACH / scores.shape[1]) - REACH), 1.0]
    tenth = np.minimum((chance * CALIBRATION).astype(int), CALIBRATION - 1)
    ranges = []
    for i in sorted(set(tenth.tolist())):
        own = np.flatnonzero(tenth == i)
        sums = table[:, own]
        predicted = float(sums.sum(axis=0) @ chance[own])
        ranges.append(_calibrated(float(at[own[0]]), float(at[own[-1] + 1]), sums.sum(axis=1), predicted))
    return _figures(departments, table, (loss, squares, brier), confusion, tuple(ranges))


def _figures(
    departments: int,
    scores: Counts,
    losses: tuple[float, float, float],
    confusion: Counts | None,
    calibration: tuple[Calibration, ...],
) -> Classified:
    first, second = (int(part.sum()) for part in scores)
    rows, (loss, squares, brier) = first + second, losses
    auc, deviation, tied = _auc(scores)
    ks = float(np.abs(np.cumsum(scores[0]) / first - np.cumsum(scores[1]) / second).max())
    slack = math.sqrt(math.log(4 / 0.05) / 2) * (1 / math.sqrt(first) + 1 / math.sqrt(second))
    half = Z95 * math.sqrt(max(squares - loss**2, 0.0) / rows)
    right = None if confusion is None else int(confusion.trace())
    return Classified(
        rows=rows,
        departments=departments,
        auc=auc,
        auc_interval=_within(auc, Z95 * deviation),
        auc_bounds=(auc - tied / 2, auc + tied / 2),
        ks=ks,
        ks_interval=_within(ks, slack),
        log_loss=loss,
        log_loss_interval=(loss - half, loss + half),
        brier=brier,
        accuracy=None if right is None else right / rows,
        accuracy_interval=None if right is None else _wilson(right, rows),
        confusion=None
        if confusion is None
        else (
            (int(confusion[0, 0]), int(confusion[0, 1])),
            (int(confusion[1, 0]), int(confusion[1, 1])),
        ),
        calibration=calibration,
    )


def _enough(rows: int, departments: int, rules: Rules) -> None:
    if rules.min_cell and rows < rules.min_cell:
        raise Denied([f"fewer than {rules.min_cell} rows"])
    if rules.min_cell and departments < rules.min_departments:
        raise Denied([f"fewer than {rules.min_departments} departments contribute"])
    if rows < 2:
        raise QueryError("fewer than two rows take part in the evaluation")


def _auc(scores: Counts) -> tuple[float, float, float]:
    """AUC with ties as halves, its standard deviation, and the share of pairs that are tied."""
    first, second = scores.astype(np.float64)
    m, n = first.sum(), second.sum()
    below = np.cumsum(first) - first
    above = n - np.cumsum(second)
    # The placement of each row of one class among the other's.
    of_second, of_first = (below + first / 2) / m, (above + second / 2) / n
    auc = float(second @ of_second / n)
    spread_second = float(second @ (of_second - auc) ** 2) / max(n - 1, 1)
    spread_first = float(first @ (of_first - auc) ** 2) / max(m - 1, 1)
    return auc, math.sqrt(spread_second / n + spread_first / m), float(first @ second / (m * n))


def _nearest(sums: Floats, scale: Floats) -> Floats:
    """To multiples of `scale`; 0 leaves them as they are."""
    return np.where(scale > 0, np.rint(sums / np.where(scale > 0, scale, 1.0)) * scale, sums)


def _chance(log_odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def _within(value: float, half: float) -> Interval:
    return max(value - half, 0.0), min(value + half, 1.0)


def _wilson(successes: int, trials: int) -> Interval:
    share, spread = successes / trials, Z95**2 / trials
    center = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return center - half, center + half


def _calibrated(low: float, high: float, by_class: Counts, predicted: float) -> Calibration:
    rows = int(by_class.sum())
    share = float(by_class[1]) / rows if rows else None
    return Calibration(low, high, rows, predicted / rows if rows else None, share)

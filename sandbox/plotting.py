"""Plots of a release: bars with error bars, heat maps for matrices. Loads matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ParameterError
from .release import POINT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .release import Release

PANEL_WIDTH, PANEL_HEIGHT = 4.6, 3.2
COLOUR = "#2f6f9f"


def bars(release: Release) -> Figure:
    """One panel a statistic, one bar a cell, with the 95 % interval.

    A cross stands for a cell that is suppressed, or whose interval is unbounded: there is nothing to see in its value.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ParameterError("plot() needs matplotlib: pip install 'joint-sandbox[notebook]'") from None

    if release.query.analysis in ("crosstab", "covariance", "correlation"):
        return _heat(plt, release)
    labels = [" · ".join(map(_label, cell)) for cell in zip(*release.keys.values(), strict=True)] or ["all"]
    panels = len(release.series)
    figure, axes = plt.subplots(
        1, panels, figsize=(PANEL_WIDTH * panels, PANEL_HEIGHT), squeeze=False, layout="constrained"
    )
    for axis, series in zip(axes[0], release.series, strict=True):
        values, low, high = (
            np.array([np.nan if v is None else v for v in part])
            for part in (series.values, series.low, series.high)
        )
        drawn = np.isfinite(values) & np.isfinite(low) & np.isfinite(high)
        reach = np.abs(np.array([low, high]) - values)[:, drawn]
        axis.bar(
            np.flatnonzero(drawn),
            values[drawn],
            yerr=reach if (reach > POINT * np.abs(values[drawn])).any() else None,
            ecolor=plt.rcParams["text.color"],
            capsize=3,
            color=COLOUR,
            alpha=0.85,
            width=0.7,
        )
        axis.plot(np.flatnonzero(~drawn), np.zeros((~drawn).sum()), "x", color=plt.rcParams["text.color"])
        step = max(1, len(labels) // 16)
        axis.set_xticks(
            range(0, len(labels), step),
            labels[::step],
            rotation=45 if len(labels) > 4 else 0,
            ha="right" if len(labels) > 4 else "center",
        )
        axis.set_title(series.name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    plt.close(figure)  # the caller shows it: a notebook would otherwise show it twice
    return figure


def _heat(plt: Any, release: Release) -> Figure:
    frame = release.frame.astype(float)
    size = (max(3.6, 0.7 * frame.shape[1] + 1.5), max(3.0, 0.6 * frame.shape[0] + 1.2))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    diverging = release.query.analysis == "correlation"
    limits = {"vmin": -1, "vmax": 1, "cmap": "RdBu_r"} if diverging else {"cmap": "Blues"}
    image = axis.imshow(frame.to_numpy(), aspect="auto", **limits)
    axis.set_xticks(range(frame.shape[1]), map(_label, frame.columns), rotation=45, ha="right")
    axis.set_yticks(range(frame.shape[0]), map(_label, frame.index))
    for row in range(frame.shape[0]):
        for column in range(frame.shape[1]):
            value = frame.iat[row, column]
            if np.isnan(value):
                axis.text(column, row, "·", ha="center", va="center")
                continue
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
            axis.text(
                column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
    plt.close(figure)
    return figure


def _label(value: object) -> str:
    return "null" if value is None else str(value)

"""Drawings for the page: a release's own plot with the truth marked, and small ones made by hand. All in `currentColor`, as inline SVG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sandbox.release import Release

from .blocks import Strip

INK = "#010203"  # stands for the page's text colour, whatever that is
ACCENT = "#d9822b"
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
_ENTITY = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_NAMESPACE = re.compile(r"""\sxmlns(:\w+)?="[^"]*\"""")


def plot(release: Release, title: str, truth: Mapping[str, Sequence[float]] | None = None) -> str:
    """`release.plot()` as SVG; with `truth` (per statistic, in the order of cells), a diamond at each pooled value."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = release.plot()
        for axis, series in zip(figure.axes, release.series, strict=False):
            if truth is not None:
                values = truth[series.name]
                axis.plot(range(len(values)), values, "D", color=ACCENT, markersize=4.5, label="pooled truth")
                axis.legend(frameon=False, fontsize=8)
        return svg(figure, title)


def ladder(epsilons: Sequence[float], halves: Sequence[float], truth: int) -> str:
    """What epsilon buys: half-width of a count's interval against epsilon, both on logarithmic axes."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.0), layout="constrained")
        axis = figure.add_subplot()
        axis.loglog(epsilons, halves, "o-", color="#2f6f9f")
        axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axis.minorticks_off()
        axis.set_yticks(halves, [f"± {half:,.0f}" for half in halves])
        axis.set_xlabel("ε of the release")
        axis.set_title(f"95 % interval of a count, here of {truth:,} people", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
        return svg(figure, "What epsilon buys")


def svg(figure: Figure, title: str) -> str:
    """A figure as inline SVG without declarations, metadata or name spaces, ids of its own, in the page's text colour."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True)
    text = _NAMESPACE.sub("", _ENTITY.sub("", buffer.getvalue())).replace(INK, "currentColor")
    prefix = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", text)
    label = html.escape(title, quote=True)
    return text.strip().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def strip(cell: Strip, width: int = 150) -> str:
    """Interval as a line, value as a dot, truth as a diamond."""
    if not all(map(_finite, (cell.low, cell.high, cell.value))):
        return "unbounded"
    least, most = min(cell.low, cell.truth), max(cell.high, cell.truth)
    scale = (width - 16) / (most - least or 1.0)

    def x(value: float) -> str:
        return f"{8 + (value - least) * scale:.1f}"

    t = float(x(cell.truth))
    return (
        f'<svg class="strip" role="img" aria-label="interval" width="{width}" height="18" viewBox="0 0 {width} 18">'
        f'<path d="M{x(cell.low)} 9H{x(cell.high)}M{x(cell.low)} 5v8M{x(cell.high)} 5v8" class="interval"/>'
        f'<circle cx="{x(cell.value)}" cy="9" r="3.5" class="value"/>'
        f'<path d="M{t} 4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z" class="truth"/></svg>'
    )


def flow(rows: Mapping[str, int], sent: Mapping[str, int]) -> str:
    """Departments, coordinator and analyst, with what passes between them."""
    height = 84 * len(rows)
    middle = height / 2

    def box(x: int, y: float, width: int, name: str, note: str) -> str:
        return (
            f'<rect x="{x}" y="{y - 30}" width="{width}" height="60" rx="8" class="box"/>'
            f'<text x="{x + 14}" y="{y - 5}" class="name">{html.escape(name)}</text>'
            f'<text x="{x + 14}" y="{y + 16}" class="small">{html.escape(note)}</text>'
        )

    parts = [
        box(4, 42 + 84 * i, 212, name, f"{people:,} people, 0 rows sent")
        + f'<path d="M218 {42 + 84 * i}H364C388 {42 + 84 * i} 384 {middle} 408 {middle}" class="arrow"/>'
        + f'<text x="230" y="{42 + 84 * i - 8}" class="small">{sent[name]:,} bytes, masked</text>'
        for i, (name, people) in enumerate(rows.items())
    ]
    return (
        '<svg role="img" aria-label="Departments send masked sums to the coordinator; the analyst gets the release" '
        f'viewBox="0 0 900 {height}" class="flow"><defs><marker id="flow-tip" viewBox="0 0 8 8" refX="7" refY="4" '
        'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>'
        + "".join(parts)
        + f'<path d="M406 {middle}H420M632 {middle}H682" class="arrow" marker-end="url(#flow-tip)"/>'
        + f'<path d="M400 {middle}H420" class="arrow" marker-end="url(#flow-tip)"/>'
        + box(424, middle, 206, "coordinator", "only the sum is unmasked")
        + box(686, middle, 208, "analyst", "the release, nothing else")
        + "</svg>"
    )


def _finite(value: Any) -> bool:
    return abs(value) != float("inf") and value == value

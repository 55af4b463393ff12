"""Plots as SVG text: cost curves on logarithmic axes, and shares of the limits."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from benchmarks.derived import share
from benchmarks.records import Entry, Results
from benchmarks.tables import seconds

WIDTH, HEIGHT = 5.2, 3.4


def curves(results: Results, suite: str) -> Iterator[tuple[str, str]]:
    """A title and a plot for each task that was measured at several values of one parameter, the others alike."""
    for (task, parameter), lines in _families(results, suite).items():
        figure, axes = _figure()
        for label, entries in lines.items():
            points = sorted((entry.parameters[parameter], entry) for entry in entries)
            where = [float(x) for x, _ in points]
            medians = [entry.median for _, entry in points]
            below = [entry.median - min(entry.seconds) for _, entry in points]
            above = [max(entry.seconds) - entry.median for _, entry in points]
            axes.errorbar(where, medians, yerr=[below, above], marker="o", capsize=2, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(parameter.replace("_", " "))
        axes.set_ylabel("seconds a call")
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(fontsize=7)
        axes.set_title(task, fontsize=9)
        yield f"{task} by {parameter.replace('_', ' ')}", _svg(figure)


def _families(results: Results, suite: str) -> dict[tuple[str, str], dict[str, list[Entry]]]:
    """Entries by task and varied parameter, then by system and the other parameters."""
    found: dict[tuple[str, str], dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    entries = [entry for entry in results.measured() if entry.suite == suite]
    for entry in entries:
        for name, value in entry.parameters.items():
            if isinstance(value, str) or not value:
                continue
            others = ", ".join(f"{k} {v}" for k, v in sorted(entry.parameters.items()) if k != name)
            found[entry.task, name][f"{entry.system}{f', {others}' if others else ''}"].append(entry)
    kept = {}
    for key, lines in found.items():
        long = {label: line for label, line in lines.items() if len(line) > 1}
        if long:
            kept[key] = long
    return kept


def shares(results: Results) -> str | None:
    """How much of each task's time its limits alone would take; None if the run measured none."""
    found = [(entry, value) for entry in results.measured() if (value := share(results, entry)) is not None]
    if not found:
        return None
    largest: dict[tuple[str, str], tuple[Entry, float]] = {}
    for entry, value in found:
        key = entry.suite, entry.task
        if key not in largest or entry.work > largest[key][0].work:
            largest[key] = entry, value
    chosen = sorted(largest.values(), key=lambda item: item[1])
    figure, axes = _figure(height=0.6 + 0.22 * len(chosen), width=8.0)
    labels = [f"{e.suite}: {e.task} ({seconds(e.median)})" for e, _ in chosen]
    axes.barh(labels, [100 * value for _, value in chosen], color="#4477aa")
    axes.set_xscale("log")
    axes.set_xlabel("% of the time that the limits alone would take")
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(True, axis="x", alpha=0.25)
    return _svg(figure)


def _figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "benchmarks"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)

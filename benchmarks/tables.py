"""Entries as text: one line while a run goes on, and Markdown tables for reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.records import Entry, Value


def line(entry: Entry) -> str:
    """One entry, as printed while a run goes on."""
    name = f"{entry.suite:<11}{entry.system:<22}{entry.task} {parameters(entry)}".rstrip()
    if entry.outcome != "measured":
        return f"{name:<92} {entry.outcome}: {entry.reason.splitlines()[0] if entry.reason else ''}"
    return f"{name:<92} {seconds(entry.median):>9} ±{entry.spread:>4.0%}" + (
        f"  {rate(entry)}" if entry.unit != "call" else ""
    )


def parameters(entry: Entry) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value_of(value)}" for key, value in entry.parameters.items())


def value_of(value: Value) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def seconds(value: float) -> str:
    """A duration in the unit that suits it, to three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{digits(value / size)} {unit}"
    return f"{digits(value / 1e-9)} ns"


def rate(entry: Entry) -> str:
    """Work a second."""
    return f"{amount(entry.work / entry.median)}{entry.unit}/s"


def amount(value: float) -> str:
    """A number to three digits, with the prefix that suits it and a space after it, to be followed by a unit."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{digits(value / size)} {prefix}"
    return f"{digits(value)} "


def digits(value: float) -> str:
    """Three significant digits, without an exponent where people would not write one."""
    if value == 0:
        return "0"
    return (
        f"{value:.3g}"
        if abs(value) < 1000 and abs(value) >= 1e-3
        else f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.1e}"
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)

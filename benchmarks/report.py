"""Results as one self-contained HTML page, and as Markdown with its plots beside it; made from the results alone."""

from __future__ import annotations

import html
import pathlib
import re
from collections.abc import Iterator

from benchmarks import plots, tables, targets
from benchmarks.derived import COLD, LIMITS, floor, ours_beside, over, ratio_text, share
from benchmarks.records import OURS, Entry, Results

TITLE = "Benchmarks of Joint Sandbox"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: 3px 8px; text-align: left; vertical-align: top }
th { background: #f4f4f4 }
svg { max-width: 100%; height: auto }
code { background: #f4f4f4 }
"""
HEAD = (
    "task",
    "system",
    "at",
    "median",
    "rate",
    "beside ours",
    "CPU",
    "memory",
    "sent by a party",
    "rounds",
    "error",
    "share of limit",
    "conditions",
)
Part = tuple[str, str]  # ("heading" | "text" | "table" | "plot", its text)


def write(results: Results, folder: pathlib.Path) -> pathlib.Path:
    """Write `report.html`, `report.md` and the plots that the latter shows; the page."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = list(_parts(results))
    page = folder / "report.html"
    page.write_text(_html(parts), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(parts, folder), encoding="utf-8")
    return page


def _parts(results: Results) -> Iterator[Part]:
    yield "text", run_line(results)
    yield "heading", "Targets"
    yield "table", tables.markdown(("part", "promise", "bound", "measured", "met"), targets.rows(results))
    for outcome in targets.misses(results):
        goes = outcome.where_the_time_goes
        yield (
            "text",
            f"Missed: {outcome.target.claim}. Where the time goes: {goes or 'not profiled in this mode'}. {outcome.target.next}",
        )
    if drawn := plots.shares(results):
        yield "heading", "Share of the limits"
        yield (
            "text",
            "What the limits of this machine alone would take, of the time of a call, on one core; the arithmetic stands below each suite.",
        )
        yield "plot", drawn
    suites = dict.fromkeys(entry.suite for entry in results.entries)
    for suite in suites:
        yield "heading", suite
        yield from _suite(results, suite)


def _suite(results: Results, suite: str) -> Iterator[Part]:
    entries = [entry for entry in results.entries if entry.suite == suite]
    measured = sorted(
        (e for e in results.measured() if e.suite == suite),
        key=lambda e: (_first(entries, e.task), e.system != OURS),
    )
    if suite == LIMITS:
        rows = [[e.task, tables.rate(e), f"±{e.spread:.0%}"] for e in measured]
        yield "table", tables.markdown(("limit", "rate", "spread"), rows)
    else:
        yield "table", tables.markdown(HEAD, [_row(results, entry) for entry in measured])
    sums = [
        [e.task, tables.parameters(e), least.arithmetic] for e in measured if (least := floor(results, e))
    ]
    if sums:
        yield "text", "The least time at this machine's rates:"
        yield "table", tables.markdown(("task", "at", "arithmetic"), sums)
    others = [
        [e.task, e.system, tables.parameters(e), e.outcome, e.reason]
        for e in entries
        if e.outcome != "measured"
    ]
    if others:
        yield "text", "Failed or skipped:"
        yield "table", tables.markdown(("task", "system", "at", "outcome", "reason"), others)
    for _, drawn in plots.curves(results, suite):
        yield "plot", drawn


def _first(entries: list[Entry], task: str) -> int:
    return next(i for i, entry in enumerate(entries) if entry.task == task)


def _row(results: Results, entry: Entry) -> list[str]:
    ours, least = ours_beside(results, entry), share(results, entry)
    sent = max(entry.sent.values(), default=0.0)
    figures = [f"{name}: {tables.digits(value)}" for name, value in entry.figures.items()]
    return [
        entry.task,
        entry.system,
        tables.parameters(entry),
        f"{tables.seconds(entry.median)} ±{entry.spread:.0%}",
        "" if entry.unit == "call" else tables.rate(entry),
        "" if ours is None else ratio_text(over(entry, ours)),
        "-" if entry.cpu_seconds is None else tables.seconds(entry.cpu_seconds),
        "-" if entry.peak_bytes is None else f"{tables.amount(entry.peak_bytes)}B",
        f"{tables.amount(sent)}B" if sent else "-",
        "-" if entry.rounds is None else str(entry.rounds),
        "-"
        if entry.error is None
        else f"{tables.digits(entry.error)} ({entry.error_is})"
        if entry.error
        else entry.error_is,
        "" if least is None else f"{least:.1%}",
        "; ".join(filter(None, [entry.conditions, "" if entry.warm else COLD, *figures])),
    ]


def run_line(results: Results) -> str:
    """Where and when a run was made."""
    run, machine = results.run, results.run.machine
    loads = [entry.load for entry in results.entries] or [0.0]
    return (
        f"{run.started[:10]}, mode {run.mode}, commit {run.commit[:10]}{', with changes' if run.changed else ''}: {machine.cpu}, "
        f"{machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB, Linux {machine.kernel}, Python {run.python}; "
        f"load average {min(loads):.1f} to {max(loads):.1f} while it ran."
    )


def _markdown(parts: list[Part], folder: pathlib.Path) -> str:
    lines, plotted = [f"# {TITLE}"], 0
    for kind, text in parts:
        if kind == "heading":
            lines.append(f"## {text}")
        elif kind == "plot":
            plotted += 1
            (folder / f"plot-{plotted}.svg").write_text(text, encoding="utf-8")
            lines.append(f"![](plot-{plotted}.svg)")
        else:
            lines.append(text)
    return "\n\n".join(lines) + "\n"


def _html(parts: list[Part]) -> str:
    body = [f"<h1>{TITLE}</h1>"]
    for kind, text in parts:
        if kind == "heading":
            body.append(f"<h2>{html.escape(text)}</h2>")
        elif kind == "text":
            body.append(f"<p>{_inline(text)}</p>")
        elif kind == "plot":
            body.append(text)
        else:
            body.append(_table(text))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>"
    )


def _table(text: str) -> str:
    cells = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
    ]
    head, _, *rows = cells
    made = "".join(f"<th>{_inline(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{made}</tr>{body}</table>"


def _inline(text: str) -> str:
    """Bold and code of Markdown."""
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)

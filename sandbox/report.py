"""One page for an owner or auditor, from the ledger, the contracts and the audit log alone: no script, no outside resource, no data.

Everything that others wrote (purposes, reasons, names) is escaped. The page proves nothing by itself: the log's head at its end, which
witnesses co-sign, and receipts do.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from . import accounting, entries, policy
from .approvals import Status
from .catalog import Catalog, DataSet
from .ledger import Entry

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 150, 8, 26, 24
STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf7; --card: #ffffff; --ink: #1d2430; --soft: #5d6675; --line: #e3e0d8;
  --blue: #2f6f9f; --red: #b23a32; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --card: #1b1f26; --ink: #e6e8ec; --soft: #9aa3b2; --line: #2d333d;
  --blue: #6fb1e0; --red: #ef8a80; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); max-width: 64rem; margin: 0 auto;
  padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; margin: 0 0 .2rem; } h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; } h3 { margin: 1.2rem 0 .2rem; }
small, .soft { color: var(--soft); font-weight: normal; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem; }
.tiles b { display: block; font-size: 1.4rem; } .tiles span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; } td:first-child { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; color: var(--soft); margin: .4rem 0; }
summary { cursor: pointer; color: var(--blue); } svg { max-width: 100%; height: auto; display: block; }
"""


def page(
    catalog: Catalog,
    charges: Sequence[Entry],
    contracts: Sequence[Status],
    log: Sequence[entries.Entry],
    head: str,
    now: float,
) -> str:
    """The page as HTML, as of `now` (Unix seconds)."""
    requests = {e.request: e for e in log if isinstance(e, entries.Request)}
    released = [e for e in log if isinstance(e, entries.Release)]
    refused = [
        e
        for e in log
        if isinstance(e, entries.Refusal) or (isinstance(e, entries.Decision) and e.verdict != "allow")
    ]
    waiting = sum(status.state == "pending" for status in contracts)
    title = html.escape(f"{catalog.department}: what was asked, and what left")
    tiles = ((len(released), "releases"), (len(refused), "requests refused or held back"),
             (waiting, "contracts wait for a decision"), (len(log), "entries in the audit log"))  # fmt: skip
    parts = [
        f"<h1>{title}</h1><p class='soft'>As of {entries.when(now)} UTC.</p><div class='tiles'>",
        *(f"<div><b>{count:,}</b><span>{label}</span></div>" for count, label in tiles),
        "</div><h2>Data sets and their budgets</h2>",
        *(_dataset(name, dataset, charges, now) for name, dataset in catalog.datasets.items()),
        "<h2>Contracts</h2>",
        _contracts(contracts),
        "<h2>Releases</h2>",
        _table(
            ("time (UTC)", "data set", "analyst", "purpose", "ε", "approved by", "request", "release"),
            (_release(entry, requests) for entry in reversed(released)),
        ),
        "<h2>Refused or held back</h2>",
        _table(
            ("time (UTC)", "data set", "analyst", "purpose", "reasons"),
            (_refused(entry, requests) for entry in reversed(refused)),
        ),
        f"<h2>Head of the audit log</h2><pre>{html.escape(head)}</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _dataset(name: str, dataset: DataSet, charges: Sequence[Entry], now: float) -> str:
    own = [entry for entry in charges if entry.charge.dataset == name]
    exact = sum(entry.mode == "exact" for entry in own)
    title = f"<h3>{html.escape(name)} <small>{html.escape(dataset.level)}</small></h3>"
    terms = f"<p class='soft'>{html.escape(_terms(policy.of(name, dataset)))}</p>"
    if dataset.budget is None:
        return f"{title}{terms}<p>No privacy budget. {exact} exact releases.</p>"
    total, points = accounting.NOTHING, list[tuple[float, float]]()
    for entry in own:
        if entry.charge.event is not None:
            total = total + accounting.cost(entry.charge.event)
            points.append((entry.charge.time, accounting.epsilon(total, dataset.budget.delta)))
    spent = points[-1][1] if points else 0.0
    return (
        f"{title}{terms}<p>ε {spent:.4g} of {dataset.budget.epsilon:g} spent in {len(points)} DP releases; "
        f"{exact} exact releases.</p>{_steps(points, dataset.budget.epsilon, now)}"
    )


def _terms(terms: policy.Policy) -> str:
    """What is permitted, in a line."""
    kinds = " and ".join(terms.kinds) or "no"
    parts = [
        f"{kinds} releases for {', '.join(terms.purposes)}",
        f"approval of {terms.approvers} owners" if terms.approvers else "no approval needed",
    ]
    if "exact" in terms.kinds and terms.rules is not None and terms.rules.min_cell:
        parts.append(f"cells of at least {terms.rules.min_cell} units")
    return "; ".join(parts) + "."


def _steps(points: Sequence[tuple[float, float]], cap: float, now: float) -> str:
    """ε spent over time, from the first DP release to now, below its cap, as a step line."""
    if not points:
        return ""
    start, base, right = points[0][0], HEIGHT - BOTTOM, WIDTH - LEFT
    # The first step stands a little inside, so that it is seen.
    across = (right - LEFT - 20) / max(now - start, 1e-9)
    up = (base - TOP) / max(cap, points[-1][1])
    path = f"M{LEFT},{base}" + "".join(
        f"H{LEFT + 20 + (min(time, now) - start) * across:.1f}V{base - value * up:.1f}"
        for time, value in points
    )
    top = base - cap * up
    text = "font-size='12' fill='var(--soft)'"
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' role='img' aria-label='epsilon spent over time'>"
        f"<path d='M{LEFT},{base}H{right}' stroke='var(--line)' fill='none'/>"
        f"<path d='M{LEFT},{top:.1f}H{right}' stroke='var(--red)' stroke-dasharray='4 4' fill='none'/>"
        f"<text x='{LEFT}' y='{top - 7:.1f}' {text}>budget ε = {cap:g}</text>"
        f"<text x='{LEFT}' y='{base + 17}' {text}>{entries.when(start)}</text>"
        f"<text x='{right}' y='{base + 17}' text-anchor='end' {text}>{entries.when(now)}</text>"
        f"<path d='{path}H{right}' stroke='var(--blue)' stroke-width='2' fill='none'/></svg>"
    )


def _contracts(contracts: Sequence[Status]) -> str:
    """Those that wait first; the text of each to unfold."""
    ordered = sorted(contracts, key=lambda status: status.state != "pending")
    header = ("contract", "data set", "analyst", "purpose", "legal basis", "state", "approved by", "runs")
    table = _table(header, map(_contract, ordered))
    texts = (
        f"<details><summary>Contract {status.digest[:12]} in full</summary><pre>{html.escape(status.contract.text())}</pre></details>"
        for status in ordered
    )
    return table + "".join(texts)


def _contract(status: Status) -> tuple[str, ...]:
    contract = status.contract
    return (
        status.digest[:12],
        contract.query.title,
        contract.analyst,
        contract.purpose,
        contract.legal_basis,
        status.state,
        f"{', '.join(status.approved_by) or 'nobody'}, of {status.needed} needed",
        f"{status.runs} of {contract.runs}",
    )


def _release(entry: entries.Release, requests: Mapping[str, entries.Request]) -> tuple[str, ...]:
    request = requests.get(entry.request)
    epsilon = "exact" if entry.epsilon is None else f"{entry.epsilon:g}"
    who, what = (request.analyst, request.purpose) if request else ("", "")
    approved = ", ".join(entry.approved_by)
    digests = (entry.request[:12], entry.release[:12])
    return (entries.when(entry.time), entry.dataset, who, what, epsilon, approved, *digests)


def _refused(
    entry: entries.Decision | entries.Refusal, requests: Mapping[str, entries.Request]
) -> tuple[str, ...]:
    request = requests.get(entry.request)
    which, who, what = (request.dataset, request.analyst, request.purpose) if request else ("", "", "")
    return (entries.when(entry.time), which, who, what, "; ".join(entry.reasons))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    if not lines:
        return "<p class='soft'>None.</p>"
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

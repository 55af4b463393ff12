"""Blocks as one HTML file: style and drawings inside it, nothing fetched from anywhere, light and dark by the reader's setting."""

from __future__ import annotations

import html
import pathlib
import re
import time

from federated import demo

from . import figures
from .blocks import Block, Cell, Chapter, Code, Items, Link, Mark, Plot, Prose, Refusal, Strip, Table, Verdict
from .console import numeric
from .story import Stage, verdict

STYLE = pathlib.Path(__file__).with_name("page.css")


def write(path: pathlib.Path, stage: Stage, chapters: list[Chapter], seconds: float) -> None:
    """The whole report."""
    contents = "".join(
        f'<li><a href="#{_anchor(chapter)}">{html.escape(chapter.title)}</a></li>' for chapter in chapters
    )
    path.write_text(
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Joint Sandbox: joint statistics over three departments</title>'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style></head>\n<body>\n"
        f"<header><p class='eyebrow'>Joint Sandbox</p><h1>Joint statistics over three departments, and no row has moved</h1>"
        f"<p class='lede'>{_lede(stage)}</p>{_verdict(verdict(stage))}{_tiles(stage, seconds)}{_flow(stage)}</header>\n"
        f"<nav aria-label='Contents'><ol>{contents}</ol></nav>\n<main>\n"
        + "\n".join(map(_chapter, chapters))
        + f"\n</main>\n<footer>Written by <code>python -m demo</code> on {time.strftime('%Y-%m-%d %H:%M')}. "
        "Every number on this page was computed in that run; the noise differs from run to run.</footer>\n</body></html>\n",
        encoding="utf-8",
    )


def _lede(stage: Stage) -> str:
    return html.escape(
        f"{len(stage.rows):,} people's health survey lives at {', '.join(demo.DEPARTMENTS[:-1])} and {demo.DEPARTMENTS[-1]}. "
        "An analyst asks all three at once. Each department computes sums over its own rows, masks them and sends them; only "
        "their total can be unmasked."
    )


def _tiles(stage: Stage, seconds: float) -> str:
    sent = sum(sum(release.cost.sent.values()) for _, release in stage.releases)
    covered = sum(compared.covers for compared in stage.noisy)
    equal = sum(compared.agrees for compared in stage.exact)
    tiles = (
        (f"{len(stage.rows):,}", "people at three departments"),
        (f"{equal} of {len(stage.exact)}", "exact numbers equal the pooled truth"),
        (f"{covered} of {len(stage.noisy)}", "95 % intervals cover the truth"),
        (f"{sent / 1000:,.0f} kB", f"sent by departments in {len(stage.releases)} releases"),
        (
            f"{sum(release.cost.seconds for _, release in stage.releases):.2f} s",
            f"for them; {seconds:.0f} s with this page",
        ),
    )
    shown = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in tiles
    )
    return f"<div class='tiles'>{shown}</div>"


def _flow(stage: Stage) -> str:
    rows = {name: len(part) for name, part in demo.departments().items()}
    sent = {name: sum(release.cost.sent[name] for _, release in stage.releases) for name in rows}
    return f"<figure class='wide'>{figures.flow(rows, sent)}</figure>"


def _chapter(chapter: Chapter) -> str:
    return (
        f"<section id='{_anchor(chapter)}'><h2>{html.escape(chapter.title)}</h2>\n"
        + "\n".join(map(_block, chapter.blocks))
        + "</section>"
    )


def _anchor(chapter: Chapter) -> str:
    return re.sub(r"\W+", "-", chapter.title.lower()).strip("-")


def _block(block: Block) -> str:
    match block:
        case Prose():
            return f"<p>{html.escape(block.text)}</p>"
        case Code():
            return f"<pre class='code'><code>{html.escape(block.text)}</code></pre>"
        case Table():
            return _table(block)
        case Items():
            tag = "ol" if block.ordered else "ul"
            lines = "".join(f"<li>{html.escape(line)}</li>" for line in block.lines)
            return f"<h3>{html.escape(block.title)}</h3><{tag}>{lines}</{tag}>"
        case Link():
            return f"<p class='file'><a href='{html.escape(block.file)}'>{html.escape(block.text)}</a></p>"
        case Plot():
            return f"<figure>{block.svg}<figcaption>{html.escape(block.caption)}</figcaption></figure>"
        case Refusal():
            reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in block.reasons)
            return (
                f"<div class='refusal'><h3>{html.escape(block.title)}</h3><pre><code>{html.escape(block.code)}</code></pre>"
                f"<p class='error'>{html.escape(block.error)}</p><ul>{reasons}</ul></div>"
            )
        case Verdict():
            return _verdict(block)


def _verdict(verdict: Verdict) -> str:
    kind, sign = ("good", "✓") if verdict.ok else ("bad", "✗")
    return f"<p class='verdict {kind}'><span>{sign}</span> {html.escape(verdict.text)}.</p>"


def _table(table: Table) -> str:
    right = [numeric([row[i] for row in table.rows]) for i in range(len(table.header))]

    def row(tag: str, cells: tuple[Cell, ...]) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=number' if number else ''}>{_cell(cell)}</{tag}>"
                for cell, number in zip(cells, right, strict=True)
            )
            + "</tr>"
        )

    body = "".join(row("td", cells) for cells in table.rows)
    return (
        f"<div class='scroll'><table><caption>{html.escape(table.caption)}</caption>"
        f"<thead>{row('th', table.header)}</thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    match cell:
        case Mark():
            return f"<span class='mark {'good' if cell.ok else 'off'}'>{'✓' if cell.ok else '✗'} {html.escape(cell.text)}</span>"
        case Strip():
            return figures.strip(cell)
        case _:
            return html.escape(cell)

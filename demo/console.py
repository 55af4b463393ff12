"""Blocks as text: with colours, boxes and a progress bar on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from .blocks import Block, Cell, Chapter, Code, Items, Link, Mark, Plot, Prose, Refusal, Strip, Table, Verdict

PLAIN_WIDTH = 132
STRIP_WIDTH = 15
NUMBER = re.compile(r"[±+\-<]?\s?[\d,.]+(e[+-]\d+)?\s?%?|[0-9a-f]{16}|·|")


class Teller:
    """Prints chapters as they come, and what runs meanwhile."""

    def __init__(self, chapters: int):
        console = Console(highlight=False)
        self.console = console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)
        self._chapter, self._chapters = 0, chapters

    @contextmanager
    def running(self, title: str) -> Iterator[Callable[[str], None]]:
        """A request's stages, live on a terminal; afterwards one line with all of them."""
        started, stages = time.perf_counter(), []
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[dim]{task.fields[stage]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        ) as progress:
            task = progress.add_task(escape(title), total=self._chapters, completed=self._chapter, stage="")

            def stage(name: str) -> None:
                stages.append(name)
                progress.update(task, stage=name)

            yield stage
        trail = f" ({' → '.join(stages)})" if stages else ""
        self._print(
            Text(f"· {title}{trail}: {time.perf_counter() - started:.2f} s", style="dim"), soft_wrap=True
        )

    def chapter(self, chapter: Chapter) -> None:
        self._chapter += 1
        self._print()
        title = f"{self._chapter}. {chapter.title}"
        if self.console.is_terminal:
            self._print(Rule(Text(title, style="bold"), align="left"))
        else:
            self._print(f"== {title} ==")
        for block in chapter.blocks:
            self._print()
            self.block(block)

    def block(self, block: Block) -> None:
        match block:
            case Prose():
                self._print(Text(block.text))
            case Code():
                self._print(Text(_prompted(block.text), style="cyan"), soft_wrap=True)
            case Table():
                self._print(self._table(block))
            case Items():
                self._print(Text(block.title, style="bold"))
                for i, line in enumerate(block.lines, 1):
                    grid = RichTable.grid(padding=(0, 1))
                    grid.add_row(f" {i}." if block.ordered else " -", Text(line))
                    self._print(grid)
            case Link():
                self._print(Text(f"{block.text}: {block.file}, beside the report", style="dim"))
            case Plot():
                self._print(Text(f"[plot in the report: {block.caption}]", style="dim"))
            case Refusal():
                body = Text(block.code, style="cyan")
                body.append(f"\n{block.error}: ", style="bold red")
                body.append("; ".join(block.reasons), style="default")
                if self.console.is_terminal:
                    self._print(
                        Panel(body, title=escape(block.title), title_align="left", border_style="red")
                    )
                else:
                    self._print(f"Refused: {block.title}")
                    self._print(Text(textwrap.indent(body.plain, "    ")), soft_wrap=True)
            case Verdict():
                sign, style = ("✓", "bold green") if block.ok else ("✗", "bold red")
                self._print(Text(f"{sign} {block.text}", style=style))

    def _table(self, table: Table) -> RichTable:
        terminal = self.console.is_terminal
        shown = RichTable(
            title=Text(table.caption, style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD if terminal else box.ASCII2,
        )
        for i, name in enumerate(table.header):
            column = [row[i] for row in table.rows]
            shown.add_column(Text(name), justify="right" if numeric(column) else "left")
        for row in table.rows:
            shown.add_row(*map(_cell, row))
        return shown

    def _print(self, *parts: object, soft_wrap: bool = False) -> None:
        self.console.print(*parts, soft_wrap=soft_wrap)


def numeric(column: list[Cell]) -> bool:
    """Whether every cell is a number, and so the column is set right."""
    return all(isinstance(cell, str) and NUMBER.fullmatch(cell) for cell in column)


def strip(cell: Strip) -> str:
    """The interval as `[--o-x--]`: o the released value, x the truth."""
    least, most = min(cell.low, cell.truth), max(cell.high, cell.truth)
    if not (abs(most) < float("inf") and abs(least) < float("inf")):
        return "unbounded"
    scale = (STRIP_WIDTH - 1) / (most - least or 1.0)
    low, high, value, truth = (
        round((v - least) * scale) for v in (cell.low, cell.high, cell.value, cell.truth)
    )
    line = [" "] * STRIP_WIDTH
    line[low : high + 1] = "-" * (high - low + 1)
    line[low], line[high], line[value] = "[", "]", "o"
    line[truth] = "x"
    return "".join(line)


def _cell(cell: Cell) -> Text:
    match cell:
        case Mark():
            return Text(("✓ " if cell.ok else "✗ ") + cell.text, style="green" if cell.ok else "yellow")
        case Strip():
            return Text(strip(cell))
        case _:
            return Text(cell)


def _prompted(code: str) -> str:
    """Code as at a prompt: a line that goes on with a statement begins with dots."""
    return "\n".join(
        (("... " if line[:1] in (" ", ")", '"') else ">>> ") + line) for line in code.splitlines()
    )

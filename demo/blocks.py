"""What a chapter is made of: plain values, so that console and page show the same numbers."""

from __future__ import annotations

from typing import Union

import msgspec


class Mark(msgspec.Struct, frozen=True):
    """A verdict in a table's cell."""

    ok: bool
    text: str


class Strip(msgspec.Struct, frozen=True):
    """A released value with its interval, and the truth, on one scale."""

    low: float
    high: float
    value: float
    truth: float


Cell = Union[str, Mark, Strip]


class Prose(msgspec.Struct, frozen=True):
    text: str


class Code(msgspec.Struct, frozen=True):
    """What the analyst wrote: the text that ran."""

    text: str


class Table(msgspec.Struct, frozen=True):
    """`rows` of cells under `header`; columns of numbers are set right."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Items(msgspec.Struct, frozen=True):
    title: str
    lines: tuple[str, ...]
    ordered: bool = False


class Link(msgspec.Struct, frozen=True):
    """A file beside the report."""

    text: str
    file: str


class Plot(msgspec.Struct, frozen=True):
    """An SVG drawing in `currentColor`; the console shows the caption alone."""

    caption: str
    svg: str


class Refusal(msgspec.Struct, frozen=True):
    """A request that was refused: what was asked, the error's class, and its reasons."""

    title: str
    code: str
    error: str
    reasons: tuple[str, ...]


class Verdict(msgspec.Struct, frozen=True):
    """A claim that was checked just now."""

    ok: bool
    text: str


Block = Union[Prose, Code, Table, Items, Link, Plot, Refusal, Verdict]


class Chapter(msgspec.Struct, frozen=True):
    title: str
    blocks: tuple[Block, ...]


def number(value: float) -> str:
    """Whole numbers as they are, others with six significant digits."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.6g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.3g}"


def difference(value: float) -> str:
    return "0" if value == 0 else f"{value:+.1e}"

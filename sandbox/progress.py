"""A bar for what takes long: `city.progress = Bar()` draws the rounds of a training, and the stages of everything else, in one line.

It shows no more than the stages that `Pending.stages` lists, and writes to standard error, so that what a script prints stays its own.
"""

from __future__ import annotations

import re
import sys
from typing import TextIO

WIDTH = 30
_ROUND = re.compile(r"round (\d+) of (\d+)")


class Bar:
    """Called with each stage of a request, as `City.progress` is."""

    def __init__(self, out: TextIO | None = None):
        self._out, self._bar, self._longest = out or sys.stderr, "", 0

    def __call__(self, stage: str) -> None:
        found = _ROUND.fullmatch(stage)
        if found:
            now, of = int(found[1]), int(found[2])
            done = WIDTH * now // of
            self._bar = f"[{'#' * done}{'.' * (WIDTH - done)}] "
        text = self._bar + stage
        self._longest = max(self._longest, len(text))
        last = stage.startswith("logging")
        self._out.write(f"\r{text:<{self._longest}}" + ("\n" if last else ""))
        self._out.flush()
        if last:
            self._bar, self._longest = "", 0

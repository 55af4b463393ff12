"""`python -m demo`: tells the story on the console and writes `demo-report/`: index.html, receipt.json, roster.toml, owner.html.

Exit status 1 if an exact result, or any claim that the story checks, does not hold.
"""

from __future__ import annotations

import io
import pathlib
import sys
import time

from .blocks import Verdict
from .console import Teller
from .page import write
from .story import CHAPTERS, Stage, tell, verdict

REPORT = pathlib.Path("demo-report") / "index.html"


def main() -> int:
    started = time.perf_counter()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a console without ✓ or ε still gets the numbers
    teller = Teller(len(CHAPTERS))
    REPORT.parent.mkdir(exist_ok=True)
    stage = Stage(teller, REPORT.parent)
    chapters = []
    for chapter in tell(stage):
        teller.chapter(chapter)
        chapters.append(chapter)
    write(REPORT, stage, chapters, time.perf_counter() - started)
    closing = verdict(stage)
    teller.console.print()
    teller.block(closing)
    teller.console.print(
        f"Report: {REPORT} ({REPORT.stat().st_size:,} bytes), {time.perf_counter() - started:.1f} s in all"
    )
    checks = [block.ok for chapter in chapters for block in chapter.blocks if isinstance(block, Verdict)]
    return 0 if closing.ok and all(checks) else 1


if __name__ == "__main__":
    sys.exit(main())

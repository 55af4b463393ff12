"""Cold `import sandbox`, in fresh processes, beside a bare interpreter and `import numpy`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

RUNS = 9
HEAVY = ("torch", "flwr", "tenseal", "opacus", "opendp", "pandas", "matplotlib")


def run() -> list[dict[str, Any]]:
    samples: dict[str, list[float]] = {"pass": [], "import numpy": [], "import sandbox": []}
    for code in samples:
        _timed(code)  # warm the disk cache
    for _ in range(RUNS):
        for code, values in samples.items():
            values.append(_timed(code))
    base = statistics.median(samples["pass"])
    loaded = _loaded()
    return [
        {
            "suite": "imports",
            "name": code,
            "parameters": {},
            "samples": values,
            "value": statistics.median(values) - (base if code != "pass" else 0),
            "unit": "s",
            "target": 0.35 if code == "import sandbox" else None,
            "heavy_modules": loaded if code == "import sandbox" else None,
        }
        for code, values in samples.items()
    ]


def _timed(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def _loaded() -> list[str]:
    """Which heavy libraries `import sandbox` loads; none is right."""
    code = f"import sandbox, sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()

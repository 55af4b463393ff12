"""`python -m benchmarks [list | run [SUITE …]]`: every performance claim, on this machine, in one run.

Prints a table and appends JSON lines, with machine, commit, versions and raw samples, to `benchmarks/results/`. A suite that fails is a
recorded result and makes the exit status 1.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import platform
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import msgspec

SCHEMA = 1
SUITES = (
    "limits",
    "secagg",
    "statistics",
    "joint",
    "imports",
    "door",
    "evidence",
    "linkage",
    "network",
    "he",
    "learning",
    "neural",
    "trainings",
)
RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = (
    "cryptography",
    "dp-accounting",
    "duckdb",
    "flwr",
    "msgspec",
    "numpy",
    "opacus",
    "pandas",
    "pyroaring",
    "scikit-learn",
    "sqlglot",
    "tenseal",
    "torch",
    "xgboost-cpu",
)


def main(arguments: list[str]) -> int:
    match arguments:
        case ["list"]:
            print("\n".join(SUITES))
            return 0
        case [] | ["run"]:
            return run(SUITES)
        case ["run", *names] if set(names) <= set(SUITES):
            return run(names)
    print(__doc__, file=sys.stderr)
    return 2


def run(names: Any) -> int:
    """Run the suites, print and record their figures."""
    context = {"schema": SCHEMA, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **machine()}
    failed = False
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{context['time'].replace(':', '')}.jsonl"
    with path.open("wb") as file:
        for name in names:
            try:
                records = importlib.import_module(f"benchmarks.{name}").run()
            except Exception as error:
                records, failed = (
                    [{"suite": name, "name": "failed", "error": f"{type(error).__name__}: {error}"}],
                    True,
                )
            for record in records:
                file.write(msgspec.json.encode({**context, **record}) + b"\n")
                print(line(record), flush=True)
    print(f"\nrecorded in benchmarks/results/{path.name}")
    return 1 if failed else 0


def line(record: dict[str, Any]) -> str:
    """One figure as a row of the table."""
    if "error" in record:
        return f"{record['suite']:<11} {record['name']:<52} {record['error']}"
    parameters = ", ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}"
        for key, value in record.get("parameters", {}).items()
    )
    extras = [
        f"{key.replace('_', ' ')} {record[key]:.3g}"
        for key in ("ratio", "target", "share_of_limit")
        if record.get(key) is not None
    ]
    if record.get("ratio_to"):
        extras[0] += f" to {record['ratio_to']}"
    name = f"{record['name']} ({parameters})" if parameters else record["name"]
    return (
        f"{record['suite']:<11} {name:<64} {record['value']:>10.4g} {record['unit']:<10} {'; '.join(extras)}"
    )


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    cpu = next(
        (text.split(":", 1)[1].strip() for text in _lines("/proc/cpuinfo") if text.startswith("model name")),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "machine": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "commit": commit,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

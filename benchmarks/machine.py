"""What a figure depends on beside the code: processor, memory, kernel, commit, versions."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
import re
import subprocess
import time
from importlib import metadata

from benchmarks.records import Machine, Mode, Run

ROOT = pathlib.Path(__file__).parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_NUM_THREADS")


def describe() -> Machine:
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cpu = names[0].split(":", 1)[1].strip() if names else platform.processor()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(cpu, os.cpu_count() or 1, memory, platform.release())


def run(mode: Mode) -> Run:
    """The head of a run that starts now."""
    return Run(
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        mode=mode,
        machine=describe(),
        commit=_git("rev-parse", "HEAD"),
        changed=bool(_git("status", "--porcelain", "--untracked-files=no")),
        python=platform.python_version(),
        versions=versions(),
        environment={"OMP_NUM_THREADS": "1"}
        | {name: os.environ[name] for name in THREADS if name in os.environ},
    )


@functools.cache
def versions() -> dict[str, str]:
    """Of every distribution that this interpreter finds, by normalised name (PEP 503)."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        told = distribution.metadata
        if told["Name"]:  # a broken one has none; of two by the same name, the first is imported
            found.setdefault(re.sub(r"[-_.]+", "-", told["Name"]).lower(), told["Version"])
    return dict(sorted(found.items()))


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []

"""`make demo-network` as a process: what it shows holds, and nothing of it is left, neither processes nor files."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def running(place: pathlib.Path) -> list[str]:
    """Command lines of processes that name something in `place`: every party's names its directory."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(place) in line:
            found.append(line)
    return found


def test_the_network_demo_shows_what_holds_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "demo.network"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout is not None
    shown, seen = [], []
    for line in run.stdout:
        shown.append(line)
        if "The analyst is connected" in line:
            seen = running(tmp_path)
    text = "".join(shown)
    assert run.wait() == 0, text
    assert any("postgres" in line for line in seen)
    assert sum("node start" in line for line in seen) == 3
    assert sum("coordinator start" in line for line in seen) == 1
    assert "river's people are in PostgreSQL" in text
    assert text.count("✓ equal to the pooled rows") == 6
    assert "DOES NOT HOLD" not in text
    assert "missing, and the release says so: hills" in text
    assert "TooFewDepartments" in text
    assert "The receipt holds." in text
    assert "Every process has stopped." in text
    assert running(tmp_path) == []
    assert [path.name for path in tmp_path.glob("joint-sandbox*")] == []

"""Every suite runs at its small sizes, and each answer that it checks against the plaintext is right."""

from __future__ import annotations

import pathlib

import pytest

from benchmarks import running


@pytest.mark.parametrize("suite", running.SUITES)
def test_a_suite_runs_at_small_sizes(suite: str, tmp_path: pathlib.Path) -> None:
    entries = running.measure(suite, tmp_path / "results.jsonl", "quick")
    assert [f"{entry.task}: {entry.reason}" for entry in entries if entry.outcome == "failed"] == []
    assert [entry for entry in entries if entry.outcome == "measured"]

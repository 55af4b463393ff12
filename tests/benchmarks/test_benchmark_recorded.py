"""README and the benchmarks' own say what was recorded; every promise of speed was measured, or its failure is there."""

from __future__ import annotations

from benchmarks import readme, records, targets


def test_readme_shows_the_recorded_results() -> None:
    recorded = records.read(readme.RECORDED)
    for path, name, text in readme.generated(recorded):
        assert readme.standing(path.read_text(encoding="utf-8"), name) == text.strip(), (
            "run `python -m benchmarks report benchmarks/recorded/first.jsonl --readme`"
        )


def test_every_target_was_measured_or_failed_in_the_recorded_results() -> None:
    recorded = records.read(readme.RECORDED)
    failed = {entry.task for entry in recorded.entries if entry.outcome == "failed"}
    missing = {outcome.target.task for outcome in targets.outcomes(recorded) if outcome.value is None}
    assert missing <= failed
    assert [o.target.claim for o in targets.misses(recorded) if not o.target.next] == []

"""README and the benchmarks' own say what was recorded; every promise of speed was measured, in one run from a commit."""

from __future__ import annotations

from benchmarks import readme, records, targets


def test_readme_shows_the_recorded_results() -> None:
    recorded = records.read(readme.RECORDED)
    for path, name, text in readme.generated(recorded):
        assert readme.standing(path.read_text(encoding="utf-8"), name) == text.strip(), (
            "run `python -m benchmarks report benchmarks/recorded/first.jsonl --readme`"
        )


def test_the_recorded_results_are_of_one_run_from_a_commit() -> None:
    recorded = records.read(readme.RECORDED)
    assert recorded.heads == 1
    assert not recorded.run.changed


def test_every_target_was_measured_in_the_recorded_results() -> None:
    outcomes = targets.outcomes(records.read(readme.RECORDED))
    assert [o.target.claim for o in outcomes if o.value is None] == []
    assert [o.target.claim for o in outcomes if o.met is False and not o.target.next] == []

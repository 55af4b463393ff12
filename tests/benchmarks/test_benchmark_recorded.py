"""README and the benchmarks' own say what was recorded, and of each missed promise what comes next."""

from __future__ import annotations

from benchmarks import readme, records, targets


def test_readme_shows_the_recorded_results() -> None:
    recorded = records.read(readme.RECORDED)
    for path, name, text in readme.generated(recorded):
        assert readme.standing(path.read_text(encoding="utf-8"), name) == text.strip(), (
            "run `python -m benchmarks report benchmarks/recorded/first.jsonl --readme`"
        )


def test_every_miss_says_what_comes_next() -> None:
    recorded = records.read(readme.RECORDED)
    assert [o.target.claim for o in targets.misses(recorded) if not o.target.next] == []

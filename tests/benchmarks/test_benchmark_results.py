"""What is made from results: comparisons find what was planted, reports need nothing but the results, README says what was recorded."""

from __future__ import annotations

import pathlib
import re

import msgspec
import pytest

from benchmarks import comparing, derived, readme, records, report, targets
from benchmarks.records import OURS, Entry, Machine, Results, Run

RUN = Run("2026-01-01T00:00:00Z", "quick", Machine("cpu", 2, 2**34, "6"), "0" * 40, False, "3.11", {})
LIMIT = Entry("limits", "AES-256-CTR", OURS, "measured", 0.1, seconds=(1.0, 1.1, 0.9), work=8e9, unit="B")


def entry(task: str, seconds: float, system: str = OURS, **fields: object) -> Entry:
    samples = tuple(seconds * (1 + 0.01 * i) for i in range(-3, 4))
    return msgspec.structs.replace(Entry("secagg", task, system, "measured", 0.1, seconds=samples), **fields)


def results(*entries: Entry) -> Results:
    return Results(RUN, (LIMIT, *entries))


def test_compare_finds_a_planted_regression_and_no_other() -> None:
    before = results(entry("sum", 1.0), entry("product", 1.0), entry("noise", 1.0))
    after = results(entry("sum", 1.5), entry("product", 1.05), entry("noise", 0.5))
    found = comparing.compare(before, after, threshold=1.1)
    assert [ratio.entry.task for ratio in found.slower] == ["sum"]
    [ratio] = found.slower
    assert ratio.low <= 1.5 <= ratio.high
    assert ratio.low > 1.1
    assert "1 regressions" in comparing.text(found)
    assert comparing.compare(before, before).regressions == 0


def test_noisy_samples_are_no_regression() -> None:
    before = results(msgspec.structs.replace(entry("sum", 1.0), seconds=(1.0, 3.0, 0.8)))
    after = results(msgspec.structs.replace(entry("sum", 1.0), seconds=(1.6, 0.9, 3.2)))
    assert comparing.compare(before, after).regressions == 0


def test_what_fails_now_is_a_regression_and_a_slower_peer_is_none() -> None:
    before = results(entry("sum", 1.0), entry("sum", 1.0, "peer"))
    broken = Entry("secagg", "sum", OURS, "failed", 0.1, "ValueError: no")
    found = comparing.compare(before, results(broken, entry("sum", 9.0, "peer")))
    assert (found.slower, found.broken) == ((), (broken,))


def test_a_single_sample_decides_nothing() -> None:
    once = msgspec.structs.replace(entry("sum", 9.0), seconds=(9.0,))
    for before, after in ((entry("sum", 1.0), once), (msgspec.structs.replace(once, seconds=(1.0,)), once)):
        found = comparing.compare(results(before), results(after))
        assert found.regressions == 0
        assert "undecidable" in comparing.text(found)


def test_what_is_gone_what_is_new_and_what_failed_before_are_told_apart() -> None:
    old = Entry("secagg", "old trouble", OURS, "failed", 0.1, "ValueError: no")
    new = Entry("secagg", "new trouble", OURS, "failed", 0.1, "ValueError: no")
    whole = Entry("he", "the run", OURS, "failed", 0.1, "status 3")
    before = results(entry("sum", 1.0), entry("dropped", 1.0), entry("score", 1.0, suite="he"), old)
    found = comparing.compare(before, results(entry("sum", 1.0), old, new, whole))
    assert (found.broken, found.new, found.still) == ((whole,), (new,), (old,))
    assert [e.task for e in found.gone] == ["dropped"]
    assert found.regressions == 2
    said = comparing.text(found)
    for line in (
        "fails now: he, the run: status 3",
        "fails, and is new: secagg, new trouble: ",
        "fails, as before: secagg, old trouble: ",
        "not measured any more: secagg, dropped",
    ):
        assert line in said
    alone = comparing.compare(before, results(entry("sum", 1.0)))
    assert ([e.task for e in alone.gone], alone.regressions) == (["dropped", "score"], 0)


def test_a_comparison_names_the_versions_that_changed() -> None:
    peer = entry("sum", 1.0, "peer", versions={"mpyc": "0.10", "gmpy2": "2"})
    later = msgspec.structs.replace(peer, versions={"mpyc": "0.11", "gmpy2": "2"})
    run = msgspec.structs.replace(RUN, versions={"numpy": "2"})
    newer = msgspec.structs.replace(RUN, versions={"numpy": "3"}, python="3.12")
    found = comparing.compare(Results(run, (peer,)), Results(newer, (later,)))
    assert found.differences == (
        "python: 3.11 before, 3.12 after",
        "versions: numpy 2 before, 3 after",
        "versions beside peer: mpyc 0.10 before, 0.11 after",
    )


def test_in_a_continued_file_a_later_run_stands_for_a_failure_of_the_whole(tmp_path: pathlib.Path) -> None:
    whole = Entry("secagg", "the run", OURS, "failed", 0.1, "status 3")
    peer, path = msgspec.structs.replace(whole, system="peer"), tmp_path / "results.jsonl"
    size = Entry("secagg", "sum", OURS, "failed", 0.1, "ValueError: no", parameters={"cells": 9})
    good = entry("sum", 1.0, parameters={"cells": 10})
    path.write_bytes(b"".join(map(records.line, (RUN, whole, peer, size, RUN, good))))
    read = records.read(path)
    assert read.entries == (peer, size, good)
    assert read.heads == 2
    path.write_bytes(b"".join(map(records.line, (RUN, good, whole))))
    assert records.read(path).entries == (good, whole)
    path.write_bytes(records.line(good))
    with pytest.raises(ValueError, match="before the head"):
        records.read(path)


def test_results_are_read_as_they_were_written_and_other_schemas_refused(tmp_path: pathlib.Path) -> None:
    made, path = results(entry("sum", 1.0, parameters={"cells": 10})), tmp_path / "results.jsonl"
    path.write_bytes(b"".join(map(records.line, (made.run, *made.entries))))
    assert records.read(path) == made
    path.write_bytes(records.line(msgspec.structs.replace(RUN, schema=records.SCHEMA + 1)))
    with pytest.raises(ValueError, match="schema"):
        records.read(path)
    path.write_bytes(b'{"kind": "entry", "suite": 3}\n')
    with pytest.raises(ValueError, match="line 1"):
        records.read(path)


def test_the_share_of_a_limit_is_its_demand_at_the_measured_rate() -> None:
    ours = entry("sum", 2.0, demands={"AES-256-CTR": 8e9})
    made = results(ours, entry("product", 1.0, demands={"unknown": 1.0}))
    assert derived.share(made, ours) == pytest.approx(0.5)
    least = derived.floor(made, ours)
    assert least is not None
    assert "8 GB / 8 GB/s AES-256-CTR = 1 s" in least.arithmetic
    assert derived.share(made, made.entries[-1]) is None


def test_a_peer_stands_beside_the_same_work_or_is_compared_a_unit() -> None:
    same, larger = entry("sum", 1.0, parameters={"cells": 10}), entry("sum", 9.0, parameters={"cells": 90})
    peer = entry("sum", 2.0, "peer", parameters={"cells": 90, "threads": 2})
    made = results(same, larger, peer)
    assert derived.ours_beside(made, peer) is larger
    assert derived.ours_beside(made, same) is None
    elsewhere = entry("sum", 2.0, "peer", parameters={"cells": 7})
    assert derived.ours_beside(made, elsewhere) is None
    rows = [msgspec.structs.replace(e, unit="rows", work=w) for e, w in ((same, 10.0), (larger, 90.0))]
    assert derived.ours_beside(results(*rows), msgspec.structs.replace(elsewhere, unit="rows")) is rows[1]


def test_a_report_is_one_page_made_from_the_results_alone(tmp_path: pathlib.Path) -> None:
    curve = [entry("sum", cells / 100, parameters={"cells": cells}) for cells in (10, 100, 1000)]
    failed = Entry("secagg", "sum", "peer <1>", "failed", 0.1, "needs | Python 9")
    made = results(*curve, entry("share", 2.0, demands={"AES-256-CTR": 8e9}), failed)
    path = tmp_path / "results.jsonl"
    path.write_bytes(b"".join(map(records.line, (made.run, *made.entries))))
    page = report.write(records.read(path), tmp_path / "report").read_text(encoding="utf-8")
    assert page.count("<svg") == 2  # the shares and the curve
    assert "peer &lt;1&gt;" in page
    assert "needs | Python 9" in page
    outside = re.findall(r"""(?:src|href|url\()\s*=?\s*["'(]?(?!#)(\w+:[^"')\s]+)""", page)
    assert not outside
    assert "<script" not in page
    assert "<link" not in page
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for plot in re.findall(r"!\[\]\((.+?)\)", text):
        assert (tmp_path / "report" / plot).exists()


def test_readme_shows_what_was_measured_and_says_what_differs_alone() -> None:
    size = {"cells": 10}
    ours = entry("sum", 1.0, parameters=size, warm=False, work=10, unit="values")
    said = entry("sum", 2.0, "told", parameters=size, conditions="fewer bits", warm=False)
    silent = entry("sum", 2.0, "silent", parameters=size)
    failed = Entry("secagg", "sum", "failed", "failed", 0.1, "no", parameters=size, conditions="fewer bits")
    nothing = msgspec.structs.replace(said, system="nothing", seconds=())
    [*_, row] = readme.performance(results(ours, said, silent, failed, nothing)).splitlines()
    assert row == "| sum (cells 10) | 1 s | told | 2 s | 2 × | fewer bits |"
    warmed = msgspec.structs.replace(ours, warm=True)
    assert readme.performance(results(warmed, said)).endswith("| fewer bits; no warm-up |")


def test_what_was_not_observed_is_a_dash_in_reports(tmp_path: pathlib.Path) -> None:
    nothing = msgspec.structs.replace(entry("sum", 1.0, "nothing"), seconds=())
    made = results(entry("sum", 1.0, warm=False), nothing)
    report.write(made, tmp_path)
    [row] = [line for line in (tmp_path / "report.md").read_text().splitlines() if "| sum |" in line]
    assert [cell.strip() for cell in row.split("|")][7:14] == ["-"] * 5 + ["", "no warm-up"]


def test_a_promise_without_its_figure_is_not_measured() -> None:
    size = {"cells": 1_000_000, "parties": 5}
    found = targets.outcomes(results(entry("sum", 0.1, parameters=size)))
    assert [o.met for o in found if o.target.suite == "secagg" and "sum of 10⁶ words" in o.target.claim] == [
        True
    ]
    assert [o.value for o in found if o.target.figure == "bytes a value and party"] == [None]


def test_targets_say_what_is_met_and_what_is_missed() -> None:
    size = {"cells": 1_000_000, "parties": 5}
    made = results(
        entry(
            "sum", 0.2, parameters=size, figures={"bytes a value and party": 8.1}, parts={"a": 3.0, "b": 1.0}
        )
    )
    found = [o for o in targets.outcomes(made) if o.target.suite == "secagg"]
    late, small = (o for o in found if o.value is not None)
    assert (late.met, small.met) == (False, True)
    assert "no bound" not in {row[-1] for row in targets.rows(made)}, "what has no bound was not measured"
    assert late.where_the_time_goes.startswith("a 75%, b 25%")
    assert {o.met for o in targets.outcomes(results())} == {None}

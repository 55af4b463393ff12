"""`python -m demo` as a new user runs it: in a directory of its own, without a terminal and with one; what it prints, writes and returns."""

from __future__ import annotations

import math
import os
import pathlib
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from demo import __main__ as program
from demo import story
from demo.compare import Compared
from federated import demo as departments
from sandbox import receipt, roster

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "FLWR_TELEMETRY_ENABLED": "0",
    "PYTHONIOENCODING": "utf-8",
}
COMMAND = [sys.executable, "-m", "demo"]
FIRST = 3  # chapters: up to the exact results


class Page(HTMLParser):
    """The tags of a page, its links, and the texts of its cells."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.images: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        self.ids.add(values.get("id", ""))
        self.targets += [
            values[name] for name in ("href", "xlink:href", "src", "action", "data") if name in values
        ]
        self.targets += [values[name] for name in ("srcset", "poster", "background") if name in values]
        if tag == "svg" and values.get("role") == "img":
            self.images.append(values.get("aria-label", ""))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def output(directory: pathlib.Path) -> str:
    """What the demo prints where there is no terminal."""
    done = subprocess.run(COMMAND, cwd=directory, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def html(directory: pathlib.Path, output: str) -> str:
    return (directory / "demo-report" / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_prints_every_chapter_as_plain_lines(output: str) -> None:
    assert re.findall(r"^== \d+\. (.*) ==$", output, re.MULTILINE) == [
        "What exists",
        "Before asking: the plan",
        "Exact joint results beside the pooled truth",
        "Differentially private results",
        "What is refused",
        "Who learned what",
        "What can be proven afterwards",
        "Bytes, time, and what is left",
        "Train together",
        "Score without showing",
        "Columns apart",
    ]
    assert "\x1b" not in output


def test_exact_results_stand_beside_the_pooled_truth(output: str) -> None:
    rows = departments.pooled()
    for sex, people in rows["sex"].value_counts().items():
        assert re.search(rf"count\W+sex {sex}\W+{people:,}\W+{people:,}\W+0\W+✓ equal", output)
    closing = re.search(r"✓ All (\d+) exact numbers equal the pooled truth", output)
    assert closing
    assert int(closing[1]) >= 50
    assert "✗ differs" not in output


def test_dp_results_have_intervals_and_say_whether_they_cover(output: str) -> None:
    private = output.split("== 4.")[1].split("== 5.")[0]
    verdicts = re.findall(r"(\S+) to (\S+) .*(covered|missed)", private)
    said = re.search(r"(\d+) of (\d+) intervals cover the truth", private)
    assert said
    assert int(said[2]) == len(verdicts) >= 20
    assert int(said[1]) == sum(verdict == "covered" for _, _, verdict in verdicts)


@pytest.mark.parametrize(
    "reason",
    [
        "Denied: harbour, hills, river: purpose 'marketing' is not permitted",
        "BudgetExceeded: harbour, hills, river: privacy budget",
        "Denied: a result here and a group of people in the release of request ",
        "8 of 27,765 people are 95 or older",
        "SQLError: joins are not supported: a query reads one table (line 1, column 41)",
        "SQLError: MIN and MAX are refused",
        "fewer than 20 units",
        "The refusals have spent nothing",
    ],
)
def test_refusals_give_their_reason(output: str, reason: str) -> None:
    assert reason in output.split("== 5.")[1].split("== 6.")[0]


def test_the_position_of_refused_sql_is_marked(output: str) -> None:
    lines = output.splitlines()
    mark = next(i for i, line in enumerate(lines) if line.strip() == "^")
    assert lines[mark - 1][lines[mark].index("^") :].startswith("JOIN")


def test_leakage_cost_and_progress_are_shown(output: str) -> None:
    assert "Secure aggregation, honest-but-curious coordinator: The coordinator learns" in output
    assert re.search(
        r"^· .* \(deciding → exchanging keys → computing and masking → unmasking the sum → logging and signing the release\)",
        output,
        re.MULTILINE,
    )
    assert re.search(r"sum modulo 2\^64 +\| +27,765 +\| +[0-9a-f]{16} +\| +[0-9a-f]{16}", output)
    assert "bytes sent" in output
    assert re.search(r"\| harbour +\| +10 +\| +8\.\d+ +\|", output), (
        "two releases of ε = 1 leave more than 8 of 10"
    )


@pytest.mark.parametrize(
    "shown",
    [
        "credit@bank",
        "scores are the plaintext model's to",
        "BudgetExceeded: bank: scores of 'credit' for analyst 'tax-office': 1540 of 2000 rows are used, and 1540 more",
        "Denied: bank: purpose 'marketing' is not permitted for model 'credit'",
        "ParameterError: Age: each value must lie in [18, 70]",
        "The receipt of the scores holds",
    ],
)
def test_scores_of_a_hidden_model_on_hidden_rows(output: str, shown: str) -> None:
    assert shown in " ".join(output.split("Score without showing")[1].split())


@pytest.mark.parametrize(
    "shown",
    [
        "coefficients and standard errors equal the pooled ones within 1e-06",
        "Coefficients of the private model, ε = 1",
        "The receipts of 3 models and 3 evaluations hold",
        "of one budget, less than its ε alone",
    ],
)
def test_models_stand_beside_the_pooled_ones(output: str, shown: str) -> None:
    chapter = output.split("Train together")[1].split("Score without showing")[0]
    assert shown in " ".join(chapter.split())
    assert "✗ " not in chapter.replace("✗ missed", "")


def test_the_page_fetches_nothing(html: str, page: Page) -> None:
    assert "http:" not in html
    assert "https:" not in html
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    within = {target[1:] for target in page.targets if target.startswith("#")}
    assert within
    assert within <= page.ids
    beside = {"receipt.json", "roster.toml", "owner.html"}
    assert beside <= set(page.targets)
    assert all(
        target.startswith(("#", "data:image/png;base64,")) or target in beside for target in page.targets
    )
    assert not re.search(r"@import|url\((?!#)", html)


def verify(directory: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """The command as the demo prints it, but for the folder of the interpreter."""
    arguments = ["verify", "demo-report/receipt.json", "--keys", "demo-report/roster.toml"]
    command = [sys.executable, "-m", "sandbox.cli", *arguments]
    return subprocess.run(
        command, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def test_the_receipt_is_accepted_and_with_a_byte_changed_rejected_with_the_reason(
    directory: pathlib.Path, output: str
) -> None:
    assert ".venv/bin/sandbox verify demo-report/receipt.json --keys demo-report/roster.toml" in output
    accepted = verify(directory)
    assert (accepted.returncode, accepted.stderr) == (0, "")
    assert accepted.stdout.endswith("The receipt holds.\n")
    assert "exact; asked by 'analyst' for 'public-health'" in accepted.stdout
    file = directory / "demo-report" / "receipt.json"
    data = file.read_bytes()
    try:
        for position, reason in (
            (0, "FAILED format: "),
            (data.index(b"public-health"), "FAILED issuer: the signature"),
        ):
            file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            rejected = verify(directory)
            assert rejected.returncode == 1
            assert reason in rejected.stdout
            assert rejected.stdout.endswith("THE RECEIPT DOES NOT HOLD.\n")
    finally:
        file.write_bytes(data)


def test_any_one_byte_changed_is_noticed(directory: pathlib.Path, output: str) -> None:
    who = roster.load(directory / "demo-report" / "roster.toml")
    data = (directory / "demo-report" / "receipt.json").read_bytes()
    assert receipt.verify(data, who).ok
    accepted = [
        i
        for i, byte in enumerate(data)
        if receipt.verify(data[:i] + bytes([byte ^ 1]) + data[i + 1 :], who).ok
    ]
    assert accepted == []
    assert f"with any one of its {len(data):,} bytes changed it is rejected ({len(data):,} tried)" in output


def test_the_owners_page_stands_alone(directory: pathlib.Path, html: str) -> None:
    text = (directory / "demo-report" / "owner.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert page.targets == []
    assert "http" not in text
    for part in (
        "harbour: what was asked, and what left",
        "<b>9</b><span>releases",
        "marketing",
        "city/harbour",
    ):
        assert part in text


def test_the_page_shows_tables_plots_and_the_same_numbers(html: str, page: Page) -> None:
    assert page.tags.count("table") >= 12
    assert {"What epsilon buys", "What goes with what? Correlation matrix"} <= set(page.images)
    assert page.images.count("interval") >= 20
    assert "prefers-color-scheme: dark" in html
    assert all(
        f"<td class=number>{people:,}</td>" in html for people in departments.pooled()["sex"].value_counts()
    )
    for opened in ("table", "svg", "section"):
        assert html.count(f"<{opened}") == html.count(f"</{opened}>")


def test_on_a_terminal_there_is_colour_and_progress(tmp_path: pathlib.Path) -> None:
    parent, child = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "120"}
    code = f"import sys; from demo import __main__ as demo, story; story.CHAPTERS = story.CHAPTERS[:{FIRST}]; sys.exit(demo.main())"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=child, stderr=child) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                data = os.read(parent, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
    os.close(parent)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    assert b"computing and masking" in shown
    assert (tmp_path / "demo-report" / "index.html").exists()


def test_a_wrong_exact_result_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One person more at a department than in the pool: the demo must notice, and without that person hold."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(story, "CHAPTERS", story.CHAPTERS[:FIRST])
    assert program.main() == 0
    assert "Exact results differ from the pooled truth" not in capsys.readouterr().out
    pooled = departments.pooled().iloc[1:]
    monkeypatch.setattr(departments, "pooled", lambda: pooled)
    assert program.main() == 1
    assert "Exact results differ from the pooled truth" in capsys.readouterr().out
    assert "<p class='verdict bad'><span>✗</span> Exact results differ" in (
        tmp_path / program.REPORT
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("low", "high", "truth", "agrees"),
    [
        (5.0, 5.0, 5.0, True),
        (5.0, 5.0, 5.0 * (1 + 0.9e-9), True),
        (5.0, 5.0, 5.0 * (1 + 1.1e-9), False),
        (4.0, 6.0, 6.0, True),
        (4.0, 6.0, 6.0 + 1e-6, False),
        (4.0, 6.0, math.nan, False),
        (0.0, 0.0, 1e-300, False),
    ],
)
def test_agreement_is_the_stated_interval_and_a_billionth(
    low: float, high: float, truth: float, agrees: bool
) -> None:
    assert Compared("mean", "all", (low + high) / 2, low, high, truth).agrees is agrees


def test_there_is_one_chapter_a_section(page: Page) -> None:
    assert page.tags.count("section") == len(story.CHAPTERS)

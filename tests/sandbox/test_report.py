"""The page for an owner or auditor: all that happened, escaped, self-contained, and no number that only the rows could give."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from sandbox import report
from sandbox.catalog import Budget, Catalog, Column, DataSet
from sandbox.errors import ParameterError

NOW = 1_800_000_000.0
VOID = {"meta", "path", "br"}


class Page(HTMLParser):
    """Tags, texts and attributes; raises where tags do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attributes}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def html(busy, tmp_path_factory) -> str:
    return busy.owner().report(tmp_path_factory.mktemp("page") / "owner.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_it_tells_what_happened(busy, page):
    for part in (
        "ash: what was asked, and what left",
        "2releases",
        "1contracts wait for a decision",
        "ε 0.5 of 2 spent in 1 DP releases; 0 exact releases.",
        "dp releases for research; approval of 2 owners.",
        "exact and dp releases for research; no approval needed; cells of at least 10 units.",
        "No privacy budget. 1 exact releases.",
        "ash-owner-1, ash-owner-2, of 2 needed",
        busy.released[0].digest()[:12],
        busy.released[1].digest()[:12],
        "differ by fewer than 10 units",
        busy.owner().head(),
    ):
        assert part in page.text


def test_contracts_that_wait_come_first_and_each_is_there_in_full(busy, page):
    assert page.text.index(busy.waiting[:12]) < page.text.index(busy.approved[:12])
    assert page.tags.count("details") == 2
    for digest in (busy.waiting, busy.approved):
        assert busy.owner().contract(digest).contract.text() in page.text


def test_what_others_wrote_is_text_and_nothing_else(html, page):
    assert "purpose '<script>alert(1)</script>' is not permitted" in page.text
    assert "Statistics <Act>, article 12" in page.text
    assert not {"script", "act"} & set(page.tags)


def test_it_needs_and_fetches_nothing(html, page):
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "a", "form"} & set(page.tags)
    assert not {"href", "src", "srcset", "action", "onload", "onclick"} & page.attributes
    assert not re.search(r"https?:|@import|url\(", html)


def test_the_curve_climbs_with_time_to_what_is_spent_and_stays_below_its_cap(busy):
    catalog, charges = busy.federation.gates["ash"].catalog, busy.owner().charges()
    later = charges[-1].charge.time + 1000
    text = report.page(catalog, charges, (), (), "", later)
    (path,) = re.findall(r"<path d='(M8,\d+H[^']*V[^']*)'", text)
    heights = [float(value) for value in re.findall(r"V([\d.]+)", path)]
    cap = float(re.findall(r"<path d='M8,([\d.]+)H752' stroke='var\(--red\)'", text)[0])
    base = report.HEIGHT - report.BOTTOM
    assert heights == [pytest.approx(base - 0.5 / 2.0 * (base - cap), abs=0.1)]
    assert path.endswith("H752")


def test_a_node_where_nothing_happened_has_a_page_too():
    columns = {"x": Column("integer", (0, 9))}
    datasets = {
        "with": DataSet("general-2", ("research",), columns, budget=Budget(1.0, 1e-6)),
        "core": DataSet("core", ("research",), columns),
    }
    page = Page(report.page(Catalog("ash", datasets), (), (), (), "", NOW))
    assert page.text.count("None.") == 3
    assert "ε 0 of 1 spent in 0 DP releases; 0 exact releases." in page.text
    assert "no releases for research" in page.text
    assert "2027-01-15" in page.text


def test_a_place_that_cannot_be_written_is_named(busy, tmp_path):
    with pytest.raises(ParameterError, match="cannot be written: No such file or directory"):
        busy.owner().report(tmp_path / "missing" / "owner.html")

"""What an analyst gets: frames, intervals, text, HTML and plots of releases, suppressed cells included, and what text from a catalogue may not do."""

from __future__ import annotations

import pickle
from html.parser import HTMLParser

import msgspec
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sandbox import query as q
from sandbox.release import Cost, Explanation, PrivacyCost, Release, Series, Test

EVIL = "<script>alert('x')</script>"
COST = Cost(3, {"ash": 1000, "birch": 2000}, {"ash": 10, "birch": 20}, 0.5)
EXACT = PrivacyCost("exact")
DP = PrivacyCost("dp", 0.5, 1e-6, 0.004, "person", {"ash": 1.25, "birch": 0.5})
SMALL = "fewer than 10 units"
X = q.Column("x")


def release(series, keys=None, privacy=EXACT, analysis="table", aggregates=None, **more):
    aggregates = aggregates or tuple(q.Named(s.name, q.Mean(X)) for s in series)
    keys = keys or {}
    query = q.Query("t", aggregates, tuple(keys), analysis=analysis)
    fields = {"departments": ("ash", "birch", "cedar"), "missing": (), "leakage": ("Each learns nothing.",)}
    return Release(query, keys, tuple(series), privacy, cost=COST, **(fields | more))


def exact(name, *values, reasons=None):
    return Series(name, values, values, values, reasons or ("",) * len(values))


def noisy(name, *values, half=2.0):
    low = tuple(v - half for v in values)
    high = tuple(v + half for v in values)
    return Series(name, values, low, high, ("",) * len(values))


@pytest.fixture
def table():
    """Three cells of two statistics; the second cell is suppressed, the third in one statistic."""
    return release(
        [
            exact("count", 20.0, None, 30.0, reasons=("", SMALL, "")),
            exact("x_mean", 1.5, None, None, reasons=("", SMALL, "few units make up most of it")),
        ],
        {"region": ("north", "south", None)},
        aggregates=(q.Named("count", q.Count()), q.Named("x_mean", q.Mean(X))),
    )


@pytest.fixture
def noisy_table():
    return release(
        [noisy("count", 20.25, -1.5), noisy("x_mean", 1.5, 123456.789, half=0.25)],
        {"region": ("north", EVIL)},
        privacy=DP,
    )


@pytest.fixture
def crosstab():
    return release(
        [exact("count", 10.0, None, 30.0, 40.0, 50.0, 60.0, reasons=("", SMALL, "", "", "", ""))],
        {"region": ("n", "n", "s", "s", None, None), "smokes": (False, True) * 3},
        analysis="crosstab",
        aggregates=(q.Named("count", q.Count()),),
        test=Test("Pearson chi-squared test of independence", 4.2, (2.0,), 0.1225),
    )


@pytest.fixture
def matrix():
    return release(
        [exact("x|x", 1.0), exact("x|y", -0.5), exact("y|y", None, reasons=("not defined",))],
        analysis="correlation",
        aggregates=tuple(q.Named(name, q.Correlation(X, q.Column("y"))) for name in ("x|x", "x|y", "y|y")),
    )


ALL = ("table", "noisy_table", "crosstab", "matrix")


@pytest.fixture(params=ALL)
def any_release(request):
    return request.getfixturevalue(request.param)


# --- frames ---


def test_a_row_a_cell_and_suppressed_ones_say_why(table):
    frame = table.frame
    assert list(frame.columns) == ["region", "count", "x_mean", "suppressed"]
    assert frame["region"].tolist()[:2] == ["north", "south"]
    assert pd.isna(frame["region"][2])
    assert frame["count"].dtype == "Int64"
    assert frame["count"].tolist() == [20, pd.NA, 30]
    assert frame["x_mean"].isna().tolist() == [False, True, True]
    assert frame["suppressed"].tolist() == ["", SMALL, "few units make up most of it"]
    assert table.suppressed


def test_without_suppression_there_is_no_column_for_it():
    made = release([exact("x_mean", 1.0)])
    assert list(made.frame.columns) == ["x_mean"]
    assert not made.suppressed


def test_noisy_counts_stay_as_they_are(noisy_table):
    assert noisy_table.frame["count"].tolist() == [20.25, -1.5]


def test_intervals_have_two_columns_a_statistic(table, noisy_table):
    assert list(table.intervals.columns) == [
        "region",
        "count_low",
        "count_high",
        "x_mean_low",
        "x_mean_high",
    ]
    assert len(table.intervals) == 3
    assert np.isnan(table.intervals["count_low"][1])
    assert noisy_table.intervals["x_mean_low"].tolist() == [1.25, 123456.539]
    assert noisy_table.intervals["count_high"].tolist() == [22.25, 0.5]


def test_a_crosstab_is_two_dimensional_in_declared_order(crosstab):
    frame = crosstab.frame
    assert frame.columns.tolist() == [False, True]
    assert frame.index.tolist()[:2] == ["n", "s"]
    assert pd.isna(frame.index[2])
    assert pd.isna(frame.iloc[0, 1])
    assert frame.iloc[1].tolist() == [30, 40]
    assert frame.iloc[2].tolist() == [50, 60]


def test_a_matrix_is_symmetric(matrix):
    frame = matrix.frame
    assert frame.index.tolist() == frame.columns.tolist() == ["x", "y"]
    assert frame.loc["x", "y"] == frame.loc["y", "x"] == -0.5
    assert np.isnan(frame.loc["y", "y"])


# --- text and HTML ---


def test_text_shows_suppressed_cells_and_why(table):
    text = repr(table)
    assert text.startswith("Exact: t over ash, birch, cedar")
    [row] = [line for line in text.splitlines() if "south" in line]
    assert SMALL in row
    assert "·" in row
    assert "Missing values are suppressed; the reason stands in the row." in text
    assert "3 rounds, 3,030 bytes, 0.50 s." in text


def test_text_of_a_matrix_says_why_below(crosstab, matrix):
    assert f"Missing values are suppressed: {SMALL}." in repr(crosstab)
    assert "statistic 4.2, degrees of freedom 2, p = 0.1225" in repr(crosstab)
    assert "Missing values are suppressed: not defined." in repr(matrix)


def test_text_of_a_dp_release_says_what_it_cost(noisy_table):
    text = repr(noisy_table)
    assert "Differentially private per person: ε = 0.5, δ = 1e-06 (ρ = 0.004 zCDP)" in text
    assert "ε left: ash 1.25, birch 0.5" in text
    assert "1.50 [1.25, 1.75]" in text
    assert "20.2 [18.2, 22.2]" in text


def test_missing_departments_and_mock_data_are_named():
    made = release([exact("x_mean", 1.0)], missing=("date",), mock=True)
    assert "Without date" in repr(made)
    assert repr(made).startswith("Mock data")
    assert "Without date" in made._repr_html_()


class Page(HTMLParser):
    """Tags, the text and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = set(), [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs)
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)


def test_html_is_well_formed_and_tells_the_same(any_release):
    page = Page(any_release._repr_html_())
    text = " ".join(page.text)
    assert "table" in page.tags
    assert any_release._title() in text
    assert "Each learns nothing." in text
    for note in any_release._notes():
        assert note in text
    if any_release.test is not None:
        assert str(any_release.test) in text


@pytest.mark.parametrize("analysis", ["table", "crosstab", "matrix"])
@pytest.mark.parametrize("privacy", [EXACT, DP], ids=["exact", "dp"])
def test_text_of_others_is_escaped(privacy, analysis):
    """Names of categories, columns, tables and departments, and reasons, come from catalogues and analysts."""
    make = exact if privacy is EXACT else noisy
    more = {"departments": (EVIL,), "missing": (EVIL,), "leakage": (EVIL,)}
    if analysis == "table":
        series = [make(EVIL, 1.0, 2.0)]
        made = release(series, {f"k{EVIL}": (EVIL, "b")}, privacy, **more)
    elif analysis == "crosstab":
        keys = {"a": (EVIL, EVIL, "b", "b"), "b": (EVIL, "d") * 2}
        made = release(
            [make("count", 1.0, 2.0, 3.0, 4.0)],
            keys,
            privacy,
            analysis,
            (q.Named("count", q.Count()),),
            test=Test(EVIL, reason=EVIL),
            **more,
        )
    else:
        aggregates = (q.Named(f"{EVIL}|x", q.Covariance(X, X)),)
        made = release([make(f"{EVIL}|x", 1.0)], {}, privacy, "covariance", aggregates, **more)
    made = msgspec.structs.replace(made, query=msgspec.structs.replace(made.query, table=EVIL))
    page = Page(made._repr_html_())
    assert "script" not in page.tags
    assert EVIL in " ".join(page.text)


def test_an_explanation_is_escaped_and_complete():
    made = Explanation(
        query=q.Query(EVIL, (q.Named("count", q.Count()),)),
        steps=("first", EVIL),
        leakage=(EVIL,),
        decisions={"ash": (), EVIL: (EVIL,)},
        epsilon=0.5,
        epsilon_left={EVIL: 1.5},
        errors={"count": EVIL},
        cells=3,
        rounds=6,
        bytes=12345,
        seconds=0.25,
    )
    page = Page(made._repr_html_())
    assert "script" not in page.tags
    text = repr(made)
    for part in ("1. first", "ash: allowed", "6 rounds, about 12,345 bytes", "ε = 0.5, leaving", "3 cells"):
        assert part in text
    assert "12,345 bytes" in " ".join(page.text)


def test_a_test_says_its_figures_or_why_there_are_none():
    assert str(Test("t", 2.0, (3.0, 40.5), 0.05)) == "t: statistic 2, degrees of freedom 3, 40.5, p = 0.05"
    assert "simulated with the noise" in str(Test("t", 2.0, (), 0.05))
    assert str(Test("t", reason="too few")) == "t: none, since too few"
    assert str(Test("t", 2.0, (1.0,), 0.05, note="two left out")).endswith("(two left out)")


# --- plots, and copies ---


def test_plots_have_a_bar_for_each_value_that_is_shown(table):
    figure = table.plot()
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in figure.axes] == ["count", "x_mean"]
    assert [len(axis.patches) for axis in figure.axes] == [2, 1]
    figure.canvas.draw()


def test_error_bars_are_the_interval(noisy_table):
    axis = noisy_table.plot().axes[0]
    [bars] = [container for container in axis.containers if hasattr(container, "has_yerr")]
    [segment, _] = bars[2][0].get_segments()
    assert segment[:, 1].tolist() == [18.25, 22.25]


@pytest.mark.parametrize("infinite", [float("inf")])
def test_an_interval_without_end_is_shown_as_such(infinite):
    made = release([Series("x_mean", (1.0,), (-infinite,), (infinite,), ("",))], privacy=DP)
    assert "1.00 [-∞, +∞]" in repr(made)
    made.plot().canvas.draw()


def test_every_kind_of_release_can_be_drawn_and_closed(any_release):
    import matplotlib.pyplot as plt

    figure = any_release.plot()
    assert isinstance(figure, Figure)
    assert plt.get_fignums() == [], "a notebook would show it twice"
    figure.canvas.draw()


def test_all_suppressed_is_an_empty_plot():
    made = release([exact("x_mean", None, None, reasons=(SMALL, SMALL))], {"region": ("n", "s")})
    assert made.frame["suppressed"].tolist() == [SMALL, SMALL]
    made.plot().canvas.draw()


def test_releases_survive_pickle_and_json(any_release):
    assert pickle.loads(pickle.dumps(any_release)) == any_release
    text = msgspec.json.encode(any_release)
    again = msgspec.json.decode(text, type=Release)
    assert again == any_release
    pd.testing.assert_frame_equal(again.frame, any_release.frame)


def test_a_release_cannot_be_changed(any_release):
    with pytest.raises(AttributeError):
        any_release.mock = True

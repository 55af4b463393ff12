"""Disclosure rules, by brute force: what is shown keeps (2, 90 %) and p % = 10 whatever the contributions were."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import disclosure
from sandbox.disclosure import NONE, RULES, Rules

MANY = settings(max_examples=300, deadline=None, derandomize=True, database=None)
RULE = Rules(min_cell=10)
amounts = st.one_of(
    st.integers(-1000, 1000),
    st.sampled_from([0, 1, -1, 10**6, -(10**6), 10**9]),
    st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
)


def breaks_dominance(contributions):
    """(2, 90 %): the two largest make up more than 90 %. p % = 10: the second largest can estimate the largest to within 10 %."""
    largest = [*sorted((abs(value) for value in contributions), reverse=True), 0.0, 0.0]
    total = sum(largest)
    first, second = largest[:2]
    slack = 1e-9 * total
    return first + second > 0.9 * total + slack or total - first - second < 0.1 * first - slack


@MANY
@given(contributions=st.lists(amounts, min_size=1, max_size=40))
def test_a_dominated_cell_is_never_shown(contributions):
    values = np.array(contributions, float)
    [suppressed] = disclosure.dominated(
        RULE, np.array([np.abs(values).sum()]), np.array([(values**2).sum()]), 1
    )
    if breaks_dominance(contributions) and values.any():
        assert suppressed


@MANY
@given(
    units=st.lists(st.lists(amounts, min_size=1, max_size=3), min_size=1, max_size=20),
)
def test_a_unit_of_several_rows_is_never_shown_when_it_dominates(units):
    """The joint sums are over rows; dominance is of units, whose rows may not cancel: |x| counts."""
    rows = np.array(list(itertools.chain.from_iterable(units)), float)
    [suppressed] = disclosure.dominated(RULE, np.array([np.abs(rows).sum()]), np.array([(rows**2).sum()]), 3)
    contributions = [sum(abs(value) for value in unit) for unit in units]
    if breaks_dominance(contributions) and rows.any():
        assert suppressed


def test_even_cells_are_shown_from_three_contributors_on():
    """The bound costs little where contributions are alike: 1 / n <= 0.405 from n = 3 on."""
    for n in range(1, 12):
        [suppressed] = disclosure.dominated(RULE, np.array([float(n)]), np.array([float(n)]), 1)
        assert suppressed == (n < 3)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_the_threshold_is_tight(ratio):
    """With two large equal contributors and many small ones, the first cell that breaks neither rule is nearly the first shown."""
    shown = [
        small
        for small in range(1, 400)
        if not disclosure.dominated(
            RULE,
            np.array([100 + 100 * ratio + small * 1.0]),
            np.array([100**2 * (1 + ratio**2) + small * 1.0]),
            1,
        )[0]
    ]
    allowed = [
        small for small in range(1, 400) if not breaks_dominance([100.0, 100.0 * ratio, *[1.0] * small])
    ]
    assert min(shown) >= min(allowed)
    assert min(shown) <= max(2 * min(allowed), min(allowed) + 60)


def test_dominance_can_be_off_and_zero_sums_are_no_cell_of_anyones():
    assert not disclosure.dominated(NONE, np.array([1.0]), np.array([1.0]), 1)[0]
    assert not disclosure.dominated(RULE, np.array([0.0]), np.array([0.0]), 1)[0]


@given(
    units=st.lists(st.integers(0, 40), min_size=1, max_size=20),
    departments=st.lists(st.integers(0, 5), min_size=20, max_size=20),
    min_cell=st.integers(0, 25),
)
@MANY
def test_small_cells_give_their_reason(units, departments, min_cell):
    rules = Rules(min_cell)
    departments = np.array(departments[: len(units)])
    reasons = disclosure.cell_reasons(rules, np.array(units), departments)
    for reason, size, contributing in zip(reasons, units, departments, strict=True):
        if size < min_cell:
            assert reason == f"fewer than {min_cell} units"
        elif contributing < 3:
            assert reason == "fewer than 3 departments contribute"
        else:
            assert reason == ""


def test_no_rules_suppress_nothing():
    assert list(disclosure.cell_reasons(NONE, np.array([0, 1]), np.array([0, 1]))) == ["", ""]


def test_a_reason_names_the_limit_and_never_the_size():
    for size in range(10):
        [reason] = disclosure.cell_reasons(RULE, np.array([size]), np.array([3]))
        assert reason == "fewer than 10 units"


def test_a_full_cell_tells_on_everyone_in_its_group():
    """All 12 smokers are in the first region: showing the cell would tell where each lives."""
    units = np.array([[30, 12], [25, 0], [14, 0]])
    found = disclosure.full(units.ravel(), (3, 2), (0,)).reshape(3, 2)
    assert found.tolist() == [[False, True], [False, False], [False, False]]
    found = disclosure.full(units.ravel(), (3, 2), (1,)).reshape(3, 2)
    assert found.tolist() == [[False, False], [True, False], [True, False]]
    assert not disclosure.full(units.ravel(), (3, 2), ()).any()
    assert not disclosure.full(np.array([5, 6]), (2, 1), (1,)).any()  # a key of one value tells nothing


@MANY
@given(sums=st.lists(st.integers(-(10**20), 10**20), min_size=1, max_size=10), base=st.integers(1, 50))
def test_rounding_goes_to_the_nearest_multiple(sums, base):
    rounded = disclosure.rounded(np.array(sums, dtype=object), base)
    for value, shown in zip(sums, rounded, strict=True):
        assert shown % base == 0
        assert abs(shown - value) * 2 <= base


def test_no_rounding_changes_nothing():
    sums = np.array([7, -3, 10**20], dtype=object)
    assert disclosure.rounded(sums, 0).tolist() == sums.tolist()


RULESETS = [NONE, *(rules for rules in RULES.values() if rules is not None)]


@pytest.mark.parametrize("several", list(itertools.combinations(RULESETS, 2)))
def test_the_strictest_keeps_every_rule(several):
    strictest = disclosure.strictest(several)
    for rules in several:
        assert strictest.min_cell >= rules.min_cell
        assert strictest.rounding >= rules.rounding
        assert strictest.dominance >= rules.dominance
        assert strictest.min_departments >= rules.min_departments
    assert strictest == disclosure.strictest(reversed(several))
    assert strictest == disclosure.strictest([strictest, *several])


def test_defaults_by_level_are_those_of_the_design():
    assert RULES["core"] is RULES["important"] is None
    assert {name: (r.min_cell, r.rounding, r.dominance) for name, r in RULES.items() if r} == {
        "general-4": (20, 0, True),
        "general-3": (10, 5, True),
        "general-2": (10, 0, True),
        "general-1": (0, 0, False),
    }

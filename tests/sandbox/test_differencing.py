"""Differencing against sets of people, counted by hand: every sum of cells of two releases."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.differencing import Released, layout, refusals

PEOPLE = 40


def vector(new, released):
    """What departments would send in sum: `new` and each released one as a label per person, -1 for none."""
    shape, labels = new
    cells = int(np.prod(shape, dtype=int))
    cohorts = [labels == c for c in range(cells)]
    old = [other == c for release, other in released for c in release.shown]
    pairs = [(a & b).sum() for a in cohorts for b in old]
    return np.array([len(labels), *(c.sum() for c in cohorts), *(c.sum() for c in old), *pairs])


def cohorts(shape, labels, shown):
    """Every cohort of one person or more that a reader can add up, as sets."""
    members = {c: set(np.flatnonzero(labels == c)) for c in shown}
    found = [*members.values(), set().union(*members.values())]
    for axis, size in enumerate(shape if len(shape) > 1 else ()):
        for value in range(size):
            inside = [c for c in shown if np.unravel_index(c, shape)[axis] == value]
            found.append(set().union(*(members[c] for c in inside)))
    return [cohort for cohort in found if cohort]


@st.composite
def labelled(draw):
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 3), (2, 2, 2)]))
    cells = int(np.prod(shape, dtype=int))
    labels = draw(st.lists(st.integers(-1, cells - 1), min_size=PEOPLE, max_size=PEOPLE))
    return shape, np.array(labels)


def sums(labels, cells):
    """Every union of cells, as rows of 0 and 1 over people; the empty one too."""
    members = np.array([labels == c for c in cells], int).reshape(len(cells), len(labels))
    chosen = np.array(list(itertools.product((0, 1), repeat=len(cells))), int)
    return chosen.reshape(2 ** len(cells), len(cells)) @ members


def close_sums(new, old, least, everyone):
    """Whether some union of new cells and some union of released ones are close. `new`, `old`: labels, and the cells to add up."""
    a, b = sums(*new), sums(*old)
    apart = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - 2 * (a @ b.T)
    rest = PEOPLE - np.array([a[-1].sum(), b[-1].sum()])
    if everyone and not ((rest > 0) & (rest < least)).any():
        apart = np.concatenate([apart, PEOPLE - apart])
    return ((apart > 0) & (apart < least)).any()


@settings(max_examples=100, deadline=None)
@given(labelled(), st.lists(labelled(), min_size=1, max_size=3), st.integers(1, 9), st.data())
def test_it_refuses_exactly_when_sums_of_two_releases_are_close(new, old, least, data):
    released = []
    for i, (shape, labels) in enumerate(old):
        cells = int(np.prod(shape, dtype=int))
        shown = data.draw(st.sets(st.integers(0, cells - 1)))
        released.append((Released(f"{i:012x}" + "0" * 52, shape, tuple(sorted(shown))), labels))
    joint = vector(new, released)
    assert len(joint) == layout(int(np.prod(new[0], dtype=int)), [r for r, _ in released])
    reasons = refusals(joint, new[0], [r for r, _ in released], least)

    shape, labels = new
    shown = [c for c in range(int(np.prod(shape, dtype=int))) if (labels == c).sum() >= max(least, 1)]
    everyone = any(np.isin(other, release.shown).all() for release, other in released)
    close = set()
    for release, other in released:
        for a, b in itertools.product(
            cohorts(shape, labels, shown), cohorts(release.shape, other, release.shown)
        ):
            apart = len(a ^ b)
            if 0 < apart < least or 0 < PEOPLE - apart < least:
                close.add(release.request[:12])
        large = [c for c in release.shown if (other == c).sum() >= least]
        if least > 1 and close_sums((labels, shown), (other, large), least, everyone):
            close.add(release.request[:12])
    named = {r.request[:12] for r, _ in released if any(r.request[:12] in reason for reason in reasons)}
    assert named == close
    assert len(reasons) == len(close)


def test_two_of_four_bands_against_one_filter():
    """No cell, no margin, no total and no rest is near the released group: the sum of two bands is, but for one."""
    bands = np.repeat([0, 1, 2, 3], 10)
    most = np.where(bands < 2, 0, -1)
    most[0] = -1
    one, four = Released("ab" * 32, (), (0,)), Released("cd" * 32, (4,), (0, 1, 2, 3))
    for new, released, labels in (((4,), bands), one, most), (((), most), four, bands):
        [reason] = refusals(vector(new, [(released, labels)]), new[0], [released], 5)
        said = "sums of results here and of groups of people in the release of request "
        assert reason.startswith(said + released.request[:12])


def test_two_tables_whose_halves_are_nearly_the_same():
    """Cells 0 and 1 of one and 0 and 3 of the other: only sums on both sides are near."""
    first = np.repeat([0, 1, 2, 3], 10)
    second = np.where(first % 3 == 0, 0, 2) + np.tile([0, 1], 20)
    release = Released("ab" * 32, (4,), (0, 1, 2, 3))
    assert refusals(vector(((4,), second), [(release, first)]), (4,), [release], 5) == (), "equal sums pass"
    second[0] = 2
    [reason] = refusals(vector(((4,), second), [(release, first)]), (4,), [release], 5)
    assert reason.startswith("sums of results here")


def test_a_tracker_in_pieces_once_everyone_was_shown():
    """Denning, Denning and Schwartz, ACM TODS 1979: {27} or T, and {27} or not T, which with everyone leave {27}; each in two cells of three."""
    new, old = np.full(PEOPLE, -1), np.full(PEOPLE, -1)
    new[:10], new[10:20], new[27], new[28:35] = 0, 1, 0, 2
    old[20:30], old[30:40], old[5:12] = 0, 1, 2
    pieces, everyone = Released("ab" * 32, (3,), (0, 1, 2)), Released("ee" * 32, (), (0,))
    earlier = [(pieces, old), (everyone, np.zeros(PEOPLE, int))]
    assert refusals(vector(((3,), new), earlier[:1]), (3,), [pieces], 5) == (), "nobody knows everyone's sum"
    [reason] = refusals(vector(((3,), new), earlier), (3,), [pieces, everyone], 5)
    assert "of request abababababab" in reason


def test_a_reason_names_the_release_and_no_number_of_people():
    everyone = np.zeros(PEOPLE, int)
    but_three = np.where(np.arange(PEOPLE) < 3, -1, 0)
    release = Released("ab" * 32, (), (0,))
    (reason,) = refusals(vector(((), but_three), [(release, everyone)]), (), [release], 10)
    assert "abababababab" in reason
    assert "fewer than 10 units" in reason
    assert "3" not in reason


@pytest.mark.parametrize("least", [0, 1])
def test_without_a_minimum_nothing_is_refused(least):
    everyone, but_one = np.zeros(PEOPLE, int), np.where(np.arange(PEOPLE) < 1, -1, 0)
    release = Released("00" * 32, (), (0,))
    assert refusals(vector(((), but_one), [(release, everyone)]), (), [release], least) == ()

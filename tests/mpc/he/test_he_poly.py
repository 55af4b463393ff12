"""Approximations stay within their derived error everywhere in the range, and the bound is not idle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.errors import OutOfRange
from mpc.he.poly import _SHAPES, approximate, function_of


@settings(max_examples=120)
@given(
    st.sampled_from(sorted(_SHAPES)),
    st.floats(-8, 8),
    st.floats(0, 10),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_never_off_by_more_than_said(name, lower, width, degree, seed):
    upper = min(lower + width, 10)
    fit = approximate(name, lower, upper, degree)
    points = np.random.default_rng(seed).uniform(lower, upper, 3000)
    points[:3] = lower, upper, (lower + upper) / 2
    assert np.abs(fit(points) - function_of(name)(points)).max() <= fit.error
    assert np.abs(fit(points)).max() <= fit.magnitude * (1 + 1e-12)


@pytest.mark.parametrize("name", sorted(set(_SHAPES) - {"square"}))
def test_the_bound_is_tight_and_falls_with_the_degree(name):
    errors = []
    for degree in (3, 7, 15, 31):
        fit = approximate(name, -4, 4, degree)
        points = np.linspace(-4, 4, 20_001)
        seen = np.abs(fit(points) - function_of(name)(points)).max()
        assert seen <= fit.error <= 1.05 * seen + 1e-3 * (name == "relu") + 1e-6 * fit.slope
        errors.append(fit.error)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", sorted(set(_SHAPES) - {"relu", "exp"}))
def test_slopes_and_curvatures_bound_the_derivatives(name):
    shape = _SHAPES[name]
    points = np.linspace(-8, 8, 400_001)
    step = points[1] - points[0]
    first = np.diff(shape.function(points)) / step
    second = np.diff(first) / step
    assert np.abs(first).max() <= shape.slope(-8, 8) * (1 + 1e-6)
    assert np.abs(second).max() <= shape.curvature(-8, 8) * (1 + 1e-3) + 1e-4


def test_squares_are_exact():
    assert approximate("square", -100, 30, 2).error < 1e-8


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("tanh", -1, 1, 0), "degree"),
        (("tanh", -1, 1, 65), "degree"),
        (("tanh", 1, -1, 3), "range"),
        (("tanh", -math.inf, 1, 3), "range"),
        (("exp", 0, 800, 3), "below 700"),
    ],
)
def test_what_cannot_be_approximated_is_refused(arguments, match):
    with pytest.raises(OutOfRange, match=match):
        approximate(*arguments)

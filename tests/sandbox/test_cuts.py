"""Light cuts against every cut there is, and against the published example."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sandbox.cuts import light


def graph(edges, vertices):
    """Weights of edges; one that stands twice counts twice."""
    rows, columns, weights = (
        np.array(part, int) for part in (zip(*edges, strict=True) if edges else ((), (), ()))
    )
    return sparse.csr_matrix((weights, (rows, columns)), (vertices, vertices))


def cuts(edges, vertices):
    """The weight of every cut."""
    for sides in itertools.product((False, True), repeat=vertices - 1):
        side = (False, *sides)
        yield sum(weight for a, b, weight in edges if side[a] != side[b])


@st.composite
def edges(draw):
    vertices = draw(st.integers(2, 7))
    pairs = st.tuples(st.integers(0, vertices - 1), st.integers(0, vertices - 1), st.integers(1, 6))
    return vertices, draw(st.lists(pairs.filter(lambda edge: edge[0] != edge[1]), max_size=14))


@settings(max_examples=250, deadline=None)
@given(edges(), st.integers(0, 12))
def test_a_light_cut_is_found_exactly_when_there_is_one(drawn, few):
    vertices, found = drawn
    assert light(graph(found, vertices), few) == any(0 < cut <= few for cut in cuts(found, vertices))


def test_the_example_of_stoer_and_wagner():
    """Figure 1 of their paper: eight vertices, and a minimum cut of 4 that isolates none of them."""
    example = [
        (1, 2, 2),
        (1, 5, 3),
        (2, 3, 3),
        (2, 5, 2),
        (2, 6, 2),
        (3, 4, 4),
        (3, 7, 2),
        (4, 7, 2),
        (4, 8, 2),
    ]
    example += [(5, 6, 3), (6, 7, 1), (7, 8, 3)]
    eight = graph([(a - 1, b - 1, weight) for a, b, weight in example], 8)
    assert not light(eight, 3)
    assert light(eight, 4)


@pytest.mark.parametrize("size", [40, 400])
def test_two_dense_parts_that_hang_together_by_little(size):
    """No vertex and no edge is light; only a cut through the middle is."""
    random = np.random.default_rng(size)
    parts = [[(a, b, 1) for a, b in itertools.combinations(range(s, s + size), 2)] for s in (0, size)]
    kept = [[edge for edge in part if random.random() < 20 / size] for part in parts]
    for part, first in zip(kept, (0, size), strict=True):  # a ring keeps each vertex well attached
        part += [(first + i, first + (i + 1) % size, 10) for i in range(size)]
    bridges = [(i, size + i, 1) for i in range(9)]
    joined = graph([*kept[0], *kept[1], *bridges], 2 * size)
    assert light(joined, 9)
    assert not light(joined, 8)

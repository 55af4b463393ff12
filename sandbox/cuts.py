"""Is there a light cut? Pure: a weighted graph, and whether some cut of it weighs from 1 to `few`.

Global minimum cuts by maximum adjacency orderings (Nagamochi and Ibaraki, "Computing Edge-Connectivity in Multigraphs and Capacitated
Graphs", SIAM J. Discrete Math. 1992; Stoer and Wagner, "A Simple Min-Cut Algorithm", J. ACM 1997): when a vertex is taken up, its weight to
those already taken bounds from below what separates it from the last of them. Where that is more than `few`, no light cut
separates the two, and they become one. A scan that finds no light vertex merges at least two, and mostly nearly all, so few are needed.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph


def light(weights: sparse.csr_matrix, few: int) -> bool:
    """Whether a cut of the graph weighs 1 to `few`. `weights`: of edges, whole numbers from 0, each edge once [vertices, vertices]."""
    if few < 1:
        return False
    graph = _merged(weights, _components(weights, above=few))
    graph = graph + graph.T
    while graph.nnz:
        degrees = np.asarray(graph.sum(axis=1)).ravel()
        if ((degrees > 0) & (degrees <= few)).any():
            return True
        graph = _merged(graph, _scan(graph, few))
    return False


def _components(graph: sparse.csr_matrix, above: int) -> NDArray[np.int32]:
    """Labels of vertices that are joined by edges of more than `above`: no light cut separates the ends of such an edge."""
    labels: NDArray[np.int32] = csgraph.connected_components(graph > above, directed=False)[1]
    return labels


def _merged(graph: sparse.csr_matrix, labels: NDArray[np.int32]) -> sparse.csr_matrix:
    """Vertices of one label become one; edges within it are gone."""
    edges, size = graph.tocoo(), int(labels.max(initial=-1)) + 1
    left, right = labels[edges.row], labels[edges.col]
    between = left != right
    return sparse.csr_matrix((edges.data[between], (left[between], right[between])), (size, size))


def _scan(graph: sparse.csr_matrix, few: int) -> NDArray[np.int32]:
    """One maximum adjacency ordering of each component: labels of vertices that no light cut separates."""
    vertices = graph.shape[0]
    start, neighbours, weights = graph.indptr.tolist(), graph.indices.tolist(), graph.data.tolist()
    attached, taken = [0] * vertices, [False] * vertices
    left: list[int] = []
    right: list[int] = []
    for root in range(vertices):
        heap = [(0, root)]
        while heap:
            _, vertex = heapq.heappop(heap)
            if taken[vertex]:
                continue
            taken[vertex] = True
            for at in range(start[vertex], start[vertex + 1]):
                other = neighbours[at]
                if taken[other]:
                    continue
                attached[other] += weights[at]
                heapq.heappush(heap, (-attached[other], other))
                if attached[other] > few:
                    left.append(vertex)
                    right.append(other)
    same = sparse.csr_matrix((np.ones(len(left), np.int8), (left, right)), graph.shape)
    labels: NDArray[np.int32] = csgraph.connected_components(same, directed=False)[1]
    return labels

"""A department's part in boosting: bins of its rows, gradients, which rows are in which node, and histograms of them.

Gradients and Hessians are single precision as XGBoost's, moved to a grid of integers so fine that all joint sums are exact: a histogram does not
depend on the order of rows, on threads, or on which department holds a row. What was worked out for one round is kept for the next, and
worked out anew where the state says otherwise.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from sandbox.design_matrix import Rows

from .bins import Bins
from .booster import Objective, Tree, base_margin

Singles = NDArray[np.float32]
CHUNK = 1 << 14  # rows a piece: its codes stay in the cache
THREADS = min(os.cpu_count() or 1, 8)
Piece = tuple[int, list[NDArray[np.intp]]]


def gradients(objective: Objective, margin: Singles, target: Singles) -> tuple[Singles, Singles | None]:
    """First and second derivatives of the loss; None for a second one that is 1."""
    if objective == "reg:squarederror":
        return margin - target, None
    probability = np.float32(1) / (np.float32(1) + np.exp(np.minimum(-margin, np.float32(88.7))))
    return probability - target, np.maximum(probability * (np.float32(1) - probability), np.float32(1e-16))


class Boosted:
    """What a department keeps of a training between rounds: the trees that its margins hold, and the rows of the current tree's nodes."""

    def __init__(self, rows: Rows, bins: Bins, objective: Objective, base: float):
        assert rows.target is not None
        self.bins, self._objective = bins, objective
        self._target = rows.target.astype(np.float32)
        self.columns = [bins.codes(j, rows.matrix[:, j]) for j in range(rows.matrix.shape[1])]
        starts = bins.starts[:-1].astype(np.int32)
        self._places = np.empty((len(rows), len(self.columns)), np.int32)
        for j, codes in enumerate(self.columns):
            np.add(codes, starts[j], out=self._places[:, j], casting="unsafe")
        self._size = int(bins.starts[-1])
        self._margin = np.full(len(rows), base_margin(objective, base), np.float32)
        self._trees: tuple[Tree, ...] = ()
        self._nodes: dict[int, NDArray[np.intp]] = {}
        self._split: dict[int, tuple[int, int, bool]] = {}
        self._values = np.empty((len(rows), 0))
        self._exponents: tuple[int, ...] = ()

    def histograms(
        self,
        trees: tuple[Tree, ...],
        tree: Tree,
        asked: tuple[int, ...],
        exponents: tuple[int, ...],
        count: bool,
    ) -> NDArray[np.int64]:
        """Sums [asked nodes, bins, values]: gradients, Hessians (where they are not 1), rows (`count`), on grids of 2^-exponent."""
        self._follow(trees)
        if self._values.shape[1] == 0 or self._exponents != (*exponents, count):
            self._derive(exponents, count)
        self._divide(tree)
        return self._sums([self._nodes[node] for node in asked]).astype(np.int64)

    def continues(self, trees: tuple[Tree, ...]) -> bool:
        """Whether these begin with the trees that the margins hold."""
        return trees[: len(self._trees)] == self._trees

    def _follow(self, trees: tuple[Tree, ...]) -> None:
        """Add the leaves of trees that the margins do not hold yet."""
        for tree in trees[len(self._trees) :]:
            self._divide(tree)
            for leaf in tree.leaves():
                self._margin[self._nodes[leaf]] += np.float32(tree.value[leaf])
            self._trees += (tree,)
            self._nodes, self._split = {}, {}
            self._values = np.empty((len(self._margin), 0))

    def _derive(self, exponents: tuple[int, ...], count: bool) -> None:
        gradient, hessian = gradients(self._objective, self._margin, self._target)
        values = [np.rint(np.ldexp(gradient.astype(np.float64), exponents[0]))]
        if hessian is not None:
            values.append(np.rint(np.ldexp(hessian.astype(np.float64), exponents[1])))
        if count:
            values.append(np.ones(len(gradient)))
        self._values, self._exponents = np.column_stack(values), (*exponents, count)

    def _divide(self, tree: Tree) -> None:
        """The rows of the nodes that `tree` has split since."""
        split = {
            node: (feature, tree.bin[node], tree.nulls_left[node])
            for node, feature in enumerate(tree.feature)
            if feature >= 0
        }
        if not self._nodes or any(split.get(node) != how for node, how in self._split.items()):
            self._nodes, self._split = {0: np.arange(len(self._margin))}, {}
        for node, how in split.items():
            if node not in self._split:
                rows, left, feature = self._nodes.pop(node), tree.left[node], how[0]
                nulls = len(self.bins.edges[feature]) + 1
                self._nodes[left], self._nodes[left + 1] = tree.divide(
                    node, rows, self.columns[feature], nulls
                )
                self._split[node] = how

    def _sums(self, nodes: list[NDArray[np.intp]]) -> NDArray[np.float64]:
        """Sums [nodes, bins, values] of the rows of each node."""
        pieces = _pieces(nodes)
        total = np.zeros((len(nodes), self._size, self._values.shape[1]))
        shares = [pieces[i::THREADS] for i in range(min(THREADS, len(pieces)))]
        if len(shares) < 2:
            self._share(pieces, total)
            return total
        others = [np.zeros_like(total) for _ in shares[1:]]
        for _ in _pool().map(self._share, shares, [total, *others]):
            pass
        for other in others:
            total += other
        return total

    def _share(self, pieces: list[Piece], total: NDArray[np.float64]) -> None:
        """Add the sums of some pieces: each is one product with the sparse matrix that has a 1 for each row and bin."""
        from scipy import sparse

        width = len(self.columns)
        ones, pointers = _constants(width)
        for first, parts in pieces:
            rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
            places = self._places.take(rows, axis=0)
            begin = 0
            for i, part in enumerate(parts[:-1]):
                begin += len(part)
                places[begin : begin + len(parts[i + 1])] += (i + 1) * self._size
            size, height = len(rows), len(parts) * self._size
            matrix = sparse.csc_array(
                (ones[: places.size], places.ravel(), pointers[: size + 1]), (height, size)
            )
            sums = matrix @ self._values.take(rows, axis=0)
            total[first : first + len(parts)] += sums.reshape(len(parts), self._size, -1)


def _pieces(nodes: list[NDArray[np.intp]]) -> list[Piece]:
    """The rows of nodes in pieces of about `CHUNK`: a first node, and rows of it and those that follow it."""
    pieces: list[Piece] = []
    for node, rows in enumerate(nodes):
        if pieces and sum(map(len, pieces[-1][1])) + len(rows) <= CHUNK:
            pieces[-1][1].append(rows)
            continue
        pieces += [(node, [rows[begin : begin + CHUNK]]) for begin in range(0, max(len(rows), 1), CHUNK)]
    return pieces


@functools.lru_cache(maxsize=4)
def _constants(width: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """The ones of a piece, and where its rows begin."""
    return np.ones(CHUNK * width), np.arange(0, CHUNK * width + 1, width, dtype=np.int32)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "histograms")

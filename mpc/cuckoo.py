"""Three-way cuckoo hashing on arrays, without a stash: every item lies in one of its three bins, at most one a bin.

The table has three segments; an item has one candidate bin in each. `place` finds an assignment whenever there
is one: a parallel random walk for all but a few items, augmenting paths for those (Kuhn 1955). So failure is a
property of the hash values alone, and `failure_exponent` bounds its probability over uniform ones, rather than
extrapolating experiments:

No assignment exists if and only if some set of items has fewer candidate bins than items (Hall). Take a
smallest one, S with s items. It has exactly s - 1 bins, and each is a candidate of two items or more, else
leaving out its only item gave a smaller one. Hence, by the union bound over S and over how many bins b1 + b2 +
b3 = s - 1 lie in each segment of m / 3 bins, with T(s, b) the number of maps of s items onto b bins that hit
each bin twice or more,

    P(failure) <= sum over s >= 4 of C(n, s) * sum over b of prod over j of C(m/3, bj) T(s, bj) / (m/3)^s

T(s, b) = b! times an associated Stirling number; T(s, b) <= s! (e^x - 1 - x)^b / x^s for any x > 0 bounds it where
s is large, and there the sum over b of the products of binomials is C(m, s - 1).

Protects: with EXPANSION and LEAST_ITEMS the probability is below 2^-40, which is what the argument for what a
server may see of bins needs (`mpc.join`, `mpc.psi`). Does not protect: when hash values are not fresh uniform
words of a key that the adversary lacks.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from mpc.errors import OutOfRange

WAYS = 3
EXPANSION = 1.34
LEAST_ITEMS = 2048  # smaller sets are padded to this many: failure is about items^-5
MOST_ITEMS = 1 << 22
EMPTY = -1
_FIELD_BITS = 42  # of a hash value for each candidate
_WALKS = 400  # rounds of the random walk; it needs about 30
_FEW = 64
_EXACT_SIZE = 40  # of a set up to which failure_exponent counts exactly

Words = NDArray[np.uint64]


class NoAssignment(Exception):
    """These hash values allow none: take others."""


def bins_for(items: int) -> int:
    """The size of a table for up to so many items."""
    if not 0 <= items <= MOST_ITEMS:
        raise OutOfRange("items", f"must be 0 ... {MOST_ITEMS}")
    return WAYS * math.ceil(max(items, LEAST_ITEMS) * EXPANSION / WAYS)


def candidates(hashes: Words, bins: int) -> NDArray[np.int64]:
    """Three candidate bins of each hash value, n x 2 uniform words; shape 3 x n."""
    low, high = hashes[:, 0], hashes[:, 1]
    field = np.uint64((1 << _FIELD_BITS) - 1)
    segment = np.uint64(bins // WAYS)
    fields = (low & field, ((low >> np.uint64(42)) | (high << np.uint64(22))) & field, high >> np.uint64(22))
    result = np.empty((WAYS, len(hashes)), dtype=np.int64)
    for way, value in enumerate(fields):
        np.right_shift(value * segment, np.uint64(_FIELD_BITS), out=result[way], casting="unsafe")
        result[way] += way * (bins // WAYS)
    return result


def place(positions: NDArray[np.int64], bins: int) -> NDArray[np.int64]:
    """For each bin the item that lies there, or EMPTY. Raises NoAssignment if and only if there is none."""
    table = np.full(bins, EMPTY, dtype=np.int64)
    items = positions.shape[1]
    pending = np.arange(items)
    # where to go next if nothing is free: walks need no secret randomness
    turns = np.random.default_rng(0)
    for _ in range(_WALKS):
        if len(pending) <= _FEW:
            break
        options = positions[:, pending]
        free = table[options] == EMPTY
        random = turns.integers(0, WAYS, len(pending))
        way = np.where(free.any(axis=0), free.argmax(axis=0), random)
        target = options[way, np.arange(len(pending))]
        before = table[target]
        table[target] = pending
        won = table[target] == pending
        evicted = before[won]
        pending = np.concatenate([pending[~won], evicted[evicted != EMPTY]])
    for item in pending.tolist():
        _augment(table, positions, item)
    return table


def _augment(table: NDArray[np.int64], positions: NDArray[np.int64], item: int) -> None:
    """Moves items along a shortest path to a free bin."""
    came_from: dict[int, tuple[int, int]] = {}  # bin -> (item that would move in, bin that it leaves)
    queue = deque([(item, EMPTY)])
    while queue:
        moving, left = queue.popleft()
        for target in positions[:, moving].tolist():
            if target in came_from:
                continue
            came_from[target] = moving, left
            occupant = int(table[target])
            if occupant == EMPTY:
                while target != EMPTY:
                    mover, source = came_from[target]
                    table[target] = mover
                    target = source
                return
            queue.append((occupant, target))
    raise NoAssignment


def failure_exponent(items: int, bins: int) -> float:
    """log2 of an upper bound on the probability that uniform hash values allow no assignment."""
    sizes = range(4, items + 1)
    logs = [_exact(s, items, bins // WAYS) if s <= _EXACT_SIZE else _bounded(s, items, bins) for s in sizes]
    largest = max(logs, default=-math.inf)
    if largest == -math.inf:
        return largest
    return (largest + math.log(math.fsum(math.exp(value - largest) for value in logs))) / math.log(2)


def _exact(size: int, items: int, segment: int) -> float:
    ways = [0] + [
        math.comb(segment, b) * math.factorial(b) * associated_stirling(size, b)
        for b in range(1, size // 2 + 1)
    ]
    total = sum(
        ways[b1] * ways[b2] * ways[size - 1 - b1 - b2]
        for b1 in range(1, len(ways))
        for b2 in range(1, len(ways))
        if 1 <= size - 1 - b1 - b2 < len(ways)
    )
    if not total:
        return -math.inf
    return _log(math.comb(items, size)) + _log(total) - WAYS * size * math.log(segment)


def _bounded(size: int, items: int, bins: int) -> float:
    # the x that makes three balls a bin the mean of a Poisson law cut below two: x (e^x - 1) / (e^x - 1 - x) = 3
    x = 2.1491
    hits = WAYS * (math.lgamma(size + 1) - size * math.log(x * bins / WAYS))
    twice = (size - 1) * math.log(math.expm1(x) - x)
    return _log_binomial(items, size) + _log_binomial(bins, size - 1) + hits + twice


def associated_stirling(size: int, parts: int) -> int:
    """Partitions of a set into parts of two or more: S(n, k) = k S(n-1, k) + (n-1) S(n-2, k-1)."""
    before: list[int] = [1] + [0] * parts  # of n - 2
    row = [0] * (parts + 1)  # of n - 1
    for n in range(2, size + 1):
        before, row = row, [0] + [k * row[k] + (n - 1) * before[k - 1] for k in range(1, parts + 1)]
    return row[parts] if size else before[parts]


def _log(value: int) -> float:
    """The natural logarithm of an integer of any size."""
    shift = max(0, value.bit_length() - 60)
    return math.log(value >> shift) + shift * math.log(2)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

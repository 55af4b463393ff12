"""Merkle trees over a growing log, as in RFC 9162 section 2.1 (Certificate Transparency 2.0); pure.

    leaf hash = SHA-256(0x00 || entry)        node hash = SHA-256(0x01 || left || right)

`Tree` keeps the hash of every complete subtree (64 bytes an entry), so that appending costs amortised one hash, and a root or a proof
O(log n). `verify_inclusion` and `verify_consistency` need no tree; they return None or raise `ProofInvalid`.

Protects against: a log that leaves out, alters or reorders entries that somebody holds a head or a proof of. Does not protect
against: a log that shows different heads to different people, unless they compare (`sandbox.witness`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence

from .errors import ParameterError, ProofInvalid

HASH_BYTES = 32
MAX_SIZE = 2**63 - 1
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """The hash of an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its children's hashes."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Tree:
    """The hashes of a log's complete subtrees: level l holds, one after another, those over 2^l entries each."""

    def __init__(self, leaves: Iterable[bytes] = ()):
        self._levels = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add an entry by its leaf hash; every subtree that it completes is hashed once."""
        if len(leaf) != HASH_BYTES:
            raise ParameterError(f"a leaf hash has {HASH_BYTES} bytes, not {len(leaf)}")
        index, level = len(self), 0
        self._levels[0] += leaf
        while index % 2:
            index, level = index // 2, level + 1
            node = node_hash(self._node(level - 1, 2 * index), self._node(level - 1, 2 * index + 1))
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node

    def leaf(self, index: int) -> bytes:
        """The leaf hash of an entry."""
        self._within("index", index, 0, len(self) - 1)
        return self._node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` entries; over all, where none is given."""
        size = len(self) if size is None else size
        self._within("size", size, 0, len(self))
        return self._over(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The proof that entry `index` is among the first `size` (RFC 9162, 2.1.3.1), lowest node first."""
        size = len(self) if size is None else size
        self._within("size", size, 1, len(self))
        self._within("index", index, 0, size - 1)
        path, low, high = [], 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low = middle
        return tuple(reversed(path))

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """The proof that the first `new` entries begin with the first `old` (RFC 9162, 2.1.4.1), lowest node first."""
        new = len(self) if new is None else new
        self._within("new", new, 1, len(self))
        self._within("old", old, 1, new)
        path, low, high = [], 0, new
        while old != high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._over(middle, high))
                high = middle
            else:
                path.append(self._over(low, middle))
                low = middle
        if low:  # the old tree's last node, which the verifier does not know
            path.append(self._over(low, high))
        return tuple(reversed(path))

    def _node(self, level: int, position: int) -> bytes:
        return bytes(self._levels[level][position * HASH_BYTES : (position + 1) * HASH_BYTES])

    def _over(self, low: int, high: int) -> bytes:
        """The hash over entries low … high-1; `low` is a multiple of a power of two that is not below their number."""
        peaks = list(self._peaks(low, high))
        result = peaks.pop()
        while peaks:
            result = node_hash(peaks.pop(), result)
        return result

    def _peaks(self, low: int, high: int) -> Iterator[bytes]:
        while low < high:
            level = (high - low).bit_length() - 1
            yield self._node(level, low >> level)
            low += 1 << level

    def _within(self, name: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            raise ParameterError(
                f"{name!r} is {value}; this tree of {len(self)} entries has {least} … {most}"
            )


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise `ProofInvalid` unless the leaf hash is entry `index` of the tree (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofInvalid(f"entry {index} of a tree of {size} does not exist")
    _lengths(leaf, root, *proof)
    position, last, result = index, size - 1, leaf
    for node in proof:
        if last == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if position % 2 or position == last:
            result = node_hash(node, result)
            while not position % 2 and position:
                position, last = position // 2, last // 2
        else:
            result = node_hash(result, node)
        position, last = position // 2, last // 2
    if last:
        raise ProofInvalid("the inclusion proof is too short")
    if not hmac.compare_digest(result, root):
        raise ProofInvalid(f"the inclusion proof of entry {index} leads to another root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raise `ProofInvalid` unless the new tree begins with the old one (RFC 9162, 2.1.4.2)."""
    if not 0 < old <= new <= MAX_SIZE:
        raise ProofInvalid(f"no consistency proof leads from size {old} to size {new}")
    _lengths(old_root, new_root, *proof)
    if old == new:
        if proof or not hmac.compare_digest(old_root, new_root):
            raise ProofInvalid(f"two different trees of {old} entries")
        return
    if not proof:
        raise ProofInvalid("the consistency proof is empty")
    nodes = list(proof) if old & (old - 1) else [old_root, *proof]
    position, last = old - 1, new - 1
    while position % 2:
        position, last = position // 2, last // 2
    before = after = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            raise ProofInvalid("the consistency proof is too long")
        if position % 2 or position == last:
            before, after = node_hash(node, before), node_hash(node, after)
            while not position % 2 and position:
                position, last = position // 2, last // 2
        else:
            after = node_hash(after, node)
        position, last = position // 2, last // 2
    if last:
        raise ProofInvalid("the consistency proof is too short")
    if not (hmac.compare_digest(before, old_root) and hmac.compare_digest(after, new_root)):
        raise ProofInvalid(f"the tree of {new} entries does not begin with the one of {old}")


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _lengths(*hashes: bytes) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise ProofInvalid(f"a hash has {HASH_BYTES} bytes")

"""RFC 9162 trees against a naive recursion over all small sizes, and published vectors.

Vectors: the reference tree of Certificate Transparency (github.com/transparency-dev/merkle, testonly/constants.go and
rfc6962/rfc6962_test.go; the hashing of RFC 6962 and RFC 9162 is the same), and the two heads with their consistency proof from
github.com/transparency-dev/witness (persistence tests).
"""

from __future__ import annotations

import base64
import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox import merkle
from sandbox.errors import ParameterError, ProofInvalid
from sandbox.merkle import Tree, leaf_hash, node_hash, verify_consistency, verify_inclusion

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION = {  # (index, size): proof
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {  # (old, new): proof
    (1, 8): INCLUSION[0, 8],
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
BIG = 64


def unhex(proof):
    return tuple(map(bytes.fromhex, proof))


def naive_root(leaves):
    """RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = naive_split(len(leaves))
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


def naive_split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_path(m, leaves):
    """RFC 9162 section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_proof(m, leaves, complete=True):
    """RFC 9162 section 2.1.4.1."""
    n = len(leaves)
    if m == n:
        return [] if complete else [naive_root(leaves)]
    k = naive_split(n)
    if m <= k:
        return [*naive_proof(m, leaves[:k], complete), naive_root(leaves[k:])]
    return [*naive_proof(m - k, leaves[k:], False), naive_root(leaves[:k])]


@pytest.fixture(scope="module")
def entries():
    return [b"entry %d" % i for i in range(BIG)]


@pytest.fixture(scope="module")
def tree(entries):
    return Tree(map(leaf_hash, entries))


def test_published_hashes():
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == (
        "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
    )


def test_published_roots():
    tree = Tree()
    assert tree.root() == merkle.EMPTY_ROOT == ROOTS[0]
    for size, leaf in enumerate(LEAVES, 1):
        tree.append(leaf_hash(leaf))
        assert len(tree) == size
        assert tree.root() == ROOTS[size]
    assert [tree.root(size) for size in range(9)] == ROOTS


def test_published_proofs():
    tree = Tree(map(leaf_hash, LEAVES))
    for (index, size), proof in INCLUSION.items():
        assert tree.inclusion(index, size) == unhex(proof)
        verify_inclusion(leaf_hash(LEAVES[index]), index, size, unhex(proof), ROOTS[size])
    for (old, new), proof in CONSISTENCY.items():
        assert tree.consistency(old, new) == unhex(proof)
        verify_consistency(old, new, ROOTS[old], ROOTS[new], unhex(proof))


def test_a_published_consistency_proof():
    old = base64.b64decode("41smjBUiAU70EtKlT6lIOIYtRTYxYXsDB+XHfcvu/BE=")
    new = base64.b64decode("V8K9aklZ4EPB+RMOk1/8VsJUdFZR77GDtZUQq84vSbo=")
    proof = unhex(
        (
            "b9e1d62618f7fee8034e4c5010f727ab24d8e4705cb296c374bf2025a87a10d2",
            "aac66cd7a79ce4012d80762fe8eec3a77f22d1ca4145c3f4cee022e7efcd599d",
            "89d0f753f66a290c483b39cd5e9eafb12021293395fad3d4a2ad053cfbcfdc9e",
            "29e40bb79c966f4c6fe96aff6f30acfce5f3e8d84c02215175d6e018a5dee833",
        )
    )
    verify_consistency(5, 8, old, new, proof)
    with pytest.raises(ProofInvalid):
        verify_consistency(5, 8, old, new, proof[::-1])


def test_all_small_trees_equal_the_definition(entries, tree):
    for size in range(BIG + 1):
        root = naive_root(entries[:size])
        assert tree.root(size) == root
        for index in range(size):
            proof = tree.inclusion(index, size)
            assert list(proof) == naive_path(index, entries[:size])
            verify_inclusion(leaf_hash(entries[index]), index, size, proof, root)


def test_all_small_consistency_proofs_equal_the_definition(entries, tree):
    for new in range(1, BIG + 1):
        for old in range(1, new + 1):
            proof = tree.consistency(old, new)
            assert list(proof) == naive_proof(old, entries[:new])
            verify_consistency(old, new, tree.root(old), tree.root(new), proof)


@given(sizes=st.lists(st.integers(1, 700), min_size=2, max_size=2).map(sorted), data=st.data())
def test_larger_trees(sizes, data):
    old, new = sizes
    entries = [b"%d" % i for i in range(new)]
    tree = Tree(map(leaf_hash, entries))
    index = data.draw(st.integers(0, new - 1))
    proof = tree.inclusion(index)
    assert list(proof) == naive_path(index, entries)
    verify_inclusion(leaf_hash(entries[index]), index, new, proof, naive_root(entries))
    assert list(tree.consistency(old)) == naive_proof(old, entries)


def test_no_proof_holds_for_another_place(entries, tree):
    for size in range(1, 25):
        for index, other in itertools.permutations(range(size), 2):
            with pytest.raises(ProofInvalid):
                verify_inclusion(
                    leaf_hash(entries[index]), other, size, tree.inclusion(index, size), tree.root(size)
                )


@given(
    size=st.integers(1, BIG),
    data=st.data(),
    kind=st.sampled_from(["bit", "drop", "double", "swap", "leaf", "root", "short", "long"]),
)
def test_no_mutated_inclusion_proof_holds(entries, tree, size, data, kind):
    index = data.draw(st.integers(0, size - 1))
    leaf, root, proof = leaf_hash(entries[index]), tree.root(size), list(tree.inclusion(index, size))
    leaf, root, proof = mutate(kind, data, leaf, root, proof)
    if (leaf, root, proof) != (leaf_hash(entries[index]), tree.root(size), list(tree.inclusion(index, size))):
        with pytest.raises(ProofInvalid):
            verify_inclusion(leaf, index, size, proof, root)


@given(
    sizes=st.lists(st.integers(1, BIG), min_size=2, max_size=2).map(sorted),
    data=st.data(),
    kind=st.sampled_from(["bit", "drop", "double", "swap", "leaf", "root", "short", "long"]),
)
def test_no_mutated_consistency_proof_holds(tree, sizes, data, kind):
    old, new = sizes
    right = (tree.root(old), tree.root(new), list(tree.consistency(old, new)))
    before, after, proof = mutate(kind, data, *right)
    if (before, after, proof) != right:
        with pytest.raises(ProofInvalid):
            verify_consistency(old, new, before, after, proof)


def mutate(kind, data, first, second, proof):
    proof = list(proof)
    if kind == "leaf":
        first = flip(first, data)
    elif kind == "root":
        second = flip(second, data)
    elif kind == "long":
        proof.append(first)
    elif proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        if kind == "bit":
            proof[at] = flip(proof[at], data)
        elif kind == "drop":
            del proof[at]
        elif kind == "double":
            proof.insert(at, proof[at])
        elif kind == "swap":
            proof[at], proof[-1] = proof[-1], proof[at]
        elif kind == "short":
            proof[at] = proof[at][:-1]
    return first, second, proof


def flip(value, data):
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_node_is_no_leaf(tree):
    """Second preimages: an inner node shown as an entry is refused, since their hashes have different first bytes."""
    small = Tree(tree.leaf(i) for i in range(4))
    left = tree.leaf(0) + tree.leaf(1)
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaf_hash(left), 0, 2, [small.consistency(2)[0]], small.root())


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (5, 3), (0, 2**63), (2**64, 2**65)])
def test_places_that_do_not_exist(tree, index, size):
    with pytest.raises(ProofInvalid):
        verify_inclusion(tree.leaf(0), index, size, [], tree.leaf(0))


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 5), (6, 5), (-1, 5), (1, 2**63)])
def test_sizes_between_which_nothing_is_proved(tree, old, new):
    with pytest.raises(ProofInvalid):
        verify_consistency(old, new, tree.root(1), tree.root(5), [])


def test_two_trees_of_one_size_are_one():
    verify_consistency(3, 3, ROOTS[3], ROOTS[3], [])
    for roots, proof in (((ROOTS[3], ROOTS[4]), []), ((ROOTS[3], ROOTS[3]), [ROOTS[3]])):
        with pytest.raises(ProofInvalid):
            verify_consistency(3, 3, *roots, proof)


def test_a_tree_says_what_it_cannot_prove(tree):
    small = Tree([tree.leaf(0)] * 3)
    for call in (
        lambda: small.root(4),
        lambda: small.root(-1),
        lambda: small.inclusion(3),
        lambda: small.inclusion(0, 4),
        lambda: small.inclusion(0, 0),
        lambda: small.consistency(0),
        lambda: small.consistency(3, 2),
        lambda: small.append(b"short"),
        lambda: small.leaf(3),
    ):
        with pytest.raises(ParameterError):
            call()

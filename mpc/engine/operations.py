"""The operations of a plan: what each computes on shares, and which correlations it takes.

A local operation returns its share; one that costs rounds returns a protocol. `run` gets `first` (true at B),
the shares of the inputs in the shape of their type (bits packed), the node, the plan and the deck. Bits beyond
the last of a packed vector are arbitrary and never leave: outputs are cut to their size.

Protects: local operations move nothing; the others open what `mpc.engine.protocols` argues to be uniform. Does not
protect: against a caller that builds a plan which reveals too much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpc import bits
from mpc.engine import protocols
from mpc.engine.correlations import (
    AndTriple,
    Bit,
    BitProduct,
    Correlation,
    Deck,
    InnerProduct,
    Mask,
    OneHot,
    Product,
    TruncationMask,
)
from mpc.engine.plan import Node, Plan, Type
from mpc.engine.protocols import Protocol

Words = NDArray[np.uint64]


class Call(NamedTuple):
    """One evaluation of a node at one party."""

    first: bool
    shares: tuple[Words, ...]
    node: Node
    types: tuple[Type, ...]
    plan: Plan
    deck: Deck


class Operation(NamedTuple):
    run: Callable[[Call], Words | Protocol]
    needs: Callable[[Node, tuple[Type, ...]], list[Correlation]] = lambda node, types: []


def needs_of(plan: Plan, node: Node) -> list[Correlation]:
    """The correlations of a node, in the order in which its protocol takes them."""
    return OPERATIONS[node.operation].needs(node, types_of(plan, node))


def types_of(plan: Plan, node: Node) -> tuple[Type, ...]:
    return tuple(plan.nodes[i].type for i in node.inputs)


def decode_index(parameters: tuple[int, ...]) -> tuple[int | slice, ...]:
    """From four numbers an axis: 0, i, 0, 0 for an integer; 1, start, stop, step for a slice; -1 as stop: to the end."""
    key: list[int | slice] = []
    for kind, start, stop, step in zip(*[iter(parameters)] * 4, strict=True):
        key.append(slice(start, None if stop < 0 else stop, step) if kind else start)
    return tuple(key)


def _widen(call: Call) -> tuple[Words, ...]:
    """The shares of two inputs, broadcast to the shape of the result."""
    return tuple(np.broadcast_to(share, call.node.type.shape) for share in call.shares)


def _add_constant(call: Call) -> Words:
    constant = call.plan.constants[call.node.parameters[0]]
    (x,) = _widen(call)
    return x + constant if call.first else np.array(x)


def _stack(call: Call) -> Words:
    axis = call.node.parameters[0]
    if call.node.type.kind == "int":
        return np.concatenate(call.shares, axis=axis)
    whole = [_unpacked(share, type) for share, type in zip(call.shares, call.types, strict=True)]
    return bits.pack(np.concatenate(whole, axis=axis))


def _index(call: Call) -> Words:
    key = decode_index(call.node.parameters)
    if call.node.type.kind == "int":
        return np.ascontiguousarray(call.shares[0][key])
    return bits.pack(_unpacked(call.shares[0], call.types[0])[key])


def _unpacked(share: Words, type: Type) -> NDArray[np.bool_]:
    return bits.unpack(share, type.size).reshape(type.shape)


def _sum(call: Call) -> Words:
    return np.asarray(call.shares[0].sum(axis=call.node.parameters or None, dtype=np.uint64))


def _reshape(call: Call) -> Words:
    return call.shares[0].reshape(call.node.type.share_shape)


def _invert(call: Call) -> Words:
    return ~call.shares[0] if call.first else call.shares[0]


def _multiply(call: Call) -> Protocol:
    x, y = _widen(call)
    return protocols.multiply(call.first, x, y, call.deck)


def _inner(call: Call) -> Protocol:
    x, y = call.shares
    return protocols.inner_product(call.first, x, y, call.deck)


def _and(call: Call) -> Protocol:
    x, y = call.shares
    both = yield from protocols.conjunction(call.first, x, y.reshape(1, -1), call.deck)
    return both.reshape(-1)


def _and_each(call: Call) -> Protocol:
    """One vector of bits with each row of the other input, whose rows are whole words."""
    x, rows = call.shares
    both = yield from protocols.conjunction(call.first, x, rows.reshape(-1, x.size), call.deck)
    return both.reshape(-1)


def _xor_rows(call: Call) -> Words:
    """Exclusive or along an axis of rows that are whole words."""
    rows = call.shares[0].reshape(*call.types[0].shape[:-1], -1)
    return np.bitwise_xor.reduce(rows, axis=call.node.parameters[0]).reshape(-1)


def _select(call: Call) -> Protocol:
    chosen, x = call.shares
    length = call.types[0].size
    product = yield from protocols.select(call.first, chosen, x.reshape(-1, length), call.deck)
    return product.reshape(call.node.type.shape)


def _to_int(call: Call) -> Protocol:
    whole = yield from protocols.to_integers(call.first, call.shares[0], call.deck)
    return whole[: call.node.type.size].reshape(call.node.type.shape)


def _truncate(call: Call) -> Protocol:
    whole = yield from protocols.truncate(call.first, call.shares[0], call.node.parameters[0], call.deck)
    return whole[: call.node.type.size].reshape(call.node.type.shape)


def _one_hot(call: Call) -> Protocol:
    indicators = yield from protocols.one_hot(call.first, call.shares[0].reshape(-1), call.deck)
    return indicators[: call.node.type.shape[0]].reshape(call.node.type.shape)


def _to_bits(call: Call) -> Protocol:
    planes = yield from protocols.to_planes(call.first, call.shares[0], call.deck)
    length = call.types[0].size
    if length % 64 == 0:
        return planes.reshape(-1)
    return bits.pack(bits.unpack(planes.reshape(-1), planes.size * 64).reshape(64, -1)[:, :length])


def _equal_planes(call: Call) -> Protocol:
    """Whether 64-bit words shared by exclusive or are zero; the words are those of an xor-shared input."""
    planes = bits.to_planes(call.shares[0])
    alike = ~planes if call.first else planes
    return (yield from protocols.conjunction_tree(call.first, alike, call.deck))


def _planes(call: Call) -> Words:
    """The lowest bits of 64-bit words shared by exclusive or, as planes."""
    return bits.to_planes(call.shares[0])[: call.node.type.shape[0]].reshape(-1)


def _mask_words(types: tuple[Type, ...]) -> int:
    return bits.words_for(types[0].size)


OPERATIONS: dict[str, Operation] = {
    "input": Operation(lambda call: call.shares[0]),
    "add": Operation(lambda call: np.add(*_widen(call))),
    "subtract": Operation(lambda call: np.subtract(*_widen(call))),
    "negate": Operation(lambda call: np.negative(call.shares[0])),
    "add constant": Operation(_add_constant),
    "times constant": Operation(lambda call: _widen(call)[0] * call.plan.constants[call.node.parameters[0]]),
    "sum": Operation(_sum),
    "index": Operation(_index),
    "take": Operation(lambda call: call.shares[0].reshape(-1)[np.array(call.node.parameters, np.int64)]),
    "concatenate": Operation(_stack),
    "reshape": Operation(_reshape),
    "transpose": Operation(lambda call: np.ascontiguousarray(call.shares[0].T)),
    "xor": Operation(lambda call: call.shares[0] ^ call.shares[1]),
    "xor rows": Operation(_xor_rows),
    "invert": Operation(_invert),
    "planes of words": Operation(_planes),
    "multiply": Operation(_multiply, lambda node, types: [Product(node.type.shape)]),
    "inner": Operation(
        _inner, lambda node, types: [InnerProduct(types[0].shape[0], types[1].shape[0], types[0].shape[1])]
    ),
    "and": Operation(_and, lambda node, types: [AndTriple(1, types[0].words)]),
    "and each": Operation(
        _and_each, lambda node, types: [AndTriple(types[1].words // types[0].words, types[0].words)]
    ),
    "select": Operation(
        _select, lambda node, types: [BitProduct(types[1].size // types[0].size, types[0].size)]
    ),
    "to int": Operation(_to_int, lambda node, types: [Bit(types[0].words)]),
    "to bits": Operation(
        _to_bits,
        lambda node, types: [
            Mask(_mask_words(types)),
            *(AndTriple(2, (64 - step) * _mask_words(types)) for step in (1, 2, 4, 8, 16, 32)),
        ],
    ),
    "negative": Operation(
        lambda call: protocols.negative(call.first, call.shares[0], call.deck),
        lambda node, types: [
            Mask(_mask_words(types)),
            *protocols.less_than_shared_needs(63, _mask_words(types)),
        ],
    ),
    "zero": Operation(
        lambda call: protocols.zero(call.first, call.shares[0], call.deck),
        lambda node, types: [
            Mask(_mask_words(types)),
            *protocols.conjunction_tree_needs(64, _mask_words(types)),
        ],
    ),
    "words are zero": Operation(
        _equal_planes, lambda node, types: protocols.conjunction_tree_needs(64, node.type.words)
    ),
    "truncate": Operation(
        _truncate,
        lambda node, types: [
            TruncationMask(_mask_words(types), node.parameters[0]),
            *protocols.less_than_shared_needs(node.parameters[0], _mask_words(types)),
            Bit(_mask_words(types)),
        ],
    ),
    "one hot": Operation(
        _one_hot, lambda node, types: [OneHot((node.type.shape[0] - 1).bit_length(), types[0].size)]
    ),
}

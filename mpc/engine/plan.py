"""What is to be computed, as data: a list of operations on shares, the same at A, B and C.

A node is one operation on earlier nodes. Two kinds of values: "int", words of Z_2^64 read as two's complement,
and "bit", packed booleans in C order. Sizes, holders of inputs and public constants are part of the plan, and
its digest is part of every key and message, so parties whose plans differ refuse each other.

Protects: nothing depends on secret values, neither which operations run nor in which order. Does not protect:
what the outputs tell; a plan is public.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mpc import bits
from mpc.errors import OutOfRange

Kind = Literal["int", "bit"]
# who knows an input: one party in the clear, or B and C as shares
Holder = Literal["A", "B", "C", "shares"]


class Type(msgspec.Struct, frozen=True, array_like=True):
    kind: Kind
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def words(self) -> int:
        """Words of one share."""
        return self.size if self.kind == "int" else bits.words_for(self.size)

    @property
    def share_shape(self) -> tuple[int, ...]:
        return self.shape if self.kind == "int" else (self.words,)


class Node(msgspec.Struct, frozen=True, array_like=True):
    operation: str
    inputs: tuple[int, ...]
    type: Type
    parameters: tuple[int, ...] = ()


class Input(msgspec.Struct, frozen=True, array_like=True):
    name: str
    holder: Holder
    node: int


class Plan:
    """A plan under construction. It is closed by its first use: by `digest`."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[Input] = []
        self.outputs: dict[str, int] = {}
        self.constants: list[NDArray[np.uint64]] = []
        self._digest = b""

    def input(self, name: str, kind: Kind, shape: Sequence[int], holder: Holder) -> int:
        if any(other.name == name for other in self.inputs):
            raise OutOfRange("input", f"{name} is declared twice")
        node = self.add("input", (), Type(kind, tuple(int(length) for length in shape)))
        self.inputs.append(Input(name, holder, node))
        return node

    def add(self, operation: str, inputs: Sequence[int], type: Type, parameters: Sequence[int] = ()) -> int:
        if self._digest:
            raise OutOfRange("plan", "is in use and takes no more operations")
        self.nodes.append(Node(operation, tuple(inputs), type, tuple(parameters)))
        return len(self.nodes) - 1

    def constant(self, values: NDArray[np.uint64]) -> int:
        """The number of a public array."""
        self.constants.append(values)
        return len(self.constants) - 1

    def output(self, name: str, node: int) -> None:
        """Declares that C learns this value: the only thing that it learns."""
        if name in self.outputs:
            raise OutOfRange("output", f"{name} is declared twice")
        if self._digest:
            raise OutOfRange("plan", "is in use and takes no more outputs")
        self.outputs[name] = node

    def input_types(self, *holders: Holder) -> dict[str, Type]:
        """The inputs that these holders bring."""
        return {i.name: self.nodes[i.node].type for i in self.inputs if i.holder in holders}

    @property
    def digest(self) -> bytes:
        if not self._digest:
            state = hashlib.sha256(
                msgspec.msgpack.encode((self.nodes, self.inputs, list(self.outputs.items())))
            )
            for constant in self.constants:
                state.update(hashlib.sha256(repr(constant.shape).encode() + constant.tobytes()).digest())
            self._digest = state.digest()
        return self._digest

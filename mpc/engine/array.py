"""`SecretArray`: numpy's notation over shared values. It computes nothing: it writes a plan.

    lab = Laboratory()
    age, dose = lab.secret([34, 61, 70]), lab.secret([5, 7, 9], holder="C")
    lab.reveal(((age >= 60) * dose).sum())          # 16, computed by A, B and C in this process

`Laboratory` plays all three parties, over the bytes that a network would carry, and is for notebooks and tests;
whoever runs it sees everything. In a federation each party builds the same plan and holds its own inputs.

Protects: only what is revealed is opened. Does not protect: against overflow. Integers are two's complement
words, products and sums wrap around as numpy's do; comparisons need |x - y| < 2^63, truncation |x| < 2^62, which
the bounds declared for the data must guarantee.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mpc.engine.party import SESSION_BYTES, Computer, Dealer, Seeds, play
from mpc.engine.plan import Holder, Kind, Plan, Type
from mpc.errors import OutOfRange
from mpc.prg import KEY_BYTES

MOST_GROUPS = 1 << 16


class SecretArray:
    """A value of a plan: integers, or booleans where `kind` is "bit"."""

    __array_ufunc__ = None  # so that an array on the left leaves the operator to us
    __hash__ = None  # type: ignore[assignment]  # == is elementwise

    def __init__(self, plan: Plan, node: int) -> None:
        self.plan, self.node = plan, node

    @property
    def type(self) -> Type:
        return self.plan.nodes[self.node].type

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def kind(self) -> Kind:
        return self.type.kind

    def __repr__(self) -> str:
        return f"SecretArray({self.kind}, shape={self.shape})"

    def __bool__(self) -> bool:
        raise OutOfRange("condition", "is secret: use select() instead of branching")

    # integers

    def __add__(self, other: Any) -> SecretArray:
        x = self.integers()
        if isinstance(other, SecretArray):
            return x._both("add", other.integers())
        return x._constant("add constant", other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> SecretArray:
        if isinstance(other, SecretArray):
            return self.integers()._both("subtract", other.integers())
        return self + -_public(other)

    def __rsub__(self, other: Any) -> SecretArray:
        return -self + other

    def __neg__(self) -> SecretArray:
        x = self.integers()
        return x._apply("negate", [x], x.type)

    def __mul__(self, other: Any) -> SecretArray:
        """A product. Bits times integers of the same shape, or of one more axis in front, is one selection."""
        if not isinstance(other, SecretArray):
            return self.integers()._constant("times constant", other)
        chosen, x = (self, other) if self.kind == "bit" else (other, self)
        if chosen.kind == "bit" and x.kind == "int" and x.shape[-len(chosen.shape) :] == chosen.shape:
            return x._apply("select", [chosen, x], x.type)
        return self.integers()._both("multiply", other.integers())

    __rmul__ = __mul__

    def __matmul__(self, other: Any) -> SecretArray:
        """p x n times n x q. By a public matrix it is local."""
        if not isinstance(other, SecretArray):
            columns = _public(other).T
            return concatenate(
                [(self * column).sum(axis=-1).reshape(-1, 1) for column in np.atleast_2d(columns)], axis=1
            )
        left, right = self.integers(), other.integers()
        if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0]:
            raise OutOfRange("matmul", f"shapes {self.shape} and {other.shape} do not fit")
        return left.inner(right.T)

    def inner(self, other: SecretArray) -> SecretArray:
        """p x n times the transpose of q x n: all inner products of rows."""
        left, right = self.integers(), other.integers()
        if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[1]:
            raise OutOfRange("inner", f"shapes {self.shape} and {other.shape} do not fit")
        return left._apply("inner", [left, right], Type("int", (left.shape[0], right.shape[0])))

    def __rshift__(self, shift: int) -> SecretArray:
        """floor(x / 2^shift), exactly; for |x| < 2^62."""
        if not 1 <= shift <= 62:
            raise OutOfRange("shift", "must be 1 ... 62")
        x = self.integers()
        return x._apply("truncate", [x], x.type, [shift])

    def sum(self, axis: int | None = None) -> SecretArray:
        x = self.integers()
        if axis is None:
            return x._apply("sum", [x], Type("int", ()))
        axis %= len(x.shape)
        return x._apply("sum", [x], Type("int", x.shape[:axis] + x.shape[axis + 1 :]), [axis])

    # comparisons

    def __lt__(self, other: Any) -> SecretArray:
        difference = self - other
        return difference._apply("negative", [difference], Type("bit", difference.shape))

    def __gt__(self, other: Any) -> SecretArray:
        return -self < -other

    def __ge__(self, other: Any) -> SecretArray:
        return ~(self < other)

    def __le__(self, other: Any) -> SecretArray:
        return ~(self > other)

    def __eq__(self, other: object) -> SecretArray:  # type: ignore[override]
        difference = self - other
        return difference._apply("zero", [difference], Type("bit", difference.shape))

    def __ne__(self, other: object) -> SecretArray:  # type: ignore[override]
        return ~(self == other)

    # booleans

    def __and__(self, other: SecretArray) -> SecretArray:
        self._check_bits(other)
        return self._apply("and", [self, other], self.type)

    def __xor__(self, other: SecretArray) -> SecretArray:
        self._check_bits(other)
        return self._apply("xor", [self, other], self.type)

    def __or__(self, other: SecretArray) -> SecretArray:
        return ~(~self & ~other)

    def __invert__(self) -> SecretArray:
        self._check_bits(self)
        return self._apply("invert", [self], self.type)

    def integers(self) -> SecretArray:
        """Booleans as 0 and 1; integers as they are."""
        return self if self.kind == "int" else self._apply("to int", [self], Type("int", self.shape))

    def bits(self) -> SecretArray:
        """The 64 bits of integers, least significant first: shape (64, size)."""
        x = self.integers()
        return x._apply("to bits", [x], Type("bit", (64, x.type.size)))

    def select(self, x: SecretArray, y: SecretArray) -> SecretArray:
        """x where this is true, y elsewhere."""
        return self * (x - y) + y

    def one_hot(self, groups: int) -> SecretArray:
        """Indicators of codes 0 ... groups - 1, shape (groups, size). Other codes are the caller's error."""
        if not 1 <= groups <= MOST_GROUPS:
            raise OutOfRange("groups", f"must be 1 ... {MOST_GROUPS}")
        x = self.integers()
        return x._apply("one hot", [x], Type("int", (groups, x.type.size)))

    # shapes

    @property
    def T(self) -> SecretArray:
        x = self.integers()
        return x._apply("transpose", [x], Type("int", x.shape[::-1]))

    def reshape(self, *shape: int) -> SecretArray:
        resolved = np.broadcast_to(np.int8(0), self.shape).reshape(*shape).shape
        return self._apply("reshape", [self], Type(self.kind, resolved))

    def __getitem__(self, key: Any) -> SecretArray:
        """Integers, slices and an ellipsis, as in numpy."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in parts:
            place = parts.index(Ellipsis)
            parts[place : place + 1] = [slice(None)] * (len(self.shape) - len(parts) + 1)
        shape = np.broadcast_to(np.int8(0), self.shape)[tuple(parts)].shape  # numpy's own errors
        parameters: list[int] = []
        for part, length in zip(parts, self.shape, strict=False):
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                parameters += [1, start, stop, step]
            else:
                parameters += [0, int(part) % length, 0, 0]
        return self._apply("index", [self], Type(self.kind, shape), parameters)

    def take(self, places: Sequence[int]) -> SecretArray:
        """These entries, in C order, of integers."""
        x = self.integers()
        if not all(0 <= place < x.type.size for place in places):
            raise OutOfRange("places", f"must be 0 ... {x.type.size - 1}")
        return x._apply("take", [x], Type("int", (len(places),)), [int(place) for place in places])

    # construction

    def _apply(
        self, operation: str, inputs: Sequence[SecretArray], type: Type, parameters: Sequence[int] = ()
    ) -> SecretArray:
        if any(x.plan is not self.plan for x in inputs):
            raise OutOfRange("arrays", "must belong to one plan")
        return SecretArray(self.plan, self.plan.add(operation, [x.node for x in inputs], type, parameters))

    def _both(self, operation: str, other: SecretArray) -> SecretArray:
        shape = np.broadcast_shapes(self.shape, other.shape)
        return self._apply(operation, [self, other], Type("int", shape))

    def _constant(self, operation: str, values: Any) -> SecretArray:
        constant = _public(values)
        shape = np.broadcast_shapes(self.shape, constant.shape)
        return self._apply(operation, [self], Type("int", shape), [self.plan.constant(constant)])

    def _check_bits(self, other: SecretArray) -> None:
        if self.kind != "bit" or other.kind != "bit" or self.shape != other.shape:
            raise OutOfRange("booleans", "must be secret booleans of one shape")


def concatenate(arrays: Sequence[SecretArray], axis: int = 0) -> SecretArray:
    """As numpy's, of arrays of one kind."""
    if len({x.kind for x in arrays}) != 1:
        raise OutOfRange("arrays", "must be of one kind")
    axis %= len(arrays[0].shape)
    shape = np.concatenate([np.broadcast_to(np.int8(0), x.shape) for x in arrays], axis=axis).shape
    return arrays[0]._apply("concatenate", arrays, Type(arrays[0].kind, shape), [axis])


def _public(values: Any) -> NDArray[np.uint64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise OutOfRange("constant", "must be integers")
    return array if array.dtype == np.uint64 else array.astype(np.int64).view(np.uint64)


class Laboratory:
    """A, B and C in this process, for notebooks and tests."""

    def __init__(self) -> None:
        self.plan = Plan()
        self._inputs: dict[Holder, dict[str, NDArray[Any]]] = {"A": {}, "B": {}, "C": {}}
        self.traffic: dict[str, int] = {}

    def secret(self, values: Any, holder: Holder = "B") -> SecretArray:
        """An input that `holder` knows and the others do not."""
        array = np.asarray(values)
        kind: Kind = "bit" if array.dtype == bool else "int"
        name = f"input {len(self.plan.inputs)}"
        node = self.plan.input(name, kind, array.shape, holder)
        self._inputs[holder][name] = array
        return SecretArray(self.plan, node)

    def reveal(self, *arrays: SecretArray) -> Any:
        """Runs the protocol once and opens these values; the laboratory is closed afterwards."""
        for number, array in enumerate(arrays):
            self.plan.output(f"output {number}", array.node)
        session, used = secrets.token_bytes(SESSION_BYTES), Seeds()
        seed_b, seed_c = secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)
        dealt = Dealer(self.plan, session, seed_b, seed_c, used).deal(self._inputs["A"])
        b = Computer("B", self.plan, session, seed_b, Seeds(), inputs=self._inputs["B"])
        c = Computer("C", self.plan, session, seed_c, Seeds(), inputs=self._inputs["C"], dealt=dealt)
        self.traffic = play(b, c) | {"dealt": len(dealt)}
        outputs = cast(dict[str, NDArray[Any]], c.outputs)
        opened = [outputs[f"output {number}"] for number in range(len(arrays))]
        return opened[0] if len(opened) == 1 else tuple(opened)

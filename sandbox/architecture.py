"""A neural network as a declared list of layers: what a department runs is named here, never shipped as code.

The layers are applied in order to one record after the other: none mixes the records of a batch, so that every parameter has a
gradient for each record and clipping can bound what a record does (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016,
section 3). Names, fields and defaults are those of `torch.nn`; no torch is loaded. Sizes are checked by following one record's shape
through the list.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Union

import msgspec

from .errors import ParameterError
from .ranges import Ranged

MAX_LAYERS = 128
MAX_PARAMETERS = 20_000_000
MAX_ACTIVATIONS = 1 << 22  # numbers between two layers, of one record

Shape = tuple[int, ...]
Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
Kernel = Annotated[int, msgspec.Meta(ge=1, le=1 << 10)]
Padding = Annotated[int, msgspec.Meta(ge=0, le=1 << 10)]
Small = Annotated[float, msgspec.Meta(ge=1e-12, le=1)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Slope = Annotated[float, msgspec.Meta(ge=0, le=1)]
Square = tuple[Kernel, Kernel]


class Base(Ranged, frozen=True, tag_field="layer"):
    """A layer. `after` gives the shape that one record's numbers have behind it; `tensors` the shapes of its parameters."""

    def after(self, shape: Shape) -> Shape:
        """Raises `ValueError` with what the layer takes."""
        return shape

    def tensors(self) -> dict[str, Shape]:
        return {}


class Linear(Base, frozen=True, tag="linear"):
    in_features: Width
    out_features: Width
    bias: bool = True

    def after(self, shape: Shape) -> Shape:
        _takes(shape[-1:] == (self.in_features,), f"{self.in_features} numbers in the last dimension")
        return (*shape[:-1], self.out_features)

    def tensors(self) -> dict[str, Shape]:
        return _with_bias((self.out_features, self.in_features), self.bias)


class Conv1d(Base, frozen=True, tag="conv1d"):
    in_channels: Width
    out_channels: Width
    kernel_size: Kernel
    stride: Kernel = 1
    padding: Padding = 0
    groups: Width = 1
    bias: bool = True

    def after(self, shape: Shape) -> Shape:
        _takes(len(shape) == 2 and shape[0] == self.in_channels, f"{self.in_channels} channels x positions")
        _grouped(self)
        return (self.out_channels, _slid(shape[1], self.kernel_size, self.stride, self.padding))

    def tensors(self) -> dict[str, Shape]:
        return _with_bias((self.out_channels, self.in_channels // self.groups, self.kernel_size), self.bias)


class Conv2d(Base, frozen=True, tag="conv2d"):
    in_channels: Width
    out_channels: Width
    kernel_size: Square
    stride: Square = (1, 1)
    padding: tuple[Padding, Padding] = (0, 0)
    groups: Width = 1
    bias: bool = True

    def after(self, shape: Shape) -> Shape:
        _takes(
            len(shape) == 3 and shape[0] == self.in_channels, f"{self.in_channels} channels x height x width"
        )
        _grouped(self)
        sides = zip(shape[1:], self.kernel_size, self.stride, self.padding, strict=True)
        return (self.out_channels, *itertools.starmap(_slid, sides))

    def tensors(self) -> dict[str, Shape]:
        return _with_bias((self.out_channels, self.in_channels // self.groups, *self.kernel_size), self.bias)


class MaxPool1d(Base, frozen=True, tag="max_pool1d"):
    kernel_size: Kernel
    stride: Kernel

    def after(self, shape: Shape) -> Shape:
        _takes(len(shape) == 2, "channels x positions")
        return (shape[0], _slid(shape[1], self.kernel_size, self.stride, 0))


class MaxPool2d(Base, frozen=True, tag="max_pool2d"):
    kernel_size: Square
    stride: Square

    def after(self, shape: Shape) -> Shape:
        _takes(len(shape) == 3, "channels x height x width")
        sides = zip(shape[1:], self.kernel_size, self.stride, (0, 0), strict=True)
        return (shape[0], *itertools.starmap(_slid, sides))


class LayerNorm(Base, frozen=True, tag="layer_norm"):
    normalized_shape: tuple[Width, ...]
    eps: Small = 1e-5
    elementwise_affine: bool = True
    bias: bool = True

    def after(self, shape: Shape) -> Shape:
        last = len(self.normalized_shape)
        _takes(last > 0 and shape[-last:] == self.normalized_shape, f"{self.normalized_shape} at the end")
        return shape

    def tensors(self) -> dict[str, Shape]:
        names = [*["weight"] * self.elementwise_affine, *["bias"] * (self.elementwise_affine and self.bias)]
        return dict.fromkeys(names, self.normalized_shape)


class GroupNorm(Base, frozen=True, tag="group_norm"):
    num_groups: Width
    num_channels: Width
    eps: Small = 1e-5
    affine: bool = True

    def after(self, shape: Shape) -> Shape:
        _takes(shape[:1] == (self.num_channels,), f"{self.num_channels} channels first")
        _takes(self.num_channels % self.num_groups == 0, "channels that its groups divide")
        return shape

    def tensors(self) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias"), (self.num_channels,)) if self.affine else {}


class ReLU(Base, frozen=True, tag="relu"):
    pass


class LeakyReLU(Base, frozen=True, tag="leaky_relu"):
    negative_slope: Slope = 0.01


class GELU(Base, frozen=True, tag="gelu"):
    pass


class SiLU(Base, frozen=True, tag="silu"):
    pass


class Tanh(Base, frozen=True, tag="tanh"):
    pass


class Sigmoid(Base, frozen=True, tag="sigmoid"):
    pass


class Dropout(Base, frozen=True, tag="dropout"):
    p: Share = 0.5


class Flatten(Base, frozen=True, tag="flatten"):
    """All of a record's numbers in one row."""

    def after(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


class Unflatten(Base, frozen=True, tag="unflatten"):
    """A record's row of numbers in a shape, such as (channels, positions): what convolutions begin with."""

    unflattened_size: tuple[Width, ...]

    def after(self, shape: Shape) -> Shape:
        size = math.prod(self.unflattened_size)
        _takes(2 <= len(self.unflattened_size) <= 3, "2 or 3 dimensions to unflatten into")
        _takes(shape == (size,), f"a row of {size} numbers")
        return self.unflattened_size


Layer = Union[
    Linear, Conv1d, Conv2d, MaxPool1d, MaxPool2d, LayerNorm, GroupNorm, ReLU, LeakyReLU, GELU, SiLU, Tanh, Sigmoid, Dropout,
    Flatten, Unflatten,
]  # fmt: skip
Architecture = Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=MAX_LAYERS)]


def output(architecture: tuple[Layer, ...], inputs: int) -> Shape:
    """The shape of one record's outputs, from `inputs` numbers; raises `ParameterError` for the first layer that does not fit."""
    if not 1 <= len(architecture) <= MAX_LAYERS:
        raise ParameterError(f"'architecture' has {len(architecture)} layers; allowed are 1 to {MAX_LAYERS}")
    shape: Shape = (inputs,)
    for position, layer in enumerate(architecture):
        try:
            behind = layer.after(shape)
            _takes(math.prod(behind) <= MAX_ACTIVATIONS, f"at most {MAX_ACTIVATIONS} numbers behind it")
        except ValueError as error:
            name = type(layer).__name__
            raise ParameterError(
                f"layer {position} ({name}) takes {error}; a record has {shape} there"
            ) from None
        shape = behind
    if not 1 <= (count := parameters(architecture)) <= MAX_PARAMETERS:
        raise ParameterError(f"'architecture' has {count} parameters; allowed are 1 to {MAX_PARAMETERS}")
    return shape


def tensors(architecture: tuple[Layer, ...]) -> Iterator[tuple[str, Shape]]:
    """Name and shape of every parameter, in order, named as in a `torch.nn.Sequential`: '0.weight', '0.bias', …"""
    for position, layer in enumerate(architecture):
        for name, shape in layer.tensors().items():
            yield f"{position}.{name}", shape


def parameters(architecture: tuple[Layer, ...]) -> int:
    """How many numbers are learnt."""
    return sum(math.prod(shape) for _, shape in tensors(architecture))


def _with_bias(weight: Shape, bias: bool) -> dict[str, Shape]:
    return {"weight": weight, "bias": weight[:1]} if bias else {"weight": weight}


def _slid(size: int, kernel: int, stride: int, padding: int) -> int:
    """Positions of a kernel along one side."""
    _takes(kernel <= size + 2 * padding, f"sides of at least {kernel}, padding included")
    return (size + 2 * padding - kernel) // stride + 1


def _grouped(layer: Conv1d | Conv2d) -> None:
    whole = layer.in_channels % layer.groups == 0 and layer.out_channels % layer.groups == 0
    _takes(whole, "channels that its groups divide")


def _takes(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)

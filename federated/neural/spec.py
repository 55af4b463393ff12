"""A torch module as declared layers and safetensors bytes, and back: no code and no pickle ever travels.

What may be declared is `sandbox.architecture`. A module is taken apart by exact class: a subclass might override what it computes, a
hook or parametrization might add to it, so both are refused, by name. Weights that come from another party are decoded by safetensors,
which reads numbers only; names, order, shapes and types must be those of the architecture, and every number finite.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save
from torch import nn

from sandbox import architecture
from sandbox.architecture import Layer
from sandbox.errors import ParameterError, QueryError

_LAYERS: dict[type[nn.Module], type[architecture.Base]] = {
    getattr(nn, kind.__name__): kind for kind in architecture.Base.__subclasses__()
}
_MIXES = "it mixes the records of a batch, so no record's influence on it can be bounded: use LayerNorm or GroupNorm"
_REASONS: dict[str, str] = {
    **{f"{kind}{n}d": _MIXES for kind in ("BatchNorm", "LazyBatchNorm", "InstanceNorm") for n in (1, 2, 3)},
    "SyncBatchNorm": _MIXES,
    "Embedding": "inputs are numbers and one-hot categories: a Linear layer over those is the same",
    "MultiheadAttention": "its branches are no list of layers",
}
_POOL: dict[str, Any] = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
# what torch's layers can be told beside the declared fields, and what it must be
_FIXED: dict[str, dict[str, Any]] = {
    "Conv1d": {"dilation": (1,), "padding_mode": "zeros"},
    "Conv2d": {"dilation": (1, 1), "padding_mode": "zeros"},
    "MaxPool1d": _POOL,
    "MaxPool2d": _POOL,
    "GELU": {"approximate": "none"},
    "Flatten": {"start_dim": 1, "end_dim": -1},
    "Unflatten": {"dim": 1},
}
_SIDES = ("kernel_size", "stride", "padding")
_HEADER = 1 << 16


def describe(module: nn.Module) -> tuple[Layer, ...]:
    """The layers of a module; raises `QueryError` for the first that is not in the allow-list, naming its path and the reason."""
    layers: list[Layer] = []
    seen: set[int] = set()
    for path, part in _leaves(module, ""):
        own = {id(parameter) for parameter in part.parameters()}
        if own & seen:
            raise QueryError(f"layer {path!r} shares its parameters with another: each layer needs its own")
        seen |= own
        layers.append(_layer(path, part))
    if not 1 <= len(layers) <= architecture.MAX_LAYERS:
        raise QueryError(f"the module has {len(layers)} layers; allowed are 1 to {architecture.MAX_LAYERS}")
    return tuple(layers)


def build(layers: tuple[Layer, ...]) -> nn.Sequential:
    """The module, with weights not yet set."""
    with torch.device("meta"):
        empty = nn.Sequential(*(_module(layer) for layer in layers))
    return empty.to_empty(device="cpu")


def initial(layers: tuple[Layer, ...], seed: int) -> bytes:
    """Weights as torch draws them from `seed`; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dump(nn.Sequential(*(_module(layer) for layer in layers)))


def dump(module: nn.Module) -> bytes:
    """A module's weights in safetensors."""
    layers = describe(module)
    values = [p.detach().to(torch.float32).contiguous().numpy() for p in module.parameters()]
    named = zip(architecture.tensors(layers), values, strict=True)
    return save({name: value for (name, _), value in named})


def pack(layers: tuple[Layer, ...], weights: NDArray[np.float32]) -> bytes:
    """One vector of all weights, in the order of `architecture.tensors`, in safetensors."""
    tensors, start = {}, 0
    for name, shape in architecture.tensors(layers):
        size = int(np.prod(shape))
        tensors[name] = np.ascontiguousarray(weights[start : start + size], np.float32).reshape(shape)
        start += size
    return save(tensors)


def unpack(layers: tuple[Layer, ...], data: bytes) -> NDArray[np.float32]:
    """Weights from another party as one vector; raises `ParameterError` for anything but the architecture's finite numbers."""
    expected = dict(architecture.tensors(layers))
    size = 4 * architecture.parameters(layers)
    if not size < len(data) <= size + 8 + _HEADER:
        raise ParameterError(f"weights of {len(data)} bytes; this architecture has {size} and a header")
    if struct.unpack("<Q", data[:8])[0] != len(data) - 8 - size:
        raise ParameterError("weights: the header's length is not that of safetensors with these tensors")
    try:
        tensors = load(data)
    except Exception as error:  # of several classes, some with parts of the bytes in their text
        raise ParameterError(f"weights are not safetensors ({type(error).__name__})") from None
    if found := tensors.keys() ^ expected.keys():
        raise ParameterError(
            f"weights: {len(found)} tensors are missing or unknown, such as {min(found)[:40]!r}"
        )
    for name, shape in expected.items():
        if tensors[name].dtype != np.float32 or tensors[name].shape != shape:
            raise ParameterError(f"weights {name!r} must be float32 of shape {shape}")
    vector = np.concatenate([tensors[name].ravel() for name in expected])
    if not np.isfinite(vector).all():
        raise ParameterError("weights must be finite: the training has diverged, lower 'learning_rate'")
    return vector


def module(layers: tuple[Layer, ...], weights: bytes) -> nn.Sequential:
    """A trained module, ready to predict."""
    made = build(layers)
    nn.utils.vector_to_parameters(torch.from_numpy(unpack(layers, weights)), made.parameters())
    return made.eval()


def _leaves(part: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    if type(part) is nn.Sequential:
        _plain(path, part)
        for position, child in enumerate(part):
            yield from _leaves(child, f"{path}.{position}" if path else str(position))
    else:
        yield path, part


def _layer(path: str, part: nn.Module) -> Layer:
    name, kind = type(part).__name__, _LAYERS.get(type(part))
    if kind is None:
        code = "its code would have to be shipped"
        reason = _REASONS.get(name, code) if type(part).__module__.startswith("torch.") else code
        allowed = ", ".join(sorted(known.__name__ for known in _LAYERS))
        raise QueryError(
            f"layer {path!r} ({name}) is not allowed: {reason}. Allowed are Sequential, {allowed}"
        )
    _plain(path, part)
    for field, value in _FIXED.get(name, {}).items():
        if getattr(part, field) != value:
            raise QueryError(f"layer {path!r} ({name}): {field!r} must be {value!r}")
    values = {field: _value(kind, field, getattr(part, field)) for field in kind.__struct_fields__}
    try:
        return kind(**values)  # type: ignore[return-value]
    except ParameterError as error:
        raise QueryError(f"layer {path!r}: {error}") from None


def _value(kind: type[architecture.Base], field: str, found: Any) -> Any:
    """A layer's attribute as its declared field: torch keeps kernels of one dimension as tuples, and equal sides as one number."""
    if field == "bias":
        return found is not None
    if kind in (architecture.Conv1d, architecture.MaxPool1d) and isinstance(found, tuple):
        return found[0]
    if kind in (architecture.Conv2d, architecture.MaxPool2d) and field in _SIDES and isinstance(found, int):
        return (found, found)
    return found


def _plain(path: str, part: nn.Module) -> None:
    """That a layer computes what its class says, on float32."""
    hooks = [name for name, value in vars(part).items() if name.endswith("_hooks") and value]
    if hooks or "forward" in vars(part) or nn.utils.parametrize.is_parametrized(part):
        raise QueryError(
            f"layer {path!r} has hooks, parametrizations or a forward of its own: code is not shipped"
        )
    for name, parameter in part.named_parameters(recurse=False):
        if parameter.dtype != torch.float32:
            raise QueryError(f"layer {path!r}: {name!r} is {parameter.dtype}; allowed is torch.float32")


def _module(layer: Layer) -> nn.Module:
    values = msgspec.structs.asdict(layer)
    if isinstance(layer, architecture.Unflatten):
        values["dim"] = 1
    made: nn.Module = getattr(nn, type(layer).__name__)(**values)
    return made

"""The sum of per-record gradients, each cut to norm `clip`: what bounds the influence of a record on a step.

    g_i = gradient of record i's loss,     sum over i of f_i g_i,     f_i = min(1, clip / |g_i|)

One pass forward and one back through the activations, for all records at once, give every layer's inputs a_i and the gradients d_i of its
outputs. For a Linear layer on one row a record, g_i = d_i a_i^T, whose norm is |d_i| |a_i|: it is never formed ("ghost" norms; Goodfellow,
"Efficient Per-Example Gradient Computations", 2015; Li, Tramèr, Liang and Hashimoto, ICLR 2022), and the weighted sum is one product of
matrices from the same a_i and d_i, with no second pass back ("book-keeping"; Bu, Wang, Zha and Karypis, ICML 2023). Every other layer's
per-record gradients are formed, for as many records at a time as fit in memory.

No layer mixes records (`sandbox.architecture`), so g_i depends on record i and the weights alone, up to float32 rounding. A record whose
gradient is not finite is left out.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from .network import Data, Network

ROWS = 4096  # records summed in float32 before their sum is added in float64
NUMBERS = 1 << 24  # of per-record gradients in memory at once
GHOST: tuple[type[nn.Module], ...] = (nn.Linear,)  # layers whose norms need no gradients


class _Pass(msgspec.Struct, frozen=True):
    """A layer with parameters, its inputs, and the gradients of its outputs."""

    layer: nn.Module
    inputs: Tensor
    outputs: Tensor

    @property
    def ghost(self) -> bool:
        return isinstance(self.layer, GHOST) and self.inputs.dim() == 2


def clipped_sum(network: Network, data: Data, clip: float) -> Tensor:
    """The sum as a float64 vector; zeros where there are no records."""
    total = torch.zeros(network.flat.shape, dtype=torch.float64)
    rows = _rows_at_once(network)
    for begin in range(0, len(data), rows):
        total += _clipped(network, data.take(torch.arange(begin, min(begin + rows, len(data)))), clip)
    return total


def _rows_at_once(network: Network) -> int:
    """Fewer where a layer's per-record gradients must be formed, as they are where a record may have several rows."""
    several = any(isinstance(layer, nn.Unflatten) for layer in network.layers)
    formed = [
        sum(parameter.numel() for parameter in layer.parameters())
        for layer in network.layers
        if not isinstance(layer, GHOST) or several
    ]
    return max(1, min(ROWS, NUMBERS // max([1, *formed])))


def _clipped(network: Network, data: Data, clip: float) -> Tensor:
    passes = _passes(network, data)
    formed = {i: _per_record(p) for i, p in enumerate(passes) if not p.ghost}
    squares = torch.zeros(len(data))
    for i, p in enumerate(passes):
        squares += _ghost_squares(p) if p.ghost else _squares(formed[i])
    norms = squares.sqrt()
    factors = (clip / norms.clamp(min=1e-30)).clamp(max=1.0)
    if not (finite := torch.isfinite(norms)).all():
        kept = finite.nonzero()[:, 0]
        factors = factors[kept]
        passes = [_Pass(p.layer, p.inputs[kept], p.outputs[kept]) for p in passes]
        formed = {i: [part[kept] for part in parts] for i, parts in formed.items()}
    parts: list[Tensor] = []
    for i, p in enumerate(passes):
        parts += _ghost_sum(p, factors) if p.ghost else [_weighted(part, factors) for part in formed[i]]
    return torch.cat([part.reshape(-1) for part in parts])


def _passes(network: Network, data: Data) -> list[_Pass]:
    x, seen = data.x, []
    with torch.enable_grad():
        for layer in network.layers:
            y = layer(x)
            if next(layer.parameters(), None) is not None:
                if not y.requires_grad:
                    y.requires_grad_()
                seen.append((layer, x.detach(), y))
            x = y
        loss = network.losses(x, data.y).sum()
        gradients = torch.autograd.grad(loss, [y for _, _, y in seen])
    return [_Pass(layer, x, gradient) for (layer, x, _), gradient in zip(seen, gradients, strict=True)]


def _ghost_squares(p: _Pass) -> Tensor:
    """|d a^T|^2 + |d|^2, the second where there is a bias."""
    inputs = p.inputs.square().sum(1)
    if p.layer.bias is not None:
        inputs = inputs + 1
    return inputs * p.outputs.square().sum(1)


def _ghost_sum(p: _Pass, factors: Tensor) -> list[Tensor]:
    weighted = p.outputs * factors[:, None]
    parts = [weighted.T @ p.inputs]
    return [*parts, weighted.sum(0)] if p.layer.bias is not None else parts


def _per_record(p: _Pass) -> list[Tensor]:
    """Each record's gradient of each of the layer's parameters, [records, *shape]."""
    names = [name for name, _ in p.layer.named_parameters()]
    if isinstance(p.layer, nn.Linear):
        parts = [torch.einsum("n...o,n...i->noi", p.outputs, p.inputs)]
        if p.layer.bias is not None:
            parts.append(p.outputs.reshape(len(p.outputs), -1, p.outputs.shape[-1]).sum(1))
        return parts
    values = {name: parameter.detach() for name, parameter in p.layer.named_parameters()}

    def one(inputs: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        back = vjp(lambda v: functional_call(p.layer, v, (inputs[None],))[0], values)[1]
        gradients: dict[str, Tensor] = back(outputs)[0]
        return gradients

    gradients = vmap(one)(p.inputs, p.outputs)
    return [gradients[name] for name in names]


def _squares(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0)


def _weighted(part: Tensor, factors: Tensor) -> Tensor:
    return factors @ part.flatten(1)

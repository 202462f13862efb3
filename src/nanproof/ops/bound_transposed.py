"""Bounds of transposed convolutions, phase by phase, and of those with quantised weights.

An output at place ``p`` gets the taps ``k`` with ``p = stride * i + dilation * k`` alone: with a stride of 2 a quarter
of them in two dimensions. Outputs of one phase get the same taps, but for those near a border, which miss some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from nanproof.ops.bound_contraction import conv
from nanproof.ops.bound_movement import merged
from nanproof.ops.bounding import Machine, Reading, UnboundedError, parameter
from nanproof.ops.record import ints
from nanproof.values.bound import Bound, outward

__all__ = ["conv_quantized", "conv_transpose"]

Cuts = Callable[..., Any]
"""What is cut off the full result at both ends of each dimension, as the rule of execution does it."""


@dataclass(frozen=True, slots=True)
class _Phases:
    """The taps of each phase of one dimension, and whether some place gets less than all of its phase, or nothing."""

    taps: list[list[int]]
    partly: bool


def _phases(size: int, kernel: int, stride: int, dilation: int, before: int, count: int) -> _Phases:
    every: dict[int, list[int]] = {}
    partly = False
    for place in range(before, before + count):
        phase = place % stride
        if phase not in every:
            every[phase] = [k for k in range(kernel) if (phase - k * dilation) % stride == 0]
        seen = sum(1 for k in every[phase] if 0 <= (place - k * dilation) // stride < size)
        partly = partly or seen < len(every[phase]) or not every[phase]
    return _Phases([taps for taps in every.values() if taps], partly)


def conv_transpose(cuts: Cuts) -> Callable[..., Bound]:
    """The rule of ``conv_transpose``, from what the rule of execution cuts off."""

    def rule(
        reading: Reading,
        x: Bound,
        weight: Bound,
        bias: Bound | None = None,
        pad: Bound | None = None,
        output_shape: Bound | None = None,
        pad_type: str = "valid",
        strides: Bound | None = None,
        dilations: Bound | None = None,
        groups: Bound | None = None,
    ) -> Bound:
        if not all(b is None or b.finite for b in (x, weight, bias)):
            raise UnboundedError("a factor may be Inf or NaN")
        if not weight.fixed or (bias is not None and not bias.fixed):
            raise UnboundedError("its weights are computed")
        spatial, kernel, sizes = len(x.shape) - 2, weight.shape[2:], x.shape[2:]
        ones = [1] * spatial
        step, spread = (ones if v is None else ints(parameter(v, "strides")) for v in (strides, dilations))
        amounts = [0] * 2 * spatial if pad is None else ints(parameter(pad, "pad"))
        wanted = None if output_shape is None else ints(parameter(output_shape, "output_shape"))[2:]
        cut = cuts(pad_type, amounts, sizes, kernel, (step, spread), wanted)
        phases: list[_Phases] = []
        result: list[int] = []
        for size, taps, s, d, c in zip(sizes, kernel, step, spread, cut, strict=True):
            count = (size - 1) * s + (taps - 1) * d + 1 - c.before - c.after
            result.append(count)
            phases.append(_phases(size, taps, s, d, c.before, count))
        number = 1 if groups is None else int(parameter(groups, "groups"))
        low, high = merged(x, range(2, len(x.shape)))
        if any(p.partly for p in phases):
            low, high = low.clamp(max=0), high.clamp(min=0)
        low, high = (t.reshape(t.shape[0], t.shape[1]).expand(-1, x.shape[1]) for t in (low, high))
        channels = weight.shape[1] * number
        offset = torch.zeros(channels).double() if bias is None else bias.low.expand(channels)
        matrices = [_grouped(w, number) for w in _weights(weight.low.expand(weight.shape), phases)]
        depth = x.shape[1] // max(number, 1) * math.prod(kernel) + 1
        ends = [_sums(reading, (low, high), matrix, offset, depth) for matrix in matrices]
        if not ends:
            ends.append((offset.unsqueeze(0), offset.unsqueeze(0)))
        least, most = (torch.stack(torch.broadcast_tensors(*side)) for side in zip(*ends, strict=True))
        shape = (x.shape[0], channels, *result)
        box = (-1, channels, *ones)
        return Bound(shape, least.amin(0).reshape(box), most.amax(0).reshape(box))

    return rule


def _weights(w: Tensor, phases: Sequence[_Phases]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each phase the positive and the negative weights, the taps summed: ``(inputs, outputs of a group)``."""
    for taps in product(*(p.taps for p in phases)):
        part = w
        for axis, chosen in enumerate(taps, start=2):
            part = part.index_select(axis, torch.tensor(chosen))
        part = part.flatten(2)
        yield part.clamp(min=0).sum(-1), part.clamp(max=0).sum(-1)


def _grouped(weights: tuple[Tensor, Tensor], groups: int) -> tuple[Tensor, Tensor]:
    up, down = (w.reshape(groups, -1, w.shape[1]) for w in weights)
    return up, down


def _sums(
    reading: Reading, x: tuple[Tensor, Tensor], weights: tuple[Tensor, Tensor], offset: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The bounds of one phase, ``(images, channels)``, as the unit adds its products up."""
    (low, high), (up, down), machine = x, weights, reading.machine
    low, high = (t.reshape(t.shape[0], up.shape[0], -1) for t in (low, high))

    def through(matrix: Tensor, data: Tensor) -> Tensor:
        return torch.einsum("ngi,gio->ngo", data, matrix).flatten(1)

    least, most = through(up, low) + through(down, high), through(up, high) + through(down, low)
    above, below = high.clamp(min=0), low.clamp(max=0)
    positive = through(up, above) + through(down, below) + offset.clamp(min=0)
    negative = through(up, below) + through(down, above) + offset.clamp(max=0)
    partial = outward(torch.maximum(positive, -negative))
    size = torch.maximum(low.abs(), high.abs())
    factors = sum(float(t.max()) for t in (size, up - down) if t.numel())
    lost = machine.lost + machine.flushed * factors  # all of a product, where a factor is read as zero
    reading.accumulated(partial * (1 + count * machine.unit) + count * lost)
    total = outward(through(up - down, size)) + offset.abs()
    error = _error(machine, total, count, lost)
    return least + offset - error, most + offset + error


def _error(machine: Machine, total: Tensor, count: int, lost: float) -> Tensor:
    return outward(total * (count * machine.unit)) + count * lost + total * 2.0**-36


def conv_quantized(
    reading: Reading,
    x: Bound,
    weight: Bound,
    quantization_type: str,
    quant_scale: Bound,
    quant_bias: Bound,
    bias: Bound | None = None,
    nbits: Bound | None = None,
    **windows: Any,
) -> Bound:
    """A convolution with the weights that the unit makes of the quantised ones."""
    if quantization_type != "linear":
        raise UnboundedError(f"weights of the quantisation '{quantization_type}' are not known")
    levels = parameter(weight, "weight").float()
    shape = (-1, *(1,) * (levels.dim() - 1))
    scale, shift = (
        p.reshape(shape) if p.numel() > 1 else p.reshape(())
        for p in (parameter(quant_scale, "quant_scale"), parameter(quant_bias, "quant_bias"))
    )
    rounded = reading.machine.arithmetic.round
    return conv(reading, x, Bound.constant(rounded(rounded(levels * scale) + shift)), bias, **windows)

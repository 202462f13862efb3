"""Where the windows of a convolution or a pooling lie: paddings and output sizes from ``pad_type``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from nanproof.values.memory import affordable

__all__ = ["Padding", "pad_spatial", "paddings"]


class Padding(NamedTuple):
    """Elements added before and after one spatial dimension; a negative number crops."""

    before: int
    after: int


def paddings(
    pad_type: str,
    pad: Sequence[int],
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[Padding]:
    """The padding of every spatial dimension.

    ``same`` makes ``ceil(size / stride)`` windows and puts an odd element at the end, ``same_lower`` at the start. That
    is what coremltools infers, and its tests compare with Core ML; the formula in the docstring of ``conv``, which
    forgets the stride, holds for stride 1 and odd kernels only.

    Raises:
        ValueError: There is no such ``pad_type``.
    """
    if pad_type == "valid":
        return [Padding(0, 0) for _ in sizes]
    if pad_type == "custom":
        return [Padding(*pad[2 * i : 2 * i + 2]) for i in range(len(sizes))]
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"pad_type '{pad_type}' is none of valid, same, same_lower, custom")
    result: list[Padding] = []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        windows = -(-size // stride)
        total = max(0, (windows - 1) * stride + (taps - 1) * dilation + 1 - size)
        less, more = total // 2, total - total // 2
        result.append(Padding(less, more) if pad_type == "same" else Padding(more, less))
    return result


def pad_spatial(x: Tensor, padding: Sequence[Padding], value: float = 0.0) -> Tensor:
    """``x`` of shape ``(n, c, *sizes)`` with its spatial dimensions padded by ``value``, or cropped."""
    if not any(p.before or p.after for p in padding):
        return x
    affordable([*x.shape[:2], *(n + p.before + p.after for n, p in zip(x.shape[2:], padding, strict=True))])
    flat = [amount for p in reversed(padding) for amount in p]  # PyTorch counts dimensions from the last
    return F.pad(x, flat, value=value)

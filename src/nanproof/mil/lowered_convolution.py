"""Convolutions by weights that are computed: MIL's transposed convolution, and its dilation, want constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanproof.mil.coreml import mb, promote_input_dtypes, register_torch_op, torch_ops

__all__ = ["convolution"]


@register_torch_op(override=True, torch_alias=["convolution.default"])
def convolution(context: Any, node: Any) -> None:
    """``aten.convolution``: 9.0 fails for a transposed or dilated one whose weights are no constants."""
    inputs = torch_ops._get_inputs(context, node, min_expected=9)
    weight, transposed = inputs[1], bool(inputs[6].val)
    stride, padding, dilation, extra = (_each(inputs[i].val, weight.rank - 2) for i in (3, 4, 5, 7))
    late = transposed and sum(extra) > 0 and (sum(padding) == 0 or weight.rank == 5)
    if weight.val is None and (transposed or max(dilation) > 1):
        pass
    elif not late:
        torch_ops._convolution(context, node)
        return
    x, weight = promote_input_dtypes([inputs[0], weight])
    groups, bias = int(inputs[8].val), inputs[2]
    if transposed:
        reach = [gap * (size - 1) - pad for gap, size, pad in zip(dilation, weight.shape[2:], padding, strict=True)]
        x, weight = _stretched(x, stride), _turned(weight, groups)
        pads, stride = [(before, before + more) for before, more in zip(reach, extra, strict=True)], [1] * len(stride)
    else:
        pads = [(pad, pad) for pad in padding]
    result = mb.conv(
        x=_padded(x, pads), weight=_stretched(weight, dilation), strides=stride, pad_type="valid", groups=groups
    )
    if bias is not None:
        bias = mb.reshape(x=bias, shape=[1, -1] + [1] * len(stride))
        result = mb.add(x=result, y=bias)
    context.add(mb.identity(x=result, name=node.name))


def _each(given: Any, axes: int) -> list[int]:
    values = [int(value) for value in np.reshape(given, -1)]
    return values * axes if len(values) == 1 else values


def _stretched(x: Any, steps: Sequence[int]) -> Any:
    """``x`` with zeros between the neighbours along each spatial axis, so that they lie ``steps`` apart."""
    for i, step in enumerate(steps):
        axis, shape = i + 2, list(x.shape)
        if step == 1:
            continue
        before, behind = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
        rows = mb.reshape(x=x, shape=[before, shape[axis], 1, behind])
        rows = mb.pad(x=rows, pad=[0, 0, 0, 0, 0, step - 1, 0, 0], mode="constant", constant_val=0.0)
        rows = mb.reshape(x=rows, shape=[before, shape[axis] * step, behind])
        length = (shape[axis] - 1) * step + 1
        rows = mb.slice_by_size(x=rows, begin=[0, 0, 0], size=[before, length, behind])
        x = mb.reshape(x=rows, shape=[*shape[:axis], length, *shape[axis + 1 :]])
    return x


def _turned(weight: Any, groups: int) -> Any:
    """The weight (in, out / groups, ...) of a transposed convolution as (out, in / groups, ...) of a plain one."""
    inputs, outputs, *sizes = weight.shape
    weight = mb.reverse(x=weight, axes=list(range(2, weight.rank)))
    weight = mb.reshape(x=weight, shape=[groups, inputs // groups, outputs, int(np.prod(sizes))])
    weight = mb.transpose(x=weight, perm=[0, 2, 1, 3])
    return mb.reshape(x=weight, shape=[groups * outputs, inputs // groups, *sizes])


def _padded(x: Any, pads: Sequence[tuple[int, int]]) -> Any:
    """``x`` with zeros around its spatial axes, or cropped where the amounts are negative."""
    begin = [0, 0, *(max(-before, 0) for before, _ in pads)]
    cut = [0, 0, *(max(-behind, 0) for _, behind in pads)]
    if any(begin) or any(cut):
        size = [length - first - last for length, first, last in zip(x.shape, begin, cut, strict=True)]
        x = mb.slice_by_size(x=x, begin=begin, size=size)
    amounts = [max(amount, 0) for pair in pads for amount in pair]
    if any(amounts):
        x = mb.pad(x=x, pad=[0, 0, 0, 0, *amounts], mode="constant", constant_val=0.0)
    return x

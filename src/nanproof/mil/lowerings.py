"""Torch ops that the released coremltools lacks, or lowers to something else, registered the documented way.

Importing this module registers them for the process. Each has a test against PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanproof.mil.coreml import mb, promote_input_dtypes, register_torch_op, torch_ops, types

__all__ = [
    "alias",
    "clamp",
    "div",
    "gelu",
    "grid_sampler_2d",
    "prod",
    "reciprocal",
    "scalar_tensor",
    "where",
]


@register_torch_op(override=True)
def alias(context: Any, node: Any) -> None:
    """``aten.alias``: full slices such as ``x[:, 0:]``, which torch.export leaves in the graph. Absent in 9.0."""
    (x,) = torch_ops._get_inputs(context, node, expected=1)
    context.add(mb.identity(x=x, name=node.name))


@register_torch_op(override=True)
def gelu(context: Any, node: Any) -> None:
    """``aten.gelu``: 9.0 ignores the keyword ``approximate`` under torch.export and always computes the exact form."""
    inputs: list[Any] = torch_ops._get_inputs(context, node, min_expected=1)
    given = inputs[1] if len(inputs) > 1 else torch_ops._get_kwinputs(context, node, "approximate", default=[None])[0]
    approximate: str = getattr(given, "val", given) or "none"
    mode = {"none": "EXACT", "tanh": "TANH_APPROXIMATION"}[approximate]
    context.add(mb.gelu(x=inputs[0], mode=mode, name=node.name))


@register_torch_op(override=True)
def reciprocal(context: Any, node: Any) -> None:
    """``aten.reciprocal``: 9.0 emits ``inverse`` with its default epsilon, which computes ``1 / (x + 1e-4)``."""
    (x,) = torch_ops._get_inputs(context, node, expected=1)
    if types.is_int(x.dtype):
        x = mb.cast(x=x, dtype="fp32")
    one = np.array(1.0, types.nptype_from_builtin(x.dtype))
    context.add(mb.real_div(x=one, y=x, name=node.name))


@register_torch_op(override=True)
def clamp(context: Any, node: Any) -> None:
    """``aten.clamp``: 9.0 gives an integer with one bound a float one for the other, and rounds it beyond 2^24."""
    inputs: list[Any] = torch_ops._get_inputs(context, node, min_expected=1)
    x: Any = inputs[0]
    low, high = (*inputs[1:], None, None)[:2]
    bounds = [bound for bound in (low, high) if bound is not None]
    if not types.is_int(x.dtype) or not all(types.is_int(bound.dtype) for bound in bounds):
        torch_ops.clamp(context, node)
        return
    if low is not None:
        x = mb.maximum(x=x, y=low)
    if high is not None:
        x = mb.minimum(x=x, y=high)
    context.add(mb.identity(x=x, name=node.name))


@register_torch_op(override=True, torch_alias=["prod.dim_int", "prod.default"])
def prod(context: Any, node: Any) -> None:
    """``aten.prod``, which 9.0 lacks."""
    inputs = torch_ops._get_inputs(context, node, min_expected=1)
    axes = [inputs[1].val] if len(inputs) > 1 else None
    keep = bool(inputs[2].val) if len(inputs) > 2 else False
    context.add(mb.reduce_prod(x=inputs[0], axes=axes, keep_dims=keep, name=node.name))


@register_torch_op(override=True, torch_alias=["grid_sampler_2d.default"])
def grid_sampler_2d(context: Any, node: Any) -> None:
    """``aten.grid_sampler_2d``: 9.0 knows it as ``grid_sampler`` only, which torch.export does not write."""
    torch_ops.grid_sampler(context, node)


@register_torch_op(override=True, torch_alias=["where.self"])
def where(context: Any, node: Any) -> None:
    """``aten.where``: 9.0 tiles all three operands to one shape first, and fails where that has no axes.

    ``select`` broadcasts by itself, but does not count the axes of its condition.
    """
    inputs = torch_ops._get_inputs(context, node)
    if len(inputs) == 1:
        torch_ops._nonzero_as_tuple(context, node, inputs[0])
        return
    cond, a, b = inputs
    a, b = promote_input_dtypes([a, b])
    cond = cond if types.is_bool(cond.dtype) else mb.cast(x=cond, dtype="bool")
    shapes = [tuple(x.shape) for x in (cond, a, b)]
    if all(isinstance(size, (int, np.integer)) for shape in shapes for size in shape):
        whole = np.broadcast_shapes(*shapes)
        if whole != np.broadcast_shapes(*shapes[1:]):
            a = _spread(a, whole)
    context.add(mb.select(cond=cond, a=a, b=b, name=node.name))


def _spread(x: Any, shape: tuple[int, ...]) -> Any:
    """A value repeated to a shape that it can be broadcast to."""
    missing = len(shape) - x.rank
    x = mb.expand_dims(x=x, axes=list(range(missing))) if missing else x
    return mb.tile(x=x, reps=[wide // own for wide, own in zip(shape, x.shape, strict=True)])


@register_torch_op(override=True, torch_alias=["scalar_tensor.default"])
def scalar_tensor(context: Any, node: Any) -> None:
    """``aten.scalar_tensor``, in the dtype that it names: 9.0 ignores it."""
    value = torch_ops._get_inputs(context, node, min_expected=1)[0]
    number = getattr(value, "val", value)
    dtype = torch_ops._get_kwinputs(context, node, "dtype", default=[None])[0]
    kind = {"int32": np.int32, "bool": np.bool_}.get(torch_ops.NUM_TO_DTYPE_STRING[dtype.val] if dtype else "")
    context.add(mb.const(val=(kind or np.float32)(number), name=node.name))


@register_torch_op(override=True, torch_alias=["truediv"])
def div(context: Any, node: Any) -> None:
    """``aten.div``: 9.0 divides integers as floats with either rounding, wrong beyond 2^24, and returns floats."""
    x, y = torch_ops._get_inputs(context, node, min_expected=2)[:2]
    rounding = torch_ops._get_kwinputs(context, node, "rounding_mode", default=[None])[0]
    rounding = getattr(rounding, "val", rounding)
    if rounding is None or not (types.is_int(x.dtype) and types.is_int(y.dtype)):
        torch_ops.div(context, node)
    elif rounding == "floor":
        context.add(mb.floor_div(x=x, y=y, name=node.name))
    else:
        size = mb.floor_div(x=mb.abs(x=x), y=mb.abs(x=y))
        context.add(mb.mul(x=size, y=mb.mul(x=mb.sign(x=x), y=mb.sign(x=y)), name=node.name))

"""Torch ops that the released coremltools lacks, or lowers to something else, registered the documented way.

Importing this module registers them for the process. Each has a test against PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanproof.mil.coreml import mb, register_torch_op, torch_ops, types

__all__ = ["alias", "clamp", "gelu", "grid_sampler_2d", "prod", "reciprocal"]


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

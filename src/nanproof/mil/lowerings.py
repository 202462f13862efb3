"""Torch ops that the released coremltools lacks, or lowers to something else, registered the documented way.

Importing this module registers them for the process. Each has a test against PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanproof.mil.coreml import mb, register_torch_op, torch_ops, types

__all__ = ["alias", "gelu", "lstm_input", "reciprocal"]


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


@register_torch_op(override=True, torch_alias=["lstm.input"])
def lstm_input(context: Any, node: Any) -> None:
    """``aten.lstm.input``: 9.0 lowers ``lstm`` as TorchScript writes it, a node with three results and not one tuple."""
    (name,) = node.outputs
    node.outputs = [f"{name}_{part}" for part in ("output", "h", "c")]
    torch_ops.lstm(context, node)
    context.add(tuple(context[part] for part in node.outputs), torch_name=name)


@register_torch_op(override=True)
def reciprocal(context: Any, node: Any) -> None:
    """``aten.reciprocal``: 9.0 emits ``inverse`` with its default epsilon, which computes ``1 / (x + 1e-4)``."""
    (x,) = torch_ops._get_inputs(context, node, expected=1)
    if types.is_int(x.dtype):
        x = mb.cast(x=x, dtype="fp32")
    one = np.array(1.0, types.nptype_from_builtin(x.dtype))
    context.add(mb.real_div(x=one, y=x, name=node.name))

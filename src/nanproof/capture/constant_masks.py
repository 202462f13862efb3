"""Attention masks that are the same for every input, and hide nothing.

Hugging Face models make a mask of ones when they are exported without one, where the same model in eager mode passes
none. Decomposed, each layer would apply it and guard against rows that it might mask everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.node import map_arg

__all__ = ["drop_empty_masks"]

_MASK = 3
"""Position of ``attn_mask`` among the arguments of ``scaled_dot_product_attention``."""


def drop_empty_masks(exported: ExportedProgram) -> None:
    """Remove, in place, each boolean attention mask that is a constant of the graph and true everywhere."""
    known = _lifted(exported)
    dropped = False
    for node in exported.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default and len(node.args) > _MASK:
            mask = _value(node.args[_MASK], known)
            if isinstance(mask, Tensor) and mask.dtype == torch.bool and bool(mask.all()):
                node.update_arg(_MASK, None)
                dropped = True
    if dropped:
        exported.graph.eliminate_dead_code()
        exported.graph_module.recompile()


def _lifted(exported: ExportedProgram) -> dict[fx.Node, Any]:
    """The tensors that the module's code wrote out. Parameters and buffers are not among them: they may be changed."""
    names = {
        spec.arg.name: exported.constants[spec.target]
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.CONSTANT_TENSOR and spec.target is not None and spec.target in exported.constants
    }
    return {node: names[node.name] for node in exported.graph.nodes if node.name in names}


class _UnknownError(Exception):
    """A value depends on an input."""


def _value(argument: Any, known: dict[fx.Node, Any]) -> Any:
    """The value of an argument, or ``None`` if it depends on an input or a parameter."""

    def evaluated(node: fx.Node) -> Any:
        return _evaluated(node, known)

    try:
        return map_arg(argument, evaluated)
    except _UnknownError:
        return None


def _evaluated(node: fx.Node, known: dict[fx.Node, Any]) -> Any:
    if node not in known:
        if not isinstance(node.target, OpOverload) or torch.Tag.nondeterministic_seeded in node.target.tags:
            raise _UnknownError

        def evaluated(inner: fx.Node) -> Any:
            return _evaluated(inner, known)

        args, kwargs = map_arg((node.args, node.kwargs), evaluated)
        known[node] = node.target(*args, **kwargs)
    return known[node]

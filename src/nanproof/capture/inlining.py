"""Blocks under ``torch.no_grad()`` and ``autocast(enabled=False)`` → the ops that stand in them.

torch.export wraps such a block in an operator with a graph of its own. A decomposition looks through it, but then the
lines of Python within are lost (Hugging Face's rotary embeddings are such a block).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

__all__ = ["inline_blocks"]

_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast


def inline_blocks(exported: ExportedProgram) -> None:
    """Put the ops of each such block in its place, in place. Autocast that is enabled stays: it changes dtypes."""
    module = exported.graph_module
    while blocks := {node: block for node in module.graph.nodes if (block := _block(node))}:
        for node, block in blocks.items():  # each may hold another one
            _inline(module, node, *block)
    module.recompile()


def _inline(module: fx.GraphModule, node: fx.Node, reference: fx.Node, operands: tuple[Any, ...]) -> None:
    inner: fx.GraphModule = getattr(module, str(reference.target))
    holders = [n for n in inner.graph.nodes if n.op == "placeholder"]
    values: dict[Any, Any] = dict(zip(holders, operands, strict=True))
    with module.graph.inserting_before(node):
        results: Any = module.graph.graph_copy(inner.graph, values)
    for fresh in values.values():
        if isinstance(fresh, fx.Node) and fresh.op == "get_attr" and fresh not in operands:
            name = f"{reference.target}_{fresh.target}"  # the block's own graphs, under names of its own
            setattr(module, name, getattr(inner, str(fresh.target)))
            fresh.target = name
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # each is a getitem
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    if not reference.users:
        module.graph.erase_node(reference)
        # One by one: `delete_all_unused_submodules` also takes the graphs within those that are used.
        module.delete_submodule(str(reference.target))


def _block(node: fx.Node) -> tuple[fx.Node, tuple[Any, ...]] | None:
    """The graph of the block that a node runs, and what it runs it on."""
    if node.target is _GRAD:
        return node.args[1], tuple(node.args[2:])  # type: ignore[return-value]
    if node.target is _AUTOCAST and node.args[2] is False:
        return node.args[4], tuple(node.args[5:])  # type: ignore[return-value]
    return None

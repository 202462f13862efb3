"""The branches of ``torch.cond`` and the bodies of ``while_loop``, in the form in which they can be lowered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram

from nanproof.errors import CaptureError
from nanproof.mil.control_flow import BLOCKS
from nanproof.program import Source

__all__ = ["attach_blocks", "nodes_of"]

_PARTS = {torch.ops.higher_order.cond: ("then", "else"), torch.ops.higher_order.while_loop: ("test", "body")}


def attach_blocks(exported: ExportedProgram, libraries: tuple[str, ...]) -> None:
    """Hang the graph of each block on its node, in place, and give all nodes names of their own.

    Args:
        exported: The program, decomposed.
        libraries: As for :meth:`nanproof.program.Source.of_trace`.

    Raises:
        CaptureError: The program has an operator with blocks that is neither ``cond`` nor ``while_loop``.
    """
    _attach(exported.graph_module, libraries)


def _attach(module: fx.GraphModule, libraries: tuple[str, ...]) -> None:
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, HigherOrderOperator):
            continue
        if node.target not in _PARTS:
            _refuse(node, libraries)
        graphs, operands = _split(node)
        blocks = [getattr(module, str(graph.target)) for graph in graphs]
        node.meta[BLOCKS] = blocks
        node.args = tuple(operands)
        for graph in graphs:
            if not graph.users:
                module.graph.erase_node(graph)
        for block, part in zip(blocks, _PARTS[node.target], strict=True):
            _attach(block, libraries)
            for inner in block.graph.nodes:
                inner.name = f"{node.name}_{part}_{inner.name}"


def _split(node: fx.Node) -> tuple[list[fx.Node], list[Any]]:
    """The graphs of a node, and its other arguments: lists, since coremltools takes no tuples."""
    graphs = [a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    others = [list(a) if isinstance(a, tuple) else a for a in node.args if a not in graphs]
    return graphs, others


def _refuse(node: fx.Node, libraries: tuple[str, ...]) -> None:
    source = Source.of_trace(node.meta.get("stack_trace") or "", libraries=libraries)
    where = f"\n  at {source}: {source.code}" if source else ""
    raise CaptureError(
        f"The model uses the operator '{node.target}', which runs a function of yours, and for which ML "
        f"Programs have no operation.{where}\n  torch.cond and while_loop convert; write the others out with plain "
        "tensor operations, or a Python loop of fixed length."
    )


def nodes_of(exported: ExportedProgram) -> Iterator[fx.Node]:
    """All nodes of a program, those of blocks included."""
    yield from _nodes(exported.graph)


def _nodes(graph: fx.Graph) -> Iterator[fx.Node]:
    for node in graph.nodes:
        yield node
        for block in node.meta.get(BLOCKS, ()):
            yield from _nodes(block.graph)

"""``torch.cond`` and ``while_loop`` as MIL ``cond`` and ``while_loop``, which coremltools 9.0 lacks under torch.export.

Importing this module registers them for the process, the documented way. The graphs of branches and bodies come in the
metadata of their node under :data:`BLOCKS` (see :mod:`nanproof.capture.control_flow`), since coremltools hands on the
metadata and refuses graphs among the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nanproof.mil.coreml import TorchNode, convert_node, mb, register_torch_op, torch_ops

__all__ = ["BLOCKS", "cond", "while_loop"]

BLOCKS = "nanproof_blocks"
"""Key of a node's metadata: the ``GraphModule`` of each block, for ``cond`` then and else, for a loop test and body."""


@register_torch_op(override=True)
def cond(context: Any, node: Any) -> None:
    """``torch.cond``: one of two blocks runs, on the same operands."""
    predicate, operands = torch_ops._get_inputs(context, node, expected=2)
    then, otherwise = node.meta[BLOCKS]
    results = mb.cond(
        pred=_flag(predicate),
        _true_fn=lambda: tuple(_block(context, then, operands)),
        _false_fn=lambda: tuple(_block(context, otherwise, operands)),
        name=node.name,
    )
    context.add(_tuple(results), torch_name=node.name)


@register_torch_op(override=True)
def while_loop(context: Any, node: Any) -> None:
    """``while_loop``: the body runs on the carried values as long as the test holds; further operands stay the same."""
    carried, fixed = torch_ops._get_inputs(context, node, expected=2)
    test, body = node.meta[BLOCKS]

    def holds(*values: Any) -> Any:
        return _flag(_block(context, test, [*values, *fixed])[0])

    def turn(*values: Any) -> tuple[Any, ...]:
        return tuple(_block(context, body, [*values, *fixed]))

    results = mb.while_loop(
        _cond=holds,
        _body=turn,
        # A constant would give the loop its value as a type.
        loop_vars=tuple(mb.identity(x=value) for value in carried),
        name=node.name,
    )
    context.add(_tuple(results), torch_name=node.name)


def _block(context: Any, module: Any, operands: Sequence[Any]) -> list[Any]:
    """Lower a block in the scope of its operands; the values that it returns."""
    nodes = list(module.graph.nodes)
    context.push(([node.name for node in nodes if node.op == "placeholder"], list(operands)))
    returned: list[Any] = []
    for node in nodes:
        if node.op == "get_attr":
            value: Tensor = getattr(module, node.target)
            context.add(mb.const(val=value.numpy(), name=node.name), torch_name=node.name)
        elif node.op == "call_function":
            convert_node(context, TorchNode.from_exir_node(node=node))
        elif node.op == "output":
            values = node.args[0] if isinstance(node.args[0], (tuple, list)) else [node.args[0]]
            # A block may return what was handed in, and MIL wants values of the block's own.
            returned = [mb.identity(x=context[value.name], name=f"{value.name}_returned") for value in values]
    context.pop()
    return returned


def _flag(predicate: Any) -> Any:
    """A truth value without axes, as MIL wants it."""
    return mb.squeeze(x=predicate) if predicate.rank else predicate


def _tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)

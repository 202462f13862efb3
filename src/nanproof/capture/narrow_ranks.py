"""Tensors of more axes than the five that MIL knows, as tensors of fewer: axes that stay side by side become one.

Windows, patches and heads are written with six axes and more (``x.view(b, h, p, w, p, c).permute(0, 1, 3, 2, 4, 5)``).
Their elements lie in the same order without the axes of length one and with neighbours merged, and what is done along
an axis is done along the merged one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx.node import map_arg

__all__ = ["narrow_ranks"]

aten = torch.ops.aten
_MOST = 5
_MOVES_NOTHING = (
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.squeeze.default, aten.alias.default, aten.clone.default,
)  # fmt: skip
_REDUCES = (aten.sum.dim_IntList, aten.mean.dim, aten.mean.default, aten.amax.default, aten.amin.default)
_ALONG = (aten.select.int, aten.slice.Tensor, aten._softmax.default, aten.cumsum.default)


def narrow_ranks(exported: ExportedProgram) -> None:
    """Rewrite, in place, the operators that take or give tensors of more than five axes.

    Nothing is changed if one of them is none of those that this knows: moves, permutations, elementwise operators,
    broadcasts, reductions, slices and concatenations, all of known sizes.
    """
    nodes = [n for n in exported.graph.nodes if n.op == "call_function" and any(map(_is_wide, (n, *n.all_input_nodes)))]
    returned: Any = exported.graph.output_node().args[0]
    if not nodes or not all(map(_is_known, nodes)) or any(map(_is_wide, returned)):
        return
    narrowed = _Narrowed(exported.graph)
    for node in nodes:
        narrowed.rewrite(node)
    for node in reversed(nodes):
        if not node.users:
            exported.graph.erase_node(node)
    exported.graph_module.recompile()


def _shape(node: Any) -> tuple[Any, ...]:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _is_wide(node: Any) -> bool:
    return len(_shape(node)) > _MOST


def _is_known(node: fx.Node) -> bool:
    shapes = [_shape(n) for n in (node, *node.all_input_nodes)]
    if not all(isinstance(size, int) for shape in shapes for size in shape):
        return False
    if any(n.op == "placeholder" and _is_wide(n) for n in node.all_input_nodes):
        return False
    target: Any = node.target
    known = (*_MOVES_NOTHING, *_REDUCES, *_ALONG, aten.permute.default, aten.expand.default, aten.cat.default)
    return target in known or torch.Tag.pointwise in getattr(target, "tags", ())


class _Narrowed:
    """The narrow node that holds the elements of each wide one, in the same order."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._narrow: dict[fx.Node, fx.Node] = {}

    def rewrite(self, node: fx.Node) -> None:
        with self._graph.inserting_before(node):
            made = self._made(node)
            if _is_wide(node):
                self._narrow[node] = made
            else:
                last = self._viewed(node, made, _shape(node))
                last = self._call(node, aten.alias.default, last) if last is self._elements(node.args[0]) else last
                node.replace_all_uses_with(last)
                node.name, last.name = f"{node.name}_wide", node.name  # outputs are known by name

    def _made(self, node: fx.Node) -> Any:
        target: Any = node.target
        if target in _MOVES_NOTHING:
            return self._elements(node.args[0])
        if target is aten.permute.default:
            return self._permuted(node)
        if target is aten.cat.default:
            return self._concatenated(node)
        if target in _ALONG:
            return self._along(node)
        if target in _REDUCES:
            return self._reduced(node)
        if target is aten.expand.default:
            return self._spread(node, node.args[0], _shape(node))
        return self._elementwise(node)

    def _elements(self, node: Any) -> Any:
        return self._narrow.get(node, node)

    def _call(self, like: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node beside another one, from the same line."""
        node = self._graph.call_function(target, args, kwargs)
        node.meta = dict(like.meta)
        given: Any = map_arg((args, kwargs), _value)
        node.meta["val"] = target(*given[0], **given[1])
        return node

    def _viewed(self, like: fx.Node, node: fx.Node, shape: Sequence[int]) -> fx.Node:
        if _shape(node) == tuple(shape):
            return node
        return self._call(like, aten.reshape.default, node, list(shape))

    def _permuted(self, node: fx.Node) -> fx.Node:
        """One permutation of merged axes, or one move after the other where more than five are left."""
        shape = _shape(node.args[0])
        order = [axis % len(shape) for axis in node.args[1] if shape[axis] != 1]  # type: ignore[union-attr]
        runs: list[list[int]] = []
        for axis in order:
            between = range(runs[-1][-1] + 1, axis) if runs and axis > runs[-1][-1] else None
            if between is not None and all(shape[a] == 1 for a in between):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        places = sorted(range(len(runs)), key=lambda i: runs[i][0])
        sizes = [math.prod(shape[a] for a in runs[i]) for i in places]
        wanted = [places.index(i) for i in range(len(runs))]
        x = self._elements(node.args[0])
        if len(sizes) <= _MOST:
            return self._call(node, aten.permute.default, self._viewed(node, x, sizes), wanted) if sizes else x
        current = list(range(len(sizes)))
        for i, axis in enumerate(wanted):
            at = current.index(axis)
            if at != i:
                parts = (current[:i], current[i:at], [axis], current[at + 1 :])
                four = [math.prod(sizes[a] for a in part) for part in parts]
                x = self._call(node, aten.permute.default, self._viewed(node, x, four), [0, 2, 1, 3])
                current.insert(i, current.pop(at))
        return x

    def _along(self, node: fx.Node) -> fx.Node:
        """An operator along one axis: with all before it, and all behind it, as one."""
        args = list(node.args)
        shape = _shape(args[0])
        axis = int(args[1] if len(args) > 1 else 0) % len(shape)  # type: ignore[call-overload]
        three = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
        x = self._viewed(node, self._elements(args[0]), three)
        return self._call(node, node.target, x, 1, *args[2:], **node.kwargs)

    def _concatenated(self, node: fx.Node) -> fx.Node:
        parts: Any = node.args[0]
        shape = _shape(node)
        axis = int(node.args[1] if len(node.args) > 1 else 0) % len(shape)  # type: ignore[call-overload]
        before = math.prod(shape[:axis])
        rows = [self._viewed(node, self._elements(p), [before, math.prod(_shape(p)) // before]) for p in parts]
        return self._call(node, aten.cat.default, rows, 1)

    def _reduced(self, node: Any) -> fx.Node:
        """A reduction: neighbours that are both reduced, or both not, as one axis."""
        shape = _shape(node.args[0])
        axes: Any = node.args[1] if len(node.args) > 1 and node.args[1] else range(len(shape))
        reduced = {axis % len(shape) for axis in ([axes] if isinstance(axes, int) else axes)}
        sizes, kinds = _merged([shape], [axis in reduced for axis in range(len(shape))])
        x = self._viewed(node, self._elements(node.args[0]), sizes[0])
        given = {name: value for name, value in node.kwargs.items() if name != "keepdim"}
        target = aten.mean.dim if node.target is aten.mean.default else node.target
        return self._call(node, target, x, [i for i, kind in enumerate(kinds) if kind], **given)

    def _elementwise(self, node: fx.Node) -> fx.Node:
        """An elementwise operator: neighbours that all operands have, or lack, together as one axis.

        Where more than five are left, operands are broadcast one axis after the other, and taken as one row.
        """
        whole = _shape(node)
        operands = [n for n in node.all_input_nodes if _shape(n)]
        shapes = [(*[1] * (len(whole) - len(_shape(n))), *_shape(n)) for n in operands]
        kinds = [tuple(shape[axis] == 1 for shape in shapes) for axis in range(len(whole))]
        sizes, found = _merged([*shapes, whole], kinds)
        if len(found) > _MOST:
            row = [math.prod(whole)]
            views = {n: self._viewed(node, self._spread(node, n, whole), row) for n in operands}
        else:
            views = {n: self._viewed(node, self._elements(n), own) for n, own in zip(operands, sizes, strict=False)}

        def view(operand: fx.Node) -> fx.Node:
            return views.get(operand, operand)

        args, kwargs = map_arg((node.args, node.kwargs), view)
        return self._call(node, node.target, *args, **kwargs)

    def _spread(self, like: fx.Node, operand: Any, whole: Sequence[int]) -> fx.Node:
        """An operand repeated to a shape, one axis after the other."""
        x, own = self._elements(operand), [*[1] * (len(whole) - len(_shape(operand))), *_shape(operand)]
        for axis, size in enumerate(whole):
            if own[axis] != size:
                three = [math.prod(own[:axis]), 1, math.prod(own[axis + 1 :])]
                x = self._viewed(like, x, three)
                x = self._call(like, aten.expand.default, x, [three[0], size, three[2]])
                own[axis] = size
        return x


def _merged(shapes: Sequence[Sequence[int]], kinds: Sequence[Any]) -> tuple[list[list[int]], list[Any]]:
    """Shapes with neighbouring axes of the same kind as one, and without those of length one in all."""
    groups: list[tuple[Any, list[int]]] = []
    for axis, kind in enumerate(kinds):
        if all(shape[axis] == 1 for shape in shapes):
            continue
        if groups and groups[-1][0] == kind:
            groups[-1][1].append(axis)
        else:
            groups.append((kind, [axis]))
    merged = [[math.prod(shape[a] for a in axes) for _, axes in groups] for shape in shapes]
    return merged, [kind for kind, _ in groups]

"""The author's FP32: what a module computes in float32 on purpose, inside code that runs in half precision.

``x.to(torch.float32)`` in an RMSNorm, a rotary embedding or a softmax asks for float32 whatever the rest is. In a
module of float32 it does nothing, and a float32 graph cannot tell it from the cast back, ``y.to(x.dtype)``. So such a
module is captured a second time, as a copy in half precision, and the two graphs are matched by the line of Python, the
module and the operator of each node. The copy's weights are never filled in, and nothing is computed.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from nanproof.capture.batch import Batch
from nanproof.program import Source

__all__ = ["Author", "Wish", "asks_for_float32", "author_of", "half_copy", "located", "wishes_in"]

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
_CASTS = frozenset(
    {aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default, aten._to_copy.default}
)
_OF_ONE_DTYPE = frozenset({
    "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "bilinear", "conv1d", "conv2d", "conv3d",
    "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "layer_norm", "group_norm",
    "batch_norm", "instance_norm", "rms_norm", "scaled_dot_product_attention", "lstm", "gru", "prelu", "grid_sampler",
})  # fmt: skip
"""Operators that refuse floats of several dtypes when they run, but not when they are captured."""
_MOST_COPIED = 4096
"""Elements up to which a tensor of the half copy holds its numbers, since code may read them."""
Located = Callable[[fx.Node], Source | None]


@dataclass(frozen=True, slots=True)
class Wish:
    """A connected region that a module computes in float32 on purpose.

    Attributes:
        cast: The line with the first cast of the region.
        nodes: Names of its nodes in the exported graph; from :func:`located` on, ``handles`` of the decomposed one.
    """

    cast: Source | None
    nodes: frozenset[str] = frozenset()
    handles: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Author:
    """What a module's code says of precision.

    Attributes:
        wishes: What it computes in float32 on purpose.
        unknown: Why that could not be found out, or an empty string.
        cast: The first cast to float32, where it could not be found out what it asks for.
    """

    wishes: tuple[Wish, ...] = ()
    unknown: str = ""
    cast: Source | None = None


def asks_for_float32(exported: ExportedProgram) -> list[fx.Node]:
    """The nodes of a float32 graph that cast float32 to float32: in half precision some of them would change it."""
    return [n for n in exported.graph.nodes if _names_float32(n) and torch.float32 in _operand_dtypes(n)]


def author_of(exported: ExportedProgram, export_half: Callable[[], ExportedProgram], located_at: Located) -> Author:
    """The wishes of a module of float32 weights, by nodes of its graph.

    Args:
        exported: Its graph.
        export_half: Captures it again, as a copy in half precision. It is called only where the graph has casts.
        located_at: The line of Python of a node.
    """
    casts = asks_for_float32(exported)
    if not casts:
        return Author()
    try:
        half = export_half()
    except Exception as error:  # the module is the user's code, and need not run in half precision
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return Author(unknown=f"the module cannot be captured in half precision ({reason})", cast=located_at(casts[0]))
    twins = _matched(half.graph.nodes, exported.graph.nodes, located_at)
    found = wishes_in(half, located_at)
    wishes: list[Wish] = []
    lost = 0
    for wish in found.wishes:
        names = frozenset(twins[name] for name in wish.nodes if name in twins)
        lost += len(wish.nodes) - len(names)
        wishes += [Wish(wish.cast, names)] if names else []
    if lost and not found.unknown:
        reason = f"{lost} operations of a copy in half precision have no counterpart in float32"
        return Author(tuple(wishes), reason, located_at(casts[0]))
    return Author(tuple(wishes), found.unknown, found.cast)


def wishes_in(exported: ExportedProgram, located_at: Located) -> Author:
    """The regions of a graph of half precision that are float32 because a cast in the code says so.

    A region is a wish if a cast opens it (half → float32) or closes it (float32 → half). A region with neither is
    float32 by promotion alone: tensors that the code made without a dtype. A region that ends in an operator which
    would refuse its dtypes is none: the code was never meant to run in half precision there.
    """
    refused, where = "", None
    wide = [n for n in exported.graph.nodes if n.op == "call_function" and _computes_in_float32(n)]
    wishes: list[Wish] = []
    for region in _connected(wide):
        members = set(region)
        mixed = next((n for n in region if _refuses(n)), None)
        if mixed is not None:
            refused = refused or f"{mixed.target} there would get float32 and half precision, which it refuses"
            where = where or located_at(mixed)
            continue
        opening = [n for n in region if _names_float32(n) and any(d in HALF for d in _operand_dtypes(n))]
        closing = [user for n in region for user in n.users if user not in members and _is_cast(user)]
        names = frozenset(n.name for n in region if not _is_cast(n))
        if names and (opening or any(_dtype(c) in HALF for c in closing)):
            first = opening or [n for n in region if _names_float32(n)] or closing
            wishes.append(Wish(located_at(first[0]), names))
    return Author(tuple(wishes), refused, where)


def located(author: Author, decomposed: ExportedProgram) -> Author:
    """The same wishes with the handles that the nodes of the decomposed graph have as ``debug_handle``."""
    by_name: dict[str, set[int]] = defaultdict(set)
    for node in decomposed.graph.nodes:
        origins = node.meta.get("from_node") or ()
        if node.op == "call_function" and origins:
            by_name[origins[-1].name].add(node.meta["debug_handle"])
    wishes = [Wish(w.cast, w.nodes, frozenset(h for n in w.nodes for h in by_name[n])) for w in author.wishes]
    return Author(tuple(w for w in wishes if w.handles), author.unknown, author.cast)


def half_copy(module: nn.Module, batch: Batch) -> tuple[nn.Module, Batch]:
    """A copy of a module and of a call in half precision, for shapes and dtypes alone.

    It is bfloat16: of float16 some modules clamp what they compute. Large tensors are reserved and not filled in, so
    that they cost no memory. The module stays as it is.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        held = [*part.parameters(recurse=False), *part.buffers(recurse=False), *vars(part).values()]
        for tensor in held:
            if isinstance(tensor, Tensor) and id(tensor) not in memo:
                memo[id(tensor)] = _halved(tensor)
    tensors = [t.to(torch.bfloat16) if t.dtype is torch.float32 else t for t in batch.tensors]
    return copy.deepcopy(module, memo), batch.with_tensors(tensors)


def _halved(tensor: Tensor) -> Tensor:
    dtype = torch.bfloat16 if tensor.dtype is torch.float32 else tensor.dtype
    data = tensor.detach()
    fresh = data.to(dtype, copy=True) if data.numel() <= _MOST_COPIED else torch.empty_like(data, dtype=dtype)
    return nn.Parameter(fresh, requires_grad=False) if isinstance(tensor, nn.Parameter) else fresh


def _is_cast(node: fx.Node) -> bool:
    return node.target in _CASTS


def _names_float32(node: fx.Node) -> bool:
    """Whether the call asks for float32: a cast to it, or an argument ``dtype``, as of ``softmax``."""
    if node.op != "call_function" or _dtype(node) is not torch.float32:
        return False
    return _is_cast(node) or torch.float32 in (*node.args, *node.kwargs.values())


def _refuses(node: fx.Node) -> bool:
    dtypes = {d for d in _operand_dtypes(node) if d is not None and d.is_floating_point}
    return len(dtypes) > 1 and getattr(node.target, "_opname", "") in _OF_ONE_DTYPE


def _computes_in_float32(node: fx.Node) -> bool:
    dtype = _dtype(node)
    if dtype is not None and dtype.is_floating_point:
        return dtype is torch.float32
    return dtype is not None and not _is_cast(node) and torch.float32 in _operand_dtypes(node)


def _dtype(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    return getattr(value, "dtype", None)


def _operand_dtypes(node: fx.Node) -> list[torch.dtype | None]:
    return [_dtype(n) for n in node.all_input_nodes]


def _connected(nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """The nodes in groups of those that read each other, in the order of execution."""
    home: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        groups = {id(home[n]): home[n] for n in node.all_input_nodes if n in home}
        merged = [n for group in groups.values() for n in group] + [node]
        home.update(dict.fromkeys(merged, merged))
    order = {node: i for i, node in enumerate(nodes)}
    return [sorted(group, key=order.__getitem__) for group in {id(g): g for g in home.values()}.values()]


def _matched(ours: Iterable[fx.Node], theirs: Iterable[fx.Node], located_at: Located) -> Mapping[str, str]:
    """The name of each node's twin in another capture of the same code.

    Twins are of the same operator, module and line, and as many as their like come before them. Where one capture has
    more of a kind than the other, none of them has a twin.
    """
    groups = [_kinds(nodes, located_at) for nodes in (ours, theirs)]
    return {
        our.name: their.name
        for kind, members in groups[0].items()
        for our, their in _pairs(members, groups[1].get(kind, ()))
    }


def _pairs(ours: Collection[fx.Node], theirs: Collection[fx.Node]) -> Iterable[tuple[fx.Node, fx.Node]]:
    return zip(ours, theirs, strict=True) if len(ours) == len(theirs) else ()


def _kinds(nodes: Iterable[fx.Node], located_at: Located) -> dict[Any, list[fx.Node]]:
    kinds: dict[Any, list[fx.Node]] = defaultdict(list)
    for node in nodes:
        if node.op == "call_function":
            kinds[str(node.target), located_at(node)].append(node)
    return kinds

"""Normalisation that stays whole, and returns the mean and the reciprocal deviation where they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanproof.mil.coreml import mb, register_torch_op, torch_ops

__all__ = ["native_group_norm", "native_layer_norm"]


class _Results(tuple[Any, ...]):
    """The results of an operator of which the first is there, and the others are built when they are taken."""

    _others: Callable[[], tuple[Any, ...]]

    @classmethod
    def of(cls, first: Any, others: Callable[[], tuple[Any, ...]]) -> _Results:
        made = cls((first, None, None))
        made._others = others
        return made

    def __getitem__(self, place: Any) -> Any:
        return super().__getitem__(place) if place == 0 else self._others()[place - 1]


@register_torch_op(override=True)
def native_layer_norm(context: Any, node: Any) -> None:
    """``aten.native_layer_norm``: 9.0 refuses weights that are no constants, and returns no mean and no deviation."""
    x, shape, weight, bias, epsilon = torch_ops._get_inputs(context, node, expected=5)
    axes = list(range(-len(shape.val), 0))
    known = {"gamma": weight, "beta": bias}
    given = {name: var for name, var in known.items() if var is not None and var.val is not None}
    constant = len(given) == sum(var is not None for var in known.values())
    result = mb.layer_norm(x=x, axes=axes, epsilon=epsilon, **(given if constant else {}))
    if not constant:
        result = result if weight is None else mb.mul(x=result, y=weight)
        result = result if bias is None else mb.add(x=result, y=bias)
    context.add(_Results.of(result, lambda: _statistics(x, axes, epsilon)), torch_name=node.name)


@register_torch_op(override=True)
def native_group_norm(context: Any, node: Any) -> None:
    """``aten.native_group_norm``, of which 9.0 returns no mean and no deviation."""
    x, weight, bias, batch, _, _, groups, epsilon = torch_ops._get_inputs(context, node, expected=8)
    result = torch_ops._group_norm_impl(x, groups.val, weight, bias, epsilon.val)

    def statistics() -> tuple[Any, ...]:
        rows = mb.reshape(x=x, shape=[batch.val, groups.val, -1])
        return tuple(mb.squeeze(x=each, axes=[-1]) for each in _statistics(rows, [-1], epsilon))

    context.add(_Results.of(result, statistics), torch_name=node.name)


def _statistics(x: Any, axes: list[int], epsilon: Any) -> tuple[Any, Any]:
    """The mean, and ``1 / sqrt(variance + epsilon)``, with the axes kept."""
    mean = mb.reduce_mean(x=x, axes=axes, keep_dims=True)
    off = mb.sub(x=x, y=mean)
    variance = mb.reduce_mean(x=mb.mul(x=off, y=off), axes=axes, keep_dims=True)
    return mean, mb.real_div(x=1.0, y=mb.sqrt(x=mb.add(x=variance, y=epsilon)))

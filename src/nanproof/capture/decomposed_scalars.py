"""Operators of tensors without axes, and of integers where MIL takes floats: both as calls that are lowered anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["admit_integers", "admit_scalars"]

aten = torch.ops.aten
Decomposition = Callable[..., Any]

_ONE_AXIS = (
    aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default, aten.prod.dim_int, aten.var.correction,
    aten.max.dim, aten.min.dim, aten.any.dim, aten.any.dims, aten.argmax.default, aten.argmin.default,
    aten.logsumexp.default, aten.linalg_vector_norm.default, aten._softmax.default, aten._log_softmax.default,
    aten.cumsum.default, aten.cumprod.default, aten.sort.default, aten.sort.stable, aten.topk.default,
    aten.gather.default, aten.index_select.default, aten.kthvalue.default, aten.median.dim, aten.scatter.src,
    aten.scatter.value, aten.scatter_add.default, aten.scatter_reduce.two, aten.cummax.default, aten.cummin.default,
    aten.logcumsumexp.default, aten.masked_scatter.default,
)  # fmt: skip
"""Operators along an axis, whose results have as many axes as ``x``: none, for an ``x`` without."""
_SAME = (aten.squeeze.dims, aten.squeeze.dim, aten.flip.default, aten.permute.default, aten.expand.default)
"""Operators that only move elements, and so return what has no axes as it is."""
_FLOATING = (
    aten.acos.default, aten.asin.default, aten.atan.default, aten.atanh.default, aten.cos.default, aten.cosh.default,
    aten.erf.default, aten.exp.default, aten.exp2.default, aten.expm1.default, aten.log.default, aten.log10.default,
    aten.log1p.default, aten.log2.default, aten.rsqrt.default, aten.sigmoid.default, aten.sin.default,
    aten.sinh.default, aten.sqrt.default, aten.tan.default, aten.tanh.default,
)  # fmt: skip
"""Operators of which PyTorch takes integers as floats, and MIL does not take integers."""
_WHOLE = (aten.ceil.default, aten.floor.default, aten.round.default, aten.trunc.default)
"""Operators that return integers as they are."""
_INTEGRAL = (
    aten.relu.default, aten.hardtanh.default, aten.convolution.default, aten.avg_pool1d.default,
    aten.avg_pool2d.default, aten.avg_pool3d.default, aten.max_pool2d_with_indices.default,
    aten.max_pool3d_with_indices.default,
)  # fmt: skip
"""Operators that return integers of integers. In float32 they are exact up to 2^24."""


def admit_scalars(decompositions: Any) -> None:
    """Let the operators of a table take tensors without axes, in place: as tensors of one element along one axis."""
    for operator in _ONE_AXIS:
        decompositions[operator] = _on_one_axis(operator, _present(decompositions, operator))
    for operator in _SAME:
        decompositions[operator] = _unmoved(_present(decompositions, operator))
    full = _present(decompositions, aten.full.default)
    decompositions[aten.full.default] = _full(full)


def admit_integers(decompositions: Any) -> None:
    """Let the operators of a table take integers, in place."""
    for operator in _FLOATING:
        decompositions[operator] = _as_float(operator, _present(decompositions, operator))
    for operator in _WHOLE:
        decompositions[operator] = _as_it_is(_present(decompositions, operator))
    for operator in _INTEGRAL:
        decompositions[operator] = _through_float(operator, _present(decompositions, operator))


def _present(decompositions: Any, operator: Any) -> Decomposition | None:
    """What a table has for an operator. PyTorch's own table has no working ``get``."""
    return decompositions[operator] if operator in decompositions else None  # noqa: SIM401


def _otherwise(decompose: Decomposition | None, *args: Any, **kwargs: Any) -> Any:
    return NotImplemented if decompose is None else decompose(*args, **kwargs)


def _on_one_axis(operator: Any, decompose: Decomposition | None) -> Decomposition:
    def decomposed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dim() or (args and args[0] == [] and operator is not aten.sum.dim_IntList):
            return _otherwise(decompose, x, *args, **kwargs)
        args, kwargs = tree_map(_with_axis, (args, kwargs))
        return tree_map(_without_axis, operator(x.reshape(1), *args, **kwargs))

    return decomposed


def _with_axis(given: Any) -> Any:
    return given.reshape(1) if isinstance(given, Tensor) and given.dim() == 0 else given


def _without_axis(result: Any) -> Any:
    return result.reshape(()) if isinstance(result, Tensor) else result


def _unmoved(decompose: Decomposition | None) -> Decomposition:
    def decomposed(x: Tensor, dims: Any, **kwargs: Any) -> Any:
        still = x.dim() == 0 and (not isinstance(dims, Sequence) or all(d in (0, -1) for d in dims))
        return aten.alias.default(x) if still or dims == [] else _otherwise(decompose, x, dims, **kwargs)

    return decomposed


def _full(decompose: Decomposition | None) -> Decomposition:
    def decomposed(size: Sequence[int], fill_value: Any, **kwargs: Any) -> Any:
        if size or (isinstance(fill_value, bool) and kwargs.get("dtype") is None):
            return _otherwise(decompose, size, fill_value, **kwargs)
        dtype = kwargs.get("dtype") or (torch.int64 if isinstance(fill_value, int) else torch.float32)
        return aten.scalar_tensor.default(fill_value, dtype=dtype)

    return decomposed


def _as_float(operator: Any, decompose: Decomposition | None) -> Decomposition:
    def decomposed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.is_floating_point() or x.is_complex():
            return _otherwise(decompose, x, *args, **kwargs)
        return operator(x.to(torch.float32), *args, **kwargs)

    return decomposed


def _as_it_is(decompose: Decomposition | None) -> Decomposition:
    def decomposed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        floating = x.is_floating_point() or x.is_complex()
        return _otherwise(decompose, x, *args, **kwargs) if floating else aten.alias.default(x)

    return decomposed


def _through_float(operator: Any, decompose: Decomposition | None) -> Decomposition:
    def decomposed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.is_floating_point() or x.is_complex():
            return _otherwise(decompose, x, *args, **kwargs)
        args, kwargs = tree_map(_floated, (args, kwargs))
        result = operator(x.to(torch.float32), *args, **kwargs)
        if isinstance(result, Tensor):
            return result.to(x.dtype)
        return (result[0].to(x.dtype), *result[1:])

    return decomposed


def _floated(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.to(torch.float32)
    return given

"""Reductions over axes, the index of an extremum, and the running sum.

Of integers, means, norms and logarithms are computed in float64 and truncated when stored, as coremltools folds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.ops import bound_reduction as bounds
from nanproof.ops.record import Note, OpDef, Rule, Sample, flag, float_block, int_block, op, reduction

__all__ = ["OPS"]


# ---------------------------------------------------------------------------------------------------------------------
# Rules. `dims` is sorted, without negatives; none at all reduces nothing.


def _sum(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return arithmetic.sum(x, dims, keepdim=keep)


def _mean(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return arithmetic.mean(x, dims, keepdim=keep)
    count = math.prod(x.shape[d] for d in dims)
    return torch.div(arithmetic.sum(x, dims, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _sum_square(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return arithmetic.sum(arithmetic.round(x * x), dims, keepdim=keep)


def _l1_norm(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return arithmetic.sum(x.abs(), dims, keepdim=keep)


def _l2_norm(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return arithmetic.function("sqrt", torch.sqrt, _real(_sum_square(arithmetic, x, dims, keep))).to(x.dtype)


def _log_sum(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return arithmetic.function("log", torch.log, _real(arithmetic.sum(x, dims, keepdim=keep))).to(x.dtype)


def _log_sum_exp(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    real = _real(x)
    if not arithmetic.max_shift:
        powers = arithmetic.function("exp", torch.exp, real)
        return arithmetic.function("log", torch.log, arithmetic.sum(powers, dims, keepdim=keep))
    largest = torch.amax(real, dims, keepdim=True) if dims else real
    powers = arithmetic.round(torch.exp(arithmetic.round(real - largest)))
    logarithm = arithmetic.round(torch.log(arithmetic.sum(powers, dims, keepdim=keep)))
    return (logarithm + largest.reshape(logarithm.shape)).to(x.dtype)


def _max(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.amax(x, dims, keepdim=keep) if dims else x


def _min(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.amin(x, dims, keepdim=keep) if dims else x


def _prod(arithmetic: Arithmetic, x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for d in reversed(dims):
        x = _product(arithmetic, x, d, keep)
    return x


def _product(arithmetic: Arithmetic, x: Tensor, dim: int, keep: bool) -> Tensor:
    if isinstance(arithmetic, SingleInside):
        return torch.prod(x, dim, keepdim=keep).to(x.dtype)
    total = torch.ones_like(x.narrow(dim, 0, 0).sum(dim))  # of no elements too
    for factor in x.unbind(dim):
        total = arithmetic.round(total * factor)
    return total.unsqueeze(dim) if keep else total


def _real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.float64)


def _arg(pick: Callable[..., Tensor]) -> Rule:
    """The index of an extremum along one axis."""

    def rule(
        arithmetic: Arithmetic,
        x: Tensor,
        axis: Tensor | int = -1,
        keep_dims: Tensor | bool = False,
        output_dtype: str = "int32",
    ) -> Tensor:
        return pick(x, int(axis), keepdim=flag(keep_dims)).to(torch.int32)

    return rule


def _cumsum(
    arithmetic: Arithmetic,
    x: Tensor,
    axis: Tensor | int = 0,
    exclusive: Tensor | bool = False,
    reverse: Tensor | bool = False,
) -> Tensor:
    dim = int(axis)
    data = x.flip(dim) if flag(reverse) else x
    sums = _running_sum(arithmetic, data, dim)
    if flag(exclusive) and x.shape[dim]:
        sums = torch.cat([torch.zeros_like(sums.narrow(dim, 0, 1)), sums.narrow(dim, 0, x.shape[dim] - 1)], dim)
    return sums.flip(dim) if flag(reverse) else sums


def _running_sum(arithmetic: Arithmetic, x: Tensor, dim: int) -> Tensor:
    if isinstance(arithmetic, SingleInside):
        return torch.cumsum(x, dim).to(x.dtype)
    if not x.shape[dim]:
        return x
    total = torch.zeros_like(x.select(dim, 0))
    sums: list[Tensor] = []
    for term in x.unbind(dim):
        total = arithmetic.round(total + term)
        sums.append(total)
    return torch.stack(sums, dim)


# ---------------------------------------------------------------------------------------------------------------------
# Samples


def _arg_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 4)
    yield Sample({"x": x})
    yield Sample({"x": x, "axis": np.int32(0), "keep_dims": True})
    yield Sample({"x": x, "axis": np.int32(1), "keep_dims": False, "output_dtype": "uint16"})
    yield Sample({"x": np.array([3, 9, -4, 2], np.int32), "output_dtype": "int32"})
    yield Sample({"x": np.array([[0.0, np.nan, 5.0], [np.inf, -np.inf, 0.0]], np.float32)})


def _cumsum_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 4)
    yield Sample({"x": x})
    for axis, exclusive, reverse in ((1, False, True), (-1, True, False), (2, True, True)):
        yield Sample({"x": x, "axis": np.int32(axis), "exclusive": exclusive, "reverse": reverse})
    yield Sample({"x": int_block(5, 2), "axis": np.int32(0), "exclusive": False, "reverse": False})


_ARG = partial(op, family="reduction", samples=_arg_samples, revisions=("iOS17",), bound=bounds.arg)
_SHIFT_NOTE = Note(
    "A row of -inf, or one that holds +inf, is NaN: the maximum is subtracted first (-inf - -inf).",
    "coremltools 9.0, iOS15/reduction.py, reduce_log_sum_exp.value_inference",
)

OPS: tuple[OpDef, ...] = (
    _ARG("reduce_argmax", run=_arg(torch.argmax)),
    _ARG("reduce_argmin", run=_arg(torch.argmin)),
    reduction("reduce_l1_norm", _l1_norm, bound=bounds.l1_norm),
    reduction("reduce_l2_norm", _l2_norm, bound=bounds.l2_norm),
    reduction("reduce_log_sum", _log_sum, positive=True, bound=bounds.log_sum),
    reduction("reduce_log_sum_exp", _log_sum_exp, bound=bounds.log_sum_exp, notes=(_SHIFT_NOTE,)),
    reduction("reduce_max", _max, picks=True, bound=bounds.extremum(torch.amax, largest=True)),
    reduction("reduce_mean", _mean, bound=bounds.mean),
    reduction("reduce_min", _min, picks=True, bound=bounds.extremum(torch.amin, largest=False)),
    reduction("reduce_prod", _prod, bound=bounds.product),
    reduction("reduce_sum", _sum, bound=bounds.total),
    reduction("reduce_sum_square", _sum_square, bound=bounds.sum_square),
    op("cumsum", "scan", _cumsum, _cumsum_samples, bound=bounds.cumsum),
)

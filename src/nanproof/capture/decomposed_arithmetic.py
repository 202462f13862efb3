"""Decompositions of arithmetic and reductions that coremltools 9.0 lacks or computes as something else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["ARITHMETIC"]

aten = torch.ops.aten
Number = int | float


def _trunc(x: Tensor) -> Tensor:
    """``trunc``, which 9.0 lacks."""
    return torch.where(x < 0, torch.ceil(x), torch.floor(x)) if x.is_floating_point() else x.clone()


def _fmod(x: Tensor, y: Tensor | Number) -> Tensor:
    """``fmod``, which 9.0 lacks: the remainder has the sign of ``x``."""
    return x - torch.div(x, y, rounding_mode="trunc") * y


def _remainder_of_scalar(x: Number, y: Tensor) -> Tensor:
    """``remainder`` of a number by a tensor, which 9.0 lacks."""
    return torch.remainder(torch.full_like(y, x), y)


def _isinf(x: Tensor) -> Tensor:
    """``isinf``, which 9.0 lacks."""
    return x.abs() == math.inf


def _atan2(y: Tensor, x: Tensor) -> Tensor:
    """``atan2`` in all quadrants. 9.0 is off by pi for ``y = 0, x < 0`` and shifts ``x`` near zero by 2e-8.

    The quotient is that of the smaller by the larger, so that it is at most 1 and cannot overflow.
    """
    y, x = _as_float(y), _as_float(x)
    high, wide = y.abs(), x.abs()
    larger = torch.maximum(high, wide)
    angle = torch.atan(torch.minimum(high, wide) / torch.where(larger == 0, 1.0, larger))
    angle = torch.where(high > wide, math.pi / 2 - angle, angle)
    angle = torch.where(x < 0, math.pi - angle, angle)
    return torch.where(y < 0, -angle, angle)


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """``hypot``, which 9.0 lacks, without squares that overflow."""
    x, y = x.abs(), y.abs()
    larger = torch.maximum(x, y)
    ratio = torch.minimum(x, y) / torch.where(larger == 0, 1.0, larger)
    return larger * torch.sqrt(ratio * ratio + 1)


def _asinh(x: Tensor) -> Tensor:
    """``asinh``, for which 9.0 calls a MIL op that does not exist."""
    x = _as_float(x)
    size = x.abs()
    return torch.sign(x) * torch.log(size + torch.sqrt(size * size + 1))


def _acosh(x: Tensor) -> Tensor:
    """``acosh``, for which 9.0 calls a MIL op that does not exist."""
    x = _as_float(x)
    return torch.log(x + torch.sqrt((x - 1) * (x + 1)))


def _erfc(x: Tensor) -> Tensor:
    """``erfc``, which 9.0 lacks."""
    return 1 - torch.erf(_as_float(x))


def _round_decimals(x: Tensor, *, decimals: int = 0) -> Tensor:
    """``round`` to decimals, which 9.0 lacks."""
    return torch.round(x * 10.0**decimals) / 10.0**decimals


def _copysign(x: Tensor, y: Tensor) -> Tensor:
    """``copysign``, which 9.0 lacks. The sign of a zero counts as positive."""
    return torch.where(y < 0, -x.abs(), x.abs())


def _copysign_of(x: Tensor, y: Number) -> Tensor:
    """``copysign`` by the sign of a number."""
    return -_as_float(x).abs() if math.copysign(1, y) < 0 else _as_float(x).abs()


def _signbit(x: Tensor) -> Tensor:
    """``signbit``, which 9.0 lacks. That of a negative zero counts as unset."""
    return x < 0


def _angle(x: Tensor) -> Tensor:
    """``angle`` of real numbers, which 9.0 lacks: pi for those below zero."""
    x = _as_float(x)
    return torch.where(x != x, x, torch.where(x < 0, math.pi, 0.0))


def _ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """``ldexp``, which 9.0 lacks."""
    return x * torch.exp2(_as_float(exponent))


def _fmax(x: Tensor, y: Tensor) -> Tensor:
    """``fmax``, which 9.0 lacks: a NaN gives way to the other operand."""
    return torch.where(x != x, y, torch.where(y != y, x, torch.maximum(x, y)))


def _fmin(x: Tensor, y: Tensor) -> Tensor:
    """``fmin``, which 9.0 lacks: a NaN gives way to the other operand."""
    return torch.where(x != x, y, torch.where(y != y, x, torch.minimum(x, y)))


def _lerp(start: Tensor, end: Tensor, weight: Number) -> Tensor:
    """``lerp`` by a number, in PyTorch's two forms. PyTorch's decomposition makes a shape that 9.0 cannot lower."""
    return start + weight * (end - start) if abs(weight) < 0.5 else end - (end - start) * (1 - weight)


def _hardtanh(x: Tensor, min_val: Number = -1, max_val: Number = 1) -> Tensor:
    """``hardtanh`` with integer bounds, as ``relu6`` has: 9.0 refuses those for a float tensor."""
    if isinstance(min_val, float) and isinstance(max_val, float):
        return NotImplemented
    return aten.hardtanh.default(x, float(min_val), float(max_val)) if x.is_floating_point() else NotImplemented


def _clamp(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """``clamp`` by tensors: where the bounds cross, the upper one holds. 9.0 takes the lower one."""
    x = x if min is None else torch.maximum(x, min)
    return x if max is None else torch.minimum(x, max)


def _soft_margin_loss(x: Tensor, target: Tensor, reduction: int = 1) -> Tensor:
    """``soft_margin_loss`` as softplus. PyTorch's decomposition is ``log(1 + exp)``, which loses small losses."""
    loss = aten.softplus.default(-x * target)
    return (loss, loss.mean(), loss.sum())[reduction] if reduction else loss


def _vector_norm(x: Tensor, ord: Number = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """``vector_norm`` along no axis, which means all; 9.0 refuses an empty list."""
    if dim is None or dim:
        return NotImplemented
    return aten.linalg_vector_norm.default(x, ord, None, keepdim, dtype=dtype)


def _any(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``any`` of numbers. 9.0 casts them to integers first, so that 0.5 counts as false."""
    return NotImplemented if x.dtype == torch.bool else torch.any(x != 0, *args, **kwargs)


def _var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: Number | None = None, keepdim: bool = False
) -> Tensor:
    """``var`` with the default correction, 1. Where it is not spelled out 9.0 corrects by nothing."""
    if correction is not None:
        return NotImplemented
    return aten.var.correction(x, dim, correction=1, keepdim=keepdim)


def _var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: Number | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """``var_mean``, which 9.0 lacks."""
    axes = list(range(x.dim())) if dim is None else list(dim)
    corrected = 1 if correction is None else correction
    return aten.var.correction(x, axes, correction=corrected, keepdim=keepdim), torch.mean(x, axes, keepdim=keepdim)


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """``log_softmax`` of the shifted input. 9.0 takes the logarithm of the softmax, which ends at log(1e-45) = -103.3.

    After the shift the sum lies between 1 and the number of elements.
    """
    shifted = x - torch.amax(x, dim, keepdim=True)
    return shifted - torch.log(torch.sum(torch.exp(shifted), dim, keepdim=True))


def _arg(operator: Any) -> Callable[..., Tensor]:
    def decompose(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """``argmax`` or ``argmin`` over all elements. 9.0 takes the last axis instead."""
        return NotImplemented if dim is not None or keepdim else operator(x.reshape(-1), 0, False)

    return decompose


def _softplus(x: Tensor, beta: Number = 1, threshold: Number = 20) -> Tensor:
    """``softplus`` of its own steepness and threshold, from that of MIL, whose threshold no float32 shows."""
    if beta == 1 and threshold >= _FLAT:
        return NotImplemented
    soft = aten.softplus.default(x * beta) / beta
    return soft if threshold >= _FLAT else torch.where(x * beta > threshold, x, soft)


_FLAT = 17.0
"""From here on softplus and its argument are one float32: exp(-17) is below half a unit in the last place."""


def _batch_norm_without(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, ...]:
    """``batch_norm`` that keeps no statistics, which 9.0 lacks."""
    none = x.new_zeros([])
    return _batch_norm(x, weight, bias, none, none, True, momentum, eps)[:3]


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, ...]:
    """``batch_norm`` by the statistics of its batch, which 9.0 lacks, and by those that it keeps."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    mean, variance = running_mean, running_var
    if training:
        mean, variance = torch.mean(x, axes), aten.var.correction(x, axes, correction=0)
        count = x.numel() // x.shape[1]
        running_mean = running_mean * (1 - momentum) + mean * momentum
        running_var = running_var * (1 - momentum) + variance * (momentum * count / max(count - 1, 1))
    deviation = torch.rsqrt(variance + eps)
    result = (x - mean.reshape(shape)) * deviation.reshape(shape)
    result = result if weight is None else result * weight.reshape(shape)
    result = result if bias is None else result + bias.reshape(shape)
    saved = (mean, deviation) if training else (x.new_zeros([0]), x.new_zeros([0]))
    return result, *saved, running_mean, running_var


def _addmv(x: Tensor, matrix: Tensor, vector: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """``addmv``, which 9.0 lacks."""
    return torch.mv(matrix, vector) * _factor(x, alpha) + x * _factor(x, beta)


def _addbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """``addbmm``, which 9.0 lacks."""
    return torch.bmm(batch1, batch2).sum(0) * _factor(x, alpha) + x * _factor(x, beta)


def _factor(x: Tensor, factor: Number) -> Number:
    """A factor of a sum, of which PyTorch takes the whole part among integers."""
    return factor if x.is_floating_point() else int(factor)


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``bilinear``, for which PyTorch's decomposition is an operator that 9.0 lacks."""
    products = torch.matmul(x.unsqueeze(-2).unsqueeze(-2), weight).squeeze(-2)
    total = (products * y.unsqueeze(-2)).sum(-1)
    return total if bias is None else total + bias


def _cdist(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """``cdist``, which 9.0 lacks, from differences."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _dist(x: Tensor, y: Tensor, p: Number = 2) -> Tensor:
    """``dist``, which 9.0 lacks."""
    return torch.linalg.vector_norm(x - y, p)


def _as_float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


ARITHMETIC: dict[Any, Callable[..., Any]] = {
    aten.trunc.default: _trunc,
    aten.fmod.Tensor: _fmod,
    aten.fmod.Scalar: _fmod,
    aten.remainder.Scalar_Tensor: _remainder_of_scalar,
    aten.isinf.default: _isinf,
    aten.atan2.default: _atan2,
    aten.hypot.default: _hypot,
    aten.asinh.default: _asinh,
    aten.acosh.default: _acosh,
    aten.erfc.default: _erfc,
    aten.round.decimals: _round_decimals,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign_of,
    aten.signbit.default: _signbit,
    aten.angle.default: _angle,
    aten.ldexp.Tensor: _ldexp,
    aten.clamp.Tensor: _clamp,
    aten.soft_margin_loss.default: _soft_margin_loss,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    aten.lerp.Scalar: _lerp,
    aten.hardtanh.default: _hardtanh,
    aten.any.default: _any,
    aten.any.dim: _any,
    aten.any.dims: _any,
    aten.var.correction: _var,
    aten.var_mean.correction: _var_mean,
    aten._log_softmax.default: _log_softmax,
    aten.argmax.default: _arg(aten.argmax.default),
    aten.argmin.default: _arg(aten.argmin.default),
    aten.softplus.default: _softplus,
    aten._native_batch_norm_legit_functional.default: _batch_norm,
    aten._native_batch_norm_legit.no_stats: _batch_norm_without,
    aten.addmv.default: _addmv,
    aten.addbmm.default: _addbmm,
    aten.bilinear.default: _bilinear,
    aten._cdist_forward.default: _cdist,
    aten.dist.default: _dist,
}
"""Decompositions by operator."""

"""Normalisations, in the arithmetic that a unit has for their ``steps``.

Statistics go through its accumulators, and it rounds every step in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.ops import bound_channels
from nanproof.ops import bound_normalisation as bounds
from nanproof.ops.record import Note, OpDef, Sample, float_block, ints, op

__all__ = ["OPS"]


def _scale_shift(arithmetic: Arithmetic, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    x = x if gamma is None else arithmetic.round(arithmetic.round(x) * gamma)
    return x if beta is None else arithmetic.round(x) + beta


def _standardised(arithmetic: Arithmetic, x: Tensor, dims: Sequence[int], epsilon: Tensor | float) -> Tensor:
    """``(x - E[x]) / sqrt(Var[x] + epsilon)`` over ``dims``, the variance being that of the population."""
    if isinstance(arithmetic, SingleInside) and _are_last(dims, x):
        return F.layer_norm(x, [x.shape[d] for d in dims], eps=float(epsilon))  # the same steps, fused
    centred = arithmetic.round(x - arithmetic.mean(x, dims, keepdim=True))
    variance = arithmetic.mean(arithmetic.round(centred.square()), dims, keepdim=True)
    return centred / arithmetic.round(torch.sqrt(arithmetic.round(variance + epsilon)))


def _are_last(dims: Sequence[int], x: Tensor) -> bool:
    return len(dims) > 0 and list(dims) == list(range(x.dim() - len(dims), x.dim()))


def _per_channel(value: Tensor | None, rank: int) -> Tensor | None:
    return None if value is None else value.reshape(-1, *(1,) * (rank - 2))


def _batch_norm(
    arithmetic: Arithmetic,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    rank, steps = x.dim(), arithmetic.steps
    deviation = steps.round(torch.sqrt(steps.round(variance + epsilon)))
    centred = steps.round(x - mean.reshape(-1, *(1,) * (rank - 2)))
    normal = centred / deviation.reshape(-1, *(1,) * (rank - 2))
    return _scale_shift(steps, normal, _per_channel(gamma, rank), _per_channel(beta, rank))


def _batch_norm_samples() -> Iterable[Sample]:
    mean, variance = float_block(3, seed=1), np.abs(float_block(3, seed=2)) + np.float32(0.1)
    gamma, beta = float_block(3, seed=3), float_block(3, seed=4)
    for sizes in ((4,), (2, 4), (2, 3, 2)):
        yield Sample({"x": float_block(2, 3, *sizes), "mean": mean, "variance": variance})
    full = {"x": float_block(2, 3, 4, 2), "mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    yield Sample(full)
    yield Sample({**full, "epsilon": np.float32(0.5)})


def _instance_norm(
    arithmetic: Arithmetic,
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    rank, steps = x.dim(), arithmetic.steps
    normal = _standardised(steps, x, range(2, rank), epsilon)
    return _scale_shift(steps, normal, _per_channel(gamma, rank), _per_channel(beta, rank))


def _instance_norm_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 6)})
    affine = {"gamma": float_block(3, seed=1), "beta": float_block(3, seed=2), "epsilon": np.float32(1e-2)}
    yield Sample({"x": float_block(2, 3, 4, 5), **affine})


def _layer_norm(
    arithmetic: Arithmetic,
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    dims = list(range(x.dim())) if axes is None else sorted(a % x.dim() for a in ints(axes))
    # gamma and beta have the sizes of the normalised axes in the order of the dimensions, whatever order axes has.
    shape = [x.shape[d] if d in dims else 1 for d in range(x.dim())]
    steps = arithmetic.steps
    if isinstance(steps, SingleInside) and _are_last(dims, x):
        sizes = shape[dims[0] :]
        gamma, beta = (None if p is None else p.reshape(sizes) for p in (gamma, beta))
        return F.layer_norm(x, sizes, gamma, beta, float(epsilon))  # the same steps, fused
    gamma, beta = (None if p is None else p.reshape(shape) for p in (gamma, beta))
    return _scale_shift(steps, _standardised(steps, x, dims, epsilon), gamma, beta)


def _layer_norm_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 4)

    def affine(*shape: int) -> dict[str, np.ndarray]:
        return {"gamma": float_block(*shape, seed=1), "beta": float_block(*shape, seed=2)}

    yield Sample({"x": x, "axes": np.array([0, 1, 2], np.int32)})
    yield Sample({"x": x, "axes": np.array([-1], np.int32), **affine(4)})
    yield Sample({"x": x, "axes": np.array([1, 2], np.int32), **affine(3, 4), "epsilon": np.float32(1e-3)})
    yield Sample({"x": x, "axes": np.array([2, 0], np.int32), **affine(2, 4)})
    yield Sample({"x": x, "axes": np.array([1], np.int32), "gamma": float_block(3, seed=1)})


def _l2_norm(arithmetic: Arithmetic, x: Tensor, epsilon: Tensor | float = 1e-6) -> Tensor:
    steps = arithmetic.steps
    total = steps.sum(steps.round(x.square()), [-3, -2, -1], keepdim=True)
    return x / steps.round(torch.sqrt(steps.round(total + epsilon)))


def _l2_norm_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 4)})
    yield Sample({"x": float_block(2, 1, 3, 2, 2), "epsilon": np.float32(0.25)})


def _local_response_norm(
    arithmetic: Arithmetic,
    x: Tensor,
    size: Tensor,
    alpha: Tensor | float = 1e-4,
    beta: Tensor | float = 0.75,
    k: Tensor | float = 1.0,
) -> Tensor:
    window, steps = int(size), arithmetic.steps
    # The window of an even size reaches one channel further down than up, as in PyTorch.
    squares = F.pad(steps.round(x.square()).movedim(1, -1), [window // 2, (window - 1) // 2])
    total = steps.sum(squares.unfold(-1, window, 1), [-1]).movedim(-1, 1)
    factor = steps.round(torch.as_tensor(alpha) / window)
    base = steps.round(steps.round(factor * total) + k)
    return x / steps.round(base.pow(float(beta)))


def _local_response_norm_samples() -> Iterable[Sample]:
    for size in (1, 2, 3, 5):
        yield Sample({"x": float_block(2, 4, 3, scale=5.0), "size": size})
    tuned = {"alpha": np.float32(0.5), "beta": np.float32(0.6), "k": np.float32(2.0)}
    yield Sample({"x": float_block(1, 5, 3, 2), "size": 3, **tuned})


_BUILDER = Note(
    "coremltools cannot build the op without axes (it makes a constant of a Python range), nor beta without gamma (it "
    "checks the shape of gamma twice). Model files may hold both.",
    "coremltools 9.0, iOS15/normalization.py: layer_norm.default_inputs and layer_norm.type_inference",
)
_EVEN = Note(
    "A window of even size holds size / 2 channels below the centre and one fewer above it.",
    "coremltools 9.0, tests iOS14/test_normalization.py compare Core ML with torch.nn.LocalResponseNorm(size=2)",
)

OPS: tuple[OpDef, ...] = (
    op("batch_norm", "normalisation", _batch_norm, _batch_norm_samples, revisions=("iOS17",), bound=bounds.batch_norm),
    op(
        "instance_norm",
        "normalisation",
        _instance_norm,
        _instance_norm_samples,
        revisions=("iOS17",),
        bound=bounds.instance_norm,
    ),
    op(
        "layer_norm",
        "normalisation",
        _layer_norm,
        _layer_norm_samples,
        revisions=("iOS17",),
        bound=bounds.layer_norm,
        notes=(_BUILDER,),
    ),
    op("l2_norm", "normalisation", _l2_norm, _l2_norm_samples, revisions=("iOS17",), bound=bounds.l2_norm),
    op(
        "local_response_norm",
        "normalisation",
        _local_response_norm,
        _local_response_norm_samples,
        revisions=("iOS17",),
        bound=bound_channels.local_response_norm,
        notes=(_EVEN,),
    ),
)

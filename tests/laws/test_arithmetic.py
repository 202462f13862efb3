"""The arithmetic inside an op, against slow scalar loops."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from nanproof.numerics.arithmetic import ConvSettings, SingleInside
from nanproof.numerics.half import HalfInside

HALF, SINGLE = HalfInside(), SingleInside()


def halves(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float16)


def carried(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32))


def fused_sum(x: np.ndarray, y: np.ndarray) -> np.float16:
    """Sum of products, one fused multiply-add after the other, in binary16.

    Of these data, float64 holds ``total + a * b`` exactly, so NumPy's conversion is the only rounding.
    """
    total = np.float16(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for a, b in zip(x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64), strict=True):
            total = np.float16(np.float64(total) + a * b)
    return total


def assert_bits(ours: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(ours.numpy(), expected.astype(np.float32))


# ---------------------------------------------------------------------------------------------------------------------
# Sums and products


@pytest.mark.parametrize("scale", [1.0, 60.0, 1e-3])
def test_half_matmul_is_a_fused_chain(scale: float) -> None:
    x, y = halves(24, 96, scale=scale), halves(96, 20, seed=1, scale=scale)
    expected = np.array([[fused_sum(row, column) for column in y.T] for row in x])
    assert_bits(HALF.matmul(carried(x), carried(y)), expected)


def test_half_matmul_rounds_each_step_once() -> None:
    # 2051 - 2**-20 is nearer to 2050, but in float32 it is 2051, the midpoint, and the even neighbour is 2052.
    x, y = np.array([[2050.0, 1 + 2.0**-10]]), np.array([[1.0], [1 - 2.0**-10]])
    assert HALF.matmul(carried(x), carried(y)).item() == 2050
    assert HALF.matmul(carried(-x), carried(y)).item() == -2050


def test_half_matmul_broadcasts_batches() -> None:
    x, y = halves(2, 1, 3, 5), halves(4, 5, 2, seed=1)
    result = HALF.matmul(carried(x), carried(y))
    assert result.shape == (2, 4, 3, 2)
    for i, j in product(range(2), range(4)):
        expected = np.array([[fused_sum(row, column) for column in y[j].T] for row in x[i, 0]])
        assert_bits(result[i, j], expected)


def test_half_matmul_overflows_and_stalls() -> None:
    big, small = np.full((1, 2), 256.0), np.full((2, 1), 255.0)
    assert_bits(HALF.matmul(carried(big), carried(small)), np.array([[np.inf]]))
    ones = torch.ones(1, 4096)
    assert HALF.matmul(ones, ones.T).item() == 2048
    assert SINGLE.matmul(ones, ones.T).item() == 4096


def test_half_matmul_keeps_infinity_and_nan() -> None:
    x = torch.tensor([[torch.inf, 1.0], [torch.inf, -1.0], [torch.nan, 1.0], [0.0, 1.0]])
    y = torch.tensor([[1.0], [torch.inf]])
    assert str(HALF.matmul(x, y).reshape(-1).tolist()) == "[inf, nan, nan, inf]"


@pytest.mark.parametrize("dims", [[0], [-1], [0, 2], [2, 1], [0, 1, 2], []])
@pytest.mark.parametrize("keepdim", [True, False])
def test_sums_over_dims(dims: list[int], keepdim: bool) -> None:
    x = halves(3, 4, 17)
    axis = tuple(dims)
    shape = np.sum(x, axis=axis, keepdims=keepdim).shape
    wide = np.sum(x.astype(np.float64), axis=axis, keepdims=keepdim)
    single = SINGLE.sum(carried(x), dims, keepdim=keepdim)
    half = HALF.sum(carried(x), dims, keepdim=keepdim)
    assert single.shape == half.shape == shape
    np.testing.assert_allclose(single.numpy(), wide, rtol=1e-5, atol=1e-5)
    kept = [d for d in range(3) if d not in {d % 3 for d in dims}]
    rows = x.transpose(*sorted({d % 3 for d in dims}), *kept).reshape(-1, *(x.shape[d] for d in kept))
    if dims:
        total = np.zeros(rows.shape[1:], np.float16)
        for row in rows:
            total = total + row  # NumPy rounds each binary16 addition once
        assert_bits(half.reshape(total.shape), total)
    else:
        assert_bits(half, x)


def test_mean_divides_the_sum() -> None:
    x = torch.full((1, 4), 30000.0)
    assert SINGLE.mean(x, [1]).tolist() == [30000.0]
    assert HALF.mean(x, [1]).tolist() == [torch.inf]


# ---------------------------------------------------------------------------------------------------------------------
# Convolution


Settings = tuple[Any, ...]
"""Strides, dilations, groups, and perhaps a padding."""

CONVOLUTIONS = [
    # input, weight, (strides, dilations, groups)
    ((2, 3, 9), (4, 3, 3), ([1], [1], 1)),
    ((1, 4, 11), (6, 2, 3), ([2], [2], 2)),
    ((2, 3, 6, 7), (4, 3, 3, 2), ([1, 1], [1, 1], 1)),
    ((1, 4, 9, 8), (4, 1, 3, 3), ([2, 1], [1, 2], 4)),
    ((1, 4, 7, 7), (2, 2, 1, 1), ([3, 2], [1, 1], 2)),
    ((1, 2, 4, 5, 4), (3, 2, 2, 3, 2), ([1, 1, 1], [1, 1, 1], 1)),
    ((2, 4, 5, 6, 5), (4, 2, 2, 2, 1), ([2, 1, 3], [1, 2, 1], 2)),
    ((1, 2, 5), (3, 2, 3), ([2], [1], 1, [1])),
    ((1, 4, 5, 6), (4, 2, 3, 3), ([1, 2], [1, 2], 2, [1, 3])),
]


def windows(x: np.ndarray, weight: np.ndarray, settings: Settings) -> np.ndarray:
    """The window under every output: ``(batch, out channels, *out, in channels of the group, *kernel)``."""
    strides, dilations, groups, *padding = settings
    for ends in padding:
        x = np.pad(x, [(0, 0), (0, 0), *((end, end) for end in ends)])
    kernel = weight.shape[2:]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], spans, strides, strict=True)]
    out = np.empty((x.shape[0], weight.shape[0], *sizes, *weight.shape[1:]), x.dtype)
    for b, c, *at in product(*(range(n) for n in out.shape[: 2 + len(sizes)])):
        first = c // (weight.shape[0] // groups) * weight.shape[1]
        area = tuple(slice(p * t, p * t + s, d) for p, t, s, d in zip(at, strides, spans, dilations, strict=True))
        out[(b, c, *at)] = x[(b, slice(first, first + weight.shape[1]), *area)]
    return out


@pytest.mark.parametrize(("shape", "kernel", "settings"), CONVOLUTIONS)
def test_convolutions(shape: tuple[int, ...], kernel: tuple[int, ...], settings: Settings) -> None:
    x, weight = halves(*shape), halves(*kernel, seed=1)
    spread = windows(x, weight, settings)
    taps = len(kernel) - 1
    wide = np.einsum(
        "bc...k,ck->bc...",
        spread.reshape(*spread.shape[:-taps], -1).astype(np.float64),
        weight.reshape(kernel[0], -1).astype(np.float64),
    )
    single = SINGLE.conv(carried(x), carried(weight), None, ConvSettings(*settings))
    np.testing.assert_allclose(single.numpy(), wide, rtol=1e-5, atol=1e-5)

    fused = np.empty(wide.shape, np.float16)
    for index in np.ndindex(*wide.shape):
        fused[index] = fused_sum(spread[index], weight[index[1]])
    assert_bits(HALF.conv(carried(x), carried(weight), None, ConvSettings(*settings)), fused)

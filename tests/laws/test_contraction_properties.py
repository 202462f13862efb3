"""Records of windows, products and indices against PyTorch and NumPy, over random legal shapes and settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.numerics.half import HalfInside
from nanproof.ops import TABLE
from nanproof.values.floats import round_fp16
from tests.laws.draws import budget, windows
from tests.laws.oracle_contraction import ORACLES

SINGLE, HALF = SingleInside(), HalfInside()
examples = budget(50)
sizes = st.integers(1, 5)


def run(name: str, arithmetic: Arithmetic = SINGLE, **inputs: Any) -> Tensor:
    """The record's rule on tensors; lists become ``int32`` tensors, as the reader delivers them."""
    return TABLE[name].run(
        arithmetic, **{k: torch.tensor(v, dtype=torch.int32) if isinstance(v, list) else v for k, v in inputs.items()}
    )


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-5, atol=1e-5, equal_nan=True)


def both_sides(pad: list[int]) -> list[int]:
    return [amount for p in pad for amount in (p, p)]


@examples
@given(windows(), st.integers(1, 3), sizes, sizes, st.booleans())
def test_conv_is_that_of_pytorch(w: dict[str, Any], groups: int, inner: int, outer: int, biased: bool) -> None:
    x = normal(2, groups * inner, *w["shape"])
    weight = normal(groups * outer, inner, *w["kernel"], seed=1)
    bias = normal(groups * outer, seed=2) if biased else None
    places = {"strides": w["strides"], "dilations": w["dilations"]}
    ours = run(
        "conv", x=x, weight=weight, bias=bias, pad_type="custom", pad=both_sides(w["pad"]), groups=groups, **places
    )
    convolve = [F.conv1d, F.conv2d, F.conv3d][len(w["shape"]) - 1]
    double = None if bias is None else bias.double()
    close(ours, convolve(x.double(), weight.double(), double, w["strides"], w["pad"], w["dilations"], groups))


@examples
@given(windows(), st.sampled_from(["same", "same_lower"]))
def test_conv_same_makes_one_window_for_each_stride(w: dict[str, Any], pad_type: str) -> None:
    x, weight = normal(1, 2, *w["shape"]), normal(3, 2, *w["kernel"], seed=1)
    inputs = {"strides": w["strides"], "dilations": w["dilations"], "pad_type": pad_type}
    ours = run("conv", x=x, weight=weight, **inputs)
    assert list(ours.shape[2:]) == [-(-n // s) for n, s in zip(w["shape"], w["strides"], strict=True)]
    close(ours, torch.from_numpy(ORACLES["conv"](x.numpy(), weight.numpy(), **inputs)))


@examples
@given(windows(), st.integers(1, 2), sizes, sizes, st.data())
def test_conv_transpose_is_that_of_pytorch(
    w: dict[str, Any], groups: int, inner: int, outer: int, data: st.DataObject
) -> None:
    x, weight = normal(2, groups * inner, *w["shape"]), normal(groups * inner, outer, *w["kernel"], seed=1)
    limits = [max(s, d) for s, d in zip(w["strides"], w["dilations"], strict=True)]
    extra = [data.draw(st.integers(0, n - 1)) for n in limits]  # PyTorch's output_padding is MIL's output_shape
    transposed = [F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d][len(w["shape"]) - 1]
    full = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(w["shape"], w["strides"], w["pad"], w["dilations"], w["kernel"], extra, strict=True)
    ]
    assume(min(full) > 0)
    expected = transposed(x.double(), weight.double(), None, w["strides"], w["pad"], extra, groups, w["dilations"])
    ours = run(
        "conv_transpose",
        x=x,
        weight=weight,
        pad=both_sides(w["pad"]),
        pad_type="custom",
        output_shape=list(expected.shape),
        strides=w["strides"],
        dilations=w["dilations"],
        groups=groups,
    )
    close(ours, expected)


@examples
@given(windows())
def test_conv_transpose_same_is_the_adjoint_of_conv_same(w: dict[str, Any]) -> None:
    """<conv(x), y> = <x, conv_transpose(y)>: the only thing that 'same' can mean for a transposed convolution."""
    shape = [n * s for n, s in zip(w["shape"], w["strides"], strict=True)]
    x, y, weight = normal(1, 2, *shape), normal(1, 3, *w["shape"], seed=1), normal(3, 2, *w["kernel"], seed=2)
    places = {"strides": w["strides"], "dilations": w["dilations"], "pad_type": "same"}
    forward = run("conv", x=x, weight=weight, **places)
    backward = run("conv_transpose", x=y, weight=weight, **places)
    assert forward.shape == y.shape
    assert backward.shape == x.shape
    close((forward * y).double().sum(), (x * backward).double().sum())


@examples
@given(windows())
def test_strict_conv_accumulates_tap_by_tap(w: dict[str, Any]) -> None:
    """In binary16, in the order (channel, taps), each step one fused multiply-add."""
    x = round_fp16(normal(1, 2, *w["shape"]) * 30)
    weight = round_fp16(normal(1, 2, *w["kernel"], seed=1))
    assume(all(n >= k for n, k in zip(w["shape"], w["kernel"], strict=True)))
    ours = run("conv", HALF, x=x, weight=weight, pad_type="valid")
    window = x[0][(slice(None), *(slice(0, k) for k in w["kernel"]))].flatten()
    total = np.float16(0)
    for a, b in zip(window.tolist(), weight.flatten().tolist(), strict=True):
        total = np.float16(np.float64(total) + a * b)  # float64 holds the sum of these exactly
    assert ours.flatten()[0].item() == total


@examples
@given(windows(), st.booleans(), st.booleans())
def test_pools_are_those_of_pytorch(w: dict[str, Any], ceil: bool, exclude: bool) -> None:
    kernel, strides = w["kernel"], w["strides"]
    pad = [min(p, k // 2) for p, k in zip(w["pad"], kernel, strict=True)]  # PyTorch allows no more
    shape = [max(n, k) for n, k in zip(w["shape"], kernel, strict=True)]
    rank = len(shape)
    # Without padding MIL keeps a last window beyond the input, which PyTorch drops; MIL has no ceil_mode in 3-D.
    ceil = ceil and rank < 3 and all(p or s <= k for p, s, k in zip(pad, strides, kernel, strict=True))
    x = normal(2, 3, *shape)
    inputs = {
        "kernel_sizes": kernel,
        "strides": strides,
        "pad_type": "custom",
        "pad": both_sides(pad),
        "ceil_mode": ceil,
    }
    largest = [F.max_pool1d, F.max_pool2d, F.max_pool3d][rank - 1]
    close(run("max_pool", x=x, **inputs), largest(x.double(), kernel, strides, pad, ceil_mode=ceil))
    average = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][rank - 1]
    expected = average(x.double(), kernel, strides, pad, ceil_mode=ceil, count_include_pad=not exclude)
    close(run("avg_pool", x=x, exclude_padding_from_average=exclude, **inputs), expected)
    if rank == 2:
        sums = F.avg_pool2d(x.double().square(), kernel, strides, pad, ceil_mode=ceil, divisor_override=1)
        close(run("l2_pool", x=x, **inputs), sums.sqrt())


@examples
@given(st.lists(sizes, max_size=2), sizes, sizes, sizes, st.data())
def test_matmul_is_that_of_numpy(batch: list[int], m: int, k: int, n: int, data: st.DataObject) -> None:
    lone = st.sampled_from([False, True])
    x_batch = [1 if data.draw(lone) else b for b in batch][data.draw(st.integers(0, len(batch))) :]
    x = normal(k) if data.draw(lone) else normal(*x_batch, m, k)
    y = normal(k, seed=1) if data.draw(lone) else normal(*batch, k, n, seed=1)
    transpose_x, transpose_y = x.dim() > 1 and data.draw(lone), y.dim() > 1 and data.draw(lone)
    expected = np.matmul(x.double().numpy(), y.double().numpy())
    x, y = x.mT.contiguous() if transpose_x else x, y.mT.contiguous() if transpose_y else y
    for arithmetic in (SINGLE, HALF):
        ours = run("matmul", arithmetic, x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)
        assert ours.shape == expected.shape
    close(
        run("matmul", x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y),
        torch.from_numpy(np.asarray(expected)),
    )


@examples
@given(
    st.sampled_from(
        ["ij,jk->ik", "bij,bkj->bik", "ij,kj->ki", "abcd,adce->abce", "ab,ab->ab", "ij,k->kij", "hid,hjd->hij"]
    )
)
def test_einsum_is_that_of_pytorch(equation: str) -> None:
    sides = equation.split("->")[0].split(",")
    values = [normal(*(2 + ord(c) % 4 for c in side), seed=i) for i, side in enumerate(sides)]
    ours = TABLE["einsum"].run(SINGLE, values=tuple(values), equation=equation)
    close(ours, torch.einsum(equation, *(v.double() for v in values)))


@pytest.mark.parametrize("equation", ["ii,ij->j", "ij,jk->i", "ij,jk->ikz"])
def test_einsum_refuses_what_is_no_matrix_product(equation: str) -> None:
    with pytest.raises(ValueError, match="einsum equation"):
        TABLE["einsum"].run(SINGLE, values=(normal(2, 2), normal(2, 2)), equation=equation)


@examples
@given(st.data(), st.lists(sizes, min_size=1, max_size=4))
def test_slice_by_index_is_that_of_numpy(data: st.DataObject, shape: list[int]) -> None:
    x, rank = normal(*shape), len(shape)
    places = st.lists(st.integers(-7, 7), min_size=rank, max_size=rank)
    begin, end = data.draw(places), data.draw(places)
    stride = data.draw(st.lists(st.sampled_from([1, 2, 3, -1, -2]), min_size=rank, max_size=rank))
    bits = st.lists(st.booleans(), min_size=rank, max_size=rank)
    begin_mask, end_mask, squeeze_mask = data.draw(bits), data.draw(bits), data.draw(bits)
    cuts: list[Any] = []
    for d, n in enumerate(shape):
        if squeeze_mask[d]:
            begin[d] = begin[d] % n
            cuts.append(0 if begin_mask[d] else begin[d])
        else:
            cuts.append(slice(None if begin_mask[d] else begin[d], None if end_mask[d] else end[d], stride[d]))
    masks = {"begin_mask": begin_mask, "end_mask": end_mask, "squeeze_mask": squeeze_mask}
    flags = {k: torch.tensor(v) for k, v in masks.items()}
    ours = run("slice_by_index", x=x, begin=begin, end=end, stride=stride, **flags)
    np.testing.assert_array_equal(ours.numpy(), x.numpy()[tuple(cuts)])

    update = normal(*ours.shape, seed=1)
    written = x.numpy().copy()
    written[tuple(cuts)] = update.numpy()
    result = run("slice_update", x=x, update=update, begin=begin, end=end, stride=stride, **flags)
    np.testing.assert_array_equal(result.numpy(), written)


@examples
@given(st.data(), st.lists(sizes, min_size=1, max_size=4), st.lists(sizes, max_size=2))
def test_gather_is_that_of_numpy(data: st.DataObject, shape: list[int], picked: list[int]) -> None:
    x = normal(*shape)
    shared = data.draw(st.integers(0, len(shape) - 1))
    axis = data.draw(st.integers(shared, len(shape) - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    indices = rng.integers(-shape[axis], shape[axis], (*shape[:shared], *picked)).astype(np.int32)
    expected = np.empty((*shape[:axis], *picked, *shape[axis + 1 :]), np.float32)
    for place in np.ndindex(*shape[:shared]):
        expected[place] = np.take(x.numpy()[place], indices[place], axis - shared)
    ours = run("gather", x=x, indices=torch.from_numpy(indices), axis=axis - len(shape), batch_dims=shared)
    np.testing.assert_array_equal(ours.numpy(), expected)


@pytest.mark.parametrize("place", [3, -4])
def test_gather_refuses_what_lies_outside(place: int) -> None:
    with pytest.raises(IndexError, match="but the axis has 3 elements"):
        run("gather", x=normal(3, 2), indices=[0, place])


def test_scattered_sums_stall_in_strict_as_binary16_does() -> None:
    inputs = {"indices": [0] * 5, "updates": torch.ones(5), "mode": "add"}
    assert run("scatter", HALF, data=torch.tensor([2048.0]), **inputs).item() == 2048.0
    assert run("scatter", SINGLE, data=torch.tensor([2048.0]), **inputs).item() == 2053.0


def test_strict_linear_adds_its_bias_to_the_rounded_sum() -> None:
    # 2048 + 1 rounds to 2048 before the bias; with the bias in the accumulator it would be 2050.
    inputs = {"x": torch.tensor([2048.0, 1.0]), "weight": torch.ones(1, 2), "bias": torch.ones(1)}
    assert round_fp16(run("linear", HALF, **inputs)).item() == 2048.0
    assert round_fp16(run("linear", SINGLE, **inputs)).item() == 2050.0


def test_resampled_images_are_those_that_core_ml_is_tested_with() -> None:
    """Values of coremltools' own tests of Core ML: iOS14, iOS15 and iOS17/test_image_resizing.py."""
    x = torch.tensor([11.0, 22.0, 33.0, 44.0]).reshape(1, 1, 2, 2)
    coordinates = torch.tensor([-1.0, -2.0, -3.7, -1.0, 0.0, 0.0, 3.5, 1.2]).reshape(1, 2, 2, 2)
    tests = [
        ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True, [8.585, 6.17, 27.5, 6.17]),
        ("nearest", "border", -1.0, "unnormalized", False, [11.0, 11.0, 11.0, 44.0]),
        ("bilinear", "reflection", -1.0, "normalized_zero_to_one", True, [22.0, 36.3, 11.0, 34.1]),
        ("nearest", "symmetric", -1.0, "normalized_zero_to_one", False, [22.0, 33.0, 11.0, 33.0]),
    ]
    for sampling, padding, value, mode, align, expected in tests:
        ours = TABLE["resample"].run(SINGLE, x, coordinates, sampling, padding, value, mode, align)
        close(ours.flatten(), torch.tensor(expected))
    matrix = torch.tensor([[-1.0, -2.0, -3.7, -1.0, 3.5, 1.2]])
    fixed = ("bilinear", "constant", 0.0, "normalized_minus_one_to_one", True)
    ours = TABLE["affine"].run(SINGLE, x, matrix, torch.tensor(3), torch.tensor(3), *fixed)
    close(ours.flatten(), torch.tensor([10.752501, 2.5025, 0.0, 1.9799997, 0.0, 0.0, 0.0, 0.0, 0.0]))
    pair = torch.tensor([-6.174, 9.371]).reshape(1, 1, 2, 1)
    ours = run("resize_nearest_neighbor", x=pair, target_size_height=3, target_size_width=1)
    close(ours.flatten(), torch.tensor([-6.174, 9.371, 9.371]))
    triple = torch.tensor([1.5, -2.5, 3.5]).reshape(1, 1, 1, 3)
    ours = run("upsample_nearest_neighbor", x=triple, scale_factor_width=torch.tensor(0.67))
    close(ours.flatten(), torch.tensor([1.5, -2.5]))


def test_space_to_batch_is_what_core_ml_is_tested_with() -> None:
    """Values of coremltools' own test of Core ML: iOS14/test_tensor_transformation.py."""
    x = torch.arange(1.0, 17.0).reshape(2, 1, 2, 4)
    ours = run("space_to_batch", x=x, block_shape=[2, 2], paddings=torch.tensor([[0, 0], [2, 0]]))
    rows = [[0, 1, 3], [0, 9, 11], [0, 2, 4], [0, 10, 12], [0, 5, 7], [0, 13, 15], [0, 6, 8], [0, 14, 16]]
    close(ours, torch.tensor(rows).reshape(8, 1, 1, 3))
    close(run("batch_to_space", x=ours, block_shape=[2, 2], crops=torch.tensor([[0, 0], [2, 0]])), x)

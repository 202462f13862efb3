"""Resizing, pooling, sampling, special functions and computed weights, in float32 against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanproof.capture.module import capture
from nanproof.interpret.execute import Executor
from nanproof.mil.frontend import Options, lower
from nanproof.mil.reflect import reflect
from tests.mil.operators import Applied, assert_agreement, lowered

_GENERATOR = torch.Generator().manual_seed(5)


def _normal(*shape):
    return torch.randn(*shape, generator=_GENERATOR)


IMAGE, VOLUME, X, Y = _normal(2, 3, 7, 9), _normal(1, 2, 4, 6, 5), _normal(3, 5), _normal(3, 5)
LINE, INTEGERS = _normal(2, 3, 11), torch.tensor([[3, -2, 7], [0, 5, 5]], dtype=torch.int32)
LOWER, UPPER = torch.tensor([[1.0], [-1.0], [0.5]]), torch.tensor([[-1.0], [1.0], [0.5]])
ANY = torch.tensor([-3.7, -0.4, 0.2, 1.0, 1.9, 2.0, 7.5, 8.1, 60.0])
PARTS = torch.tensor([-1.0, -0.99999, -0.5, -1e-6, 0.0, 0.3, 0.9, 0.999999, 1.0])
ALIGNED = {"align_corners": True}
HOLED = torch.tensor([[1.0, float("nan"), 3.0, 2.0], [float("nan"), 5.0, -1.0, float("nan")]])

CASES = {
    "nearest by 0.6": (lambda x: F.interpolate(x, scale_factor=0.6), IMAGE),
    "nearest by 1.7": (lambda x: F.interpolate(x, scale_factor=1.7), IMAGE),
    "nearest to a size": (lambda x: F.interpolate(x, size=(5, 13)), IMAGE),
    "nearest along a line": (lambda x: F.interpolate(x, scale_factor=1.3), LINE),
    "nearest in a volume": (lambda x: F.interpolate(x, scale_factor=1.5), VOLUME),
    "bilinear by 1.7": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), IMAGE),
    "bicubic": (lambda x: F.interpolate(x, size=(10, 4), mode="bicubic"), IMAGE),
    "bicubic by 1.7": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"), IMAGE),
    "bicubic, corners aligned": (lambda x: F.interpolate(x, size=(10, 4), mode="bicubic", **ALIGNED), IMAGE),
    "antialiased bilinear": (lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True), IMAGE),
    "antialiased bilinear by 0.6": (
        lambda x: F.interpolate(x, scale_factor=0.6, mode="bilinear", antialias=True),
        IMAGE,
    ),
    "antialiased, larger": (lambda x: F.interpolate(x, size=(12, 4), mode="bilinear", antialias=True), IMAGE),
    "antialiased bicubic": (lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True), IMAGE),
    "max_pool1d with indices": (lambda x: F.max_pool1d(x, 3, 2, 1, return_indices=True), LINE),
    "max_pool2d with indices": (lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True), IMAGE),
    "max_pool2d beyond the end": (lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True, return_indices=True), IMAGE),
    "max_pool2d with a dilation": (lambda x: F.max_pool2d(x, 3, 1, 1, dilation=2, return_indices=True), IMAGE),
    "max_pool3d with indices": (lambda x: F.max_pool3d(x, 2, return_indices=True), VOLUME),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (3, 4), return_indices=True), IMAGE),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, (3, 4, 2)), VOLUME),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, (3, 4, 2)), VOLUME),
    "avg_pool2d beyond the end": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE),
    "avg_pool3d beyond the end": (lambda x: F.avg_pool3d(x, 3, 2, 1, ceil_mode=True), VOLUME),
    "avg_pool3d with a divisor": (lambda x: F.avg_pool3d(x, 2, divisor_override=3), VOLUME),
    "conv_transpose1d": (lambda x, w: F.conv_transpose1d(x, w, stride=2, padding=1), LINE, _normal(3, 4, 3)),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 0), 3, (1, 2)),
        *(IMAGE, _normal(3, 2, 3, 2), _normal(6)),
    ),
    "conv_transpose2d, cropped": (lambda x, w: F.conv_transpose2d(x, w, padding=2), IMAGE, _normal(3, 4, 2, 2)),
    "conv3d with a dilation": (lambda x, w: F.conv3d(x, w, dilation=2), VOLUME, _normal(3, 2, 2, 2, 2)),
    "native_layer_norm": (lambda x: torch.native_layer_norm(x, [9], None, None, 1e-5), IMAGE),
    "native_group_norm": (lambda x: torch.native_group_norm(x, None, None, 2, 3, 63, 3, 1e-5), IMAGE),
    "grid_sample, bicubic": (
        lambda x, g: F.grid_sample(x, g, "bicubic", align_corners=False),
        IMAGE,
        _normal(2, 3, 4, 2),
    ),
    "clamp by tensors that cross": (torch.clamp, X, LOWER, UPPER),
    "soft_margin_loss of small losses": (lambda x, y: F.soft_margin_loss(x, y, reduction="none"), X * 20, Y.sign()),
    "addmv of integers by fractions": (
        lambda v, m: torch.addmv(v[:, 0], m, v[0], beta=0.6, alpha=1.2),
        *(torch.arange(9).reshape(3, 3), torch.arange(9).reshape(3, 3)),
    ),
    "copysign by a number": (lambda x: torch.copysign(x, -2.0), X),
    "angle": (torch.angle, X),
    "ldexp": (torch.ldexp, X, torch.arange(5)),
    "searchsorted, one value": (lambda x, v: torch.searchsorted(x, v[0]), X[0].sort()[0], Y[0]),
    "searchsorted, unsorted": (
        lambda x, v: torch.searchsorted(x, v, sorter=x.argsort(-1), side="right"),
        *(X, Y),
    ),
    "repeat of nothing": (lambda x: x.repeat(()), X[0, 0]),
    "repeat_interleave": (lambda x, n: x.repeat_interleave(n, 0, output_size=8), INTEGERS, torch.tensor([3, 5])),
    "index_put with indices of two shapes": (
        lambda x, i, j: x.index_put((i, j), torch.ones(2, 3)),
        *(X, torch.tensor([[0], [2]]), torch.tensor([[1, 3, 4]])),
    ),
    "diagonal_scatter": (lambda x, y: torch.diagonal_scatter(x, y[0, :2], -1), X, Y),
    "as_strided_scatter": (lambda x, y: torch.as_strided_scatter(x, y[:2, :3], (2, 3), (5, 2), 1), X, Y),
    "put": (lambda x, y: x.put(torch.tensor([3, -1]), y[0, :2]), X, Y),
    "put that adds": (lambda x, y: x.put(torch.tensor([3, 3]), y[0, :2], True), X, Y),
    "histc": (lambda x: torch.histc(x, 7, -1, 1), X),
    "histc of its own range": (lambda x: torch.histc(x, 4), X),
    "nanmedian": (lambda x: torch.nanmedian(x, 1), HOLED),
    "masked variance": (lambda x: torch.masked._ops.var(x, mask=None), X),
    "and with a number": (lambda x: x & 5, INTEGERS),
    "dropout of everything": (lambda x: F.dropout(x, 1.0, training=True), X),
    "erfinv": (torch.erfinv, PARTS),
    "ndtri": (torch.special.ndtri, torch.tensor([1e-30, 1e-6, 0.02, 0.5, 0.999, 0.0, 1.0])),
    "digamma": (torch.digamma, ANY),
    "i0": (torch.i0, ANY),
    "i0e": (torch.special.i0e, ANY * 10),
    "i1e": (torch.special.i1e, ANY * 10),
    "trigamma": (lambda x: torch.polygamma(1, x), ANY.abs()),
}
for _mode in ("bilinear", "nearest"):
    for _padding in ("zeros", "border", "reflection"):
        CASES[f"grid_sample of a volume, {_mode} {_padding}"] = (
            lambda x, g, m=_mode, p=_padding: F.grid_sample(x, g, m, p, align_corners=m == "nearest"),
            *(VOLUME, _normal(1, 2, 3, 4, 3)),
        )


@pytest.mark.parametrize("name", CASES)
def test_operator_agrees_with_pytorch(name):
    function, *inputs = CASES[name]
    assert_agreement(function, inputs)


def test_lgamma_agrees_with_pytorch():
    assert_agreement(torch.lgamma, [ANY], rtol=1e-5, atol=1e-7)


def test_bicubic_resize_is_two_products():
    program = lowered(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), [IMAGE])
    assert [op.type for op in program.walk()] == ["matmul", "matmul"]


def test_pooling_without_indices_is_one_op():
    program = lowered(lambda x: F.max_pool2d(x, 3, 2, 1), [IMAGE])
    assert [op.type for op in program.walk()] == ["max_pool"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_pooling_of_a_decomposed_program_with_a_flexible_size():
    module = Applied(lambda x: F.max_pool2d(x, 2, 2))
    size = torch.export.Dim("size", min=4, max=64)
    exported = torch.export.export(module, (IMAGE,), dynamic_shapes=(({3: size},),), strict=False)
    program = reflect(lower(capture(exported.run_decompositions(), None).exported, Options()))
    assert [op.type for op in program.walk()] == ["max_pool"]


def test_slopes_are_drawn_between_the_bounds():
    program = lowered(lambda x: F.rrelu(x, 0.25, 0.5, training=True), [IMAGE])
    (name,) = program.inputs
    (found,) = Executor(program).once({name: IMAGE.numpy()}).values()
    negative = IMAGE.numpy() < 0
    slopes = found[negative] / IMAGE.numpy()[negative]
    assert np.array_equal(found[~negative], IMAGE.numpy()[~negative])
    assert slopes.min() >= 0.25 - 1e-6
    assert slopes.max() <= 0.5 + 1e-6
    assert slopes.std() > 0.02

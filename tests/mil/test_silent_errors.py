"""What plain coremltools 9.0 converts without a word to other numbers: one case for each, by its own name.

In float32 each agrees with PyTorch; those that go wrong in FP16 alone are converted by default, to FP16 where that is
harmless, and agree there.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nanproof
from tests.mil.operators import Applied, assert_agreement

_GENERATOR = torch.Generator().manual_seed(11)


def _normal(*shape):
    return torch.randn(*shape, generator=_GENERATOR)


SQUARE, VECTOR, X, Y, KERNEL = _normal(4, 4), _normal(4), _normal(3, 4), _normal(3, 4), _normal(2, 3, 3, 3)
IMAGE = _normal(1, 3, 8, 8)
ALLOWED = torch.tensor([[True, False, True], [False, False, False]])
POWERS = torch.tensor([1.0, 2.0, 3.0])
LOWEST = torch.finfo(torch.float32).min
HALF_MASK = torch.tensor([[1.0, 1.0, 0.0, 0.0]])


IN_FLOAT32 = {
    "add and sub ignore alpha": (lambda x, y: torch.add(x, y, alpha=2.5) * torch.sub(x, y, alpha=-3), X, Y),
    "the factor of SELU is dropped": (F.selu, X),
    "the bias of a square product lies on the wrong axis": (
        lambda x: torch.cat([SQUARE @ x + VECTOR, SQUARE @ x - VECTOR]),
        SQUARE.T.contiguous(),
    ),
    "the reciprocal has an epsilon": (lambda x: 1 / x, torch.tensor([1e-4, -1e-3, 0.5])),
    "gelu by tanh becomes exact": (lambda x: F.gelu(x, approximate="tanh"), X * 2),
    "atan2 of zero and a negative number": (torch.atan2, torch.tensor([0.0, 0.0]), torch.tensor([-1.0, 2.0])),
    "rms_norm of a row of zeros": (lambda x: F.rms_norm(x, (4,)), torch.cat([X, torch.zeros(1, 4)])),
    "attention of a row that may attend to nothing": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k, attn_mask=ALLOWED),
        *(_normal(1, 2, 4), _normal(1, 3, 4)),
    ),
    "antialias is dropped": (lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True), IMAGE),
    "the variance ignores its correction": (lambda x: torch.var(x, 1, correction=2), X),
    "integers divided through floats": (
        lambda x: torch.cat([x // 3, x % 7]),
        torch.tensor([16777217, -16777219, 70000, -5], dtype=torch.int32),
    ),
    "sums of integers beyond 16 bits": (
        lambda x: (x * 40503 + 12345) % 65537,
        torch.tensor([3, 50000, 53018], dtype=torch.int32),
    ),
    "clamp by bounds that cross": (torch.clamp, X, X + 1, X - 1),
    "other neighbours at a scale that is no whole number": (lambda x: F.interpolate(x, scale_factor=0.6), IMAGE),
    "the reflection of a sampled border": (
        lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False),
        *(IMAGE, _normal(1, 3, 3, 2) * 2),
    ),
}


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_right_in_float32(name):
    function, *inputs = IN_FLOAT32[name]
    assert_agreement(function, inputs)


class Masked(nn.Module):
    """Attention of which a mask is made as transformers do: ``(1 - mask) * finfo.min``."""

    def forward(self, x, mask):
        scores = x @ x.transpose(1, 2) / 2 + (1 - mask[:, None]) * LOWEST
        return scores.softmax(-1) @ x


class Filled(nn.Module):
    """Two layers of attention with rows that are masked whole, as left padding makes them."""

    def forward(self, x, mask):
        hidden = (mask == 0)[:, None, :] | (mask == 0)[:, :, None]
        for _ in range(2):
            scores = (x @ x.transpose(1, 2) / 2).masked_fill(hidden, LOWEST)
            x = scores.softmax(-1) @ x
        return x


class Rotary(nn.Module):
    def forward(self, positions):
        angles = positions[:, None].float() * torch.tensor([1.0, 0.1, 0.01])
        return torch.cat([angles.cos(), angles.sin()], -1)


class LogMel(nn.Module):
    def forward(self, x):
        return x.clamp(min=1e-10).log()


class RootMeanSquare(nn.Module):
    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)


class Whole(nn.Module):
    def forward(self, x):
        return torch.cat([x // 3, x % 7])


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(x)


IN_FP16 = {
    "an additive mask of the lowest number": (Masked(), (_normal(1, 4, 4), HALF_MASK)),
    "rows that are masked whole": (Filled(), (_normal(1, 4, 4), HALF_MASK)),
    "positions become FP16 before cos and sin": (Rotary(), (torch.tensor([3, 5001, 32000], dtype=torch.int32),)),
    "the floor of a logarithm": (LogMel(), (torch.tensor([[0.0, 1e-9, 1e-6, 0.5, 3.0]]),)),
    "squares overflow in RMSNorm": (RootMeanSquare(), (_normal(3, 8) * 400,)),
    "integers divided through FP16": (Whole(), (torch.tensor([65504, 70001, -4099, 2049], dtype=torch.int32),)),
    "GroupNorm squares what it is given": (Grouped(), (_normal(2, 4, 5) * 500,)),
}


@pytest.mark.parametrize("name", IN_FP16)
def test_right_by_default(name):
    module, inputs = IN_FP16[name]
    result = nanproof.convert(module, inputs)
    assert nanproof.compare(result.program, module, inputs).error < 5e-3


class Assigned(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[..., -1] = 2.0
        return y


class ThroughView(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[:, 1:3].mul_(3.0)
        return y


TRACED = {
    "an assignment to the last column": Assigned(),
    "a change through a view": ThroughView(),
    "the variance ignores its correction, traced": Applied(lambda x: torch.var(x, 1, correction=2)),
}


@pytest.mark.parametrize("name", TRACED)
def test_right_or_reported_from_torchscript(name):
    module = TRACED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, (X,))
    result = nanproof.convert(traced, (X,), precision="float32")
    right = nanproof.compare(result.program, module, (X,)).error < 1e-5
    reported = result.verdict == "failed"
    assert right != reported


IN_PASSES = {
    "the division by a convolution is lost": (Applied(lambda x: 2.0 / F.conv2d(x, KERNEL)), IMAGE + 5),
    "a power between transposes takes the wrong axis": (
        Applied(lambda x: (x.transpose(1, 2) ** POWERS).transpose(1, 2)),
        _normal(2, 3, 3).abs(),
    ),
}


@pytest.mark.parametrize("name", IN_PASSES)
def test_right_without_the_pass_that_is_wrong(name):
    module, x = IN_PASSES[name]
    result = nanproof.convert(module, (x,), precision="float32")
    assert result.verdict != "failed"
    assert nanproof.compare(result.program, module, (x,)).error < 1e-5

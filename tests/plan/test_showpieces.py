"""Two models that a whole conversion in FP32 is used for today, repaired."""

from __future__ import annotations

import torch
from torch import nn

import nanproof
from nanproof.interpret.observe import observe
from nanproof.program import DType
from nanproof.rewrite.limits import PRODUCTS

UNITS = ("gpu", "strict", "ane")


class Attention(nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / q.shape[-1] ** 0.5 + (1.0 - mask)[:, None, None] * torch.finfo(torch.float32).min
        return self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


class WrittenOutNorm(nn.Module):
    """An RMS norm whose squares leave FP16 for what is larger than 256."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Block(nn.Module):
    def __init__(self, width, gain):
        super().__init__()
        self.before, self.attention = WrittenOutNorm(width), Attention(width)
        self.between, self.up, self.down = (
            WrittenOutNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.gain = gain

    def forward(self, x, mask):
        x = x + self.attention(self.before(x), mask)
        return x + self.down(torch.relu(self.up(self.between(x)))) * self.gain


class Transformer(nn.Module):
    """Twelve blocks with a mask of finfo.min, norms whose squares overflow, and angles of some thousand radians."""

    def __init__(self, width=16, blocks=12, gain=200.0):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(width, gain) for _ in range(blocks))
        self.norm, self.head = WrittenOutNorm(width), nn.Linear(width, 4)
        self.register_buffer("frequencies", torch.logspace(0, -3, width))

    def forward(self, x, mask, position):
        x = x + torch.sin(position[..., None] * self.frequencies) * 4.0
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


class Stream(nn.Module):
    """A residual stream beyond 65504, which only RMS norms read."""

    def __init__(self, width=16, blocks=4):
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(Block(width, 1e6) for _ in range(blocks))
        self.norm, self.head = WrittenOutNorm(width), nn.Linear(width, 4)

    def forward(self, x, mask):
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


X = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(2))
MASK = (torch.arange(6) < 4).float()[None]


def test_twelve_blocks_with_three_hazards():
    inputs = (X, MASK, torch.arange(3000.0, 3006.0)[None])
    result = nanproof.convert(Transformer().eval(), inputs, units=UNITS, prove=False)
    assert set(result.verdicts.values()) == {"tested"}, [u.reasons for u in result.units.values()]
    codes = {finding.code for finding in result.findings}
    assert {"NP101", "NP111", "NP121"} <= codes
    products = [op for op in result.program.walk() if op.type in PRODUCTS]
    assert all(op.dtype is DType.FP16 for op in products)
    assert len(products) >= 12 * 5
    assert result.plan.fp32_ops <= 4
    assert result.plan.executions <= 12


def test_a_residual_stream_beyond_fp16_without_fp32():
    result = nanproof.convert(Stream().eval(), (X, MASK), units=UNITS, prove=False)
    assert set(result.verdicts.values()) == {"tested"}, [u.reasons for u in result.units.values()]
    ranges, _ = observe(result.fp32_program, [{"x": X.numpy(), "mask": MASK.numpy()}])
    sums = [v for op in result.fp32_program.walk() if op.type == "add" for v in op.outputs]
    assert max(ranges[v.name].magnitude for v in sums) > 2 * 65504
    assert "power-of-two" in {rewrite.name for rewrite in result.plan.rewrites}
    assert (result.plan.fp32_ops, result.plan.islands) == (0, ())
